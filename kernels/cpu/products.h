// The three products of a group of rows that share their kept units (paper, figure 2). What was
// dropped is skipped while loading: a kept unit's weights are reached through its id.
//
// Every output is summed by one thread in an order that shapes alone decide, so results do not
// depend on threads.
#pragma once

#include <cstdint>

#include "groups.h"
#include "operand.h"
#include "pack.h"

namespace structured_dropout {

// FP, figure 2a: c [rows][kPanel] += a^T b, for a as gather_units makes it and the kept rows of the
// panel b [units][kPanel]. They come into the L2 cache ahead of the products, and with the last of
// them the first of the panel `next`, which follows; unless it is null, where b is in there
// already, as what was just packed is.
template <typename T>
void fp(const T* a, int64_t rows, const T* b, Units units, Sum<T>* c, const T* next);

// Panels of gradients or weights [panel][rows][kPanel]; the rows of weights are units.
template <typename T>
struct Panels {
  const T* data;
  int64_t stride;  // from one panel to the next
  int64_t count;
  int64_t rows;
};

// The gradients g of a group's rows, at most kMaxGroupRows, in the order in which BP multiplies
// them: g itself or, for tiles, a copy of it in place of arranged_elements values.
template <typename T>
int64_t arranged_elements(int64_t rows, int64_t panels) {
  return kInTiles<T> ? panels * kPanel<T> * rows : 0;
}
template <typename T>
Panels<T> arrange(Panels<T> g, T* place);

// BP, figure 2b: the kept columns of dx (row stride lddx) += scale * g w^T, for arranged gradients
// g and the kept units of the weight w, which begins at unit first. Meanwhile `next`, the gradients
// that follow, of as many panels, come into the L2 cache; they may be of no rows. So do the weights
// ahead of their products, unless they are `cached` there.
template <typename T>
void bp(Panels<T> g, Panels<T> w, bool cached, int64_t first, Units units, Sum<T> scale, Sum<T>* dx,
        int64_t lddx, Panels<T> next);

// WG, figure 2c: the kept rows of d [units][kPanel] += a g, for a as gather_rows makes it and g
// [rows][kPanel], at most kMaxGroupRows rows.
template <typename T>
void wg(const T* a, int64_t rows, const T* g, Units units, Sum<T>* d);

}  // namespace structured_dropout
