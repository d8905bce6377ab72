#include "weight_gradient.h"

#if defined(STRUCTURED_DROPOUT_TILES)

#include "parallel.h"
#include "tiles.h"

namespace structured_dropout {
namespace {

using O = Operand<BFloat16>;

constexpr int64_t kUnits = 2 * kTileRows;  // multiplied at once
// The gradients of so many rows stay in the L1 cache while all units pass over them.
constexpr int64_t kRows = 128;
constexpr int64_t kPair = 2 * kPanel<BFloat16>;

std::vector<int32_t> kept_by_some(const Groups& groups, int64_t units) {
  std::vector<char> kept(units, 0);
  for (const Group& g : groups) {
    for (int64_t k = 0; k < g.units.count; ++k) kept[g.units.ids[k]] = 1;
  }
  std::vector<int32_t> ids;
  for (int64_t unit = 0; unit < units; ++unit) {
    if (kept[unit]) ids.push_back(unit);
  }
  return ids;
}

// The rows of g [rows][kPanel] in pairs, by sum; the rows beyond the end, up to a tile's depth, are
// zero.
void interleave(const BFloat16* g, int64_t rows, BFloat16* pairs) {
  const auto load = [=](int64_t row, int64_t column) {
    return row < rows ? O::load(g + row * kPanel<BFloat16> + column) : O::Vector{};
  };
  for (int64_t row = 0; row < round_up(rows, kTileDepth); row += 2) {
    for (int64_t column = 0; column < kPanel<BFloat16>; column += O::kLanes) {
      O::Vector by_sum[2];
      O::interleave({load(row, column), load(row + 1, column)}, by_sum);
      for (int sum = 0; sum < 2; ++sum)
        O::store(pairs + row / 2 * kPair + 2 * column + sum * O::kLanes, by_sum[sum]);
    }
  }
}

// sums [kUnits][2 * kTileColumns] of a panel's columns = inputs pairs, or added to it.
void product(const BFloat16* inputs, int64_t depth, const BFloat16* pairs, int64_t rows, bool add,
             float* sums) {
  float* const lower = sums + kTileRows * kPanel<BFloat16>;
  if (add) {
    tile_load<0>(sums, kPanel<BFloat16>);
    tile_load<1>(sums + kTileColumns, kPanel<BFloat16>);
    tile_load<2>(lower, kPanel<BFloat16>);
    tile_load<3>(lower + kTileColumns, kPanel<BFloat16>);
  } else {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
  }
  for (int64_t row = 0; row < rows; row += kTileDepth) {
    tile_load<4>(inputs + row, depth);
    tile_load<5>(inputs + kTileRows * depth + row, depth);
    tile_load<6>(pairs + row / 2 * kPair, kPair);
    tile_load<7>(pairs + row / 2 * kPair + O::kLanes, kPair);
    tile_product<0, 4, 6>();
    tile_product<1, 4, 7>();
    tile_product<2, 5, 6>();
    tile_product<3, 5, 7>();
  }
  tile_store<0>(sums, kPanel<BFloat16>);
  tile_store<1>(sums + kTileColumns, kPanel<BFloat16>);
  tile_store<2>(lower, kPanel<BFloat16>);
  tile_store<3>(lower + kTileColumns, kPanel<BFloat16>);
}

// In place: the rows of `kept` units become those of all units, zero where nothing was kept.
void spread(const std::vector<int32_t>& kept, int64_t units, float* sums) {
  int64_t k = kept.size();
  for (int64_t unit = units - 1; unit >= k; --unit) {
    float* row = sums + unit * kPanel<BFloat16>;
    if (k > 0 && kept[k - 1] == unit) {
      --k;
      std::copy_n(sums + k * kPanel<BFloat16>, kPanel<BFloat16>, row);
    } else {
      std::fill_n(row, kPanel<BFloat16>, 0.f);
    }
  }
}

}  // namespace

KeptInputs<BFloat16>::KeptInputs(const std::vector<const BFloat16*>& rows, const Groups& groups,
                                 float scale, int64_t units)
    : rows_(rows.size()),
      depth_(round_up(rows_, kTileDepth)),
      units_(units),
      kept_(kept_by_some(groups, units)),
      inputs_(round_up(kept_.size(), kUnits) * depth_) {
  std::fill_n(inputs_.get(), round_up(kept_.size(), kUnits) * depth_, BFloat16(0.f));
  std::vector<int64_t> position(units);
  for (size_t k = 0; k < kept_.size(); ++k) position[kept_[k]] = k;
  const double cost = 4. * groups.elements() / std::max<int64_t>(groups.size(), 1);
  parallel(groups.size(), cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Group& g = groups[i];
      for (int64_t k = 0; k < g.units.count; ++k) {
        const int32_t unit = g.units.ids[k];
        BFloat16* out = inputs_.get() + position[unit] * depth_ + g.row;
        for (int64_t row = 0; row < g.rows; ++row) out[row] = scale * rows[g.row + row][unit];
      }
    }
  });
}

Scratch<float> KeptInputs<BFloat16>::room() const {
  return Scratch<float>(round_up(units_, kUnits) * kPanel<BFloat16>);
}

void KeptInputs<BFloat16>::weight_gradient(const BFloat16* g, const Columns<float>& columns,
                                           int64_t panel, float* sums, float* dweight) const {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.set<float>(tile, kTileRows, kTileColumns);
  shape_tiles(shapes);
  const int64_t kept = kept_.size();
  alignas(64) BFloat16 pairs[kRows / 2 * kPair];
  for (int64_t row = 0; row < rows_; row += kRows) {
    const int64_t rows = std::min(kRows, rows_ - row);
    interleave(g + row * kPanel<BFloat16>, rows, pairs);
    for (int64_t k = 0; k < kept; k += kUnits) {
      for (int64_t column = 0; column < kPanel<BFloat16>; column += O::kLanes) {
        product(inputs_.get() + k * depth_ + row, depth_, pairs + 2 * column, rows, row > 0,
                sums + k * kPanel<BFloat16> + column);
      }
    }
  }
  spread(kept_, units_, sums);
  unpack_panel(sums, units_, columns, panel, dweight);
}

}  // namespace structured_dropout

#endif
