#include "mask.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "dtype.h"

namespace structured_dropout::cuda {

int64_t Sequence::rows_until(int64_t step) const {
  return std::accumulate(sizes.begin(), sizes.begin() + step, int64_t(0));
}

std::vector<std::optional<Mask>> unpack_masks(const Sequence& sequence, at::TensorList packed,
                                              at::IntArrayRef units) {
  constexpr size_t kTensors = 4;
  TORCH_CHECK(packed.size() == kTensors * units.size(), "masks must have ", kTensors,
              " tensors for each of ", units.size(), " sites, has ", packed.size());
  std::vector<std::optional<Mask>> masks;
  for (size_t site = 0; site < units.size(); ++site) {
    const at::TensorList own = packed.slice(kTensors * site, kTensors);
    if (own[1].numel() == 0) {
      masks.push_back(std::nullopt);
      continue;
    }
    const int64_t steps = own[2].item<int64_t>();
    at::Tensor rows = sequence.bounds;
    if (steps > 1) rows = at::cat({rows.slice(0, 0, -1, steps), rows.slice(0, sequence.steps())});
    TORCH_CHECK_VALUE(own[1].numel() == rows.numel(), "a mask has ", own[1].numel() - 1,
                      " draws, the sequence needs ", rows.numel() - 1);
    // Steps do not grow: no draw serves more rows than the first.
    const int64_t most_rows = sequence.rows_until(std::min(steps, sequence.steps()));
    masks.push_back(
        Mask{own[0], own[1], rows, steps, most_rows, units[site], own[3].item<double>()});
  }
  return masks;
}

void check(const char* name, const at::Tensor& tensor, const at::Tensor& like,
           std::initializer_list<int64_t> shape, std::initializer_list<at::ScalarType> types) {
  if (std::find(types.begin(), types.end(), tensor.scalar_type()) == types.end()) {
    std::string taken;
    for (const at::ScalarType type : types)
      taken += (taken.empty() ? "" : " or ") + dtype_name(type);
    TORCH_CHECK_VALUE(false, name, " is torch.", dtype_name(tensor.scalar_type()),
                      ": the CUDA kernels take ", taken, ", convert the model");
  }
  TORCH_CHECK_VALUE(tensor.device() == like.device(), name, " is on ", tensor.device(),
                    ", another argument on ", like.device(), ": move them to one device");
  const bool fits = tensor.dim() == int64_t(shape.size()) &&
                    std::equal(shape.begin(), shape.end(), tensor.sizes().begin(),
                               [](int64_t wanted, int64_t n) { return wanted < 0 || wanted == n; });
  if (fits) return;
  std::string wanted;
  for (const int64_t n : shape)
    wanted += (wanted.empty() ? "" : ", ") + (n < 0 ? "None" : std::to_string(n));
  TORCH_CHECK_VALUE(false, name, " must have shape [", wanted, "], has ", tensor.sizes());
}

}  // namespace structured_dropout::cuda
