// BP of an LSTM layer: back through the steps to the gradients of the gates, then to those of the
// input.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "cell.h"
#include "checks.h"
#include "dispatch.h"
#include "input_gradient.h"
#include "layer.h"
#include "memory.h"
#include "ops.h"
#include "pack.h"
#include "parallel.h"
#include "products.h"
#include "weights.h"

namespace structured_dropout {
namespace {

// The gradients that a step hands to the one before it: of h and c, [directions][batch][panels *
// lanes].
template <typename T>
struct Carry {
  explicit Carry(const Layout<T>& layout)
      : stride(layout.panels * layout.kLanes),
        dh(layout.directions * layout.batch * stride),
        dc(layout.directions * layout.batch * stride) {}

  int64_t stride;
  Scratch<Sum<T>> dh, dc;
};

// The state's gradients [directions][batch][hidden], or zeros, to the carry; and back.
template <typename T>
void load_state(const Layout<T>& layout, const T* state, int64_t stride, Sum<T>* carry) {
  for (int64_t row = 0; row < layout.directions * layout.batch; ++row) {
    Sum<T>* to = carry + row * stride;
    if (state) to = std::copy_n(state + row * layout.hidden, layout.hidden, to);
    std::fill(to, carry + (row + 1) * stride, Sum<T>(0));
  }
}

template <typename T>
void store_state(const Layout<T>& layout, const Sum<T>* carry, int64_t stride, T* state) {
  for (int64_t row = 0; row < layout.directions * layout.batch; ++row) {
    std::copy_n(carry + row * stride, layout.hidden, state + row * layout.hidden);
  }
}

// Back through all steps, both directions side by side. A thread owns some hidden units: it takes a
// step's product for them and goes on to their cells in the step before, so that threads meet once
// a step.
template <typename T>
void run(const Layer& layer, const T* dy, const T* recurrent, const Sum<T>* gates,
         const Sum<T>* cells, Carry<T>& carry, T* dgates) {
  using S = Simd<Sum<T>>;
  const Layout<T> layout(layer);
  const int64_t steps = layer.sequence.steps(), items = layout.directions * layout.panels;

  std::vector<std::vector<int64_t>> cell_before;
  for (int64_t d = 0; d < layout.directions; ++d) cell_before.push_back(previous_cells(layer, d));

  const auto product = [&](int64_t d, int64_t t, int64_t first_panel, int64_t last_panel) {
    const int64_t first = first_panel * S::kLanes, last = last_panel * S::kLanes;
    const Panels<T> weights = {recurrent + layout.recurrent(d, 0),
                               panel_units(layer.hidden) * kPanel<T>, layout.panels, layer.hidden};
    for (const Group& g : layer.rh(d).step(t)) {
      Sum<T>* dh =
          carry.dh.get() + (d * layout.batch + g.row - layer.sequence.first(t)) * carry.stride;
      for (int64_t row = 0; row < g.rows; ++row) {
        std::fill(dh + row * carry.stride + first, dh + row * carry.stride + last, Sum<T>(0));
      }
      const Panels<T> gradients = {dgates + layout.gates(d, 0, g.row), layout.rows * kPanel<T>,
                                   layout.panels, g.rows};
      const Scratch<T> place(arranged_elements<T>(g.rows, layout.panels));
      bp<T>(arrange(gradients, place.get()), weights, /*cached=*/false, 0,
            g.units.between(first, last), layer.rh(d).scale(), dh, carry.stride, {});
    }
  };
  const auto cell = [&](int64_t d, int64_t panel, int64_t row, int64_t b) {
    const Sum<T>* c = cells + layout.cells(d, panel, 0);
    const int64_t state = (d * layout.batch + b) * carry.stride + panel * S::kLanes;
    auto dh = S::load(carry.dh.get() + state);
    if (dy) {
      dh += Operand<T>::load_values(
          dy + (row * layout.directions + d) * layer.hidden + panel * S::kLanes,
          layout.units(panel));
    }
    cell_bp<T>(gates + layout.gates(d, panel, row), c + cell_before[d][row] * S::kLanes,
               c + row * S::kLanes, dh, carry.dc.get() + state,
               dgates + layout.gates(d, panel, row));
  };

  for (int64_t s = steps; s >= 0; --s) {
    const double cost = step_cost<T>(layer, std::min(s, steps - 1));
    parallel(items, cost, [&](int64_t begin, int64_t end) {
      by_direction(layout.panels, begin, end, [&](int64_t d, int64_t first, int64_t last) {
        if (s < steps) product(d, layer.orders[d].step(s), first, last);
        if (s == 0) return;
        const int64_t t = layer.orders[d].step(s - 1);
        for (int64_t panel = first; panel < last; ++panel) {
          for (int64_t b = 0; b < layer.sequence.size(t); ++b)
            cell(d, panel, layer.sequence.first(t) + b, b);
        }
      });
    });
  }
}

// U by panel: what lstm_fp returned or, if that was not kept, packed anew.
template <typename T, typename W>
at::Tensor packed_recurrent(const Layout<T>& layout, const LayerWeights& weights,
                            const std::optional<at::Tensor>& kept, const at::Tensor& x) {
  const std::vector<int64_t> shape = {layout.directions, layout.panels, panel_units(layout.hidden),
                                      kPanel<T>};
  if (kept) {
    check_like("recurrent", *kept, x, shape);
    return kept->contiguous();
  }
  at::Tensor packed = empty(shape, x.options());
  const Pointers<W> w_hh(weights.w_hh);
  parallel(layout.directions * layout.panels, double(layout.hidden) * kPanel<T>,
           [&](int64_t begin, int64_t end) {
             for (int64_t item = begin; item < end; ++item) {
               const int64_t d = item / layout.panels;
               pack_recurrent(layout, w_hh[d], d, item % layout.panels, packed.data_ptr<T>());
             }
           });
  return packed;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm_bp(
    const at::Tensor& x, const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n,
    const std::optional<at::Tensor>& dc_n, at::TensorList flat_weights,
    const std::optional<at::Tensor>& recurrent, const at::Tensor& gates, const at::Tensor& cells,
    at::IntArrayRef sizes, at::TensorList masks) {
  check_activations("x", x);
  TORCH_CHECK(gates.dim() == 4, "gates must have 4 dimensions, has shape ", gates.sizes());
  const int64_t directions = gates.size(0);
  const LayerWeights weights(flat_weights, directions);
  const int64_t input = weights.input(), hidden = weights.hidden();
  const Layer layer(input, hidden, directions, sizes, masks);
  weights.check(x, input, hidden);
  check_shape("x", x, {layer.rows(), input});
  if (dy) check_like("dy", *dy, x, {layer.rows(), directions * hidden});
  if (dh_n) check_like("dh_n", *dh_n, x, {directions, layer.batch(), hidden});
  if (dc_n) check_like("dc_n", *dc_n, x, {directions, layer.batch(), hidden});

  const auto options = x.options(), summed = options.dtype(sum_type(x));
  at::Tensor dgates = empty(gates.sizes(), options), dx = at::zeros({layer.rows(), input}, summed);
  at::Tensor dh0 = empty({directions, layer.batch(), hidden}, options), dc0 = at::empty_like(dh0);
  dispatch(x, weights.w_hh[0], [&]<typename T, typename W>() {
    const Layout<T> layout(layer);
    check_like("gates", gates, dx, {directions, layout.panels, layout.rows, kPanel<T>});
    check_like("cells", cells, gates,
               {directions, layout.panels, layout.rows + layout.batch, layout.kLanes});
    const at::Tensor recurrent_ = packed_recurrent<T, W>(layout, weights, recurrent, x),
                     gates_ = gates.contiguous(), cells_ = cells.contiguous();
    const Pointers<T> dy_(dy), dh_n_(dh_n), dc_n_(dc_n);
    const Pointers<W> w_ih(weights.w_ih);
    Carry<T> carry(layout);
    load_state(layout, dh_n_[0], carry.stride, carry.dh.get());
    load_state(layout, dc_n_[0], carry.stride, carry.dc.get());
    run(layer, dy_[0], recurrent_.const_data_ptr<T>(), gates_.const_data_ptr<Sum<T>>(),
        cells_.const_data_ptr<Sum<T>>(), carry, dgates.data_ptr<T>());
    store_state(layout, carry.dh.get(), carry.stride, dh0.data_ptr<T>());
    store_state(layout, carry.dc.get(), carry.stride, dc0.data_ptr<T>());
    for (int64_t d = 0; d < directions; ++d) {
      const auto in_place = [&](const Group& g, int64_t panel, int64_t count) {
        return Panels<T>{dgates.const_data_ptr<T>() + layout.gates(d, panel, g.row),
                         layout.rows * kPanel<T>, count, g.rows};
      };
      const PlainWeight<T, W> weight = {w_ih[d], input, layout.columns};
      input_gradient<T>(weight, input, layout.panels, layer.nr().sequence(), layer.nr().scale(),
                        in_place, dx.data_ptr<Sum<T>>());
    }
  });
  return {dgates, dx.to(x.scalar_type()), dh0, dc0};
}

}  // namespace structured_dropout
