// FP of an LSTM layer: the input products of the whole sequence, then step by step the recurrent
// products and the cells.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "cell.h"
#include "checks.h"
#include "dispatch.h"
#include "gather.h"
#include "layer.h"
#include "memory.h"
#include "ops.h"
#include "pack.h"
#include "parallel.h"
#include "products.h"

namespace structured_dropout {
namespace {

template <typename W>
struct Parameters {
  Pointers<W> w_ih, w_hh, b_ih, b_hh;
};

template <typename T>
struct States {
  const T *h0, *c0;
  T* y;
  Sum<T>*gates, *cells;
};

// gates = bias + (x * nr) W^T for the whole sequence, and what the first step needs: weights and
// initial states.
template <typename T, typename W>
void start(const Layer& layer, const T* x, const Parameters<W>& parameters, const States<T>& states,
           T* recurrent) {
  const Layout<T> layout(layer);
  const Groups& groups = layer.nr().sequence();
  const Scratch<T> gathered = gather_groups(row_pointers(x, layout.rows, layer.input), groups,
                                            layer.nr().scale(), gather_units<T>);
  const double cost = double(groups.elements() + layer.hidden) * kPanel<T>;
  parallel(layout.directions * layout.panels, cost, [&](int64_t begin, int64_t end) {
    const Scratch<T> weights(layer.input * kPanel<T>);
    const Scratch<Sum<T>> bias(kPanel<T>), bias_hh(kPanel<T>);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t d = item / layout.panels, panel = item % layout.panels;
      pack_panel(parameters.w_ih[d], layer.input, layout.columns, panel, 0, layer.input,
                 weights.get());
      pack_recurrent(layout, parameters.w_hh[d], d, panel, recurrent);
      pack_vector(parameters.b_ih[d], layout.columns, panel, bias.get());
      pack_vector(parameters.b_hh[d], layout.columns, panel, bias_hh.get());
      for (int64_t i = 0; i < kPanel<T>; ++i) bias.get()[i] += bias_hh.get()[i];

      Sum<T>* gates = states.gates + layout.gates(d, panel, 0);
      for (const Group& g : groups) {
        Sum<T>* sums = gates + g.row * kPanel<T>;
        for (int64_t row = 0; row < g.rows; ++row)
          std::copy_n(bias.get(), kPanel<T>, sums + row * kPanel<T>);
        fp<T>(gathered.get() + g.offset, g.rows, weights.get(), g.units, sums, nullptr);
      }

      Sum<T>* c0 = states.cells + layout.cells(d, panel, layout.rows);
      for (int64_t b = 0; b < layout.batch; ++b) {
        const T* from = states.c0 + (d * layout.batch + b) * layer.hidden + panel * layout.kLanes;
        std::fill(std::copy_n(from, layout.units(panel), c0 + b * layout.kLanes),
                  c0 + (b + 1) * layout.kLanes, Sum<T>(0));
      }
    }
  });
}

// All steps of both directions, which run side by side.
template <typename T>
void run(const Layer& layer, const States<T>& states, const T* recurrent) {
  using S = Simd<Sum<T>>;
  const Layout<T> layout(layer);
  const int64_t steps = layer.sequence.steps();

  int64_t most = 0;
  std::vector<std::vector<int64_t>> cell_before;
  std::vector<std::vector<const T*>> state_before;
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t t = 0; t < steps; ++t) most = std::max(most, layer.rh(d).step(t).elements());
    cell_before.push_back(previous_cells(layer, d));
    state_before.push_back(previous_states(layer, d, states.h0, states.y));
  }

  // The kept hidden states that a step reads: one buffer is read while the next one fills.
  const Scratch<T> kept_states(2 * layout.directions * most);
  const auto kept_state = [&](int64_t d, int64_t s) {
    return kept_states.get() + (2 * d + s % 2) * most;
  };
  const auto gather = [&](int64_t d, int64_t s, int64_t panel) {
    const StepMask& mask = layer.rh(d);
    for (const Group& g : mask.step(layer.orders[d].step(s))) {
      gather_some_units(state_before[d].data() + g.row, g,
                        g.units.between(panel * S::kLanes, (panel + 1) * S::kLanes), mask.scale(),
                        kept_state(d, s) + g.offset);
    }
  };
  const auto cells = [&](int64_t d, int64_t panel, int64_t row) {
    prefetch<kPanel<T>>(states.gates + layout.gates(d, panel + 1, row));
    Sum<T>* cell = states.cells + layout.cells(d, panel, 0);
    const auto h = cell_fp(states.gates + layout.gates(d, panel, row),
                           cell + cell_before[d][row] * S::kLanes, cell + row * S::kLanes);
    Operand<T>::store_values(
        states.y + (row * layout.directions + d) * layer.hidden + panel * S::kLanes, h,
        layout.units(panel));
  };

  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t panel = 0; panel < layout.panels; ++panel) gather(d, 0, panel);
  }
  for (int64_t s = 0; s < steps; ++s) {
    parallel(
        layout.directions * layout.panels, step_cost<T>(layer, s), [&](int64_t begin, int64_t end) {
          for (int64_t item = begin; item < end; ++item) {
            const int64_t d = item / layout.panels, panel = item % layout.panels,
                          t = layer.orders[d].step(s);
            const T* u = recurrent + layout.recurrent(d, panel);
            const bool alone = item + 1 == end || panel + 1 == layout.panels;
            const T* next = recurrent + layout.recurrent(d, alone ? panel : panel + 1);
            for (const Group& g : layer.rh(d).step(t)) {
              fp(kept_state(d, s) + g.offset, g.rows, u, g.units,
                 states.gates + layout.gates(d, panel, g.row), next);
            }
            for (int64_t row = layer.sequence.first(t); row < layer.sequence.first(t + 1); ++row)
              cells(d, panel, row);
            if (s + 1 < steps) gather(d, s + 1, panel);
          }
        });
  }
}

