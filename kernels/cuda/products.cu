// The three products of y = (x * mask) weight^T under a structured mask (paper, figure 2 and
// section 4), in fp32.
//
// The weights come by unit, weight[unit][stride]: what a dropped unit would have multiplied is one
// contiguous row, which is never addressed. (In torch's [out, in] a unit is a column: every 32-byte
// sector holds kept units too, so all of it would be read.) stride is out rounded up to 4, the
// padding is zero.
//
// Draw d of the mask keeps the units indices[offsets[d]:offsets[d + 1]] and serves the rows
// [rows[d], rows[d + 1]). A block works on the rows of one draw, at most ROWS of them. Grids are
// made for the most rows and units that a draw could have, since the host knows no counts; a block
// beyond what its draw has returns at once.
#include "common.cuh"

namespace {

// A block's tile of rows; blockIdx.x counts the tiles of draw 0, then those of draw 1, and so on.
struct RowTile {
  int draw, count;
  long long first;

  __device__ RowTile(const long long* rows, int tiles_per_draw) {
    draw = blockIdx.x / tiles_per_draw;
    first = __ldg(rows + draw) + (blockIdx.x % tiles_per_draw) * ROWS;
    const long long left = __ldg(rows + draw + 1) - first;
    count = left < ROWS ? int(left) : ROWS;  // not positive beyond the draw
  }
};

constexpr int kColumns = 4 * kWarp;  // the columns of a warp: four a lane

// Starts to copy the rows from `first` on of dy [rows][outputs], their kColumns columns from
// `column` on, to shared [size][kColumns]; zeros stand for rows from `count` on and for columns
// that do not exist. dy is aligned to 16 bytes.
__device__ void stage_rows(float* to, const float* dy, long long first, int count, int size,
                           int column, int outputs) {
  const float* from = dy + first * outputs + column;
  if (outputs % 4 == 0) {
    for (int item = threadIdx.x; item < size * kWarp; item += blockDim.x) {
      const int r = item / kWarp, c = item % kWarp * 4;
      if (r < count && column + c < outputs) {
        copy_async(quads(to) + item, quads(from + (long long)r * outputs + c));
      } else {
        quads(to)[item] = zero();
      }
    }
    return;
  }
  for (int item = threadIdx.x; item < size * kColumns; item += blockDim.x) {
    const int r = item / kColumns, c = item % kColumns;
    if (r < count && column + c < outputs) {
      copy_async(to + item, from + (long long)r * outputs + c);
    } else {
      to[item] = 0.f;
    }
  }
}

}  // namespace

// positions[d][unit] = where in its list draw d keeps the unit, -1 where it drops it. One block a
// draw.
extern "C" __global__ void unit_positions(const int* indices, const long long* offsets, int units,
                                          int* positions) {
  const Kept kept = kept_units(indices, offsets, blockIdx.x, units);
  int* of_draw = positions + (long long)blockIdx.x * units;
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) of_draw[unit] = -1;
  __syncthreads();
  for (int i = threadIdx.x; i < kept.count; i += blockDim.x) of_draw[kept[i]] = i;
}

// FP, column-sparse input (figure 2a): y[r] = scale * sum over the kept units k of x[r][k]
// weight[k] + bias.
//
// A block owns ROWS rows and kColumns columns; its warps share out the kept units. A warp streams a
// unit's row of weights straight into registers, four columns a lane, and each weight serves ROWS
// rows; no other warp of the block needs it, so only x goes through shared memory. At the end the
// warps' sums are added, in their order.
constexpr int kFpWarps = 4;

