// The words of CUDA C that kernels/cuda uses, for g++; included before a kernel's own text.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "runtime.h"

using std::max;
using std::min;

#define CUDA_SHIM  // for what a kernel can only say in the GPU's assembly

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
// One section for all static shared memory, so that the scheduler can poison it and give each block
// its own.
#define __shared__ static __attribute__((section("cuda_shared")))

#define threadIdx shim::thread_index
#define blockIdx shim::block_index
#define blockDim shim::block_size
#define gridDim shim::grid_size

#define SHIM_LINE (shim::Line{__FILE__, __LINE__})
// The last parameters of a function that knows the line of its call.
#define SHIM_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define __syncthreads() shim::barrier(SHIM_LINE)
#define __syncwarp(...) shim::warp_barrier(shim::mask_or_all(__VA_ARGS__), SHIM_LINE)
#define __ballot_sync(mask, p) shim::ballot(mask, p, SHIM_LINE)
#define __shfl_xor_sync(mask, v, ...) \
  shim::shuffled(mask, v, shim::from_xor(__VA_ARGS__), SHIM_LINE)
#define __shfl_down_sync(mask, v, ...) \
  shim::shuffled(mask, v, shim::from_down(__VA_ARGS__), SHIM_LINE)
#define __shfl_up_sync(mask, v, ...) shim::shuffled(mask, v, shim::from_up(__VA_ARGS__), SHIM_LINE)
#define __threadfence() shim::fence()
#define __nanosleep(ns) shim::sleep(SHIM_LINE)

namespace shim {

inline unsigned mask_or_all(unsigned mask = 0xffffffffu) { return mask; }
inline unsigned from_xor(unsigned other, unsigned = 32) { return lane() ^ other; }
inline unsigned from_down(unsigned by, unsigned width = 32) {
  return (lane() & (width - 1)) + by < width ? lane() + by : lane();
}
inline unsigned from_up(unsigned by, unsigned width = 32) {
  return (lane() & (width - 1)) >= by ? lane() - by : lane();
}

template <class T>
T shuffled(unsigned mask, T value, unsigned source, Line where) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace shim

// g++ does not report the store of a struct that comes from a call: nothing that returns one may
// stay a call.
#define SHIM_INLINE inline __attribute__((always_inline))

struct alignas(8) float2 {
  float x, y;
};
SHIM_INLINE float2 make_float2(float x, float y) { return {x, y}; }
struct alignas(16) float4 {
  float x, y, z, w;
};
SHIM_INLINE float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Fibers share one real thread, so that an operation that does not yield is atomic.
#define SHIM_UNCHECKED __attribute__((no_sanitize("thread"), noinline))
template <class T>
SHIM_UNCHECKED T atomicAdd(T* address, std::common_type_t<T> value) {
  shim::check(address, sizeof(T), true, shim::Access::atomic);
  T before = *address;
  *address = before + value;
  return before;
}
// A cache that does not see writes of the same launch: reading them so is an error.
template <class T>
SHIM_INLINE T __ldg(const T* address) {
  shim::check(address, sizeof(T), false, shim::Access::read_only);
  return *address;
}
template <class T>
SHIM_INLINE T __ldcg(const T* address) {
  return *address;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }

// How the launcher calls a kernel: its parameters' kinds (to check the arguments) and a call with
// an array of them.
namespace shim {

template <class T>
constexpr char kind() {
  using Bare = std::remove_cv_t<T>;
  if (std::is_same_v<Bare, float> || std::is_same_v<Bare, float4>) return 'f';
  if (std::is_same_v<Bare, int> || std::is_same_v<Bare, unsigned>) return 'i';
  if (std::is_same_v<Bare, long> || std::is_same_v<Bare, long long>) return 'l';
  if (std::is_class_v<Bare> && sizeof(Bare) == 2) return 'b';  // the kernels' bfloat16
  return '?';
}
template <class T>
struct Parameter {
  static constexpr char text[] = {kind<T>(), 0};
};
template <class T>
struct Parameter<T*> {
  static constexpr char text[] = {kind<T>(), std::is_const_v<T> ? 'c' : '*', 0};
};

template <class... T, size_t... I>
void call(void (*kernel)(T...), void* const* arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<T>*>(arguments[I])...);
}
template <class... T>
void call(void (*kernel)(T...), void* const* arguments) {
  call(kernel, arguments, std::index_sequence_for<T...>{});
}
template <class... T>
const char* kinds(void (*)(T...)) {
  static char text[3 * sizeof...(T) + 1];
  text[0] = 0;
  ((std::strcat(text, Parameter<T>::text), std::strcat(text, " ")), ...);
  return text;
}

}  // namespace shim

#define SHIM_KERNEL(name)                                                  \
  extern "C" const char* shim_kinds_##name() { return shim::kinds(name); } \
  extern "C" void shim_call_##name(void* const* arguments) { shim::call(name, arguments); }
