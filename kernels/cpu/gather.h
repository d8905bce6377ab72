// Kept inputs, ready for the products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "groups.h"
#include "memory.h"
#include "operand.h"
#include "parallel.h"

namespace structured_dropout {

template <typename T>
std::vector<const T*> row_pointers(const T* x, int64_t rows, int64_t stride) {
  std::vector<const T*> pointers(rows);
  for (int64_t row = 0; row < rows; ++row) pointers[row] = x + row * stride;
  return pointers;
}

// For FP: some kept units of a group's rows, scaled, into the group's block
// [kept / kDepth][rows][kDepth]; for tiles [rows][kept]. An odd unit's partner is zero, and what is
// left of the last tile.
template <typename T>
void gather_some_units(const T* const* rows, const Group& g, Units units, Sum<T> scale, T* block) {
  constexpr int kDepth = kInTiles<T> ? kTileDepth : Operand<T>::kDepth;
  const int64_t depth = round_up(g.units.count, kDepth);
  const auto at = [=, &g](int64_t row, int64_t k) -> T& {
    return block[kInTiles<T> ? row * depth + k : (k / kDepth * g.rows + row) * kDepth + k % kDepth];
  };
  const int64_t first = units.ids - g.units.ids, last = first + units.count;
  const auto gather = [=, &g](int64_t row, int64_t k) {
    at(row, k) = scale * rows[row][g.units.ids[k]];
  };
  if constexpr (kInTiles<T>) {
    for (int64_t row = 0; row < g.rows; ++row) {
      for (int64_t k = first; k < last; ++k) gather(row, k);
    }
  } else {
    for (int64_t k = first; k < last; ++k) {
      for (int64_t row = 0; row < g.rows; ++row) gather(row, k);
    }
  }
  if (units.count == 0 || last < g.units.count) return;
  for (int64_t k = last; k < depth; ++k) {
    for (int64_t row = 0; row < g.rows; ++row) at(row, k) = 0;
  }
}

template <typename T>
void gather_units(const T* const* rows, const Group& g, Sum<T> scale, T* block) {
  gather_some_units(rows, g, g.units, scale, block);
}

// For WG: the kept units of a group's rows, scaled, as its block [kept][rows]; where rows come in
// pairs, an odd row's partner is zero.
template <typename T>
void gather_rows(const T* const* rows, const Group& g, Sum<T> scale, T* block) {
  constexpr int kDepth = Operand<T>::kDepth;
  const int64_t height = (g.rows + kDepth - 1) / kDepth * kDepth;
  for (int64_t k = 0; k < g.units.count; ++k) {
    const int32_t unit = g.units.ids[k];
    T* out = block + k * height;
    for (int64_t row = 0; row < g.rows; ++row) out[row] = scale * rows[row][unit];
    if (g.rows < height) out[g.rows] = 0;
  }
}

// The blocks of all groups, each at its offset, by gather_units or gather_rows.
template <typename T, typename Gather>
Scratch<T> gather_groups(const std::vector<const T*>& rows, const Groups& groups, Sum<T> scale,
                         Gather gather) {
  Scratch<T> gathered(groups.elements());
  const double cost = 4. * groups.elements() / std::max<int64_t>(groups.size(), 1);
  parallel(groups.size(), cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      gather(rows.data() + groups[i].row, groups[i], scale, gathered.get() + groups[i].offset);
  });
  return gathered;
}

}  // namespace structured_dropout
