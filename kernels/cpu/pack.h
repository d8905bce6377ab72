// Layouts that put a unit's values side by side, so that a dropped unit is never loaded.
//
// Weights [columns, units] (torch's layout) become panels: panel p holds kPanel columns as
// [units][kPanel]. The columns of a panel come in four vectors, one register each: neighbours for a
// linear layer, the four gates of the same hidden units for an LSTM, so that a panel has all that
// its cells need.
#pragma once

#include <algorithm>
#include <cstdint>

#include "groups.h"
#include "simd.h"

namespace structured_dropout {

constexpr int kPanelVectors = 4;
template <typename T>
constexpr int64_t kPanel = kPanelVectors * Simd<T>::kLanes;

// Where the columns of the panels lie among the rows of a weight.
template <typename T>
class Columns {
 public:
  // A linear layer's outputs: panel p has the columns from p * kPanel on.
  static Columns linear(int64_t outputs) { return {outputs, kPanel<T>, Simd<T>::kLanes, 0}; }

  // An LSTM's gates i, f, g, o: vector v of panel p has gate v of the hidden units from p * lanes
  // on.
  static Columns gates(int64_t hidden) { return {hidden, Simd<T>::kLanes, 0, hidden}; }

  int64_t panels() const { return (limit_ + panel_step_ - 1) / panel_step_; }

  // The first column of a vector, and how many there are; the other lanes are padding.
  int64_t first(int64_t panel, int v) const {
    return panel * panel_step_ + v * vector_step_ + v * gate_step_;
  }
  int64_t count(int64_t panel, int v) const {
    return std::clamp<int64_t>(limit_ - panel * panel_step_ - v * vector_step_, 0, Simd<T>::kLanes);
  }

 private:
  Columns(int64_t limit, int64_t panel_step, int64_t vector_step, int64_t gate_step)
      : limit_(limit), panel_step_(panel_step), vector_step_(vector_step), gate_step_(gate_step) {}

  int64_t limit_, panel_step_, vector_step_, gate_step_;
};

// Runs f(u) so that the blocks [u, u + lanes) cover [begin, end); the last ones may overlap. False
// if they cannot.
template <typename T, typename F>
bool for_blocks(int64_t begin, int64_t end, F f) {
  constexpr int lanes = Simd<T>::kLanes;
  if (end - begin < lanes) return false;
  for (int64_t u = begin; u < end; u += lanes) f(std::min(u, end - lanes));
  return true;
}

// One panel of the units [begin, end) of w [columns, units]: kPanel values every `stride` of out;
// padding is zero.
template <typename T>
void pack_panel(const T* w, int64_t units, const Columns<T>& columns, int64_t panel, int64_t begin,
                int64_t end, T* out, int64_t stride = kPanel<T>) {
  using S = Simd<T>;
  for (int v = 0; v < kPanelVectors; ++v) {
    const T* from = w + columns.first(panel, v) * units;
    const int64_t count = columns.count(panel, v);
    T* to = out + v * S::kLanes;
    const bool done = for_blocks<T>(begin, end, [&](int64_t u) {
      typename S::Vector block[S::kLanes] = {};
      if (count == S::kLanes) {
        for (int i = 0; i < S::kLanes; ++i) block[i] = S::load(from + i * units + u);
      } else {
        for (int64_t i = 0; i < count; ++i) block[i] = S::load(from + i * units + u);
      }
      S::transpose(block);
      for (int i = 0; i < S::kLanes; ++i) S::store(to + (u - begin + i) * stride, block[i]);
    });
    if (done) continue;
    for (int64_t u = begin; u < end; ++u) {
      for (int64_t i = 0; i < S::kLanes; ++i)
        to[(u - begin) * stride + i] = i < count ? from[i * units + u] : T(0);
    }
  }
}

// The way back: a panel [units][kPanel] into w [columns, units].
template <typename T>
void unpack_panel(const T* in, int64_t units, const Columns<T>& columns, int64_t panel, T* w) {
  using S = Simd<T>;
  for (int v = 0; v < kPanelVectors; ++v) {
    T* to = w + columns.first(panel, v) * units;
    const int64_t count = columns.count(panel, v);
    const T* from = in + v * S::kLanes;
    const bool done = for_blocks<T>(0, units, [&](int64_t u) {
      typename S::Vector block[S::kLanes];
      for (int i = 0; i < S::kLanes; ++i) block[i] = S::load(from + (u + i) * kPanel<T>);
      S::transpose(block);
      if (count == S::kLanes) {
        for (int i = 0; i < S::kLanes; ++i) S::store(to + i * units + u, block[i]);
      } else {
        for (int64_t i = 0; i < count; ++i) S::store(to + i * units + u, block[i]);
      }
    });
    if (done) continue;
    for (int64_t u = 0; u < units; ++u) {
      for (int64_t i = 0; i < count; ++i) to[i * units + u] = from[u * kPanel<T> + i];
    }
  }
}

// The values of the panel's columns in one vector [columns], a bias; padding is zero.
template <typename T>
void pack_vector(const T* b, const Columns<T>& columns, int64_t panel, T* out) {
  std::fill_n(out, kPanel<T>, T(0));
  for (int v = 0; v < kPanelVectors; ++v) {
    if (b)
      std::copy_n(b + columns.first(panel, v), columns.count(panel, v), out + v * Simd<T>::kLanes);
  }
}

template <typename T>
void unpack_vector(const T* in, const Columns<T>& columns, int64_t panel, T* b) {
  for (int v = 0; v < kPanelVectors; ++v) {
    std::copy_n(in + v * Simd<T>::kLanes, columns.count(panel, v), b + columns.first(panel, v));
  }
}

// The sum of the rows of g [rows][kPanel].
template <typename T>
void sum_rows(const T* g, int64_t rows, T* out) {
  using S = Simd<T>;
  typename S::Vector sum[kPanelVectors] = {};
  for (int64_t row = 0; row < rows; ++row) {
    for (int v = 0; v < kPanelVectors; ++v) sum[v] += S::load(g + row * kPanel<T> + v * S::kLanes);
  }
  for (int v = 0; v < kPanelVectors; ++v) S::store(out + v * S::kLanes, sum[v]);
}

// Kept values of some rows, scaled and by unit: out[k * stride + row].
template <typename T>
void gather_transposed(const T* const* rows, int64_t count, Units units, T scale, T* out,
                       int64_t stride) {
  for (int64_t k = 0; k < units.count; ++k) {
    const int32_t unit = units.ids[k];
    for (int64_t row = 0; row < count; ++row) out[k * stride + row] = scale * rows[row][unit];
  }
}

}  // namespace structured_dropout
