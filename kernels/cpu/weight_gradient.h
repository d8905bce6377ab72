// WG of all groups at once, panel by panel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gather.h"
#include "groups.h"
#include "memory.h"
#include "pack.h"
#include "products.h"

namespace structured_dropout {

// The kept inputs of a product's rows, and the weight gradients that they make.
template <typename T>
class KeptInputs {
 public:
  KeptInputs(const std::vector<const T*>& rows, const Groups& groups, Sum<T> scale, int64_t units)
      : groups_(groups),
        units_(units),
        gathered_(gather_groups(rows, groups, scale, gather_rows<T>)) {}

  // Multiply-adds for a panel.
  double cost() const { return double(groups_.elements()) * kPanel<T>; }

  // Room for the sums of a panel, of any kept inputs of so many units.
  Scratch<Sum<T>> room() const { return Scratch<Sum<T>>(units_ * kPanel<T>); }

  // dweight's columns of one panel from the panel's gradients g [rows][kPanel].
  void weight_gradient(const T* g, const Columns<Sum<T>>& columns, int64_t panel, Sum<T>* sums,
                       Sum<T>* dweight) const {
    std::fill_n(sums, units_ * kPanel<T>, Sum<T>(0));
    for (const Group& group : groups_)
      wg(gathered_.get() + group.offset, group.rows, g + group.row * kPanel<T>, group.units, sums);
    unpack_panel(sums, units_, columns, panel, dweight);
  }

 private:
  const Groups& groups_;
  int64_t units_;
  Scratch<T> gathered_;
};

#if defined(STRUCTURED_DROPOUT_TILES)
// A step has fewer rows than a tile is deep, and its sums would go to memory and back each time. So
// tiles multiply the rows of all steps, zeros and all, and skip the units that no row keeps.
template <>
class KeptInputs<BFloat16> {
 public:
  KeptInputs(const std::vector<const BFloat16*>& rows, const Groups& groups, float scale,
             int64_t units);

  double cost() const { return double(kept_.size()) * depth_ * kPanel<BFloat16>; }

  Scratch<float> room() const;

  void weight_gradient(const BFloat16* g, const Columns<float>& columns, int64_t panel, float* sums,
                       float* dweight) const;

 private:
  int64_t rows_, depth_, units_;
  std::vector<int32_t> kept_;  // by some row
  Scratch<BFloat16> inputs_;   // [kept][depth], the rows side by side
};
#endif

}  // namespace structured_dropout
