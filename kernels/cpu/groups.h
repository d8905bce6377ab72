// Which rows share which kept units: what a structured mask means to the products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tiles.h"

namespace structured_dropout {

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Calls f(first, last) for even parts of [begin, end), each of at most `most`.
template <typename F>
void for_parts(int64_t begin, int64_t end, int64_t most, F f) {
  const int64_t parts = (end - begin + most - 1) / most;
  for (int64_t i = 0; i < parts; ++i)
    f(begin + (end - begin) * i / parts, begin + (end - begin) * (i + 1) / parts);
}

// Ascending ids of the units that some rows keep.
struct Units {
  const int32_t* ids;
  int64_t count;

  // Those in [first, last).
  Units between(int64_t first, int64_t last) const {
    const int32_t* begin = std::lower_bound(ids, ids + count, first);
    return {begin, std::lower_bound(begin, ids + count, last) - begin};
  }
};

// Rows [row, row + rows) of a matrix, all with the same kept units.
struct Group {
  int64_t row, rows;
  Units units;
  int64_t offset;  // of its block of kept values among those of all groups, in elements

  // Room for the block in any of its layouts (gather.h).
  int64_t elements() const {
    return round_up(units.count, kTiles ? kTileDepth : 2) * round_up(rows, 2);
  }
};

// A block of this many rows and a panel's columns stay in the L1 cache through a product. Tiles
// copy weights anew for each group: two full ones are the fewest copies.
constexpr int64_t kMaxGroupRows = kTiles ? 2 * kTileRows : 24;

class Groups {
 public:
  // Adds rows [begin, end), which keep these units, as groups of even height.
  void add(int64_t begin, int64_t end, Units units) {
    for_parts(begin, end, kMaxGroupRows, [&](int64_t first, int64_t last) {
      groups_.push_back({first, last - first, units, elements_});
      elements_ += groups_.back().elements();
    });
  }

  // Room for the kept values of all groups.
  int64_t elements() const { return elements_; }
  int64_t size() const { return groups_.size(); }
  const Group& operator[](int64_t i) const { return groups_[i]; }
  auto begin() const { return groups_.begin(); }
  auto end() const { return groups_.end(); }

 private:
  std::vector<Group> groups_;
  int64_t elements_ = 0;
};

}  // namespace structured_dropout
