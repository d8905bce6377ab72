// A time step's recurrent product in bfloat16 with float32 sums, on tensor cores.
#pragma once
#include "mma.cuh"
#include "step_float32.cuh"

// Of the rows that are summed at once; in a kernel that multiplies so, ROWS is a multiple of 8.
constexpr int kOctets = (ROWS + 7) / 8;

// As in float32, but U is weight [directions][k][unit][4] with as many units as are even, zeros
// beyond the layer. A block owns a multiple of four units: 16 of their gates are one side of a
// tensor core's product.
//
// In shared memory lie planes [k][8]: eight gates of unit after unit k, and eight rows of h. A row
// of a plane is what ldmatrix takes an address of, so that the kept units of U are gathered as they
// are loaded, 16 at a time; what is missing to 16 is a row of zeros.
template <>
class StepProduct<bfloat16> {
 public:
  // Starts to copy the resident units to `shared`, as planes [owned / 2][slots][8]: the resident
  // units, zeros, and those of a chunk that are not resident. There follow in FP h, planes
  // [kOctets][chunk][8], and sums [slice][ROWS][owned][4]; in BP the gradients of the block's gates
  // [ROWS][owned * 4 + 8].
  __device__ StepProduct(const bfloat16* weight, float4* shared, int resident_, int owned_,
                         int hidden_)
      : all(weight),
        near(reinterpret_cast<bfloat16*>(shared)),
        resident(resident_),
        owned(owned_),
        hidden(hidden_),
        first_unit(blockIdx.x * owned_) {
    const bool fits = resident == hidden;
    chunk = fits ? min((hidden + 15) / 16 * 16, kNearChunk) : kFarChunk;
    slots = resident + 1 + (fits ? 0 : kFarChunk);
    work = near + owned / 2 * slots * 8;
    for (int item = threadIdx.x; item < owned / 2 * resident; item += THREADS) {
      const int k = item / (owned / 2);
      copy_unit(k, item % (owned / 2), k);
    }
    for (int plane = threadIdx.x; plane < owned / 2; plane += THREADS) {
      *octets(near + (plane * slots + resident) * 8) = zero();
    }
  }

