// Memory for weights, gates and gradients.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace structured_dropout {

constexpr uintptr_t kHugePage = uintptr_t(2) << 20;

// What is larger, glibc maps anew each time, or may have given back to the system in between.
constexpr size_t kMapped = size_t(4) << 20;

// Asks for huge pages where memory is mapped anew: a weight gradient of 36 MB is else 9000 page
// faults, which take longer than a fifth of its product; and units that lie all over the weights
// miss the TLB.
inline void in_huge_pages(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage,
                  last = (begin + bytes) / kHugePage * kHugePage;
  if (bytes >= kMapped)
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish: may be refused
#endif
}

inline at::Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options) {
  at::Tensor tensor = at::empty(shape, options);
  in_huge_pages(tensor.mutable_data_ptr(), tensor.nbytes());
  return tensor;
}

// Uninitialised memory, aligned for vectors.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    const size_t bytes = std::max<size_t>(count * sizeof(T), 1),
                 alignment = bytes < kMapped ? 64 : kHugePage;
    data_.reset(static_cast<T*>(
        std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)));
    if (!data_) throw std::bad_alloc();
    in_huge_pages(data_.get(), bytes);
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace structured_dropout
