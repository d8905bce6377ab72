// The products in bfloat16 by tile registers. A tile wants its rows at even distances: where kept
// units are the rows, their weights are copied together, a few at a time, while the tiles before
// them are multiplied.
#include "products.h"

#if defined(STRUCTURED_DROPOUT_TILES)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "simd.h"

namespace structured_dropout {
namespace {

using O = Operand<BFloat16>;

constexpr int64_t kRegister = O::kLanes;  // a panel's row has two of them
constexpr int64_t kRegisters = kPanel<BFloat16> / kRegister;
static_assert(kRegister == kTileDepth && kMaxGroupRows <= 2 * kTileRows);

// The rows of a group as one or two tiles.
struct RowTiles {
  explicit RowTiles(int64_t rows)
      : first(std::min<int64_t>(rows, kTileRows)), second(rows - first) {}
  int64_t first, second;
};

// The ids of a tile's depth of units from the k-th on; the last unit stands in for those beyond the
// end.
class Block {
 public:
  Block(Units units, int64_t k) : ids_(units.ids + k) {
    if (k + kTileDepth <= units.count) return;
    for (int i = 0; i < kTileDepth; ++i) filled_[i] = ids_[std::min(i, int(units.count - 1 - k))];
    ids_ = filled_;
  }
  Block(const Block&) = delete;
  int64_t operator[](int i) const { return ids_[i]; }

 private:
  const int32_t* ids_;
  int32_t filled_[kTileDepth];
};

using Tile = BFloat16[kTileRows * kTileDepth];

// c [rows][kPanel] += a b, for the columns of one register and for kept units in pairs.
template <bool Two>
void fp_register(const BFloat16* a, int64_t depth, RowTiles rows, const BFloat16* b, Units units,
                 float* c) {
  float* const second = c + rows.first * kPanel<BFloat16>;
  tile_load<0>(c, kPanel<BFloat16>);
  tile_load<1>(c + kTileColumns, kPanel<BFloat16>);
  if constexpr (Two) {
    tile_load<2>(second, kPanel<BFloat16>);
    tile_load<3>(second + kTileColumns, kPanel<BFloat16>);
  }

  alignas(64) Tile pairs[2][2];  // of a block of units and the next one, by sum
  const auto interleave = [=, &pairs](int64_t k) {
    const Block block(units, k);
    Tile(&to)[2] = pairs[k / kTileDepth % 2];
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      O::Vector by_sum[2];
      O::interleave({O::load(b + block[2 * i] * kPanel<BFloat16>),
                     O::load(b + block[2 * i + 1] * kPanel<BFloat16>)},
                    by_sum);
      for (int sum = 0; sum < 2; ++sum) O::store(to[sum] + i * kTileDepth, by_sum[sum]);
    }
  };
  interleave(0);
  for (int64_t k = 0; k < units.count; k += kTileDepth) {
    if (k + kTileDepth < units.count) interleave(k + kTileDepth);
    const Tile(&now)[2] = pairs[k / kTileDepth % 2];
    tile_load<6>(now[0], kTileDepth);
    tile_load<7>(now[1], kTileDepth);
    tile_load<4>(a + k, depth);
    tile_product<0, 4, 6>();
    tile_product<1, 4, 7>();
    if constexpr (Two) {
      tile_load<5>(a + rows.first * depth + k, depth);
      tile_product<2, 5, 6>();
      tile_product<3, 5, 7>();
    }
  }

  tile_store<0>(c, kPanel<BFloat16>);
  tile_store<1>(c + kTileColumns, kPanel<BFloat16>);
  if constexpr (Two) {
    tile_store<2>(second, kPanel<BFloat16>);
    tile_store<3>(second + kTileColumns, kPanel<BFloat16>);
  }
}

// out [kTileDepth][2 * kTileRows] = the product of a block of units with all rows, transposed.
template <bool Two>
void bp_block(const BFloat16* pairs, int64_t rows, Panels<BFloat16> w, const BFloat16* const* units,
              float* out) {
  tile_zero<0>();
  tile_zero<2>();
  if constexpr (Two) {
    tile_zero<1>();
    tile_zero<3>();
  }
  alignas(64) Tile weights[2][2];  // of this register of columns and the next one, by half a block
  const auto copy = [=, &weights](int64_t r) {
    const int64_t column = r / kRegisters * w.stride + r % kRegisters * kRegister;
    Tile(&to)[2] = weights[r % 2];
#pragma GCC unroll 32
    for (int i = 0; i < kTileDepth; ++i)
      O::store(to[i / kTileRows] + i % kTileRows * kTileDepth, O::load(units[i] + column));
  };
  copy(0);
  const int64_t registers = w.count * kRegisters;
  for (int64_t r = 0; r < registers; ++r) {
    if (r + 1 < registers) copy(r + 1);
    const Tile(&now)[2] = weights[r % 2];
    tile_load<4>(now[0], kTileDepth);
    tile_load<5>(now[1], kTileDepth);
    tile_load<6>(pairs + r * kTileDepth * rows, 2 * rows);
    tile_product<0, 4, 6>();
    tile_product<2, 5, 6>();
    if constexpr (Two) {
      tile_load<7>(pairs + r * kTileDepth * rows + kTileDepth, 2 * rows);
      tile_product<1, 4, 7>();
      tile_product<3, 5, 7>();
    }
  }
  constexpr int64_t kRow = 2 * kTileRows;
  tile_store<0>(out, kRow);
  tile_store<2>(out + kTileRows * kRow, kRow);
  if constexpr (Two) {
    tile_store<1>(out + kTileRows, kRow);
    tile_store<3>(out + kTileRows * kRow + kTileRows, kRow);
  }
}

}  // namespace

