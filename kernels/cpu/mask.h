// Structured masks as they come from Python.
#pragma once

#include <ATen/core/Tensor.h>

#include "groups.h"

namespace structured_dropout {

// A structured mask in CSR form: draw d keeps the units indices[offsets[d]:offsets[d + 1]].
class Draws {
 public:
  // indices is int32, ascending within a draw; offsets is int64 [draws + 1]. Throws if they are
  // not, or if a unit is not in [0, units).
  Draws(const at::Tensor& indices, const at::Tensor& offsets, int64_t units);

  // One draw that keeps all units: nothing is dropped.
  explicit Draws(int64_t units);

  int64_t count() const { return offsets_.numel() - 1; }

  Units operator[](int64_t draw) const {
    const int64_t* offsets = offsets_.const_data_ptr<int64_t>();
    return {indices_.const_data_ptr<int32_t>() + offsets[draw], offsets[draw + 1] - offsets[draw]};
  }

 private:
  at::Tensor indices_, offsets_;  // owned: Units point into them
};

}  // namespace structured_dropout
