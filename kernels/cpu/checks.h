// Checks of operator arguments; each throws one error that names the argument.
#pragma once

#include <ATen/core/Tensor.h>

#include "dispatch.h"

namespace structured_dropout {

// Activations: operands of the products.
inline void check_activations(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU, is on ", tensor.device());
  const at::ScalarType type = tensor.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kDouble || type == at::kBFloat16, name,
              " must be float32, float64 or bfloat16, is ", type);
}

inline void check_float(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU, is on ", tensor.device());
  TORCH_CHECK(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble, name,
              " must be float32 or float64, is ", tensor.scalar_type());
}

inline void check_matrix(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.dim() == 2, name, " must have 2 dimensions, has shape ", tensor.sizes());
}

inline void check_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK(tensor.sizes() == shape, name, " must have shape ", shape, ", has ", tensor.sizes());
}

inline void check_state(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.dim() == 3, name, " must have shape [directions, batch, hidden], has ",
              tensor.sizes());
}

// A tensor beside another one: the same type, and this shape.
inline void check_like(const char* name, const at::Tensor& tensor, const at::Tensor& other,
                       at::IntArrayRef shape) {
  TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == other.scalar_type(), name, " must be ",
              other.scalar_type(), " on the CPU like the others, is ", tensor.scalar_type(), " on ",
              tensor.device());
  check_shape(name, tensor, shape);
}

// A weight beside activations: of their type or, master of bfloat16, float32.
inline void check_weight(const char* name, const at::Tensor& tensor, const at::Tensor& activations,
                         at::IntArrayRef shape) {
  const at::ScalarType type = tensor.scalar_type();
  TORCH_CHECK(
      tensor.is_cpu() && (type == activations.scalar_type() || type == sum_type(activations)), name,
      " must be ", activations.scalar_type(), " on the CPU like the activations, or ",
      sum_type(activations), ", is ", type, " on ", tensor.device());
  check_shape(name, tensor, shape);
}

}  // namespace structured_dropout
