// Where a product finds its weights by panel: packed as they are needed, or once for many products.
#pragma once

#include <cstdint>

#include "pack.h"
#include "products.h"

namespace structured_dropout {

// A weight [columns, units] in torch's layout.
template <typename T, typename W>
struct PlainWeight {
  static constexpr bool kCached = true;  // its panels, packed just before

  const W* data;
  int64_t units;
  Columns<Sum<T>> columns;

  // So many panels of the units [first, last), in `place`, which has room for panel_units of them
  // in each.
  Panels<T> operator()(int64_t panel, int64_t count, int64_t first, int64_t last, T* place) const {
    const Panels<T> panels = {place, panel_units(last - first) * kPanel<T>, count, last - first};
    for (int64_t p = 0; p < count; ++p)
      pack_panel(data, units, columns, panel + p, first, last, place + p * panels.stride);
    return panels;
  }
};

// A weight as pack_weight (ops.h) makes it: [panels][panel_units][kPanel].
template <typename T>
struct PackedWeight {
  static constexpr bool kCached = false;

  const T* data;
  int64_t units;

  Panels<T> operator()(int64_t panel, int64_t count, int64_t first, int64_t last, T*) const {
    const int64_t stride = panel_units(units) * kPanel<T>;
    return {data + panel * stride + first * kPanel<T>, stride, count, last - first};
  }
};

}  // namespace structured_dropout
