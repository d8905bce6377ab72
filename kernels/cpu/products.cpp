// Each product is a loop of register tiles; their sizes are compile-time constants, so that their
// sums stay in registers.
#include "products.h"

#include <algorithm>
#include <type_traits>

#include "operand.h"

namespace structured_dropout {
namespace {

// FP and WG sum kTileHeight rows of kTileVectors vectors, each row with a factor of its own.
constexpr int kTileHeight = 6;
constexpr int kTileVectors = kVectorRegisters == 32 ? 4 : 2;

// BP sums kDotRows x kDotUnits vectors, which are dot products in the making.
constexpr int kDotRows = 4;
constexpr int kDotUnits = kVectorRegisters == 32 ? 6 : 3;

// The weights that the tiles of a group pass over again and again stay in the L1 cache: in FP
// of a panel what makes so many products to a sum, in BP so many panels of a tile's units.
// Meanwhile what follows is prefetched, unless it is known to be in the L2 cache: kept units lie
// too far apart for the processor to see a stream.
constexpr int64_t kFpDepth = kVectorBytes == 64 ? 128 : 64;
template <typename T>
constexpr int64_t kBpPanels = 10 * Operand<T>::kDepth;

// Calls f(size) with a size in [1, Max] as a compile-time constant.
template <int Max, typename F>
void with_constant(int64_t size, F f) {
  if constexpr (Max > 1) {
    if (size < Max) return with_constant<Max - 1>(size, f);
  }
  f(std::integral_constant<int, Max>{});
}

// What one of the tiles that pass over the same weights prefetches of those that follow, of each
// Count values: a line, where there is a tile for each, else all. Prefetches take the processor's
// few buffers for lines under way from its loads.
template <int64_t Count, typename T>
class Share {
 public:
  static constexpr int64_t kLines = std::max<int64_t>(1, Count / kLine<T>);

  Share(int64_t tile, bool all) : all_(all), offset_(std::min(tile, kLines - 1) * kLine<T>) {}

  void prefetch(const T* values) const {
    if (all_) [[unlikely]]
      return structured_dropout::prefetch<Count>(values);
    __builtin_prefetch(values + offset_, 0, 2);
  }

 private:
  bool all_;
  int64_t offset_;
};

enum class Ahead { kNothing, kShare, kAll };  // of what follows a tile prefetches

// Calls f(first, size, tile, tiles) for even parts of [0, count), each of at most Max.
template <int Max, typename F>
void for_tiles(int64_t count, F f) {
  const int64_t tiles = (count + Max - 1) / Max;
  int64_t tile = 0;
  for_parts(0, count, Max, [&](int64_t first, int64_t last) {
    with_constant<Max>(last - first, [&](auto size) { f(first, size, tile, tiles); });
    ++tile;
  });
}

// Of kDepth rows of a panel what kTileVectors sums multiply, each its own columns.
template <typename T>
void load_operands(const T* const (&rows)[Operand<T>::kDepth], typename Operand<T>::Vector* out) {
  using O = Operand<T>;
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; v += O::kDepth) {
    typename O::Vector registers[O::kDepth];
#pragma GCC unroll 2
    for (int d = 0; d < O::kDepth; ++d) registers[d] = O::load(rows[d] + v * kSumLanes<T>);
    O::interleave(registers, out + v);
  }
}

// For each row i: out(i) += the sum over k in [0, depth) of factor(k, i) * operands(k), for
// kTileVectors vectors. What was in out comes last: nothing waits for its loads, which a processor
// that compares the lower 12 bits of addresses first may hold back until the tile before is stored.
// Inline always: called, it is a twentieth slower.
template <typename T, int Height, typename Out, typename Operands, typename Factor>
[[gnu::always_inline]] inline void tile(int64_t depth, Out out, Operands operands, Factor factor) {
  using O = Operand<T>;
  using S = Simd<Sum<T>>;
  typename S::Vector sum[Height][kTileVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    typename O::Vector values[kTileVectors];
    operands(k, values);
#pragma GCC unroll 8
    for (int i = 0; i < Height; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kTileVectors; ++v)
        O::add_product(sum[i][v], O::broadcast(factor(k, i)), values[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Height; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) {
      Sum<T>* to = out(i) + v * S::kLanes;
      S::store(to, S::load(to) + sum[i][v]);
    }
  }
}

// What a tile of BP prefetches meanwhile, of each panel: its share of the weights of those units
// that follow, unless they are null, and so many lines of the gradients that do.
template <typename T>
struct Following {
  const T* const* weights;
  Share<kPanel<T>, T> share;
  const T* gradients;
  int64_t stride, lines;
};

// sums [Rows][Kept] = g w^T over all columns of the panels, or added to it, each still a vector.
// Not inline, and its loop not unrolled: GCC 12 would keep some of the sums in memory, which costs
// a quarter of its speed.
template <typename T, int Rows, int Kept>
[[gnu::noinline]] void dot_tile(Panels<T> g, const T* const* w, int64_t stride,
                                Following<T> following, bool add,
                                typename Simd<Sum<T>>::Vector* sums) {
  using O = Operand<T>;
  typename Simd<Sum<T>>::Vector sum[Rows][Kept];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < Kept; ++k)
      sum[i][k] = add ? sums[i * Kept + k] : typename Simd<Sum<T>>::Vector{};
  }
  for (int64_t panel = 0; panel < g.count; ++panel) {
    if (following.weights) {
      for (int k = 0; k < Kept; ++k)
        following.share.prefetch(following.weights[k] + panel * stride);
    }
    for (int64_t line = 0; line < following.lines; ++line) {
      __builtin_prefetch(following.gradients + panel * following.stride + line * kLine<T>, 0, 2);
    }
#pragma GCC unroll 1
    for (int64_t column = 0; column < kPanel<T>; column += O::kLanes) {
      typename O::Vector weight[Kept];
#pragma GCC unroll 8
      for (int k = 0; k < Kept; ++k) pin(weight[k] = O::load(w[k] + panel * stride + column));
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        typename O::Vector gradient = O::load(g.data + panel * g.stride + i * kPanel<T> + column);
        if constexpr (kVectorRegisters == 16) pin(gradient);  // 16 with the sums and the weights
#pragma GCC unroll 8
        for (int k = 0; k < Kept; ++k) O::add_product(sum[i][k], gradient, weight[k]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < Kept; ++k) sums[i * Kept + k] = sum[i][k];
  }
}

// The rows of g [rows][kPanel] as WG multiplies them: of kDepth rows what each sum does, side by
// side. An odd row's partner is zero.
template <typename T>
const T* interleave_rows(const T* g, int64_t rows, T* scratch) {
  using O = Operand<T>;
  if constexpr (O::kDepth == 1) {
    return g;
  } else {
    static constexpr T kZeros[kPanel<T>] = {};
    for (int64_t row = 0; row < rows; row += 2) {
      const T* second = row + 1 < rows ? g + (row + 1) * kPanel<T> : kZeros;
      for (int64_t column = 0; column < kPanel<T>; column += kTileVectors * kSumLanes<T>) {
        typename O::Vector by_sum[kTileVectors];
        load_operands<T>({g + row * kPanel<T> + column, second + column}, by_sum);
        T* to = scratch + row * kPanel<T> + column * 2;
        for (int v = 0; v < kTileVectors; ++v) O::store(to + v * O::kLanes, by_sum[v]);
      }
    }
    return scratch;
  }
}

}  // namespace