// Each batch row's state after its own last step.
template <typename T>
void finish(const Layer& layer, const States<T>& states, T* h_n, T* c_n) {
  const Layout<T> layout(layer);
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t b = 0; b < layout.batch; ++b) {
      const int64_t row = layer.orders[d].last(b), out = (d * layout.batch + b) * layer.hidden;
      std::copy_n(states.y + (row * layout.directions + d) * layer.hidden, layer.hidden, h_n + out);
      for (int64_t panel = 0; panel < layout.panels; ++panel) {
        std::copy_n(states.cells + layout.cells(d, panel, row), layout.units(panel),
                    c_n + out + panel * layout.kLanes);
      }
    }
  }
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm_fp(
    const at::Tensor& x, const at::Tensor& h0, const at::Tensor& c0, at::TensorList flat_weights,
    at::IntArrayRef sizes, at::TensorList masks) {
  check_activations("x", x);
  check_matrix("x", x);
  check_state("h0", h0);
  const int64_t directions = h0.size(0), input = x.size(1), hidden = h0.size(2);
  const LayerWeights weights(flat_weights, directions);
  const Layer layer(input, hidden, directions, sizes, masks);
  check_shape("x", x, {layer.rows(), input});
  check_like("h0", h0, x, {directions, layer.batch(), hidden});
  check_like("c0", c0, x, {directions, layer.batch(), hidden});
  weights.check(x, input, hidden);

  const auto options = x.options(), summed = options.dtype(sum_type(x));
  at::Tensor y = empty({layer.rows(), directions * hidden}, options);
  at::Tensor h_n = empty({directions, layer.batch(), hidden}, options), c_n = at::empty_like(h_n);
  at::Tensor recurrent, gates, cells;
  const at::Tensor x_ = x.contiguous(), h0_ = h0.contiguous(), c0_ = c0.contiguous();
  dispatch(x, weights.w_hh[0], [&]<typename T, typename W>() {
    const Layout<T> layout(layer);
    recurrent = empty({directions, layout.panels, panel_units(hidden), kPanel<T>}, options);
    gates = empty({directions, layout.panels, layout.rows, kPanel<T>}, summed);
    cells = empty({directions, layout.panels, layout.rows + layout.batch, layout.kLanes}, summed);
    const Parameters<W> parameters = {Pointers<W>(weights.w_ih), Pointers<W>(weights.w_hh),
                                      Pointers<W>(weights.b_ih), Pointers<W>(weights.b_hh)};
    const States<T> states = {h0_.const_data_ptr<T>(), c0_.const_data_ptr<T>(), y.data_ptr<T>(),
                              gates.data_ptr<Sum<T>>(), cells.data_ptr<Sum<T>>()};
    start(layer, x_.const_data_ptr<T>(), parameters, states, recurrent.data_ptr<T>());
    run(layer, states, recurrent.const_data_ptr<T>());
    finish(layer, states, h_n.data_ptr<T>(), c_n.data_ptr<T>());
  });
  return {y, h_n, c_n, recurrent, gates, cells};
}

}  // namespace structured_dropout
