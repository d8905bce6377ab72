// Each product is a loop of register tiles; their sizes are compile-time constants, so that their
// sums stay in registers.
#include "products.h"

#include <algorithm>
#include <type_traits>

#include "simd.h"

namespace structured_dropout {
namespace {

// FP and WG sum kTileHeight rows of kTileVectors vectors, each row with a factor of its own.
constexpr int kTileHeight = 6;
constexpr int kTileVectors = kVectorRegisters == 32 ? 4 : 2;

// BP sums kDotRows x kDotUnits vectors, which are dot products in the making.
constexpr int kDotRows = kVectorRegisters == 32 ? 4 : 3;
constexpr int kDotUnits = kVectorRegisters == 32 ? 6 : 4;

// The weights that the tiles of a group pass over again and again stay in the L1 cache: so many
// kept units of a panel in FP, so many panels of a tile's units in BP. Meanwhile those that follow
// are prefetched: kept units lie too far apart for the processor to see a stream.
constexpr int64_t kFpUnits = 64;
constexpr int64_t kBpPanels = 10;

// Calls f(size) with a size in [1, Max] as a compile-time constant.
template <int Max, typename F>
void with_constant(int64_t size, F f) {
  if constexpr (Max > 1) {
    if (size < Max) return with_constant<Max - 1>(size, f);
  }
  f(std::integral_constant<int, Max>{});
}

// Calls f(first, size) for even parts of [0, count), each of at most Max.
template <int Max, typename F>
void for_tiles(int64_t count, F f) {
  for_parts(0, count, Max, [&](int64_t first, int64_t last) {
    with_constant<Max>(last - first, [&](auto size) { f(first, size); });
  });
}

// For each row i: out(i) += the sum over k in [0, depth) of factor(k, i) * in(k), for kTileVectors
// vectors.
template <typename T, int Height, typename Out, typename In, typename Factor>
void tile(int64_t depth, Out out, In in, Factor factor) {
  using S = Simd<T>;
  typename S::Vector sum[Height][kTileVectors];
#pragma GCC unroll 8
  for (int i = 0; i < Height; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) sum[i][v] = S::load(out(i) + v * S::kLanes);
  }
  for (int64_t k = 0; k < depth; ++k) {
    const T* row = in(k);
    typename S::Vector values[kTileVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) values[v] = S::load(row + v * S::kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Height; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kTileVectors; ++v) sum[i][v] += S::broadcast(factor(k, i)) * values[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Height; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) S::store(out(i) + v * S::kLanes, sum[i][v]);
  }
}

// sums [Rows][Kept] += g w^T over all columns of the panels, each still a vector; weights ahead
// into the L2 cache. Not inline: among the values of its caller GCC 12 loses a quarter of its
// speed.
template <typename T, int Rows, int Kept>
[[gnu::noinline]] void dot_tile(Panels<T> g, const T* const* w, const T* const* ahead,
                                int64_t stride, typename Simd<T>::Vector* sums) {
  using S = Simd<T>;
  typename S::Vector sum[Rows][Kept];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < Kept; ++k) sum[i][k] = sums[i * Kept + k];
  }
  for (int64_t panel = 0; panel < g.count; ++panel) {
    for (int k = 0; k < Kept; ++k) prefetch<kPanel<T>>(ahead[k] + panel * stride);
    for (int64_t column = 0; column < kPanel<T>; column += S::kLanes) {
      typename S::Vector weight[Kept];
#pragma GCC unroll 8
      for (int k = 0; k < Kept; ++k) S::pin(weight[k] = S::load(w[k] + panel * stride + column));
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const typename S::Vector gradient =
            S::load(g.data + panel * g.stride + i * kPanel<T> + column);
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

}  // namespace

template <typename T>
void fp(const T* a, int64_t rows, const T* b, Units units, T* c) {
  const auto block = [=](int64_t k) {
    return Units{units.ids + k, std::min(kFpUnits, units.count - k)};
  };
  for (int64_t k = 0; k < units.count; k += kFpUnits) {
    const Units now = block(k), next = block(k + kFpUnits < units.count ? k + kFpUnits : k);
    for_tiles<kTileHeight>(rows, [&](int64_t row, auto height) {
      const T* factors = a + k * rows + row;
      constexpr int64_t kWidth = kTileVectors * Simd<T>::kLanes;
      for (int64_t column = 0; column < kPanel<T>; column += kWidth) {
        const auto in = [=](int64_t k) {
          prefetch<kWidth>(b + next.ids[std::min(k, next.count - 1)] * kPanel<T> + column);
          return b + now.ids[k] * kPanel<T> + column;
        };
        tile<T, height()>(
            now.count, [=](int i) { return c + (row + i) * kPanel<T> + column; }, in,
            [=](int64_t k, int i) { return factors[k * rows + i]; });
      }
    });
  }
}

template <typename T>
void wg(const T* a, int64_t rows, const T* g, Units units, T* d) {
  for_tiles<kTileHeight>(units.count, [&](int64_t k, auto height) {
    const int32_t* ids = units.ids + k;
    const T* factors = a + k * rows;
    for (int64_t column = 0; column < kPanel<T>; column += kTileVectors * Simd<T>::kLanes) {
      tile<T, height()>(
          rows, [=](int i) { return d + ids[i] * kPanel<T> + column; },
          [=](int64_t row) { return g + row * kPanel<T> + column; },
          [=](int64_t row, int i) { return factors[i * rows + row]; });
    }
  });
}

template <typename T>
void bp(Panels<T> g, int64_t rows, Panels<T> w, int64_t first, Units units, T scale, T* dx,
        int64_t lddx) {
  using S = Simd<T>;
  const auto weight = [=](int64_t k, int64_t panel) {
    return w.data + (units.ids[std::min(k, units.count - 1)] - first) * w.unit + panel * w.stride;
  };
  for_tiles<kDotUnits>(units.count, [&](int64_t k, auto kept) {
    typename S::Vector sums[kMaxGroupRows * kDotUnits + S::kLanes];  // [rows][kept], then zeros
    std::fill_n(sums, rows * kept + S::kLanes, typename S::Vector{});
    for_parts(0, g.count, kBpPanels, [&](int64_t panel, int64_t next) {
      const T *now[kept()], *ahead[kept()];
      for (int i = 0; i < kept; ++i) {
        now[i] = weight(k + i, panel);
        ahead[i] = next < g.count ? weight(k + i, next) : weight(k + kept + i, 0);
      }
      for_tiles<kDotRows>(rows, [&](int64_t row, auto height) {
        const Panels<T> gradients = {g.data + panel * g.stride + row * kPanel<T>, g.stride,
                                     next - panel};
        dot_tile<T, height(), kept()>(gradients, now, ahead, w.stride, sums + row * kept);
      });
    });

    T totals[kMaxGroupRows * kDotUnits + S::kLanes];
    for (int64_t i = 0; i < rows * kept; i += S::kLanes) {
      typename S::Vector block[S::kLanes];
      std::copy_n(sums + i, S::kLanes, block);
      S::store(totals + i, scale * S::sums(block));
    }
    for (int64_t row = 0; row < rows; ++row) {
      for (int i = 0; i < kept; ++i) dx[row * lddx + units.ids[k + i]] += totals[row * kept + i];
    }
  });
}

template void fp(const float*, int64_t, const float*, Units, float*);
template void fp(const double*, int64_t, const double*, Units, double*);
template void bp(Panels<float>, int64_t, Panels<float>, int64_t, Units, float, float*, int64_t);
template void bp(Panels<double>, int64_t, Panels<double>, int64_t, Units, double, double*, int64_t);
template void wg(const float*, int64_t, const float*, Units, float*);
template void wg(const double*, int64_t, const double*, Units, double*);

}  // namespace structured_dropout
