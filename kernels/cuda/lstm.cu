// One LSTM layer over a whole sequence, its two directions side by side (paper, eq. 1-11), in fp32,
// or with bfloat16 as the OPERAND of its products: one kernel runs all time steps of FP, one those
// of BP. What does not depend on the step before is not here: the input products come as `gates`,
// the weight gradients are taken from `dgates` afterwards, each over the whole sequence at once.
//
// At these sizes a step is bound by launches and by reading U, so the grid stays for the whole
// sequence (a cooperative launch) and meets at a barrier in global memory once a step. Block x of
// direction y owns the hidden units from x * owned on and holds their share of U (StepProduct). A
// unit k that the step drops is not addressed, neither in h nor in U.
//
// The gates of a unit lie together, [unit][i, f, g, o]: a thread has all four in one vector.
// Sequences are packed by time: step t owns the rows [first[t], first[t + 1]), the first ones of
// the batch; sizes never grow. Step t reads with draw t / steps_per_draw of its direction, indices
// and offsets [directions][draws + 1]; offsets is null where nothing is dropped. A row that takes
// no part in a step (ended, or in the reverse direction not begun) keeps its state.
#include "barrier.cuh"
#include "step_bfloat16.cuh"
#include "step_float32.cuh"

namespace {

// A step of the sequence: its rows, and what it keeps of the hidden state.
struct Step {
  long long first;
  int size, draw;
  Kept kept;

  __device__ Step(int t, const long long* firsts, const int* indices, const long long* offsets,
                  int steps_per_draw, int hidden)
      : first(__ldg(firsts + t)),
        size(int(__ldg(firsts + t + 1) - first)),
        draw(t / steps_per_draw),
        kept(kept_units(indices, offsets, draw, hidden)) {}

  __device__ void prefetch_units() const {
    constexpr int kLine = 32;  // ids
    if (!kept.ids) return;
    for (int i = kLine * threadIdx.x; i < kept.count; i += kLine * THREADS) prefetch(kept.ids + i);
  }
};

__device__ float sigmoid(float v) { return 1.f / (1.f + expf(-v)); }

}  // namespace

// FP. gates [rows][directions][hidden][4] holds what the input adds to the gates and leaves with
// the activated gates; cells and y [rows][directions][hidden] are written, and from h_0 and c_0
// [directions][batch][hidden] each row's last state, h_n and c_n. state
// [2][directions][hidden][batch_padded], a multiple of ROWS, is scratch: h by unit. A step reads
// one half, its kept units only, and writes the other.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    lstm_fp(float* gates, const OPERAND* weight, const int* indices, const long long* offsets,
            const long long* first, const float* h_0, const float* c_0, OPERAND* state, float* h_n,
            float* c_n, float* cells, OPERAND* y, int* arrivals, float scale, int steps,
            int steps_per_draw, int draws, int batch, int batch_padded, int hidden, int owned,
            int resident) {
  extern __shared__ float4 shared[];

  const int direction = blockIdx.y, first_unit = blockIdx.x * owned, directions = gridDim.y;
  StepProduct<OPERAND> product(weight, shared, resident, owned, hidden);
  if (offsets) offsets += direction * (draws + 1);

  const auto step_at = [&](int s) {
    return Step(direction == 0 ? s : steps - 1 - s, first, indices, offsets, steps_per_draw,
                hidden);
  };
  const auto cell_of = [&](const Step& step, int b, int unit) {
    return ((step.first + b) * directions + direction) * hidden + unit;
  };

  const auto half = [&](int i) {
    return state + ((long long)i * directions + direction) * hidden * batch_padded;
  };

  // Both halves begin with h_0, for rows that take no part in the first steps.
  for (int item = threadIdx.x; item < owned * batch_padded; item += THREADS) {
    const int unit = first_unit + item / batch_padded, b = item % batch_padded;
    if (unit >= hidden) break;
    const long long place = ((long long)direction * batch + b) * hidden + unit;
    const float h = b < batch ? __ldg(h_0 + place) : 0.f;
    for (int i = 0; i < 2; ++i) store(half(i) + (long long)unit * batch_padded + b, h);
    if (b >= batch) continue;
    h_n[place] = h;
    c_n[place] = __ldg(c_0 + place);
  }
  Step step = step_at(0);
  wait_for_copies();
  grid_barrier(arrivals + direction, gridDim.x);

  for (int s = 0; s < steps; ++s) {
    OPERAND* h_after = half(1 - s % 2);

    for (int row0 = 0; row0 < step.size; row0 += ROWS) {
      product.sum(step.kept, half(s % 2), batch_padded, row0);
      for (int item = threadIdx.x; item < ROWS * owned; item += THREADS) {
        const int b = row0 + item / owned, unit = first_unit + item % owned;
        if (b >= step.size || unit >= hidden) continue;
        const long long cell = cell_of(step, b, unit);
        const long long place = ((long long)direction * batch + b) * hidden + unit;
        float4 gate = quads(gates)[cell];
        multiply_add(gate, scale, product.sum_of(item));
        gate = make_float4(sigmoid(gate.x), sigmoid(gate.y), tanhf(gate.z), sigmoid(gate.w));
        const float c = gate.y * c_n[place] + gate.x * gate.z;  // eq. 5
        const float h = gate.w * tanhf(c);                      // eq. 6
        quads(gates)[cell] = gate;
        cells[cell] = c;
        c_n[place] = c;
        h_n[place] = h;
        store(y + cell, h);
        store(h_after + (long long)unit * batch_padded + b, h);
      }
      __syncthreads();
    }

    if (s + 1 == steps) break;
    step = step_at(s + 1);
    step.prefetch_units();
    for (int item = threadIdx.x; item < step.size * owned; item += THREADS) {
      prefetch(quads(gates) +
               cell_of(step, item / owned, min(first_unit + item % owned, hidden - 1)));
    }
    grid_barrier(arrivals + direction, (s + 2) * gridDim.x);
  }
}

