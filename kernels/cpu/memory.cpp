#include "memory.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <bit>
#include <cstdlib>
#include <list>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace structured_dropout {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = size_t(2) << 20;

// What is larger, glibc maps anew each time, or may have given back to the system in between.
constexpr size_t kLarge = size_t(4) << 20;

size_t round_up(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

void* map(size_t bytes, size_t alignment) {
  void* block = std::aligned_alloc(alignment, bytes);
  if (!block) throw std::bad_alloc();
  return block;
}

// Large blocks that nobody uses at the moment.
class Pool {
 public:
  void* take(size_t bytes) {
    const size_t size = round(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(blocks_.begin(), blocks_.end(),
                                    [=](const Block& block) { return block.size == size; });
    if (found != blocks_.end()) {
      void* data = found->data;
      blocks_.erase(found);
      return data;
    }
    // The longest unused make room, so that blocks of ever new sizes do not add up.
    for (size_t freed = 0; freed < size && !blocks_.empty(); blocks_.pop_back()) {
      freed += blocks_.back().size;
      std::free(blocks_.back().data);
    }
    void* data = map(size, kHugePage);
#if defined(MADV_HUGEPAGE)
    madvise(data, size, MADV_HUGEPAGE);  // a wish: may be refused
#endif
    return data;
  }

  void give(void* data, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.push_front({data, round(bytes)});
  }

 private:
  struct Block {
    void* data;
    size_t size;
  };

  // Few sizes, so that blocks fit again: at most an eighth more than was asked for.
  static size_t round(size_t bytes) {
    return round_up(bytes, std::max(kHugePage, std::bit_floor(bytes) / 8));
  }

  std::mutex mutex_;
  std::list<Block> blocks_;  // the last released first
};

Pool& pool() {
  static Pool& pool = *new Pool;  // tensors may outlive any static object
  return pool;
}

}  // namespace

void* allocate(size_t bytes) {
  if (bytes >= kLarge) return pool().take(bytes);
  return map(round_up(std::max<size_t>(bytes, 1), kLine), kLine);
}

void release(void* block, size_t bytes) {
  if (bytes >= kLarge) return pool().give(block, bytes);
  std::free(block);
}

at::Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options) {
  const size_t bytes = c10::multiply_integers(shape) * options.dtype().itemsize();
  if (bytes < kLarge) return at::empty(shape, options);
  return at::from_blob(
      allocate(bytes), shape, [bytes](void* block) { release(block, bytes); }, options);
}

}  // namespace structured_dropout
