// A time step's recurrent product in float32.
#pragma once
#include "common.cuh"

#ifndef THREADS
#define THREADS 128
#endif

// What the hidden state of a step adds to the gates of the units that a block owns (FP), and what
// the gradients of these gates add to that of the hidden state (BP): the block's share of U, what
// unit k of h adds to their gates. For k < resident it is in shared memory, for the others it is
// left to the caches.
template <class Operand>
class StepProduct;

// U is weight [directions][k][unit][4]; a block owns the units from blockIdx.x * owned on. The
// threads of a block split the kept units: thread (slice, j) sums over its slice what they add to
// the gates of unit j, for ROWS rows at once; then the slices are added, in their order. In BP a
// thread has kept units of its own.
template <>
class StepProduct<float> {
 public:
  // Starts to copy the resident units to `shared`, as [k][owned]. There follow in FP h
  // [chunk][ROWS], then in its place sums [slice][ROWS][owned]; in BP the gradients of the block's
  // gates [owned][ROWS].
  __device__ StepProduct(const float* weight, float4* shared, int resident_, int owned_,
                         int hidden_)
      : near(shared),
        work(shared + resident_ * owned_),
        resident(resident_),
        owned(owned_),
        hidden(hidden_),
        first_unit(blockIdx.x * owned_),
        slices(THREADS / owned_) {
    far = quads(weight) + (long long)blockIdx.y * hidden * hidden;
    for (int item = threadIdx.x; item < resident * owned; item += THREADS) {
      copy_async(shared + item, away(item / owned, item % owned));
    }
  }

  // FP of ROWS rows of h [k][batch_padded], from row0 on. A barrier is at its end.
  __device__ void sum(const Kept& kept, const float* h, int batch_padded, int row0) {
    constexpr int kRowQuads = ROWS / 4;
    constexpr int kChunk = 4 * THREADS;  // as many units of h as fit where the sums will be
    const int slice = threadIdx.x / owned, j = threadIdx.x % owned;
    float4 sums[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) sums[r] = zero();
    for (int begin = 0; begin < kept.count; begin += kChunk) {
      const int count = min(kChunk, kept.count - begin);
      for (int item = threadIdx.x; item < count * kRowQuads; item += THREADS) {
        const long long k = kept[begin + item / kRowQuads];
        copy_async(work + item, quads(h + k * batch_padded + row0) + item % kRowQuads);
      }
      wait_for_copies();
      __syncthreads();
      if (slice < slices) {
#pragma unroll 4
        for (int i = slice; i < count; i += slices) {
          add_outer(sums, reinterpret_cast<const float*>(work + i * kRowQuads),
                    weights(kept[begin + i], j));
        }
      }
      __syncthreads();
    }

    if (slice < slices) {
#pragma unroll
      for (int r = 0; r < ROWS; ++r) work[(slice * ROWS + r) * owned + j] = sums[r];
    }
    __syncthreads();
  }

  // The sum of row item / owned and the block's unit item % owned.
  __device__ float4 sum_of(int item) const {
    float4 sum = zero();
    for (int i = 0; i < slices; ++i) add(sum, work[i * ROWS * owned + item]);
    return sum;
  }

  // The gradient of the gates of row r and the block's unit j; a barrier must follow.
  __device__ void set_delta(int r, int j, float4 delta) { work[j * ROWS + r] = delta; }

  // BP of ROWS rows: their sums over the block's gates go to [row / 4][hidden][4], of the i-th kept
  // unit to place i.
  __device__ void add_deltas(const Kept& kept, float4* to) const {
    for (int i = threadIdx.x; i < kept.count; i += THREADS) {
      const int k = kept[i];
      float sums[ROWS] = {};
      for (int j = 0; j < owned; ++j) {
        const float4 w = weights(k, j);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) dot_add(sums[r], work[j * ROWS + r], w);  // eq. 10
      }
#pragma unroll
      for (int q = 0; q < ROWS / 4; ++q) {
        to[q * hidden + i] =
            make_float4(sums[4 * q], sums[4 * q + 1], sums[4 * q + 2], sums[4 * q + 3]);
      }
    }
  }

 private:
  // What unit k adds to the gates of the block's unit j.
  __device__ float4 weights(int k, int j) const {
    return *(k < resident ? near + k * owned + j : away(k, j));
  }

  __device__ const float4* away(int k,
                                int j) const {  // beyond the layer: the last unit again, never used
    return far + (long long)k * hidden + min(first_unit + j, hidden - 1);
  }

  const float4 *near, *far;
  float4* work;
  int resident, owned, hidden, first_unit, slices;
};
