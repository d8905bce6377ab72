// The three products of a group of rows that share their kept units (paper, figure 2), each a loop of register tiles.
// What was dropped is skipped while loading: a kept unit's weights are reached through its id.
//
// Every output is summed by one thread in an order that shapes alone decide, so results do not depend on threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "groups.h"
#include "pack.h"
#include "simd.h"

namespace structured_dropout {

// Register tiles. FP and WG hold kTileHeight x kTileVectors accumulators and broadcast one factor; BP holds
// kDotRows x kDotUnits of them, as dot products.
constexpr int kTileVectors = kVectorRegisters == 32 ? 4 : 2;
constexpr int kTileHeight = 6;
constexpr int kDotRows = kVectorRegisters == 32 ? 4 : 3;
constexpr int kDotUnits = kVectorRegisters == 32 ? 6 : 4;

// Kept units whose panel rows stay in the L1 cache while the tiles of a group pass over them.
constexpr int64_t kFpBlock = 64;

// Panels of gradients and weights that the tiles of a group pass over before they go on to the next ones.
constexpr int64_t kBpBlock = 10;

// Calls f(size) with a size in [1, Max] as a compile-time constant.
template <int Max, typename F>
void call_with_size(int64_t size, F f) {
  if constexpr (Max > 1) {
    if (size < Max) return call_with_size<Max - 1>(size, f);
  }
  f(std::integral_constant<int, Max>{});
}

// Calls f(first, size) for even parts of [0, count) with size, a compile-time constant, at most Max.
template <int Max, typename F>
void for_tiles(int64_t count, F f) {
  const int64_t parts = (count + Max - 1) / Max;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t first = count * i / parts;
    call_with_size<Max>(count * (i + 1) / parts - first, [&](auto size) { f(first, size); });
  }
}

// c [rows][kPanel] += a^T b, for a [kept][rows] and the kept rows of the panel b [units][kPanel]. FP, figure 2a.
template <typename T, int Rows>
void fp_tile(const T* a, int64_t lda, const T* b, Units units, T* c) {
  using S = Simd<T>;
  typename S::Vector sum[Rows][kTileVectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) sum[i][v] = S::load(c + i * kPanel<T> + v * S::kLanes);
  }
  for (int64_t k = 0; k < units.count; ++k) {
    const T* row = b + units.ids[k] * kPanel<T>;
    typename S::Vector weight[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) weight[v] = S::load(row + v * S::kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const typename S::Vector value = S::broadcast(a[k * lda + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) sum[i][v] += value * weight[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) S::store(c + i * kPanel<T> + v * S::kLanes, sum[i][v]);
  }
}

template <typename T>
void fp(const T* a, int64_t rows, const T* b, Units units, T* c) {
  for (int64_t k = 0; k < units.count; k += kFpBlock) {
    const Units block = {units.ids + k, std::min(kFpBlock, units.count - k)};
    for_tiles<kTileHeight>(rows, [&](int64_t row, auto size) {
      for (int v = 0; v < kPanelVectors; v += kTileVectors) {
        const int64_t column = v * Simd<T>::kLanes;
        fp_tile<T, size()>(a + k * rows + row, rows, b + column, block, c + row * kPanel<T> + column);
      }
    });
  }
}

// The kept rows of d [units][kPanel] += a g, for a [kept][rows] and g [rows][kPanel]. WG, figure 2c.
template <typename T, int Kept>
void wg_tile(const T* a, int64_t rows, const T* g, const int32_t* ids, T* d) {
  using S = Simd<T>;
  typename S::Vector sum[Kept][kTileVectors];
#pragma GCC unroll 8
  for (int k = 0; k < Kept; ++k) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) sum[k][v] = S::load(d + ids[k] * kPanel<T> + v * S::kLanes);
  }
  for (int64_t row = 0; row < rows; ++row) {
    typename S::Vector gradient[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) gradient[v] = S::load(g + row * kPanel<T> + v * S::kLanes);
#pragma GCC unroll 8
    for (int k = 0; k < Kept; ++k) {
      const typename S::Vector value = S::broadcast(a[k * rows + row]);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) sum[k][v] += value * gradient[v];
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < Kept; ++k) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) S::store(d + ids[k] * kPanel<T> + v * S::kLanes, sum[k][v]);
  }
}