// BP, back through the steps. gates, cells and c_0 [directions][batch][hidden] are FP's; of the
// gradients that come, dy [rows][directions][hidden] and, like c_0, dh_n and dc_n, each may be
// null: zeros. dgates [rows][directions][hidden][4] is written, and like c_0 dh and dc, the
// state's, at last those of h_0 and c_0. positions [directions][draws][hidden] says where in its
// list a draw keeps a unit, null with offsets.
//
// dh of the step before is a sum over the gates of all units, so over all blocks. A block adds up
// its own gates, for every kept unit (with the same share of U as in FP), and writes that part to
// partial [2][directions][blocks][rows_padded / 4][hidden][4]; behind the barrier each block adds
// the parts of its own kept units, in the blocks' order. One half of `partial` is written while the
// other may still be read. (If a block computed its own units outright instead, it would read the
// gradients of all gates, 16 * hidden * batch bytes a step, and the block with the most kept units
// would hold up all others.) So that `partial` stays small, a launch takes only the rows of the
// batch from first_b on, at most rows_padded, a multiple of ROWS.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    lstm_bp(const float* gates, const float* cells, const float* c_0, const OPERAND* dy,
            const float* dh_n, const float* dc_n, const OPERAND* weight, const int* indices,
            const long long* offsets, const int* positions, const long long* first, OPERAND* dgates,
            float* dh, float* dc, float* partial, int* arrivals, float scale, int steps,
            int steps_per_draw, int draws, int batch, int first_b, int rows_padded, int hidden,
            int owned, int resident) {
  extern __shared__ float4 shared[];
  constexpr int kAdders = 8;  // lanes that add the parts of four rows of one unit

  const int direction = blockIdx.y, first_unit = blockIdx.x * owned, directions = gridDim.y,
            blocks = gridDim.x;
  StepProduct<OPERAND> product(weight, shared, resident, owned, hidden);
  if (offsets) offsets += direction * (draws + 1);

  const auto step_at = [&](int s) {
    return Step(direction == 0 ? s : steps - 1 - s, first, indices, offsets, steps_per_draw,
                hidden);
  };
  const auto cell_of = [&](const Step& step, int b, int unit) {
    return ((step.first + b) * directions + direction) * hidden + unit;
  };
  const auto rows_of = [&](int size) {
    return max(0, min(size - first_b, rows_padded));
  };  // that are this launch's

  for (int item = threadIdx.x; item < owned * rows_of(batch); item += THREADS) {
    const int unit = first_unit + item % owned;
    if (unit >= hidden) continue;
    const long long place = ((long long)direction * batch + first_b + item / owned) * hidden + unit;
    dh[place] = dh_n ? __ldg(dh_n + place) : 0.f;
    dc[place] = dc_n ? __ldg(dc_n + place) : 0.f;
  }
  wait_for_copies();  // U is first read behind a barrier below; dh and dc are first read by who
                      // wrote them

  Step step = step_at(steps - 1);
  for (int s = steps - 1; s >= 0; --s) {
    const Step before = step_at(max(s - 1, 0));
    const int size_before =
        s == 0 ? 0 : before.size;  // the rows beyond it start from the initial state
    const long long part = (long long)rows_padded / 4 * hidden;  // quads of one block
    float4* parts = quads(partial) + ((s % 2) * directions + direction) * blocks * part;

    const int size = rows_of(step.size);
    for (int row0 = 0; row0 < size; row0 += ROWS) {
      for (int item = threadIdx.x; item < ROWS * owned; item += THREADS) {
        const int r = item / owned, j = item % owned, b = first_b + row0 + r, unit = first_unit + j;
        float4 delta = zero();
        if (row0 + r < size && unit < hidden) {
          const long long cell = cell_of(step, b, unit);
          const long long place = ((long long)direction * batch + b) * hidden + unit;
          const float4 gate = __ldg(quads(gates) + cell);
          const float c_before =
              __ldg(b < size_before ? cells + cell_of(before, b, unit) : c_0 + place);
          const float tanh_c = tanhf(__ldg(cells + cell));
          const float from_y = dy ? load(dy + cell) : 0.f;
          const float dh_t = dh[place] + from_y;
          const float dc_t = dc[place] + dh_t * gate.w * (1.f - tanh_c * tanh_c);  // eq. 7
          delta = make_float4(
              dc_t * gate.z * gate.x * (1.f - gate.x), dc_t * c_before * gate.y * (1.f - gate.y),
              dc_t * gate.x * (1.f - gate.z * gate.z), dh_t * tanh_c * gate.w * (1.f - gate.w));
          dc[place] = dc_t * gate.y;  // eq. 8
          store(dgates + 4 * cell, delta);
        }
        product.set_delta(r, j, delta);
      }
      __syncthreads();
      product.add_deltas(step.kept, parts + blockIdx.x * part + (long long)row0 / 4 * hidden);
      __syncthreads();
    }
    before.prefetch_units();
    for (int item = threadIdx.x; item < rows_of(before.size) * owned; item += THREADS) {
      const long long cell =
          cell_of(before, first_b + item / owned, min(first_unit + item % owned, hidden - 1));
      prefetch(quads(gates) + cell);
      if (dy) prefetch(dy + cell);
    }
    grid_barrier(arrivals + direction, (steps - s) * blocks);

    const int items = owned * ((size + 3) / 4);
    for (int item0 = 0; item0 < items; item0 += THREADS / kAdders) {
      const int item = item0 + threadIdx.x / kAdders, adder = threadIdx.x % kAdders;
      const int unit = first_unit + item % owned, quad = item / owned;
      const bool mine = item < items && unit < hidden;
      int place = mine ? unit : -1;
      if (mine && positions)
        place = __ldg(positions + ((long long)direction * draws + step.draw) * hidden + unit);
      float4 sum = zero();
      if (place >= 0) {
        const float4* from = parts + (long long)quad * hidden + place;
#pragma unroll 8
        for (int block = adder; block < blocks; block += kAdders)
          add(sum, __ldcg(from + block * part));
      }
      sum = make_float4(sum_over<kAdders>(sum.x), sum_over<kAdders>(sum.y),
                        sum_over<kAdders>(sum.z), sum_over<kAdders>(sum.w));
      const float of_row[] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int b = 4 * quad + r;
        if (!mine || adder != r || b >= size) continue;
        dh[((long long)direction * batch + first_b + b) * hidden + unit] = scale * of_row[r];
      }
    }
    __syncthreads();
    step = before;
  }
}
