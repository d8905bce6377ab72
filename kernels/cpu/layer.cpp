#include "layer.h"

#include "checks.h"

namespace structured_dropout {
namespace {

std::vector<int64_t> site_sizes(int64_t input, int64_t hidden, int64_t directions) {
  std::vector<int64_t> sizes(1 + directions, hidden);
  sizes[0] = input;
  return sizes;
}

}  // namespace

LayerWeights::LayerWeights(at::TensorList flat, int64_t directions) {
  const int64_t count = flat.size();
  TORCH_CHECK(directions == 1 || directions == 2, "a layer has 1 or 2 directions, got ",
              directions);
  TORCH_CHECK(count == 2 * directions || count == 4 * directions,
              "weights must have 2 tensors a direction, or 4 with biases: for ", directions,
              " directions it has ", count);
  for (int64_t d = 0; d < directions; ++d) {
    const at::TensorList own = flat.slice(d * count / directions, count / directions);
    w_ih.push_back(own[0]);
    w_hh.push_back(own[1]);
    if (own.size() == 4) {
      b_ih.push_back(own[2]);
      b_hh.push_back(own[3]);
    }
  }
  check_matrix("w_ih", w_ih[0]);
  check_matrix("w_hh", w_hh[0]);
}

void LayerWeights::check(const at::Tensor& activations, int64_t input, int64_t hidden) const {
  check_weight("w_ih", w_ih[0], activations, {4 * hidden, input});
  for (size_t d = 0; d < w_ih.size(); ++d) {
    check_like("w_ih", w_ih[d], w_ih[0], {4 * hidden, input});
    check_like("w_hh", w_hh[d], w_ih[0], {4 * hidden, hidden});
    if (b_ih.empty()) continue;
    check_like("b_ih", b_ih[d], w_ih[0], {4 * hidden});
    check_like("b_hh", b_hh[d], w_ih[0], {4 * hidden});
  }
}

Layer::Layer(int64_t input, int64_t hidden, int64_t directions, at::IntArrayRef sizes,
             at::TensorList packed_masks)
    : input(input),
      hidden(hidden),
      sequence(sizes),
      masks(unpack_masks(sequence, packed_masks, site_sizes(input, hidden, directions))) {
  TORCH_CHECK(sequence.steps() > 0, "the sequence has no steps");
  for (int64_t d = 0; d < directions; ++d) orders.emplace_back(sequence, d == 1);
}

std::vector<int64_t> previous_cells(const Layer& layer, int64_t d) {
  std::vector<int64_t> rows;
  for (int64_t t = 0; t < layer.sequence.steps(); ++t) {
    for (int64_t b = 0; b < layer.sequence.size(t); ++b) {
      const int64_t row = layer.orders[d].previous(t, b);
      rows.push_back(row < 0 ? layer.rows() + b : row);
    }
  }
  return rows;
}

}  // namespace structured_dropout