template <typename T>
void wg(const T* a, int64_t rows, const T* g, Units units, T* d) {
  for_tiles<kTileHeight>(units.count, [&](int64_t k, auto size) {
    for (int v = 0; v < kPanelVectors; v += kTileVectors) {
      const int64_t column = v * Simd<T>::kLanes;
      wg_tile<T, size()>(a + k * rows, rows, g + column, units.ids + k, d + column);
    }
  });
}

// Panels of gradients or weights: kPanel values for each row or unit.
template <typename T>
struct Panels {
  const T* data;
  int64_t stride;  // from one panel to the next
  int64_t count;
  int64_t unit = kPanel<T>;  // from one row or unit to the next
};

// sums [Rows][Kept] += g w^T over all columns of the panels, still one vector a sum.
template <typename T, int Rows, int Kept>
void bp_tile(Panels<T> g, Panels<T> w, const int32_t* ids, typename Simd<T>::Vector* sums) {
  using S = Simd<T>;
  typename S::Vector sum[Rows][Kept];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < Kept; ++k) sum[i][k] = sums[i * Kept + k];
  }
  for (int64_t panel = 0; panel < g.count; ++panel) {
    const T* gp = g.data + panel * g.stride;
    const T* wp = w.data + panel * w.stride;
    for (int64_t column = 0; column < kPanel<T>; column += S::kLanes) {
      typename S::Vector weight[Kept];
#pragma GCC unroll 8
      for (int k = 0; k < Kept; ++k) S::pin(weight[k] = S::load(wp + ids[k] * w.unit + column));
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const typename S::Vector gradient = S::load(gp + i * kPanel<T> + column);
#pragma GCC unroll 8
        for (int k = 0; k < Kept; ++k) sum[i][k] += gradient * weight[k];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < Kept; ++k) sums[i * Kept + k] = sum[i][k];
  }
}

// The kept columns of dx (row stride lddx) += scale * g w^T, for the gradient panels g [panel][rows][kPanel] and the
// kept units of the weight panels w, which begin at unit first. BP, figure 2b.
template <typename T>
void bp(Panels<T> g, int64_t rows, Panels<T> w, int64_t first, Units units, T scale, T* dx, int64_t lddx) {
  using S = Simd<T>;
  for_tiles<kDotUnits>(units.count, [&](int64_t k, auto kept) {
    typename S::Vector sums[kMaxGroupRows * kDotUnits + S::kLanes] = {};
    int32_t ids[kept()];
    for (int i = 0; i < kept; ++i) ids[i] = units.ids[k + i] - first;
    for (int64_t panel = 0; panel < g.count; panel += kBpBlock) {
      const int64_t count = std::min(kBpBlock, g.count - panel);
      const Panels<T> weights = {w.data + panel * w.stride, w.stride, count, w.unit};
      for_tiles<kDotRows>(rows, [&](int64_t row, auto height) {
        const Panels<T> gradients = {g.data + panel * g.stride + row * kPanel<T>, g.stride, count};
        bp_tile<T, height(), kept()>(gradients, weights, ids, sums + row * kept);
      });
    }
    T totals[kMaxGroupRows * kDotUnits + S::kLanes];
    for (int64_t i = 0; i < rows * kept; i += S::kLanes) {
      typename S::Vector block[S::kLanes];
      for (int j = 0; j < S::kLanes; ++j) block[j] = sums[i + j];
      S::store(totals + i, scale * S::sums(block));
    }
    for (int64_t row = 0; row < rows; ++row) {
      for (int i = 0; i < kept; ++i) dx[row * lddx + units.ids[k + i]] += totals[row * kept + i];
    }
  });
}

}  // namespace structured_dropout
