// A projection whose input was dropped by units.
#include "ops.h"
#include "products.h"
#include "scope.h"

namespace structured_dropout::cuda {

namespace {

Mask mask_of(const Sequence& sequence, at::TensorList masks, int64_t units) {
  const std::optional<Mask> mask = unpack_masks(sequence, masks, {units})[0];
  TORCH_CHECK_VALUE(mask, "the input has no mask: take torch.nn.functional.linear");
  return *mask;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> linear_fp(const at::Tensor& x, const at::Tensor& weight,
                                             const std::optional<at::Tensor>& bias,
                                             at::IntArrayRef sizes, const at::Tensor& bounds,
                                             at::TensorList masks, at::IntArrayRef plan,
                                             at::IntArrayRef queue_numbers) {
  const Scope scope(x);
  check("x", x, x, {-1, -1});
  check("weight", weight, x, {-1, x.size(1)});
  if (bias) check("bias", *bias, x, {weight.size(0)});
  const Queue queue(queue_numbers, x.device());
  const Products products(plan, queue);
  const at::Tensor by_unit = products.rows_by_unit(weight);
  const Mask mask = mask_of({sizes, bounds}, masks, x.size(1));
  return {products.fp(x, by_unit, bias ? std::optional(bias->contiguous()) : bias, weight.size(0),
                      mask),
          by_unit};
}

at::Tensor linear_bp(const at::Tensor& dy, const at::Tensor& by_unit, at::IntArrayRef sizes,
                     const at::Tensor& bounds, at::TensorList masks, at::IntArrayRef plan,
                     at::IntArrayRef queue_numbers) {
  const Scope scope(dy);
  check("dy", dy, dy, {-1, -1});
  check("by_unit", by_unit, dy, {-1, padded(dy.size(1))});
  const Queue queue(queue_numbers, dy.device());
  return Products(plan, queue).bp(dy, by_unit, mask_of({sizes, bounds}, masks, by_unit.size(0)));
}

std::tuple<at::Tensor, at::Tensor> linear_wg(const at::Tensor& x, const at::Tensor& dy,
                                             at::IntArrayRef sizes, const at::Tensor& bounds,
                                             at::TensorList masks, at::IntArrayRef plan,
                                             at::IntArrayRef queue_numbers) {
  const Scope scope(x);
  check("x", x, dy, {-1, -1});
  check("dy", dy, dy, {x.size(0), -1});
  const Queue queue(queue_numbers, x.device());
  const Products products(plan, queue);
  const at::Tensor rows = products.wg(x, dy, mask_of({sizes, bounds}, masks, x.size(1)));
  return {products.by_output(rows, dy.size(1)), dy.sum(0)};
}

at::Tensor by_unit(const at::Tensor& weight, at::IntArrayRef plan, at::IntArrayRef queue_numbers) {
  const Scope scope(weight);
  const Queue queue(queue_numbers, weight.device());
  return Products(plan, queue).rows_by_unit(weight);
}

}  // namespace structured_dropout::cuda
