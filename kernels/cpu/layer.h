// Shapes and masks of one LSTM layer, and the layouts of what its three phases share.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "pack.h"
#include "sequence.h"

namespace structured_dropout {

// A layer's parameters, by direction, from torch's flat list of them: w_ih, w_hh and, unless the
// layer has no biases, b_ih and b_hh of each direction.
struct LayerWeights {
  LayerWeights(at::TensorList flat, int64_t directions);

  int64_t input() const { return w_ih[0].size(1); }
  int64_t hidden() const { return w_hh[0].size(1); }

  // Throws unless they have the shapes of one layer and one type, which goes with such activations.
  void check(const at::Tensor& activations, int64_t input, int64_t hidden) const;

  std::vector<at::Tensor> w_ih, w_hh, b_ih, b_hh;
};

struct Layer {
  // masks are those of the input and of each direction's recurrent state, as unpack_masks takes
  // them.
  Layer(int64_t input, int64_t hidden, int64_t directions, at::IntArrayRef sizes,
        at::TensorList masks);
  Layer(const Layer&) = delete;  // orders refer to sequence

  int64_t directions() const { return orders.size(); }
  int64_t rows() const { return sequence.rows(); }
  int64_t batch() const { return sequence.batch(); }
  const StepMask& nr() const { return masks[0]; }               // of the input
  const StepMask& rh(int64_t d) const { return masks[1 + d]; }  // of the recurrent state

  int64_t input, hidden;
  Sequence sequence;
  std::vector<StepMask> masks;
  std::vector<Order> orders;  // by direction
};

// Everything of a step is stored by panel, so that the thread that owns a panel runs it from the
// products to the cells without waiting for others. A panel has the four gates of as many hidden
// units as a vector has lanes.
template <typename T>
struct Layout {
  explicit Layout(const Layer& layer)
      : columns(Columns<Sum<T>>::gates(layer.hidden)),
        panels(columns.panels()),
        directions(layer.directions()),
        hidden(layer.hidden),
        rows(layer.rows()),
        batch(layer.batch()) {}

  static constexpr int64_t kLanes = kSumLanes<T>;

  // Gates, or their gradients: [directions][panels][rows][kPanel].
  int64_t gates(int64_t d, int64_t panel, int64_t row) const {
    return ((d * panels + panel) * rows + row) * kPanel<T>;
  }

  // Cells: [directions][panels][rows + batch][lanes]; the initial states of the batch follow the
  // sequence.
  int64_t cells(int64_t d, int64_t panel, int64_t row) const {
    return ((d * panels + panel) * (rows + batch) + row) * kLanes;
  }

  // Packed recurrent weights: [directions][panels][panel_units][kPanel].
  int64_t recurrent(int64_t d, int64_t panel) const {
    return (d * panels + panel) * panel_units(hidden) * kPanel<T>;
  }

  // Hidden units of a panel that exist; the other lanes are padding.
  int64_t units(int64_t panel) const { return columns.count(panel, 0); }

  Columns<Sum<T>> columns;
  int64_t panels, directions, hidden, rows, batch;
};

// A panel of the recurrent weights, to its place in out. The row of zeros that makes its stride odd
// is never read; but out is what an operator returns.
template <typename T, typename W>
void pack_recurrent(const Layout<T>& layout, const W* w_hh, int64_t d, int64_t panel, T* out) {
  T* const to = out + layout.recurrent(d, panel);
  pack_panel(w_hh, layout.hidden, layout.columns, panel, 0, layout.hidden, to);
  std::fill(to + layout.hidden * kPanel<T>, to + panel_units(layout.hidden) * kPanel<T>, T(0));
}

// Tensors in memory order, and where each begins; null if there are none.
template <typename T>
class Pointers {
 public:
  explicit Pointers(at::TensorList tensors) {
    for (const at::Tensor& tensor : tensors) tensors_.push_back(tensor.contiguous());
  }
  explicit Pointers(const std::optional<at::Tensor>& tensor) {
    if (tensor) tensors_.push_back(tensor->contiguous());
  }
  const T* operator[](size_t i) const {
    return i < tensors_.size() ? tensors_[i].const_data_ptr<T>() : nullptr;
  }

 private:
  std::vector<at::Tensor> tensors_;
};

// A thread's share [begin, end) of the panels of all directions: f(direction, first panel, last
// panel) for each.
template <typename F>
void by_direction(int64_t panels, int64_t begin, int64_t end, F f) {
  for (int64_t d = begin / panels; d * panels < end; ++d) {
    f(d, std::max<int64_t>(begin - d * panels, 0), std::min(end - d * panels, panels));
  }
}

// For each row of the sequence the row of the cells that it starts from.
std::vector<int64_t> previous_cells(const Layer& layer, int64_t d);

// For each row of the sequence the hidden state [hidden] that it starts from, in h0 or y.
template <typename T>
std::vector<const T*> previous_states(const Layer& layer, int64_t d, const T* h0, const T* y) {
  std::vector<const T*> states;
  for (const int64_t row : previous_cells(layer, d)) {
    const int64_t b = row - layer.rows();
    states.push_back(b < 0 ? y + (row * layer.directions() + d) * layer.hidden
                           : h0 + (d * layer.batch() + b) * layer.hidden);
  }
  return states;
}

// What a panel costs in one step, in multiply-adds; a vector of cells is worth some.
template <typename T>
double step_cost(const Layer& layer, int64_t t) {
  constexpr double cell = 2000;
  return double(layer.rh(0).step(t).elements()) * kPanel<T> + cell * layer.sequence.size(t);
}

}  // namespace structured_dropout
