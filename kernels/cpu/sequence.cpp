#include "sequence.h"

namespace structured_dropout {

Sequence::Sequence(const at::Tensor& batch_sizes) : first_{0} {
  TORCH_CHECK(
      batch_sizes.dim() == 1 && batch_sizes.scalar_type() == at::kLong && batch_sizes.is_cpu(),
      "batch_sizes must be a 1-d int64 CPU tensor, got ", batch_sizes.toString(), " of shape ",
      batch_sizes.sizes());
  TORCH_CHECK(batch_sizes.numel() > 0, "the sequence has no steps");
  const at::Tensor sizes = batch_sizes.contiguous();
  for (int64_t t = 0; t < sizes.numel(); ++t) {
    const int64_t size = sizes.const_data_ptr<int64_t>()[t];
    TORCH_CHECK(size >= 0 && (t == 0 || size <= this->size(t - 1)),
                "batch_sizes must not grow, got ", size, " at step ", t);
    first_.push_back(first_.back() + size);
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

}  // namespace structured_dropout
