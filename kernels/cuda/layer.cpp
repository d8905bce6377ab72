// One LSTM layer over a packed sequence, all directions: the products over the whole sequence, and
// the launches that run its time steps (lstm.cu).
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "ops.h"
#include "products.h"
#include "scope.h"

namespace structured_dropout::cuda {

namespace {

// How one pass over the time steps is cut for a device (backends/cuda/recurrence.py).
struct StepsPlan {
  int64_t kernel, threads;
  int64_t blocks;    // of each direction
  int64_t owned;     // hidden units of a block
  int64_t resident;  // units whose weights a block keeps in shared memory
  int64_t shared;    // bytes of a block
  int64_t rows;      // of a launch, in whole tiles

  static constexpr size_t kNumbers = 7;
  explicit StepsPlan(at::IntArrayRef n) {
    TORCH_CHECK(n.size() == kNumbers, "a plan of steps has ", kNumbers, " numbers, not ", n.size());
    kernel = n[0], threads = n[1], blocks = n[2], owned = n[3], resident = n[4], shared = n[5],
    rows = n[6];
  }
};

struct LayerPlan {
  at::IntArrayRef products;
  int64_t wg_of_states;  // the kernel, -1: torch's
  StepsPlan fp, bp;

  explicit LayerPlan(at::IntArrayRef n)
      : products(n.slice(0, ProductPlan::kNumbers)),
        wg_of_states(n[ProductPlan::kNumbers]),
        fp(n.slice(ProductPlan::kNumbers + 1, StepsPlan::kNumbers)),
        bp(n.slice(ProductPlan::kNumbers + 1 + StepsPlan::kNumbers)) {}
};

// The masks of the recurrent state as one, direction by direction; undefined tensors where nothing
// is dropped.
struct StateDraws {
  at::Tensor indices, offsets;  // [directions, draws + 1] into indices
  int64_t steps_per_draw = 1, count = 0;
  double scale = 1;

  explicit StateDraws(at::ArrayRef<std::optional<Mask>> masks) {
    const std::optional<Mask>&one = masks.front(), &other = masks.back();
    TORCH_CHECK_VALUE(one.has_value() == other.has_value(), "one direction drops, the other not");
    if (!one) return;
    TORCH_CHECK_VALUE(one->steps_per_draw == other->steps_per_draw && one->scale == other->scale,
                      "the directions do not drop alike");
    indices = one->indices;
    offsets = one->offsets;
    steps_per_draw = one->steps_per_draw;
    scale = one->scale;
    count = one->draws();
    if (masks.size() == 1) return;
    indices = at::cat({indices, other->indices});
    offsets = at::stack({offsets, other->offsets.add(one->indices.numel())});
  }
};

// The parameters of a layer by kind, and by direction.
struct LayerWeights {
  at::TensorList all;
  int64_t own;  // tensors of a direction

  LayerWeights(at::TensorList weights, int64_t directions)
      : all(weights), own(int64_t(weights.size()) / directions) {
    TORCH_CHECK_VALUE((own == 2 || own == 4) && own * directions == int64_t(weights.size()),
                      "weights must have 2 tensors a direction, or 4 with biases: for ", directions,
                      " directions it has ", weights.size());
  }

  bool has_bias() const { return own == 4; }
  const at::Tensor& w_ih(int64_t d) const { return all[d * own]; }
  const at::Tensor& w_hh(int64_t d) const { return all[d * own + 1]; }
  const at::Tensor& b_ih(int64_t d) const { return all[d * own + 2]; }
  const at::Tensor& b_hh(int64_t d) const { return all[d * own + 3]; }
};

// What the three operators know of a layer.
struct Layer {
  const Scope scope;
  const Sequence sequence;
  const int64_t directions, hidden;
  const LayerPlan plan;
  const Queue queue;
  const Products products;
  const std::vector<std::optional<Mask>> masks;  // of the input, and of the state by direction

  // state is [directions, batch, hidden].
  Layer(const at::Tensor& state, int64_t inputs, at::IntArrayRef sizes, const at::Tensor& bounds,
        at::TensorList packed, at::IntArrayRef plan_numbers, at::IntArrayRef queue_numbers)
      : scope(state),
        sequence{sizes, bounds},
        directions(checked(state).size(0)),
        hidden(state.size(2)),
        plan(plan_numbers),
        queue(queue_numbers, state.device()),
        products(plan.products, queue),
        masks(unpack_masks(sequence, packed, site_sizes(inputs))) {}

  int64_t gates() const { return 4 * hidden; }  // of a direction

  StateDraws state_draws() const { return StateDraws({masks.data() + 1, size_t(directions)}); }

  // Where the blocks of each direction count who has arrived at a barrier.
  at::Tensor arrivals(const at::Tensor& like) const {
    return at::zeros({directions}, like.options().dtype(at::kInt));
  }