template <typename T>
void fp(const T* a, int64_t rows, const T* b, Units units, Sum<T>* c, const T* next) {
  constexpr int kDepth = Operand<T>::kDepth;
  constexpr int64_t kWidth = kTileVectors * kSumLanes<T>;
  // What a tile prefetches is known to the compiler: nothing else fits beside the products.
  const auto pass = [=](Units now, Units then, const T* from, auto ahead) {
    const int64_t first = now.ids - units.ids;
    for_tiles<kTileHeight>(rows, [&](int64_t row, auto height, int64_t number, int64_t) {
      const T* factors = a + first * rows + row * kDepth;
      const Share<kWidth, T> share(number, ahead() == Ahead::kAll);
      for (int64_t column = 0; column < kPanel<T>; column += kWidth) {
        const auto operands = [=](int64_t k, auto* out) {
          const T* weights[kDepth];  // an odd unit's partner has a factor of zero
#pragma GCC unroll 2
          for (int d = 0; d < kDepth; ++d) {
            const int64_t unit = k * kDepth + d;
            if constexpr (ahead() != Ahead::kNothing) {
              share.prefetch(from + then.ids[std::min(unit, then.count - 1)] * kPanel<T> + column);
            }
            weights[d] =
                b + now.ids[d == 0 ? unit : std::min(unit, now.count - 1)] * kPanel<T> + column;
          }
          load_operands(weights, out);
        };
        tile<T, height()>((now.count + kDepth - 1) / kDepth,
                          [=](int i) { return c + (row + i) * kPanel<T> + column; }, operands,
                          [=](int64_t k, int i) { return factors + (k * rows + i) * kDepth; });
      }
    });
  };
  // Even blocks: one prefetches about as many units as it has.
  const int64_t depth = (units.count + kDepth - 1) / kDepth;
  const int64_t blocks = (depth + kFpDepth - 1) / kFpDepth;
  const auto block = [=](int64_t i) {
    const int64_t first = depth * i / blocks * kDepth, last = depth * (i + 1) / blocks * kDepth;
    return Units{units.ids + first, std::min(last, units.count) - first};
  };
  for (int64_t i = 0; i < blocks; ++i) {
    const bool last = i + 1 == blocks;
    const Units now = block(i), then = block(last ? 0 : i + 1);
    const T* const from = last ? next : b;
    if (!next) {
      pass(now, then, from, std::integral_constant<Ahead, Ahead::kNothing>{});
    } else if ((rows + kTileHeight - 1) / kTileHeight < Share<kWidth, T>::kLines) {
      pass(now, then, from, std::integral_constant<Ahead, Ahead::kAll>{});
    } else {
      pass(now, then, from, std::integral_constant<Ahead, Ahead::kShare>{});
    }
  }
}

