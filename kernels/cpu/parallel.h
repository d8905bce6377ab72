// Threads for the kernels.
#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

#include "tiles.h"

namespace structured_dropout {

// Runs f(begin, end) over even parts of [0, count) on torch's threads; an item costs about so many
// multiply-adds. What takes less than a few microseconds is not worth a second thread.
template <typename F>
void parallel(int64_t count, double cost, F f) {
  constexpr double worth_a_thread = 2e5;
  const int64_t grain =
      cost * count < worth_a_thread ? count : int64_t(worth_a_thread / (cost + 1)) + 1;
  struct Release {
    ~Release() { release_tiles(); }
  };
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    const Release at_end;
    f(begin, end);
  });
}

}  // namespace structured_dropout
