// WG of an LSTM layer: the gradients of its weights, from those of the gates and from what its
// products read.
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "checks.h"
#include "dispatch.h"
#include "layer.h"
#include "memory.h"
#include "ops.h"
#include "pack.h"
#include "parallel.h"
#include "weight_gradient.h"

namespace structured_dropout {
namespace {

// Where the gradients of one direction go.
template <typename T>
struct Gradients {
  Sum<T>*w_ih, *w_hh, *b;
};

template <typename T>
void backward(const Layer& layer, const T* x, const T* h0, const T* y, const T* dgates,
              const std::vector<Gradients<T>>& gradients) {
  const Layout<T> layout(layer);
  const KeptInputs<T> inputs(row_pointers(x, layout.rows, layer.input), layer.nr().sequence(),
                             layer.nr().scale(), layer.input);
  std::vector<KeptInputs<T>> states;
  for (int64_t d = 0; d < layout.directions; ++d) {
    states.emplace_back(previous_states(layer, d, h0, y), layer.rh(d).sequence(),
                        layer.rh(d).scale(), layer.hidden);
  }
  const double cost = inputs.cost() + states[0].cost();
  parallel(layout.directions * layout.panels, cost, [&](int64_t begin, int64_t end) {
    const Scratch<Sum<T>> of_inputs = inputs.room(), of_states = states[0].room(), bias(kPanel<T>);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t d = item / layout.panels, panel = item % layout.panels;
      const T* dg = dgates + layout.gates(d, panel, 0);
      inputs.weight_gradient(dg, layout.columns, panel, of_inputs.get(), gradients[d].w_ih);
      states[d].weight_gradient(dg, layout.columns, panel, of_states.get(), gradients[d].w_hh);
      std::fill_n(bias.get(), kPanel<T>, Sum<T>(0));
      add_rows(dg, layout.rows, bias.get());
      unpack_vector(bias.get(), layout.columns, panel, gradients[d].b);
    }
  });
}

}  // namespace

std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>, std::vector<at::Tensor>> lstm_wg(
    const at::Tensor& x, const at::Tensor& h0, const at::Tensor& y, const at::Tensor& dgates,
    at::IntArrayRef sizes, at::TensorList masks) {
  check_activations("x", x);
  check_matrix("x", x);
  check_state("h0", h0);
  const int64_t directions = h0.size(0), input = x.size(1), hidden = h0.size(2);
  const Layer layer(input, hidden, directions, sizes, masks);
  check_shape("x", x, {layer.rows(), input});
  check_like("h0", h0, x, {directions, layer.batch(), hidden});
  check_like("y", y, x, {layer.rows(), directions * hidden});

  std::vector<at::Tensor> dw_ih, dw_hh, db;
  const at::Tensor x_ = x.contiguous(), h0_ = h0.contiguous(), y_ = y.contiguous(),
                   dgates_ = dgates.contiguous();
  const auto summed = x.options().dtype(sum_type(x));
  dispatch(x, [&]<typename T>() {
    check_like("dgates", dgates, x, {directions, Layout<T>(layer).panels, layer.rows(), kPanel<T>});
    std::vector<Gradients<T>> gradients;
    for (int64_t d = 0; d < directions; ++d) {
      dw_ih.push_back(empty({4 * hidden, input}, summed));
      dw_hh.push_back(empty({4 * hidden, hidden}, summed));
      db.push_back(empty({4 * hidden}, summed));
      gradients.push_back(
          {dw_ih[d].data_ptr<Sum<T>>(), dw_hh[d].data_ptr<Sum<T>>(), db[d].data_ptr<Sum<T>>()});
    }
    backward(layer, x_.const_data_ptr<T>(), h0_.const_data_ptr<T>(), y_.const_data_ptr<T>(),
             dgates_.const_data_ptr<T>(), gradients);
  });
  return {dw_ih, dw_hh, db};
}

}  // namespace structured_dropout
