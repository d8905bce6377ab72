// bfloat16 on tensor cores: what a warp loads from shared memory and multiplies at once, each lane
// with its share by PTX's tables. A compute capability of 8.0 is the first to have it: older
// devices are never given a kernel that calls these.
#pragma once
#include "common.cuh"

// The nearest bfloat16, of two as near the even one.
__device__ inline bfloat16 rounded(float v) {
  const unsigned bits = __float_as_uint(v);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  return {nan ? (unsigned short)0x7fff
              : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

__device__ inline unsigned rounded_pair(float first, float second) {
  return rounded(first).bits | unsigned(rounded(second).bits) << 16;
}

__device__ inline float load(const bfloat16* from) {
  return __uint_as_float(unsigned(from->bits) << 16);
}
__device__ inline void store(bfloat16* to, float v) { *to = rounded(v); }
__device__ inline void store(bfloat16* to, float4 v) {
  auto* pairs = reinterpret_cast<unsigned*>(to);
  pairs[0] = rounded_pair(v.x, v.y);
  pairs[1] = rounded_pair(v.z, v.w);
}

// Vectors of eight, 16 bytes.
__device__ inline const float4* octets(const bfloat16* p) {
  return reinterpret_cast<const float4*>(p);
}
__device__ inline float4* octets(bfloat16* p) { return reinterpret_cast<float4*>(p); }

// Loads matrices [8][8] from shared memory, four or two: lane l gives the address of row l % 8 of
// matrix l / 8, aligned to 16 bytes (beyond the last matrix: any), and gets of each matrix row
// l / 4, its columns 2 * (l % 4) and the next; transposed, it gets of that column these rows.
//
// multiply_matrices: sums [16][8] += a [16][16] * b [16][8]. Of `a` the four matrices are its rows
// from 0 and from 8, then of the columns from 8 on the same; of `b` the two are its rows from 0 and
// from 8, transposed: what is stored by column is loaded as it is. Lane l has of `sums` row l / 4,
// its columns 2 * (l % 4) and the next, then of row l / 4 + 8 the same.
#if defined(CUDA_SHIM)
template <int kMatrices>
void load_matrices(unsigned (&to)[kMatrices], const bfloat16* row, SHIM_CALLER) {
  shim::load_matrices(to, row, kMatrices, false, {file, line});
}
template <int kMatrices>
void load_transposed(unsigned (&to)[kMatrices], const bfloat16* row, SHIM_CALLER) {
  shim::load_matrices(to, row, kMatrices, true, {file, line});
}
inline void multiply_matrices(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                              SHIM_CALLER) {
  shim::multiply_matrices(sums, a, b, {file, line});
}
#elif __CUDA_ARCH__ >= 800
__device__ inline void load_matrices(unsigned (&to)[4], const bfloat16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(unsigned(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void load_matrices(unsigned (&to)[2], const bfloat16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(unsigned(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void load_transposed(unsigned (&to)[4], const bfloat16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(unsigned(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void load_transposed(unsigned (&to)[2], const bfloat16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(unsigned(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void multiply_matrices(float (&sums)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
template <int kMatrices>
__device__ void load_matrices(unsigned (&)[kMatrices], const bfloat16*) {
  __trap();
}
template <int kMatrices>
__device__ void load_transposed(unsigned (&)[kMatrices], const bfloat16*) {
  __trap();
}
__device__ inline void multiply_matrices(float (&)[4], const unsigned (&)[4],
                                         const unsigned (&)[2]) {
  __trap();
}
#endif