template <typename T>
void wg(const T* a, int64_t rows, const T* g, Units units, Sum<T>* d) {
  using O = Operand<T>;
  alignas(kVectorBytes) T scratch[kMaxGroupRows * kPanel<T>];
  const T* gradients = interleave_rows(g, rows, scratch);
  const int64_t depth = (rows + O::kDepth - 1) / O::kDepth;
  for_tiles<kTileHeight>(units.count, [&](int64_t k, auto height, int64_t, int64_t) {
    const int32_t* ids = units.ids + k;
    const T* factors = a + k * depth * O::kDepth;
    for (int64_t column = 0; column < kPanel<T>; column += kTileVectors * kSumLanes<T>) {
      const auto out = [=](int64_t i) { return d + ids[i] * kPanel<T> + column; };
      const auto operands = [=](int64_t pair, auto* by_sum) {
        const T* from = gradients + (pair * kPanel<T> + column) * O::kDepth;
#pragma GCC unroll 8
        for (int v = 0; v < kTileVectors; ++v) by_sum[v] = O::load(from + v * O::kLanes);
      };
      tile<T, height()>(depth, out, operands, [=](int64_t pair, int i) {
        return factors + (i * depth + pair) * O::kDepth;
      });
    }
  });
}

template <typename T>
void bp(Panels<T> g, Panels<T> w, bool cached, int64_t first, Units units, Sum<T> scale, Sum<T>* dx,
        int64_t lddx, Panels<T> next) {
  using S = Simd<Sum<T>>;
  const auto weight = [=](int64_t k, int64_t panel) {
    return w.data + (units.ids[std::min(k, units.count - 1)] - first) * kPanel<T> +
           panel * w.stride;
  };
  const int64_t lines = next.rows * kPanel<T> / kLine<T>;
  for_tiles<kDotUnits>(units.count, [&](int64_t k, auto kept, int64_t number, int64_t of) {
    typename S::Vector sums[kMaxGroupRows * kDotUnits + S::kLanes];  // [rows][kept], then zeros
    std::fill_n(sums + g.rows * kept, S::kLanes, typename S::Vector{});
    for_parts(0, g.count, kBpPanels<T>, [&](int64_t panel, int64_t end) {
      const T *now[kept()], *ahead[kept()];
      for (int i = 0; i < kept; ++i) {
        now[i] = weight(k + i, panel);
        ahead[i] = end < g.count ? weight(k + i, end) : weight(k + kept + i, 0);
      }
      for_tiles<kDotRows>(g.rows, [&](int64_t row, auto height, int64_t tile, int64_t tiles) {
        // All tiles that pass over a panel take even parts of the lines.
        const int64_t pass = number * tiles + tile, passes = of * tiles;
        const int64_t begin = lines * pass / passes;
        const Following<T> following = {
            cached ? nullptr : ahead,
            {tile, tiles < Share<kPanel<T>, T>::kLines},
            next.data + panel * next.stride + begin * kLine<T>,
            next.stride,
            lines * (pass + 1) / passes - begin,
        };
        const Panels<T> gradients = {g.data + panel * g.stride + row * kPanel<T>, g.stride,
                                     end - panel, height()};
        dot_tile<T, height(), kept()>(gradients, now, w.stride, following, panel > 0,
                                      sums + row * kept);
      });
    });

    Sum<T> totals[kMaxGroupRows * kDotUnits + S::kLanes];
    for (int64_t i = 0; i < g.rows * kept; i += S::kLanes) {
      typename S::Vector block[S::kLanes];
      std::copy_n(sums + i, S::kLanes, block);
      S::store(totals + i, scale * S::sums(block));
    }
    for (int64_t row = 0; row < g.rows; ++row) {
      for (int i = 0; i < kept; ++i) dx[row * lddx + units.ids[k + i]] += totals[row * kept + i];
    }
  });
}

template <typename T>
Panels<T> arrange(Panels<T> g, T*) {
  return g;
}

#define PRODUCTS_OF(T)                                                                   \
  template Panels<T> arrange(Panels<T>, T*);                                             \
  template void fp(const T*, int64_t, const T*, Units, Sum<T>*, const T*);               \
  template void bp(Panels<T>, Panels<T>, bool, int64_t, Units, Sum<T>, Sum<T>*, int64_t, \
                   Panels<T>);                                                           \
  template void wg(const T*, int64_t, const T*, Units, Sum<T>*);
PRODUCTS_OF(float)
PRODUCTS_OF(double)
#if !defined(STRUCTURED_DROPOUT_TILES)  // products_tiles.cpp has them
PRODUCTS_OF(BFloat16)
#endif
#undef PRODUCTS_OF

}  // namespace structured_dropout
