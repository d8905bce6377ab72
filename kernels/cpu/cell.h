// The elementwise part of an LSTM step (paper, eq. 5-6), for one vector of hidden units of one row.
// It stays dense: dropout must not touch the cell state.
#pragma once

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
void cell_bp(const T* gates, const T* c_previous, const T* c, typename Simd<T>::Vector dh, T* dc,
             T* dgates) {
  using S = Simd<T>;
  const auto i = S::load(gates);
  const auto f = S::load(gates + S::kLanes);
  const auto g = S::load(gates + 2 * S::kLanes);
  const auto o = S::load(gates + 3 * S::kLanes);
  const auto tanh_c = S::tanh(S::load(c));
  const auto dc_new = S::load(dc) + dh * o * (T(1) - tanh_c * tanh_c);
  S::store(dgates, dc_new * g * i * (T(1) - i));
  S::store(dgates + S::kLanes, dc_new * S::load(c_previous) * f * (T(1) - f));
  S::store(dgates + 2 * S::kLanes, dc_new * i * (T(1) - g * g));
  S::store(dgates + 3 * S::kLanes, dh * tanh_c * o * (T(1) - o));
  S::store(dc, dc_new * f);
}

}  // namespace structured_dropout
