#include "layer.h"

namespace structured_dropout {
namespace {

StepMask nothing_dropped(const Sequence& sequence, int64_t units) {
  return {sequence, Draws(units), sequence.steps(), 1};
}

StepMask input_mask(const Sequence& sequence, int64_t units, const LayerMasks& masks) {
  TORCH_CHECK(masks.nr_indices.has_value() == masks.nr_offsets.has_value(),
              "nr needs both indices and offsets");
  if (!masks.nr_indices) return nothing_dropped(sequence, units);
  return {sequence, Draws(*masks.nr_indices, *masks.nr_offsets, units), masks.nr_steps_per_draw,
          masks.nr_scale};
}

}  // namespace

Layer::Layer(int64_t input, int64_t hidden, int64_t directions, const at::Tensor& batch_sizes,
             const LayerMasks& masks)
    : input(input), hidden(hidden), sequence(batch_sizes), nr(input_mask(sequence, input, masks)) {
  TORCH_CHECK(directions == 1 || directions == 2, "a layer has 1 or 2 directions, got ",
              directions);
  TORCH_CHECK(masks.rh_indices.size() == masks.rh_offsets.size() &&
                  (masks.rh_indices.empty() || int64_t(masks.rh_indices.size()) == directions),
              "rh needs indices and offsets for each of ", directions, " directions, or none; got ",
              masks.rh_indices.size(), " and ", masks.rh_offsets.size());
  for (int64_t d = 0; d < directions; ++d) {
    runs.emplace_back(sequence, d == 1);
    rh.push_back(masks.rh_indices.empty()
                     ? nothing_dropped(sequence, hidden)
                     : StepMask(sequence, Draws(masks.rh_indices[d], masks.rh_offsets[d], hidden),
                                masks.rh_steps_per_draw, masks.rh_scale));
  }
}

std::vector<int64_t> previous_cells(const Layer& layer, int64_t d) {
  std::vector<int64_t> rows;
  for (int64_t t = 0; t < layer.sequence.steps(); ++t) {
    for (int64_t b = 0; b < layer.sequence.size(t); ++b) {
      const int64_t row = layer.runs[d].previous(t, b);
      rows.push_back(row < 0 ? layer.rows() + b : row);
    }
  }
  return rows;
}

}  // namespace structured_dropout
