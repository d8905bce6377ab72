// Checks of operator arguments; each throws one error that names the argument.
#pragma once

#include <ATen/core/Tensor.h>

namespace structured_dropout {

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

}  // namespace structured_dropout
