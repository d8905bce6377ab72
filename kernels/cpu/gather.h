// Kept inputs of all groups, ready for the products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "groups.h"
#include "memory.h"
#include "pack.h"
#include "parallel.h"

namespace structured_dropout {

template <typename T>
std::vector<const T*> row_pointers(const T* x, int64_t rows, int64_t stride) {
  std::vector<const T*> pointers(rows);
  for (int64_t row = 0; row < rows; ++row) pointers[row] = x + row * stride;
  return pointers;
}

// Each group's block [kept][rows], at its offset.
template <typename T>
Scratch<T> gather_groups(const std::vector<const T*>& rows, const Groups& groups, T scale) {
  Scratch<T> gathered(groups.elements());
  const double cost = 4. * groups.elements() / std::max<int64_t>(groups.size(), 1);
  parallel(groups.size(), cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Group& g = groups[i];
      gather_transposed(rows.data() + g.row, g.rows, g.units, scale, gathered.get() + g.offset,
                        g.rows);
    }
  });
  return gathered;
}

}  // namespace structured_dropout
