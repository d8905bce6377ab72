// BP of all groups at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "groups.h"
#include "memory.h"
#include "pack.h"
#include "parallel.h"
#include "products.h"
#include "weights.h"

namespace structured_dropout {

// A block of weights stays in the L2 cache while all groups pass over it, beside the gradients of
// two: so many panels of so many units.
template <typename T>
constexpr int64_t kBlockPanels = 24 * Operand<T>::kDepth;
constexpr int64_t kBlockUnits = 121;
static_assert(panel_units(kBlockUnits) == kBlockUnits);

// dx [rows, units] += scale * gradients weight, kept units only; a thread owns a range of them.
// gradients(group, panel, count) gives so many panels of the gradients of a group's rows, which
// stay until it is called for the same group again.
template <typename T, typename Weight, typename Gradients>
void input_gradient(const Weight& weight, int64_t units, int64_t panels, const Groups& groups,
                    Sum<T> scale, const Gradients& gradients, Sum<T>* dx) {
  std::vector<int64_t> places = {0};
  for (const Group& g : groups)
    places.push_back(places.back() + arranged_elements<T>(g.rows, kBlockPanels<T>));
  const Scratch<T> place(places.back());
  std::vector<Panels<T>> arranged(groups.size());

  for_parts(0, panels, kBlockPanels<T>, [&](int64_t first_panel, int64_t last_panel) {
    const int64_t count = last_panel - first_panel;
    const double values = double(count) * kPanel<T> * kMaxGroupRows;
    parallel(groups.size(), values, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        arranged[i] = arrange(gradients(groups[i], first_panel, count), place.get() + places[i]);
    });
    const double cost = double(groups.elements()) / std::max<int64_t>(units, 1) * count * kPanel<T>;
    parallel(units, cost, [&](int64_t begin, int64_t end) {
      const Scratch<T> packed(kBlockPanels<T> * kBlockUnits * kPanel<T>);
      for_parts(begin, end, kBlockUnits, [&](int64_t first, int64_t last) {
        const Panels<T> w = weight(first_panel, count, first, last, packed.get());
        for (int64_t i = 0; i < groups.size(); ++i) {
          const Group& g = groups[i];
          const Panels<T> next =
              groups.size() > 1 ? arranged[(i + 1) % groups.size()] : Panels<T>{};
          bp(arranged[i], w, Weight::kCached, first, g.units.between(first, last), scale,
             dx + g.row * units, units, next);
        }
      });
    });
  });
}

}  // namespace structured_dropout
