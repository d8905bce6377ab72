// A structured mask on the rows of a packed sequence, for products that are left to torch.
#include "mma.cuh"

// y = scale * x where a row's draw keeps the unit, else 0; x and y are [rows][units]. A block has
// one row; blockIdx.x counts the most rows that a draw serves, draw by draw.
extern "C" __global__ void masked(const OPERAND* __restrict__ x, const int* indices,
                                  const long long* offsets, const long long* rows, float scale,
                                  int units, int most_rows, OPERAND* __restrict__ y) {
  const int draw = blockIdx.x / most_rows;
  const long long row = __ldg(rows + draw) + blockIdx.x % most_rows;
  if (row >= __ldg(rows + draw + 1)) return;
  const Kept kept = kept_units(indices, offsets, draw, units);
  const OPERAND* from = x + row * units;
  OPERAND* to = y + row * units;
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) store(to + unit, 0.f);
  __syncthreads();
  for (int i = threadIdx.x; i < kept.count; i += blockDim.x)
    store(to + kept[i], scale * load(from + kept[i]));
}
