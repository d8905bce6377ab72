#include "mask.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>

namespace structured_dropout {

Draws::Draws(const at::Tensor& indices, const at::Tensor& offsets, int64_t units)
    : indices_(indices.contiguous()), offsets_(offsets.contiguous()) {
  TORCH_CHECK(indices.dim() == 1 && indices.scalar_type() == at::kInt && indices.is_cpu(),
              "mask indices must be a 1-d int32 CPU tensor, got ", indices.toString(), " of shape ",
              indices.sizes());
  TORCH_CHECK(offsets.dim() == 1 && offsets.scalar_type() == at::kLong && offsets.is_cpu() &&
                  offsets.numel() > 0,
              "mask offsets must be a 1-d int64 CPU tensor of draws + 1 numbers, got ",
              offsets.toString(), " of shape ", offsets.sizes());
  const int64_t* bounds = offsets_.const_data_ptr<int64_t>();
  TORCH_CHECK(bounds[0] == 0 && bounds[count()] == indices.numel(),
              "mask offsets must run from 0 to the ", indices.numel(), " indices, got ", bounds[0],
              " to ", bounds[count()]);
  const int32_t* ids = indices_.const_data_ptr<int32_t>();
  for (int64_t draw = 0; draw < count(); ++draw) {
    TORCH_CHECK(bounds[draw] <= bounds[draw + 1], "mask offsets decrease at draw ", draw);
    int64_t last = -1;
    for (int64_t i = bounds[draw]; i < bounds[draw + 1]; ++i) {
      TORCH_CHECK(last < ids[i] && ids[i] < units, "mask indices must ascend within [0, ", units,
                  "), got ", ids[i], " after ", last, " in draw ", draw);
      last = ids[i];
    }
  }
}

Draws::Draws(int64_t units)
    : indices_(at::arange(units, at::kInt)), offsets_(at::tensor({int64_t(0), units}, at::kLong)) {}

}  // namespace structured_dropout
