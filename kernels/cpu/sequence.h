// Which rows of a packed sequence belong to which step, and where a step's state comes from.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "groups.h"
#include "mask.h"

namespace structured_dropout {

// A sequence packed by time, as in torch's PackedSequence: step t owns size(t) consecutive rows,
// the first ones of the batch; sizes never grow.
class Sequence {
 public:
  explicit Sequence(at::IntArrayRef sizes);

  int64_t steps() const { return static_cast<int64_t>(first_.size()) - 1; }
  int64_t rows() const { return first_.back(); }
  int64_t first(int64_t t) const { return first_[t]; }
  int64_t size(int64_t t) const { return first_[t + 1] - first_[t]; }
  int64_t batch() const { return size(0); }

 private:
  std::vector<int64_t> first_;
};

// The order in which one direction of a layer takes the steps of a sequence.
class Order {
 public:
  Order(const Sequence& sequence, bool reverse) : sequence_(sequence), reverse_(reverse) {}

  // The step that comes s-th.
  int64_t step(int64_t s) const { return reverse_ ? sequence_.steps() - 1 - s : s; }

  // The row that holds the state which batch row b of step t starts from; -1 if that is the initial
  // state.
  int64_t previous(int64_t t, int64_t b) const {
    const int64_t before = reverse_ ? t + 1 : t - 1;
    const bool starts = before < 0 || before == sequence_.steps() || b >= sequence_.size(before);
    return starts ? -1 : sequence_.first(before) + b;
  }

  // The row that holds the last state of batch row b.
  int64_t last(int64_t b) const {
    int64_t t = 0;
    if (!reverse_) {
      while (t + 1 < sequence_.steps() && b < sequence_.size(t + 1)) ++t;
    }
    return sequence_.first(t) + b;
  }

 private:
  const Sequence& sequence_;
  bool reverse_;
};

// A mask over the steps of a sequence: step t reads with draw t / steps_per_draw.
class StepMask {
 public:
  StepMask(const Sequence& sequence, Draws draws, int64_t steps_per_draw, double scale);

  Units units(int64_t t) const { return draws_[t / steps_per_draw_]; }
  double scale() const { return scale_; }

  // All rows, as few groups as share a draw; and the rows of one step.
  const Groups& sequence() const { return sequence_; }
  const Groups& step(int64_t t) const { return steps_[t]; }

 private:
  Draws draws_;
  int64_t steps_per_draw_;
  double scale_;
  Groups sequence_;
  std::vector<Groups> steps_;
};

// The masks of an operator from what structured_dropout/backends/operators/arguments.py packed: for
// each site the tensors indices, offsets, steps_per_draw and scale. A site without offsets drops
// nothing. units has the size of each site's dropped dimension.
std::vector<StepMask> unpack_masks(const Sequence& sequence, at::TensorList packed,
                                   at::IntArrayRef units);

}  // namespace structured_dropout