  // FP of ROWS rows of h [k][batch_padded], from row0 on. A barrier is at its end.
  //
  // A warp has 16 gates, and where there are warps enough a slice of the kept units.
  __device__ void sum(const Kept& kept, const bfloat16* h, int batch_padded, int row0) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const int tiles = owned / 4;
    float4* sums = octets(work + ROWS * chunk);
    for (int first = 0; first < tiles * slices(); first += kWarps) {
      const int tile = (first + warp) % tiles, slice = (first + warp) / tiles;
      float of_warp[kOctets][4] = {};
      for (int begin = 0; begin < kept.count; begin += chunk) {
        const int count = min(chunk, kept.count - begin), padded = (count + 15) / 16 * 16;
        stage_units(kept, begin, count);
        for (int item = threadIdx.x; item < padded * kOctets; item += THREADS) {
          const int i = item / kOctets, octet = item % kOctets;
          float4* to = octets(work + (octet * chunk + i) * 8);
          if (i < count) {
            const long long k = kept[begin + i];
            copy_async(to, octets(h + k * batch_padded + row0) + octet);
          } else {
            *to = zero();
          }
        }
        wait_for_copies();
        __syncthreads();
        if (slice < slices()) {
          for (int i = 16 * slice; i < padded; i += 16 * slices()) {
            const int slot = slot_of(kept, begin, count, i + lane / 16 * 8 + lane % 8);
            unsigned weights[4];
            load_transposed(weights, near + ((2 * tile + lane / 8 % 2) * slots + slot) * 8);
#pragma unroll
            for (int octet = 0; octet < kOctets; ++octet) {
              unsigned states[2];
              load_transposed(states, work + (octet * chunk + i + lane % 16) * 8);
              multiply_matrices(of_warp[octet], weights, states);
            }
          }
        }
        __syncthreads();
      }
      if (slice < slices()) {
        float* to = reinterpret_cast<float*>(sums + slice * ROWS * owned) + 16 * tile + lane / 4;
#pragma unroll
        for (int octet = 0; octet < kOctets; ++octet) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int row = octet * 8 + lane % 4 * 2 + i % 2;
            to[row * owned * 4 + i / 2 * 8] = of_warp[octet][i];
          }
        }
      }
    }
    __syncthreads();
  }

  // The sum of row item / owned and the block's unit item % owned.
  __device__ float4 sum_of(int item) const {
    const float4* sums = octets(work + ROWS * chunk);
    float4 sum = zero();
    for (int i = 0; i < slices(); ++i) add(sum, sums[i * ROWS * owned + item]);
    return sum;
  }

  // The gradient of the gates of row r and the block's unit j; a barrier must follow.
  __device__ void set_delta(int r, int j, float4 delta) {
    store(work + r * row_of_deltas() + j * 4, delta);
  }

  // BP of ROWS rows: their sums over the block's gates go to [row / 4][hidden][4], of the i-th kept
  // unit to place i. A warp has 16 kept units at once.
  __device__ void add_deltas(const Kept& kept, float4* to) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    for (int begin = 0; begin < kept.count; begin += chunk) {
      const int count = min(chunk, kept.count - begin);
      if (resident < hidden) {
        stage_units(kept, begin, count);
        wait_for_copies();
        __syncthreads();
      }
      for (int i = 16 * warp; i < count; i += 16 * kWarps) {
        const int slot = slot_of(kept, begin, count, i + lane % 16);
        float sums[kOctets][4] = {};
        for (int gate = 0; gate < owned * 4; gate += 16) {
          unsigned weights[4];
          load_matrices(weights, near + ((gate / 8 + lane / 16) * slots + slot) * 8);
#pragma unroll
          for (int octet = 0; octet < kOctets; ++octet) {
            unsigned deltas[2];
            load_matrices(
                deltas, work + (octet * 8 + lane % 8) * row_of_deltas() + gate + lane / 8 % 2 * 8);
            multiply_matrices(sums[octet], weights, deltas);  // eq. 10
          }
        }
#pragma unroll
        for (int octet = 0; octet < kOctets; ++octet) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int unit = i + lane / 4 + half * 8, row = octet * 8 + lane % 4 * 2;
            if (unit >= count) continue;
            float* place = reinterpret_cast<float*>(to + row / 4 * hidden + begin + unit);
            *reinterpret_cast<float2*>(place + row % 4) =
                make_float2(sums[octet][2 * half], sums[octet][2 * half + 1]);
          }
        }
      }
      if (resident < hidden) __syncthreads();  // before the next units take these ones' place
    }
  }

 private:
  static constexpr int kWarps = THREADS / kWarp;
  static constexpr int kNearChunk = 768, kFarChunk = 128;  // kept units at once

  // The warps that share out the kept units of one tile of gates.
  __device__ int slices() const { return max(1, kWarps / (owned / 4)); }

  // 16 bytes more than the gates: eight rows are in different banks.
  __device__ int row_of_deltas() const { return owned * 4 + 8; }

  // Starts to copy unit k of a plane to a slot.
  __device__ void copy_unit(int k, int plane, int slot) {
    const int unit = first_unit + 2 * plane, even = (hidden + 1) / 2 * 2;
    float4* to = octets(near + (plane * slots + slot) * 8);
    if (unit < hidden) {
      copy_async(to, octets(all + (((long long)blockIdx.y * hidden + k) * even + unit) * 4));
    } else {
      *to = zero();
    }
  }

  // Starts to copy those of `count` kept units that are not resident.
  __device__ void stage_units(const Kept& kept, int begin, int count) {
    if (resident == hidden) return;
    for (int item = threadIdx.x; item < count * (owned / 2); item += THREADS) {
      const int i = item / (owned / 2), k = kept[begin + i];
      if (k >= resident) copy_unit(k, item % (owned / 2), resident + 1 + i);
    }
  }

  // Where the planes have the i-th kept unit of a chunk; beyond them, zeros.
  __device__ int slot_of(const Kept& kept, int begin, int count, int i) const {
    if (i >= count) return resident;
    const int k = kept[begin + i];
    return k < resident ? k : resident + 1 + i;
  }

  const bfloat16* all;
  bfloat16 *near, *work;
  int resident, owned, hidden, first_unit, chunk, slots;
};
