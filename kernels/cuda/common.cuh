// What the products and the recurrence share: the kept units of a draw, and vectors of four.
#pragma once

// The rows that a thread sums in registers at once; the launcher picks the multiple of 4 that
// wastes the fewest.
#ifndef ROWS
#define ROWS 20
#endif
static_assert(ROWS % 4 == 0, "rows are read in vectors of four");

// What the products multiply; bfloat16 with float32 sums (mma.cuh).
#ifndef OPERAND
#define OPERAND float
#endif
struct bfloat16 {
  unsigned short bits;
};

constexpr int kWarp = 32;

// The units that one draw keeps, ascending; ids is null where nothing is dropped.
struct Kept {
  const int* ids;
  int count;

  __device__ int operator[](int i) const { return ids ? ids[i] : i; }

  // Where it keeps a unit, or -1.
  __device__ int place_of(int unit) const {
    if (!ids) return unit < count ? unit : -1;
    int begin = 0, end = count;
    while (begin < end) {
      const int middle = (begin + end) / 2;
      if (ids[middle] < unit) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin < count && ids[begin] == unit ? begin : -1;
  }
};

// Draw d keeps the units indices[offsets[d]] to indices[offsets[d + 1]]; without offsets it keeps
// all.
__device__ inline Kept kept_units(const int* indices, const long long* offsets, int draw,
                                  int units) {
  if (!offsets) return {nullptr, units};
  const long long begin = __ldg(offsets + draw);
  return {indices + begin, int(__ldg(offsets + draw + 1) - begin)};
}

__device__ inline float load(const float* from) { return __ldg(from); }
__device__ inline void store(float* to, float v) { *to = v; }
__device__ inline void store(float* to, float4 v) { *reinterpret_cast<float4*>(to) = v; }

// Copies of 4 or 16 bytes to shared memory for which no thread waits until wait_for_copies(); a
// barrier then shows them to the others. A vector may be one that another block wrote: it passes by
// the first-level cache. Before sm_80 a copy is a load and a store.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <class T>
__device__ void copy_async(T* to, const T* from) {
  const unsigned place = unsigned(__cvta_generic_to_shared(to));
  if constexpr (sizeof(T) == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(place), "l"(from));
  }
}
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#elif defined(CUDA_SHIM)  // the tests' machine, which copies as late as it may
template <class T>
void copy_async(T* to, const T* from) {
  shim::copy_async(to, from, sizeof *to);
}
inline void wait_for_copies() {
  shim::commit_copies();
  shim::wait_for_copies(0);
}
#else
template <class T>
__device__ void copy_async(T* to, const T* from) {
  *to = __ldcg(from);
}
__device__ inline void wait_for_copies() {}
#endif

__device__ inline const float4* quads(const float* p) { return reinterpret_cast<const float4*>(p); }
__device__ inline float4* quads(float* p) { return reinterpret_cast<float4*>(p); }

__device__ inline float4 zero() { return make_float4(0.f, 0.f, 0.f, 0.f); }

__device__ inline void add(float4& sum, float4 v) {
  sum.x += v.x;
  sum.y += v.y;
  sum.z += v.z;
  sum.w += v.w;
}

__device__ inline void multiply_add(float4& sum, float factor, float4 v) {
  sum.x = fmaf(factor, v.x, sum.x);
  sum.y = fmaf(factor, v.y, sum.y);
  sum.z = fmaf(factor, v.z, sum.z);
  sum.w = fmaf(factor, v.w, sum.w);
}

__device__ inline void dot_add(float& sum, float4 a, float4 b) {
  sum = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

// sums[r] += inputs[r] * weights for ROWS rows; inputs is aligned to 16 bytes.
__device__ inline void add_outer(float4 (&sums)[ROWS], const float* inputs, float4 weights) {
#pragma unroll
  for (int r = 0; r < ROWS; r += 4) {
    const float4 v = *quads(inputs + r);
    multiply_add(sums[r], v.x, weights);
    multiply_add(sums[r + 1], v.y, weights);
    multiply_add(sums[r + 2], v.z, weights);
    multiply_add(sums[r + 3], v.w, weights);
  }
}

// The sum over groups of so many neighbouring lanes, in each of them; the whole warp must be there.
template <int kLanes>
__device__ inline float sum_over(float value) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffff, value, distance);
  return value;
}
