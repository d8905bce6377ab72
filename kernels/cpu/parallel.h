// Threads for the kernels.
#pragma once

#include <ATen/Parallel.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
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

// Uninitialised memory, aligned for vectors; in huge pages where it is so large that getting its pages takes time.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    const size_t bytes = std::max<size_t>(count * sizeof(T), 1), alignment = bytes < kMapped ? 64 : kHugePage;
    data_.reset(static_cast<T*>(std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)));
    if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (alignment == kHugePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);  // a wish: it may be refused
#endif
  }
  T* get() const { return data_.get(); }

 private:
  static constexpr size_t kHugePage = size_t(2) << 20;
  static constexpr size_t kMapped = size_t(32) << 20;  // glibc maps what is larger anew each time
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace structured_dropout