extern "C" __global__ void __launch_bounds__(kFpWarps* kWarp, 3)
    linear_fp(const float* __restrict__ x, const float* __restrict__ weight,
              const float* __restrict__ bias, const int* __restrict__ indices,
              const long long* __restrict__ offsets, const long long* __restrict__ rows,
              float scale, int units, int outputs, int stride, int row_tiles,
              float* __restrict__ y) {
  constexpr int kChunk = 256;  // kept units whose inputs are in shared memory at once
  constexpr int kInputs =
      ROWS % 8 == 0 ? ROWS + 4 : ROWS;  // an odd number of quads: the fewest bank conflicts
  __shared__ float4
      shared[kFpWarps * ROWS * kWarp];  // inputs [kChunk][kInputs], then sums [warp][ROWS][kWarp]
  static_assert(kChunk * kInputs <= 4 * kFpWarps * ROWS * kWarp,
                "the inputs fit where the sums will be");

  const RowTile tile(rows, row_tiles);
  if (tile.count <= 0) return;
  const Kept kept = kept_units(indices, offsets, tile.draw, units);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int column = blockIdx.y * kColumns + 4 * lane;
  const bool inside = column < stride;

  float* inputs = reinterpret_cast<float*>(shared);
  float4 sums[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) sums[r] = zero();
  for (int begin = 0; begin < kept.count; begin += kChunk) {
    const int size = min(kChunk, kept.count - begin);
    for (int r = warp; r < ROWS; r += kFpWarps) {
      const float* row = x + (tile.first + r) * units;
      for (int i = lane; i < size; i += kWarp)
        inputs[i * kInputs + r] = r < tile.count ? row[kept[begin + i]] : 0.f;
    }
    __syncthreads();
#pragma unroll 4
    for (int i = warp; i < size; i += kFpWarps) {
      const float4 w =
          inside ? __ldg(quads(weight + (long long)kept[begin + i] * stride + column)) : zero();
      add_outer(sums, inputs + i * kInputs, w);
    }
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < ROWS; ++r) shared[(warp * ROWS + r) * kWarp + lane] = sums[r];
  __syncthreads();
  for (int r = warp; r < tile.count; r += kFpWarps) {
    for (int i = lane; i < kColumns; i += kWarp) {
      const int out = blockIdx.y * kColumns + i;
      if (out >= outputs) break;
      float sum = 0.f;
      for (int w = 0; w < kFpWarps; ++w)
        sum += reinterpret_cast<const float*>(shared)[(w * ROWS + r) * kColumns + i];
      y[(tile.first + r) * outputs + out] = fmaf(scale, sum, bias ? __ldg(bias + out) : 0.f);
    }
  }
}

// BP, column-sparse output (figure 2b): dx[r][k] = scale * <dy[r], weight[k]> for the kept units k.
// dx comes cleared: nothing is written, or computed, for the others.
//
// A block owns ROWS rows and kBpWarps * kBpUnits places in the draw's list of kept units, so that
// all its lanes work whatever was dropped. A warp holds the sums of kBpUnits units, its lanes share
// out the columns. The next columns of dy are on their way to shared memory while these are used.
constexpr int kBpWarps = 8, kBpUnits = 4;

extern "C" __global__ void __launch_bounds__(kBpWarps* kWarp, 2)
    linear_bp(const float* __restrict__ dy, const float* __restrict__ weight,
              const int* __restrict__ indices, const long long* __restrict__ offsets,
              const long long* __restrict__ rows, float scale, int units, int outputs, int stride,
              int row_tiles, float* __restrict__ dx) {
  __shared__ float4 gradients[2][ROWS * kWarp];  // [ROWS][kColumns]

  const RowTile tile(rows, row_tiles);
  if (tile.count <= 0) return;
  const Kept kept = kept_units(indices, offsets, tile.draw, units);
  if (blockIdx.y * kBpWarps * kBpUnits >= kept.count) return;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int place = (blockIdx.y * kBpWarps + warp) * kBpUnits,
            owned = min(kBpUnits, kept.count - place);
  const auto stage = [&](int column, int half) {
    float* to = reinterpret_cast<float*>(gradients[half]);
    stage_rows(to, dy, tile.first, tile.count, ROWS, column, outputs);
  };

  float sums[ROWS][kBpUnits] = {};
  stage(0, 0);
  for (int begin = 0, half = 0; begin < stride; begin += kColumns, half ^= 1) {
    float4 w[kBpUnits];
#pragma unroll
    for (int u = 0; u < kBpUnits; ++u) {
      const bool inside = u < owned && begin + 4 * lane < stride;
      w[u] = inside ? __ldg(quads(weight + (long long)kept[place + u] * stride + begin + 4 * lane))
                    : zero();
    }
    wait_for_copies();
    __syncthreads();  // this half is there, and nobody reads the other one any more
    if (begin + kColumns < stride) stage(begin + kColumns, half ^ 1);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const float4 g = gradients[half][r * kWarp + lane];
#pragma unroll
      for (int u = 0; u < kBpUnits; ++u) dot_add(sums[r][u], g, w[u]);
    }
  }

#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
#pragma unroll
    for (int u = 0; u < kBpUnits; ++u) {
      const float sum = sum_over<kWarp>(sums[r][u]);
      if (lane == 0 && r < tile.count && u < owned)
        dx[(tile.first + r) * units + kept[place + u]] = scale * sum;
    }
  }
}

// WG, row-sparse (figure 2c): dweight[k] = scale * sum over the draws that kept k, over their rows
// r, of x[r][k] dy[r].
//
// A block owns kWgWarps * kWgUnits units and kColumns columns and goes through all rows, kWgRows of
// a draw at once. A warp has its own units, so skipping one never diverges: whether a draw kept it
// (positions[draw][unit] >= 0) is the same for all lanes. The gradients are staged once for all the
// block's units, and four rows of them serve all units of a warp from registers; a dropped unit's
// inputs are not read. The next rows are on their way while these are used.
constexpr int kWgWarps = 4, kWgUnits = 16, kWgRows = 24;