 private:
  static const at::Tensor& checked(const at::Tensor& state) {
    TORCH_CHECK_VALUE(state.dim() == 3 && (state.size(0) == 1 || state.size(0) == 2),
                      "a state must have shape [1 or 2 directions, batch, hidden], has ",
                      state.sizes());
    return state;
  }

  std::vector<int64_t> site_sizes(int64_t inputs) const {
    std::vector<int64_t> units(1 + directions, hidden);
    units[0] = inputs;
    return units;
  }
};

// Of a row of U: vectors of 16 bytes have the gates of one unit, in bfloat16 of two.
int64_t units_of(at::ScalarType type, int64_t hidden) {
  return type == at::kBFloat16 ? hidden + hidden % 2 : hidden;
}

// W and U of all directions by unit, and the sum of the biases in the same order of gates.
struct ByUnit {
  at::Tensor w, u;
  std::optional<at::Tensor> bias;

  ByUnit(const Layer& layer, const LayerWeights& weights, const at::Tensor& x) {
    const int64_t columns = layer.directions * layer.gates(),
                  units = units_of(x.scalar_type(), layer.hidden);
    w = x.new_empty({x.size(1), columns});
    u = x.new_empty({layer.directions, layer.hidden, units, 4});
    if (weights.has_bias()) bias = at::empty({1, columns}, x.options().dtype(at::kFloat));
    for (int64_t d = 0; d < layer.directions; ++d) {
      const int64_t first = d * layer.gates();
      layer.products.by_unit(weights.w_ih(d), w, 4, first, layer.gates());
      layer.products.by_unit(weights.w_hh(d), u[d].flatten(1), 4, 0, 4 * units);
      if (!bias) continue;
      const at::Tensor sum = weights.b_ih(d).add(weights.b_hh(d)).unsqueeze(1);
      layer.products.by_unit(sum, *bias, 4, first, layer.gates());
    }
    if (bias) bias = bias->flatten();
  }
};

std::optional<at::Tensor> checked_gradient(const char* name,
                                           const std::optional<at::Tensor>& gradient,
                                           const at::Tensor& like,
                                           std::initializer_list<int64_t> shape,
                                           at::ScalarType type) {
  if (!gradient) return gradient;
  check(name, *gradient, like, shape, {type});
  return gradient->contiguous();
}

// h_{t-1} of each row of one direction, [rows, hidden]; in the reverse direction h_{t+1}.
at::Tensor states_before(const at::Tensor& h_0, const at::Tensor& y, int64_t batch,
                         at::TensorList before, int64_t direction) {
  if (!before.empty()) return at::cat({y, h_0}).index_select(0, before[direction]);
  const int64_t rows = y.size(0);
  if (rows <= batch) return h_0.slice(0, 0, rows);
  return direction == 0 ? at::cat({h_0, y.slice(0, 0, rows - batch)})
                        : at::cat({y.slice(0, batch), h_0});
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
lstm_fp(const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& c_0,
        at::TensorList weight_list, at::IntArrayRef sizes, const at::Tensor& bounds,
        at::TensorList masks, at::IntArrayRef plan, at::IntArrayRef queue) {
  check("x", x, h_0, {-1, -1}, {at::kFloat, at::kBFloat16});
  const Layer layer(h_0, x.size(1), sizes, bounds, masks, plan, queue);
  const LayerWeights weights(weight_list, layer.directions);
  const int64_t rows = layer.sequence.rows(), batch = layer.sequence.batch(),
                directions = layer.directions, hidden = layer.hidden, gates_of = layer.gates();
  TORCH_CHECK_VALUE(x.size(0) == rows, "x has ", x.size(0), " rows, the sequence ", rows);
  check("h_0", h_0, x, {directions, batch, hidden});
  check("c_0", c_0, x, {directions, batch, hidden});
  for (int64_t d = 0; d < directions; ++d) {
    check("w_ih", weights.w_ih(d), x, {gates_of, x.size(1)});
    check("w_hh", weights.w_hh(d), x, {gates_of, hidden});
    if (!weights.has_bias()) continue;
    check("b_ih", weights.b_ih(d), x, {gates_of});
    check("b_hh", weights.b_hh(d), x, {gates_of});
  }

  const auto [w, u, bias] = ByUnit(layer, weights, x);
  const at::Tensor gates = layer.products.fp(x, w, bias, directions * gates_of, layer.masks[0])
                               .view({rows, directions, hidden, 4});
  const at::Tensor y = x.new_empty({rows, directions, hidden}),
                   cells = gates.new_empty({rows, directions, hidden}), h = h_0.contiguous(),
                   c = c_0.contiguous();
  if (y.numel() == 0) return {y.flatten(1), h.clone(), c.clone(), gates, cells, w, u};
  const at::Tensor h_n = at::empty_like(h), c_n = at::empty_like(c);
  const StepsPlan& steps = layer.plan.fp;
  const at::Tensor state = x.new_empty({2, directions, hidden, steps.rows});
  const StateDraws draws = layer.state_draws();
  launch(layer.queue, steps.kernel, {steps.blocks, directions}, {steps.threads}, steps.shared,
         gates, u, draws.indices, draws.offsets, bounds, h, c, state, h_n, c_n, cells, y,
         layer.arrivals(x), draws.scale, layer.sequence.steps(), draws.steps_per_draw, draws.count,
         batch, steps.rows, hidden, steps.owned, steps.resident);
  return {y.flatten(1), h_n, c_n, gates, cells, w, u};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm_bp(
    const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n,
    const std::optional<at::Tensor>& dc_n, const at::Tensor& c_0, const at::Tensor& gates,
    const at::Tensor& cells, const at::Tensor& w, const at::Tensor& u, at::IntArrayRef sizes,
    const at::Tensor& bounds, at::TensorList masks, at::IntArrayRef plan, at::IntArrayRef queue) {
  const Layer layer(c_0, w.size(0), sizes, bounds, masks, plan, queue);
  const int64_t rows = layer.sequence.rows(), batch = layer.sequence.batch(),
                directions = layer.directions, hidden = layer.hidden;
  const at::ScalarType type = w.scalar_type();
  const auto of_y = checked_gradient("dy", dy, gates, {rows, directions * hidden}, type),
             of_h = checked_gradient("dh_n", dh_n, gates, {directions, batch, hidden}, at::kFloat),
             of_c = checked_gradient("dc_n", dc_n, gates, {directions, batch, hidden}, at::kFloat);

  const at::Tensor dgates = at::empty_like(gates, gates.options().dtype(type)),
                   c = c_0.contiguous();
  at::Tensor dh, dc;
  if (gates.numel() == 0) {
    dh = of_h ? of_h->clone() : at::zeros_like(c);
    dc = of_c ? of_c->clone() : at::zeros_like(c);
  } else {
    dh = at::empty_like(c);
    dc = at::empty_like(c);
    const StepsPlan& steps = layer.plan.bp;
    const at::Tensor parts =
        gates.new_empty({2, directions, steps.blocks, steps.rows / 4, hidden, 4});
    const StateDraws draws = layer.state_draws();
    for (int64_t first = 0; first < batch; first += steps.rows) {
      launch(layer.queue, steps.kernel, {steps.blocks, directions}, {steps.threads}, steps.shared,
             gates, cells, c, of_y, of_h, of_c, u, draws.indices, draws.offsets, bounds, dgates, dh,
             dc, parts, layer.arrivals(gates), draws.scale, layer.sequence.steps(),
             draws.steps_per_draw, draws.count, batch, first, steps.rows, hidden, steps.owned,
             steps.resident);
    }
  }
  const at::Tensor dx =
      layer.products.bp(dgates.view({rows, directions * layer.gates()}), w, layer.masks[0]);
  return {dgates, dx.to(type), dh, dc};
}

std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>, std::vector<at::Tensor>> lstm_wg(
    const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& y, const at::Tensor& dgates,
    at::TensorList before, at::IntArrayRef sizes, const at::Tensor& bounds, at::TensorList masks,
    at::IntArrayRef plan, at::IntArrayRef queue) {
  const Layer layer(h_0, x.size(1), sizes, bounds, masks, plan, queue);
  const Products& products = layer.products;
  const int64_t hidden = layer.hidden, gates_of = layer.gates();
  const at::Tensor flat = dgates.view({dgates.size(0), layer.directions * gates_of}),
                   of_inputs = products.wg(x, flat, layer.masks[0]),
                   of_biases = flat.sum(0, /*keepdim=*/true, at::kFloat);
  std::vector<at::Tensor> dw_ih, dw_hh, db;
  for (int64_t d = 0; d < layer.directions; ++d) {
    const int64_t first = d * gates_of;
    const at::Tensor own_y = y.slice(1, d * hidden, (d + 1) * hidden),
                     h = states_before(h_0[d].to(y.scalar_type()), own_y, layer.sequence.batch(),
                                       before, d),
                     of_states = products.wg(h, dgates.select(1, d).flatten(1), layer.masks[1 + d],
                                             layer.plan.wg_of_states);
    dw_ih.push_back(products.by_output(of_inputs, gates_of, 4, first));
    dw_hh.push_back(products.by_output(of_states, gates_of, 4));
    db.push_back(products.by_output(of_biases, gates_of, 4, first).flatten());
  }
  return {dw_ih, dw_hh, db};
}

}  // namespace structured_dropout::cuda
