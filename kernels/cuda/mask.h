// Packed sequences and structured masks as they come from Python (backends/operators/arguments.py),
// where the kernels read them. On the host are sizes, never the counts of kept units.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <optional>
#include <vector>

namespace structured_dropout::cuda {

// A sequence packed by time, as in torch's PackedSequence.
struct Sequence {
  // Of the steps, in rows.
  at::IntArrayRef sizes;
  // int64 [steps + 1], on the device: step t owns the rows bounds[t] to bounds[t + 1].
  at::Tensor bounds;

  int64_t steps() const { return int64_t(sizes.size()); }
  int64_t batch() const { return sizes.empty() ? 0 : sizes.front(); }
  int64_t rows_until(int64_t step) const;
  int64_t rows() const { return rows_until(steps()); }
};

struct Mask {
  // int32 [kept units of all draws], ascending within a draw.
  at::Tensor indices;
  // int64 [draws + 1]: draw d keeps indices[offsets[d]] to indices[offsets[d + 1]], and serves the
  // rows rows[d] to rows[d + 1].
  at::Tensor offsets, rows;
  int64_t steps_per_draw;
  int64_t most_rows;  // of the draw that serves the most
  int64_t units;      // size of the dropped dimension
  double scale;       // the factor on kept units

  int64_t draws() const { return rows.numel() - 1; }
};

// Of each site, of so many units; nullopt where nothing is dropped.
std::vector<std::optional<Mask>> unpack_masks(const Sequence& sequence, at::TensorList packed,
                                              at::IntArrayRef units);

// Throws ValueError unless a tensor is of one of these types and of this shape (-1: any size), on
// the device of `like`.
void check(const char* name, const at::Tensor& tensor, const at::Tensor& like,
           std::initializer_list<int64_t> shape,
           std::initializer_list<at::ScalarType> types = {at::kFloat});

}  // namespace structured_dropout::cuda