namespace {

// The rows of draw after draw, at most kWgRows at once.
struct WgRows {
  const long long* rows;
  int draws, draw = -1, count = 0;
  long long begin, end;

  __device__ WgRows(const long long* rows_, int draws_)
      : rows(rows_), draws(draws_), begin(0), end(0) {
    advance();
  }

  __device__ bool any() const { return draw < draws; }

  __device__ void advance() {
    begin += count;
    while (begin == end && ++draw < draws) end = __ldg(rows + draw + 1);
    count = int(end - begin < kWgRows ? end - begin : kWgRows);
  }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(kWgWarps* kWarp, 3)
    linear_wg(const float* __restrict__ x, const float* __restrict__ dy,
              const int* __restrict__ positions, const long long* __restrict__ rows, int draws,
              float scale, int units, int outputs, int stride, float* __restrict__ dweight) {
  constexpr int kBlockUnits = kWgWarps * kWgUnits;
  constexpr int kInputs = kWgRows + 4;  // an odd number of quads: the fewest bank conflicts
  static_assert(kBlockUnits == 2 * kWarp, "a lane tells of two units");
  __shared__ float4 gradients[2][kWgRows * kWarp];         // [row][kColumns]
  __shared__ float4 inputs[2][kBlockUnits * kInputs / 4];  // [unit][kInputs]

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int first_unit = blockIdx.y * kBlockUnits, mine = first_unit + warp * kWgUnits;

  // One bit a unit of the block: whether the draw kept it.
  const auto kept_by = [&](int draw) {
    const auto keeps = [&](int unit) {
      return unit < units && __ldg(positions + (long long)draw * units + unit) >= 0;
    };
    const unsigned low = __ballot_sync(0xffffffff, keeps(first_unit + lane));
    const unsigned high = __ballot_sync(0xffffffff, keeps(first_unit + kWarp + lane));
    return (unsigned long long)high << kWarp | low;
  };
  const auto stage = [&](const WgRows& at, unsigned long long kept, int half) {
    const int size = (at.count + 3) / 4 * 4;
    stage_rows(reinterpret_cast<float*>(gradients[half]), dy, at.begin, at.count, size,
               blockIdx.x * kColumns, outputs);
    for (int r = warp; r < size; r += kWgWarps) {
      for (int i = lane; i < kBlockUnits; i += kWarp) {
        if (!(kept >> i & 1)) continue;
        float* to = reinterpret_cast<float*>(inputs[half]) + i * kInputs + r;
        if (r < at.count) {
          copy_async(to, x + (at.begin + r) * units + first_unit + i);
        } else {
          *to = 0.f;
        }
      }
    }
  };

  float4 sums[kWgUnits];
#pragma unroll
  for (int u = 0; u < kWgUnits; ++u) sums[u] = zero();
  WgRows at(rows, draws);
  unsigned long long kept = at.any() ? kept_by(at.draw) : 0;
  if (at.any()) stage(at, kept, 0);
  for (int half = 0; at.any(); half ^= 1) {
    const int count = at.count;
    const unsigned of_warp = unsigned(kept >> warp * kWgUnits);
    const int draw = at.draw;
    at.advance();
    if (at.any() && at.draw != draw) kept = kept_by(at.draw);
    wait_for_copies();
    __syncthreads();  // this half is there, and nobody reads the other one any more
    if (at.any()) stage(at, kept, half ^ 1);
    for (int r = 0; r < count; r += 4) {
      const float4* g = gradients[half] + r * kWarp + lane;
      const float4 g0 = g[0], g1 = g[kWarp], g2 = g[2 * kWarp], g3 = g[3 * kWarp];
#pragma unroll
      for (int u = 0; u < kWgUnits; ++u) {
        if (!(of_warp >> u & 1)) continue;
        const float4 v = inputs[half][((warp * kWgUnits + u) * kInputs + r) / 4];
        multiply_add(sums[u], v.x, g0);
        multiply_add(sums[u], v.y, g1);
        multiply_add(sums[u], v.z, g2);
        multiply_add(sums[u], v.w, g3);
      }
    }
  }

  const int column = blockIdx.x * kColumns + 4 * lane;
  if (column >= stride) return;
#pragma unroll
  for (int u = 0; u < kWgUnits; ++u) {
    if (mine + u >= units) break;
    const float4 s = sums[u];
    *quads(dweight + (long long)(mine + u) * stride + column) =
        make_float4(scale * s.x, scale * s.y, scale * s.z, scale * s.w);
  }
}
