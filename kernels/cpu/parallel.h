// Threads for the kernels.
#pragma once

#include <ATen/Parallel.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace structured_dropout {

// Runs f(begin, end) over even parts of [0, count) on torch's threads; an item costs about so many multiply-adds.
// What takes less than a few microseconds is not worth a second thread.
template <typename F>
void parallel(int64_t count, double cost, F f) {
  constexpr double worth_a_thread = 2e5;
  const int64_t grain = cost * count < worth_a_thread ? count : int64_t(worth_a_thread / (cost + 1)) + 1;
  at::parallel_for(0, count, grain, f);
}

// Uninitialised memory of one thread, aligned for vectors.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : data_(static_cast<T*>(::operator new(count * sizeof(T), kAlignment))) {}
  T* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<T, Delete> data_;
};

}  // namespace structured_dropout
