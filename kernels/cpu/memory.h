// Memory for weights, gates and gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace structured_dropout {

// Uninitialised memory, aligned for vectors. Large blocks are kept for the next one that asks: the
// system clears what it maps anew, and to clear the 36 MB of a weight gradient takes half as long
// as to compute it.
void* allocate(size_t bytes);
void release(void* block, size_t bytes);

at::Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options);

template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(allocate(count * sizeof(T))), Release{count * sizeof(T)}) {}
  T* get() const { return data_.get(); }

 private:
  struct Release {
    size_t bytes;
    void operator()(T* data) const { release(data, bytes); }
  };
  std::unique_ptr<T, Release> data_;
};

}  // namespace structured_dropout
