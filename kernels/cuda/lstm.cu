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
  int size;
  Kept kept;

  __device__ Step(int t, const long long* firsts, const int* indices, const long long* offsets,
                  int steps_per_draw, int hidden)
      : first(__ldg(firsts + t)),
        size(int(__ldg(firsts + t + 1) - first)),
        kept(kept_units(indices, offsets, t / steps_per_draw, hidden)) {}

  // Starts to copy the kept units' ids to shared memory.
  __device__ void bring_ids(int* to) {
    if (!kept.ids) return;
    for (int i = threadIdx.x; i < kept.count; i += THREADS) copy_async(to + i, kept.ids + i);
    kept.ids = to;
  }
};

// Vectors of four that so many numbers fill.
__device__ int quads_of(int numbers) { return (numbers + 3) / 4; }

__device__ float sigmoid(float v) { return 1.f / (1.f + expf(-v)); }

}  // namespace

// FP. gates [rows][directions][hidden][4] holds what the input adds to the gates and leaves with
// the activated gates; cells and y [rows][directions][hidden] are written, and from h_0 and c_0
// [directions][batch][hidden] each row's last state, h_n and c_n. state
// [2][directions][hidden][batch_padded], a multiple of ROWS, is scratch: h by unit. A step reads
// one half, its kept units only, and writes the other. What a thread needs besides is loaded one
// item ahead, over the barrier.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    lstm_fp(float* gates, const OPERAND* weight, const int* indices, const long long* offsets,
            const long long* first, const float* h_0, const float* c_0, OPERAND* state, float* h_n,
            float* c_n, float* cells, OPERAND* y, int* arrivals, float scale, int steps,
            int steps_per_draw, int draws, int batch, int batch_padded, int hidden, int owned,
            int resident) {
  extern __shared__ float4 shared[];
  int* ids = reinterpret_cast<int*>(shared);  // of a step's kept units, where some are dropped
  float4* rest = shared + (offsets ? quads_of(hidden) : 0);

  const int direction = blockIdx.y, first_unit = blockIdx.x * owned, directions = gridDim.y;
  StepProduct<OPERAND> product(weight, rest, resident, owned, hidden);
  if (offsets) offsets += direction * (draws + 1);

  const auto step_at = [&](int s) {
    return Step(direction == 0 ? s : steps - 1 - s, first, indices, offsets, steps_per_draw,
                hidden);
  };
  const auto cell_of = [&](const Step& step, int b, int unit) {
    return ((step.first + b) * directions + direction) * hidden + unit;
  };
  const auto state_of = [&](int b, int unit) {
    return ((long long)direction * batch + b) * hidden + unit;
  };
  const auto half = [&](int i) {
    return state + ((long long)i * directions + direction) * hidden * batch_padded;
  };

  struct Inputs {
    float4 gate;
    float c;
  };
  const auto inputs_of = [&](const Step& step, int row0, int item) -> Inputs {
    const int b = row0 + item / owned, unit = first_unit + item % owned;
    if (item >= ROWS * owned || b >= step.size || unit >= hidden) return {zero(), 0.f};
    return {quads(gates)[cell_of(step, b, unit)], c_n[state_of(b, unit)]};
  };

  // Both halves begin with h_0, for rows that take no part in the first steps.
  for (int item = threadIdx.x; item < owned * batch_padded; item += THREADS) {
    const int unit = first_unit + item / batch_padded, b = item % batch_padded;
    if (unit >= hidden) break;
    const long long place = state_of(b, unit);
    const float h = b < batch ? __ldg(h_0 + place) : 0.f;
    for (int i = 0; i < 2; ++i) store(half(i) + (long long)unit * batch_padded + b, h);
    if (b >= batch) continue;
    h_n[place] = h;
    c_n[place] = __ldg(c_0 + place);
  }
  Step step = step_at(0);
  step.bring_ids(ids);
  grid_barrier(arrivals + direction, gridDim.x);
  Inputs ahead = inputs_of(step, 0, threadIdx.x);

  for (int s = 0; s < steps; ++s) {
    OPERAND* h_after = half(1 - s % 2);

    for (int row0 = 0; row0 < step.size; row0 += ROWS) {
      if (row0 > 0) ahead = inputs_of(step, row0, threadIdx.x);
      product.sum(step.kept, half(s % 2), batch_padded, row0);
      for (int item = threadIdx.x; item < ROWS * owned; item += THREADS) {
        const Inputs inputs = ahead;
        ahead = inputs_of(step, row0, item + THREADS);
        const int b = row0 + item / owned, unit = first_unit + item % owned;
        if (b >= step.size || unit >= hidden) continue;
        const long long cell = cell_of(step, b, unit), place = state_of(b, unit);
        float4 gate = inputs.gate;
        multiply_add(gate, scale, product.sum_of(item));
        gate = make_float4(sigmoid(gate.x), sigmoid(gate.y), tanhf(gate.z), sigmoid(gate.w));
        const float c = gate.y * inputs.c + gate.x * gate.z;  // eq. 5
        const float h = gate.w * tanhf(c);                    // eq. 6
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
    step.bring_ids(ids);
    ahead = inputs_of(step, 0, threadIdx.x);
    grid_barrier(arrivals + direction, (s + 2) * gridDim.x);
  }
}

// BP, back through the steps. gates, cells and c_0 [directions][batch][hidden] are FP's; of the
// gradients that come, dy [rows][directions][hidden] and, like c_0, dh_n and dc_n, each may be
// null: zeros. dgates [rows][directions][hidden][4] is written, and like c_0 dh and dc, the
// gradients of h_0 and c_0; on the way dc is that of the state.
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
            const long long* offsets, const long long* first, OPERAND* dgates, float* dh, float* dc,
            float* partial, int* arrivals, float scale, int steps, int steps_per_draw, int draws,
            int batch, int first_b, int rows_padded, int hidden, int owned, int resident) {
  constexpr int kAdders = 4;  // lanes that add the parts of four rows of one unit
  constexpr int kAhead = 16;  // parts that a lane loads at once

  extern __shared__ float4 shared[];
  int* ids = reinterpret_cast<int*>(shared);  // of a step's kept units, where some are dropped
  float4* rest = shared + (offsets ? quads_of(hidden) : 0);
  int* places = reinterpret_cast<int*>(rest);  // of the block's units among the step's kept ones
  rest += quads_of(owned);
  float* dh_now = reinterpret_cast<float*>(rest);  // [rows_padded][owned]
  rest += quads_of(rows_padded * owned);

  const int direction = blockIdx.y, first_unit = blockIdx.x * owned, directions = gridDim.y,
            blocks = gridDim.x;
  StepProduct<OPERAND> product(weight, rest, resident, owned, hidden);
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
  const auto state_of = [&](int row, int unit) {
    return ((long long)direction * batch + first_b + row) * hidden + unit;
  };

  struct Inputs {
    float4 gate;
    float c, c_before, dc, dy;
  };
  // Of a step whose state began in the step `before`, in its first size_before rows.
  const auto inputs_of = [&](const Step& step, const Step& before, int size_before, int row0,
                             int item) -> Inputs {
    const int row = row0 + item / owned, unit = first_unit + item % owned;
    if (item >= ROWS * owned || row >= rows_of(step.size) || unit >= hidden)
      return {zero(), 0.f, 0.f, 0.f, 0.f};
    const int b = first_b + row;
    const long long cell = cell_of(step, b, unit), place = state_of(row, unit);
    const float* c_before = b < size_before ? cells + cell_of(before, b, unit) : c_0 + place;
    return {__ldg(quads(gates) + cell), __ldg(cells + cell), __ldg(c_before), dc[place],
            dy ? load(dy + cell) : 0.f};
  };

  for (int item = threadIdx.x; item < owned * rows_of(batch); item += THREADS) {
    const int unit = first_unit + item % owned;
    if (unit >= hidden) continue;
    const long long place = state_of(item / owned, unit);
    dh_now[item] = dh_n ? __ldg(dh_n + place) : 0.f;
    dc[place] = dc_n ? __ldg(dc_n + place) : 0.f;
  }
  Step step = step_at(steps - 1);
  step.bring_ids(ids);
  wait_for_copies();
  __syncthreads();

  Step before = step_at(max(steps - 2, 0));
  Inputs ahead = inputs_of(step, before, steps == 1 ? 0 : before.size, 0, threadIdx.x);
  for (int s = steps - 1; s >= 0; --s) {
    const int size_before = s == 0 ? 0 : before.size;
    const long long part = (long long)rows_padded / 4 * hidden;  // quads of one block
    float4* parts = quads(partial) + ((s % 2) * directions + direction) * blocks * part;
    const int size = rows_of(step.size);
    // By the threads that have the fewest items.
    for (int j = THREADS - 1 - threadIdx.x; size > 0 && j < owned; j += THREADS) {
      places[j] = step.kept.place_of(first_unit + j);
    }

    for (int row0 = 0; row0 < size; row0 += ROWS) {
      if (row0 > 0) ahead = inputs_of(step, before, size_before, row0, threadIdx.x);
      for (int item = threadIdx.x; item < ROWS * owned; item += THREADS) {
        const Inputs inputs = ahead;
        ahead = inputs_of(step, before, size_before, row0, item + THREADS);
        const int r = item / owned, j = item % owned, row = row0 + r, unit = first_unit + j;
        float4 delta = zero();
        if (row < size && unit < hidden) {
          const float4 gate = inputs.gate;
          const float tanh_c = tanhf(inputs.c);
          float& dh_of_item = dh_now[row * owned + j];
          const float dh_t = dh_of_item + inputs.dy;
          const float dc_t = inputs.dc + dh_t * gate.w * (1.f - tanh_c * tanh_c);  // eq. 7
          delta = make_float4(dc_t * gate.z * gate.x * (1.f - gate.x),
                              dc_t * inputs.c_before * gate.y * (1.f - gate.y),
                              dc_t * gate.x * (1.f - gate.z * gate.z),
                              dh_t * tanh_c * gate.w * (1.f - gate.w));
          dc[state_of(row, unit)] = dc_t * gate.y;  // eq. 8
          dh_of_item = 0.f;                         // what a dropped unit leaves
          store(dgates + 4 * cell_of(step, first_b + row, unit), delta);
        }
        product.set_delta(r, j, delta);
      }
      __syncthreads();
      product.add_deltas(step.kept, parts + blockIdx.x * part + (long long)row0 / 4 * hidden);
      __syncthreads();
    }
    step = before;
    step.bring_ids(ids);
    before = step_at(max(s - 2, 0));
    if (s > 0) ahead = inputs_of(step, before, s == 1 ? 0 : before.size, 0, threadIdx.x);
    grid_barrier(arrivals + direction, (steps - s) * blocks);

    const int items = owned * quads_of(size);
    for (int item0 = 0; item0 < items; item0 += THREADS / kAdders) {
      const int item = item0 + threadIdx.x / kAdders, adder = threadIdx.x % kAdders;
      const int j = item % owned, quad = item / owned, place = item < items ? places[j] : -1;
      float4 sum = zero();
      if (place >= 0) {
        const float4* from = parts + (long long)quad * hidden + place;
        for (int block0 = adder; block0 < blocks; block0 += kAhead * kAdders) {
          float4 loaded[kAhead];
#pragma unroll
          for (int i = 0; i < kAhead; ++i) {
            const int block = block0 + i * kAdders;
            loaded[i] = block < blocks ? __ldcg(from + block * part) : zero();
          }
#pragma unroll
          for (int i = 0; i < kAhead; ++i) add(sum, loaded[i]);
        }
      }
      sum = make_float4(sum_over<kAdders>(sum.x), sum_over<kAdders>(sum.y),
                        sum_over<kAdders>(sum.z), sum_over<kAdders>(sum.w));
      const float of_row[] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int row = 4 * quad + r;
        if (place >= 0 && adder == r && row < size) dh_now[row * owned + j] = scale * of_row[r];
      }
    }
    __syncthreads();
  }

  for (int item = threadIdx.x; item < owned * rows_of(batch); item += THREADS) {
    const int unit = first_unit + item % owned;
    if (unit < hidden) dh[state_of(item / owned, unit)] = dh_now[item];
  }
}
