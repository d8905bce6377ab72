// BP of all groups at once.
#pragma once

#include <algorithm>
#include <cstdint>

#include "groups.h"
#include "memory.h"
#include "pack.h"
#include "parallel.h"
#include "products.h"

namespace structured_dropout {

// A block of weights stays in the L2 cache while all groups pass over it: so many panels of so many
// units.
template <typename T>
constexpr int64_t kBlockPanels = 20 * Operand<T>::kDepth;
constexpr int64_t kBlockUnits = 165;
static_assert(kBlockUnits % 2 == 1);

// dx [rows, units] += scale * gradients weight, kept units only; a thread owns a range of them.
// gradients() gives each thread a function of its own: (panel, count) to so many panels of the
// gradients [panel][rows][kPanel], which stay until the next call.
template <typename T, typename W, typename Gradients>
void input_gradient(const W* weight, int64_t units, const Columns<Sum<T>>& columns,
                    const Groups& groups, Sum<T> scale, Gradients gradients, Sum<T>* dx) {
  const int64_t panels = columns.panels();
  const double cost = double(groups.elements()) / std::max<int64_t>(units, 1) * panels * kPanel<T>;
  parallel(units, cost, [&](int64_t begin, int64_t end) {
    const auto gradients_of = gradients();
    const Scratch<T> weights(kBlockPanels<T> * kBlockUnits * kPanel<T>);
    for (int64_t panel = 0; panel < panels; panel += kBlockPanels<T>) {
      const int64_t count = std::min(kBlockPanels<T>, panels - panel);
      const Panels<T> rows = gradients_of(panel, count);
      for_parts(begin, end, kBlockUnits, [&](int64_t first, int64_t last) {
        // An odd number of units from panel to panel: else those of a power of two would all fall
        // into the same sets of the L1 cache.
        const Panels<T> w = {weights.get(), ((last - first) | 1) * kPanel<T>, count};
        for (int64_t p = 0; p < count; ++p) {
          pack_panel(weight, units, columns, panel + p, first, last, weights.get() + p * w.stride);
        }
        for (const Group& g : groups) {
          const Panels<T> d = {rows.data + g.row * kPanel<T>, rows.stride, count};
          bp(d, g.rows, w, first, g.units.between(first, last), scale, dx + g.row * units, units);
        }
      });
    }
  });
}

}  // namespace structured_dropout
