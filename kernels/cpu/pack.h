// Layouts that put a unit's values side by side, so that a dropped unit is never loaded.
//
// Weights [columns, units] (torch's layout) become panels: panel p holds kPanel columns as
// [units][kPanel]. The columns of a panel come in four vectors, one register of sums each:
// neighbours for a linear layer, the four gates of the same hidden units for an LSTM, so that a
// panel has all that its cells need. In bfloat16 two vectors share a register (operand.h).
#pragma once

#include <algorithm>
#include <cstdint>

#include "groups.h"
#include "operand.h"
#include "simd.h"

namespace structured_dropout {

constexpr int kPanelVectors = 4;
template <typename T>
constexpr int kSumLanes = Simd<Sum<T>>::kLanes;
template <typename T>
constexpr int64_t kPanel = kPanelVectors * kSumLanes<T>;

// Where the columns of the panels lie among the rows of a weight; T is what they are summed in.
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

// From one panel of so many units to the next, in units. An odd number: else the same units of all
// panels would for a power of two fall into the same sets of the L1 cache.
constexpr int64_t panel_units(int64_t units) { return units | 1; }

// How many units ahead pack_panel prefetches what it reads, and unpack_panel what it writes.
constexpr int64_t kPackAhead = 64, kUnpackAhead = 32;

// One row of a panel, from the four vectors and back.
template <typename T>
void store_row(const typename Operand<T>::Sums* vectors, T* row) {
  using O = Operand<T>;
#pragma GCC unroll 4
  for (int v = 0; v < kPanelVectors; v += O::kDepth)
    O::store(row + v * kSumLanes<T>, O::narrow(vectors + v));
}

template <typename T>
void load_row(const T* row, typename Operand<T>::Sums* vectors) {
  using O = Operand<T>;
#pragma GCC unroll 4
  for (int v = 0; v < kPanelVectors; v += O::kDepth)
    O::widen(O::load(row + v * kSumLanes<T>), vectors + v);
}

// Runs f(u) so that the blocks [u, u + lanes) cover [begin, end); the last ones may overlap. False
// if they cannot.
template <typename T, typename F>
bool for_blocks(int64_t begin, int64_t end, F f) {
  constexpr int lanes = Simd<T>::kLanes;
  if (end - begin < lanes) return false;
  for (int64_t u = begin; u < end; u += lanes) f(std::min(u, end - lanes));
  return true;
}

// The first count of the rows w [lanes], a vector of each; the other ones stay as they are.
template <typename W>
void load_block(const W* w, int64_t stride, int64_t count, typename Operand<W>::Sums* rows) {
  constexpr int lanes = kSumLanes<W>;
  if (count == lanes) {
    for (int i = 0; i < lanes; ++i) rows[i] = Operand<W>::load_values(w + i * stride, lanes);
  } else {
    for (int64_t i = 0; i < count; ++i) rows[i] = Operand<W>::load_values(w + i * stride, lanes);
  }
}

// One panel of the units [begin, end) of w [columns, units], as out [units][kPanel]; padding is
// zero. It reads from more rows at a time than the processor sees streams, so what follows there,
// or in the next panel, is prefetched.
template <typename T, typename W>
void pack_panel(const W* w, int64_t units, const Columns<Sum<T>>& columns, int64_t panel,
                int64_t begin, int64_t end, T* out) {
  using O = Operand<T>;
  using S = Simd<Sum<T>>;
  for (int v = 0; v < kPanelVectors; v += O::kDepth) {
    const auto from = [&](int d) { return w + columns.first(panel, v + d) * units; };
    const auto count = [&](int d) { return columns.count(panel, v + d); };
    T* to = out + v * S::kLanes;
    const bool done = for_blocks<Sum<T>>(begin, end, [&](int64_t u) {
      typename S::Vector block[O::kDepth][S::kLanes] = {};
      const bool here = u + kPackAhead < end;
      const int64_t ahead = u + kPackAhead - (here ? 0 : end - begin);
      for (int d = 0; d < O::kDepth; ++d) {
        const W* next = w + columns.first(here ? panel : panel + 1, v + d) * units + ahead;
        for (int i = 0; i < S::kLanes; ++i) __builtin_prefetch(next + i * units, 0, 2);
        load_block(from(d) + u, units, count(d), block[d]);
        S::transpose(block[d]);
      }
      for (int i = 0; i < S::kLanes; ++i) {
        typename S::Vector vectors[O::kDepth];
        for (int d = 0; d < O::kDepth; ++d) vectors[d] = block[d][i];
        O::store(to + (u - begin + i) * kPanel<T>, O::narrow(vectors));
      }
    });
    if (done) continue;
    for (int64_t u = begin; u < end; ++u) {
      typename S::Vector vectors[O::kDepth] = {};
      for (int d = 0; d < O::kDepth; ++d) {
        for (int64_t i = 0; i < count(d); ++i) vectors[d][i] = from(d)[i * units + u];
      }
      O::store(to + (u - begin) * kPanel<T>, O::narrow(vectors));
    }
  }
}

// The way back: a panel [units][kPanel] into w [columns, units]. It writes to more rows at a time
// than the processor sees streams, too.
template <typename T>
void unpack_panel(const T* in, int64_t units, const Columns<T>& columns, int64_t panel, T* w) {
  using S = Simd<T>;
  for (int v = 0; v < kPanelVectors; ++v) {
    T* to = w + columns.first(panel, v) * units;
    const int64_t count = columns.count(panel, v);
    const T* from = in + v * S::kLanes;
    const bool done = for_blocks<T>(0, units, [&](int64_t u) {
      typename S::Vector block[S::kLanes];
      for (int i = 0; i < S::kLanes; ++i) {
        block[i] = S::load(from + (u + i) * kPanel<T>);
        if (i < count) __builtin_prefetch(to + i * units + u + kUnpackAhead, 1);
      }
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
template <typename T, typename W>
void pack_vector(const W* b, const Columns<T>& columns, int64_t panel, T* out) {
  std::fill_n(out, kPanel<T>, T(0));
  for (int v = 0; v < kPanelVectors; ++v) {
    if (b)
      std::copy_n(b + columns.first(panel, v), columns.count(panel, v), out + v * kSumLanes<T>);
  }
}

template <typename T>
void unpack_vector(const T* in, const Columns<T>& columns, int64_t panel, T* b) {
  for (int v = 0; v < kPanelVectors; ++v) {
    std::copy_n(in + v * kSumLanes<T>, columns.count(panel, v), b + columns.first(panel, v));
  }
}

// out += the sum of the rows of g [rows][kPanel].
template <typename T>
void add_rows(const T* g, int64_t rows, Sum<T>* out) {
  using S = Simd<Sum<T>>;
  typename S::Vector sum[kPanelVectors];
  for (int v = 0; v < kPanelVectors; ++v) sum[v] = S::load(out + v * S::kLanes);
  for (int64_t row = 0; row < rows; ++row) {
    typename S::Vector vectors[kPanelVectors];
    load_row(g + row * kPanel<T>, vectors);
    for (int v = 0; v < kPanelVectors; ++v) sum[v] += vectors[v];
  }
  for (int v = 0; v < kPanelVectors; ++v) S::store(out + v * S::kLanes, sum[v]);
}

}  // namespace structured_dropout
