// From the types of tensors to those of the kernels' templates.
#pragma once

#include <ATen/core/Tensor.h>

#include "operand.h"

namespace structured_dropout {

// What products of such operands are summed in.
inline at::ScalarType sum_type(const at::Tensor& operand) {
  return operand.scalar_type() == at::kBFloat16 ? at::kFloat : operand.scalar_type();
}

// Calls f<T>() for activations of type T.
template <typename F>
void dispatch(const at::Tensor& activations, F f) {
  switch (activations.scalar_type()) {
    case at::kFloat:
      return f.template operator()<float>();
    case at::kDouble:
      return f.template operator()<double>();
    case at::kBFloat16:
      return f.template operator()<BFloat16>();
    default:
      TORCH_CHECK(false, "no kernel for ", activations.scalar_type());
  }
}

// Calls f<T, W>() for activations of type T and weights of type W, which is T or what T is summed
// in.
template <typename F>
void dispatch(const at::Tensor& activations, const at::Tensor& weight, F f) {
  dispatch(activations, [&]<typename T>() {
    if (weight.scalar_type() == activations.scalar_type()) {
      f.template operator()<T, T>();
    } else {
      f.template operator()<T, Sum<T>>();
    }
  });
}

}  // namespace structured_dropout
