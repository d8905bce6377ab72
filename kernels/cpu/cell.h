// The elementwise part of an LSTM step (paper, eq. 5-6), for one vector of hidden units of one row.
// It stays dense: dropout must not touch the cell state.
#pragma once

#include "pack.h"
#include "simd.h"

namespace structured_dropout {

// Gates [4][lanes] in the order i, f, g, o: sums on entry, activated on return. Writes c, returns
// h.
template <typename T>
typename Simd<T>::Vector cell_fp(T* gates, const T* c_previous, T* c) {
  using S = Simd<T>;
  const auto i = S::sigmoid(S::load(gates));
  const auto f = S::sigmoid(S::load(gates + S::kLanes));
  const auto g = S::tanh(S::load(gates + 2 * S::kLanes));
  const auto o = S::sigmoid(S::load(gates + 3 * S::kLanes));
  const auto c_new = f * S::load(c_previous) + i * g;
  S::store(gates, i);
  S::store(gates + S::kLanes, f);
  S::store(gates + 2 * S::kLanes, g);
  S::store(gates + 3 * S::kLanes, o);
  S::store(c, c_new);
  return o * S::tanh(c_new);
}

// From the activated gates and the gradient of h to the gradients of the gates' sums. dc is that of
// c through the later steps on entry, and that of c_previous on return.
template <typename T>
void cell_bp(const Sum<T>* gates, const Sum<T>* c_previous, const Sum<T>* c,
             typename Operand<T>::Sums dh, Sum<T>* dc, T* dgates) {
  using S = Simd<Sum<T>>;
  const auto i = S::load(gates);
  const auto f = S::load(gates + S::kLanes);
  const auto g = S::load(gates + 2 * S::kLanes);
  const auto o = S::load(gates + 3 * S::kLanes);
  const auto tanh_c = S::tanh(S::load(c));
  const auto dc_new = S::load(dc) + dh * o * (1 - tanh_c * tanh_c);
  const typename S::Vector sums[] = {
      dc_new * g * i * (1 - i),
      dc_new * S::load(c_previous) * f * (1 - f),
      dc_new * i * (1 - g * g),
      dh * tanh_c * o * (1 - o),
  };
  store_row(sums, dgates);
  S::store(dc, dc_new * f);
}

}  // namespace structured_dropout