template <>
void fp<BFloat16>(const BFloat16* a, int64_t rows, const BFloat16* b, Units units, float* c,
                  const BFloat16*) {
  if (units.count == 0) return;
  const RowTiles tiles(rows);
  TileShapes shapes;
  for (const int sum : {0, 1}) shapes.set<float>(sum, tiles.first, kTileColumns);
  for (const int sum : {2, 3}) shapes.set<float>(sum, tiles.second, kTileColumns);
  shapes.set<BFloat16>(4, tiles.first, kTileDepth);
  shapes.set<BFloat16>(5, tiles.second, kTileDepth);
  for (const int pairs : {6, 7}) shapes.set<BFloat16>(pairs, kTileRows, kTileDepth);
  shape_tiles(shapes);
  const int64_t depth = round_up(units.count, kTileDepth);
  for (int64_t column = 0; column < kPanel<BFloat16>; column += kRegister) {
    const auto product = tiles.second ? fp_register<true> : fp_register<false>;
    product(a, depth, tiles, b + column, units, c + column);
  }
}

// In pairs of columns: [register][pairs][rows][2].
template <>
Panels<BFloat16> arrange(Panels<BFloat16> g, BFloat16* place) {
  using S = Simd<float>;  // a lane holds a pair
  static_assert(S::kLanes == kTileRows);
  const int64_t rows = g.rows;
  for (int64_t r = 0; r < g.count * kRegisters; ++r) {
    const BFloat16* from = g.data + r / kRegisters * g.stride + r % kRegisters * kRegister;
    BFloat16* to = place + r * kRegister * rows;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t count = std::min<int64_t>(rows - row, kTileRows);
      S::Vector block[S::kLanes] = {};
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(&block[i], from + (row + i) * kPanel<BFloat16>, sizeof block[i]);
      S::transpose(block);
      const __mmask16 lanes = (1u << count) - 1;
      for (int64_t i = 0; i < kTileRows; ++i)
        _mm512_mask_storeu_ps(to + 2 * (i * rows + row), lanes, (__m512)block[i]);
    }
  }
  return {place, kPanel<BFloat16> * rows, g.count, rows};
}

template <>
void bp<BFloat16>(Panels<BFloat16> g, Panels<BFloat16> w, bool, int64_t first, Units units,
                  float scale, float* dx, int64_t lddx, Panels<BFloat16>) {
  const int64_t rows = g.rows;
  const RowTiles tiles(rows);
  TileShapes shapes;
  for (const int sum : {0, 2}) shapes.set<float>(sum, kTileRows, tiles.first);
  for (const int sum : {1, 3}) shapes.set<float>(sum, kTileRows, tiles.second);
  for (const int weights : {4, 5}) shapes.set<BFloat16>(weights, kTileRows, kTileDepth);
  shapes.set<float>(6, kTileRows, tiles.first);
  shapes.set<float>(7, kTileRows, tiles.second);
  shape_tiles(shapes);

  for (int64_t k = 0; k < units.count; k += kTileDepth) {
    const Block block(units, k);
    const BFloat16* weights[kTileDepth];
    for (int i = 0; i < kTileDepth; ++i)
      weights[i] = w.data + (block[i] - first) * kPanel<BFloat16>;
    alignas(64) float out[kTileDepth * 2 * kTileRows];
    const auto product = tiles.second ? bp_block<true> : bp_block<false>;
    product(g.data, rows, w, weights, out);
    const int64_t count = std::min<int64_t>(kTileDepth, units.count - k);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < count; ++i)
        dx[row * lddx + block[i]] += scale * out[i * 2 * kTileRows + row];
    }
  }
}

}  // namespace structured_dropout

#endif
