#include "products.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>

namespace structured_dropout::cuda {

namespace {

constexpr int64_t kWarp = 32, kColumns = 4 * kWarp;  // of a block, four a lane
constexpr int64_t kFpThreads = 4 * kWarp;
constexpr int64_t kBpThreads = 8 * kWarp, kBpUnits = 32;
constexpr int64_t kWgThreads = 4 * kWarp, kWgUnits = 64;
constexpr int64_t kTile = 32, kTileRows = 8;  // of layout.cu

int64_t parts(int64_t number, int64_t size) { return (number + size - 1) / size; }

// a @ b + bias by torch, summed in float32; the factors may be bfloat16.
at::Tensor multiply(const at::Tensor& a, const at::Tensor& b,
                    const std::optional<at::Tensor>& bias = std::nullopt) {
  if (a.scalar_type() == at::kFloat) return bias ? at::addmm(*bias, a, b) : at::mm(a, b);
  // torch has this product on a GPU alone.
  const at::Tensor sums =
      a.is_cuda() ? at::mm(a, b, at::kFloat) : at::mm(a.to(at::kFloat), b.to(at::kFloat));
  return bias ? sums.add_(*bias) : sums;
}

// The same numbers, contiguous and where vectors of four can be read.
at::Tensor aligned(const at::Tensor& tensor) {
  const at::Tensor result = tensor.contiguous();
  return reinterpret_cast<uintptr_t>(result.const_data_ptr()) % 16 == 0 ? result : result.clone();
}

}  // namespace

ProductPlan::ProductPlan(at::IntArrayRef n) {
  TORCH_CHECK(n.size() == kNumbers, "a plan of products has ", kNumbers, " numbers, not ",
              n.size());
  by_unit = n[0], by_unit_float = n[1], by_output = n[2], masked = n[3], masked_float = n[4],
  positions = n[5], fp = n[6], bp = n[7], wg = n[8], tile = n[9];
}

void Products::by_unit(const at::Tensor& weight, const at::Tensor& rows, int64_t gates,
                       int64_t first, int64_t columns) const {
  if (weight.numel() == 0) return;
  const int64_t outputs = weight.size(0), units = weight.size(1);
  launch(queue_, rows.scalar_type() == at::kFloat ? plan_.by_unit_float : plan_.by_unit,
         {parts(columns, kTile), parts(units, kTile)}, {kTile, kTileRows}, 0,
         weight.to(rows.scalar_type()).contiguous(), outputs, units, gates, columns, rows.stride(0),
         first, rows);
}

at::Tensor Products::rows_by_unit(const at::Tensor& weight) const {
  const int64_t columns = padded(weight.size(0));
  const at::Tensor rows = weight.new_empty({weight.size(1), columns});
  by_unit(weight, rows, 1, 0, columns);
  return rows;
}

at::Tensor Products::by_output(const at::Tensor& rows, int64_t outputs, int64_t gates,
                               int64_t first) const {
  const int64_t units = rows.size(0);
  const at::Tensor weight = rows.new_empty({outputs, units});
  if (weight.numel() == 0) return weight;
  launch(queue_, plan_.by_output, {parts(outputs, kTile), parts(units, kTile)}, {kTile, kTileRows},
         0, rows, outputs, units, gates, rows.stride(0), first, weight);
  return weight;
}

at::Tensor Products::fp(const at::Tensor& x, const at::Tensor& weight,
                        const std::optional<at::Tensor>& bias, int64_t outputs,
                        const std::optional<Mask>& mask) const {
  if (!mask || plan_.fp < 0)
    return multiply(mask ? masked(x, *mask) : x, weight.narrow(1, 0, outputs), bias);
  const at::Tensor y = x.new_empty({x.size(0), outputs});
  if (y.numel() == 0) return y;
  const int64_t tiles = parts(mask->most_rows, plan_.tile);
  launch(queue_, plan_.fp, {mask->draws() * tiles, parts(outputs, kColumns)}, {kFpThreads}, 0,
         x.contiguous(), weight, bias, mask->indices, mask->offsets, mask->rows, mask->scale,
         mask->units, outputs, weight.size(1), tiles, y);
  return y;
}

at::Tensor Products::bp(const at::Tensor& dy, const at::Tensor& weight,
                        const std::optional<Mask>& mask) const {
  const int64_t outputs = dy.size(1);
  if (!mask || plan_.bp < 0) {
    const at::Tensor dx = multiply(dy, weight.narrow(1, 0, outputs).t());
    return mask ? masked(dx, *mask) : dx;
  }
  const at::Tensor dx = dy.new_zeros({dy.size(0), mask->units});
  if (dx.numel() == 0) return dx;
  const int64_t tiles = parts(mask->most_rows, plan_.tile);
  launch(queue_, plan_.bp, {mask->draws() * tiles, parts(mask->units, kBpUnits)}, {kBpThreads}, 0,
         aligned(dy), weight, mask->indices, mask->offsets, mask->rows, mask->scale, mask->units,
         outputs, weight.size(1), tiles, dx);
  return dx;
}

at::Tensor Products::wg(const at::Tensor& x, const at::Tensor& dy, const std::optional<Mask>& mask,
                        int64_t kernel) const {
  if (!mask || kernel < 0) return multiply((mask ? masked(x, *mask) : x).t(), dy);
  const int64_t outputs = dy.size(1);
  const at::Tensor dweight = x.new_empty({mask->units, padded(outputs)});
  if (dweight.numel() == 0) return dweight;
  launch(queue_, kernel, {parts(outputs, kColumns), parts(mask->units, kWgUnits)}, {kWgThreads}, 0,
         x.contiguous(), aligned(dy), positions(*mask), mask->rows, mask->draws(), mask->scale,
         mask->units, outputs, dweight.size(1), dweight);
  return dweight;
}

at::Tensor Products::masked(const at::Tensor& x, const Mask& mask) const {
  const at::Tensor from = x.contiguous(), y = at::empty_like(from);
  if (y.numel() == 0) return y;
  launch(queue_, x.scalar_type() == at::kFloat ? plan_.masked_float : plan_.masked,
         {mask.draws() * mask.most_rows}, {256}, 0, from, mask.indices, mask.offsets, mask.rows,
         mask.scale, mask.units, mask.most_rows, y);
  return y;
}

at::Tensor Products::positions(const Mask& mask) const {
  const at::Tensor result = mask.indices.new_empty({mask.draws(), mask.units});
  if (result.numel() == 0) return result;
  launch(queue_, plan_.positions, {mask.draws()}, {256}, 0, mask.indices, mask.offsets, mask.units,
         result);
  return result;
}

}  // namespace structured_dropout::cuda
