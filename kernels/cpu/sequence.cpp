#include "sequence.h"

namespace structured_dropout {

Sequence::Sequence(at::IntArrayRef sizes) : first_{0} {
  for (size_t t = 0; t < sizes.size(); ++t) {
    TORCH_CHECK(sizes[t] >= 0 && (t == 0 || sizes[t] <= sizes[t - 1]), "sizes must not grow, got ",
                sizes[t], " rows at step ", t);
    first_.push_back(first_.back() + sizes[t]);
  }
}

StepMask::StepMask(const Sequence& sequence, Draws draws, int64_t steps_per_draw, double scale)
    : draws_(std::move(draws)),
      steps_per_draw_(steps_per_draw),
      scale_(scale),
      steps_(sequence.steps()) {
  TORCH_CHECK(steps_per_draw > 0, "steps_per_draw must be positive, got ", steps_per_draw);
  const int64_t steps = sequence.steps(), needed = (steps + steps_per_draw - 1) / steps_per_draw;
  TORCH_CHECK(draws_.count() >= needed, steps, " steps with a draw for every ", steps_per_draw,
              " need ", needed, " draws, the mask has ", draws_.count());
  for (int64_t t = 0; t < steps; ++t)
    steps_[t].add(sequence.first(t), sequence.first(t + 1), units(t));
  for (int64_t t = 0; t < steps; t += steps_per_draw) {
    sequence_.add(sequence.first(t), sequence.first(std::min(t + steps_per_draw, steps)), units(t));
  }
}

std::vector<StepMask> unpack_masks(const Sequence& sequence, at::TensorList packed,
                                   at::IntArrayRef units) {
  constexpr size_t kTensors = 4;
  TORCH_CHECK(packed.size() == kTensors * units.size(), "masks must have ", kTensors,
              " tensors for each of ", units.size(), " sites, has ", packed.size());
  std::vector<StepMask> masks;
  for (size_t site = 0; site < units.size(); ++site) {
    const at::TensorList own = packed.slice(kTensors * site, kTensors);
    const at::Tensor &indices = own[0], &offsets = own[1], &steps_per_draw = own[2],
                     &scale = own[3];
    if (offsets.numel() == 0) {  // one draw that keeps all units, for all steps
      const int64_t steps = std::max<int64_t>(sequence.steps(), 1);
      masks.emplace_back(sequence, Draws(units[site]), steps, 1);
    } else {
      masks.emplace_back(sequence, Draws(indices, offsets, units[site]),
                         steps_per_draw.item<int64_t>(), scale.item<double>());
    }
  }
  return masks;
}

}  // namespace structured_dropout
