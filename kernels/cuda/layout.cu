// Parameters between torch's layout, weight [outputs][units], and the products', a contiguous row a
// unit: rows[unit][stride], of which this weight has the columns from `first` on. Once an iteration
// each way.
//
// `gates` is 4 where outputs are the four gates of each hidden unit, one gate after the other in
// torch's layout: in the rows a hidden unit's gates lie together. Elsewhere it is 1. A block moves
// a tile through shared memory, so that both sides are read or written along their rows.
#include "common.cuh"

namespace {

constexpr int kTile = 32, kTileRows = 8;  // a block has kTile * kTileRows threads

// The row of torch's weight that is this column.
__device__ int output_of(int column, int outputs, int gates) {
  return column % gates * (outputs / gates) + column / gates;
}

}  // namespace

// rows = weight, and zeros from column `outputs` to `padded`.
extern "C" __global__ void __launch_bounds__(kTile* kTileRows)
    by_unit(const OPERAND* __restrict__ weight, int outputs, int units, int gates, int padded,
            int stride, int first, OPERAND* __restrict__ rows) {
  __shared__ OPERAND tile[kTile][kTile + 1];  // the odd width keeps a column in different banks
  const int column0 = blockIdx.x * kTile, unit0 = blockIdx.y * kTile, x = threadIdx.x;
  for (int y = threadIdx.y; y < kTile; y += kTileRows) {
    const int column = column0 + y, unit = unit0 + x;
    const bool inside = column < outputs && unit < units;
    tile[y][x] =
        inside ? weight[(long long)output_of(column, outputs, gates) * units + unit] : OPERAND{};
  }
  __syncthreads();
  for (int y = threadIdx.y; y < kTile; y += kTileRows) {
    const int column = column0 + x, unit = unit0 + y;
    if (column < padded && unit < units)
      rows[(long long)unit * stride + first + column] = tile[x][y];
  }
}

// weight = rows, of gradients, which are float32.
extern "C" __global__ void __launch_bounds__(kTile* kTileRows)
    by_output(const float* __restrict__ rows, int outputs, int units, int gates, int stride,
              int first, float* __restrict__ weight) {
  __shared__ float tile[kTile][kTile + 1];
  const int column0 = blockIdx.x * kTile, unit0 = blockIdx.y * kTile, x = threadIdx.x;
  for (int y = threadIdx.y; y < kTile; y += kTileRows) {
    const int column = column0 + x, unit = unit0 + y;
    const bool inside = column < outputs && unit < units;
    tile[y][x] = inside ? rows[(long long)unit * stride + first + column] : 0.f;
  }
  __syncthreads();
  for (int y = threadIdx.y; y < kTile; y += kTileRows) {
    const int column = column0 + y, unit = unit0 + x;
    if (column < outputs && unit < units) {
      weight[(long long)output_of(column, outputs, gates) * units + unit] = tile[x][y];
    }
  }
}
