// A linear layer whose input was dropped by units: the softmax layer of a language model, for one.
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <tuple>

#include "checks.h"
#include "dispatch.h"
#include "gather.h"
#include "input_gradient.h"
#include "memory.h"
#include "ops.h"
#include "pack.h"
#include "parallel.h"
#include "products.h"
#include "sequence.h"
#include "weight_gradient.h"
#include "weights.h"

namespace structured_dropout {
namespace {

// The mask of the input of a product over these rows of a sequence.
StepMask input_mask(const char* name, const at::Tensor& rows, at::IntArrayRef sizes,
                    at::TensorList masks, int64_t units) {
  const Sequence sequence(sizes);
  TORCH_CHECK(sequence.rows() == rows.size(0), name, " has ", rows.size(0),
              " rows, the steps of sizes have ", sequence.rows());
  return unpack_masks(sequence, masks, units)[0];
}

template <typename T>
void check_packed(const at::Tensor& packed, const at::Tensor& activations, int64_t units,
                  int64_t outputs) {
  check_like("packed", packed, activations,
             {Columns<Sum<T>>::linear(outputs).panels(), panel_units(units), kPanel<T>});
  TORCH_CHECK(packed.is_contiguous(), "packed is not what pack_weight gives: it has strides ",
              packed.strides());
}

// A few panels at a time of y [rows, outputs], as [panel][rows][kPanel]; padding is zero.
template <typename T>
class PanelsOf {
  using O = Operand<T>;

 public:
  PanelsOf(const T* y, int64_t rows, int64_t outputs, int64_t most)
      : y_(y),
        rows_(rows),
        outputs_(outputs),
        columns_(Columns<Sum<T>>::linear(outputs)),
        panels_(most * rows * kPanel<T>) {}

  // The rows [row, row + rows) of the panels from `first` on; they stay until the next call for
  // these rows.
  Panels<T> operator()(int64_t row, int64_t rows, int64_t first, int64_t count) const {
    const int64_t stride = rows_ * kPanel<T>;
    T* const panels = panels_.get() + row * kPanel<T>;
    for (int64_t i = 0; i < rows; ++i) {  // a row's columns lie side by side in y
      for (int64_t p = 0; p < count; ++p) {
        const int64_t column = columns_.first(first + p, 0);
        for (int64_t c = 0; c < kPanel<T>; c += O::kLanes) {
          const int64_t values = std::clamp<int64_t>(outputs_ - column - c, 0, O::kLanes);
          O::store(panels + p * stride + i * kPanel<T> + c,
                   O::load_columns(y_ + (row + i) * outputs_ + column + c, values));
        }
      }
    }
    return {panels, stride, count, rows};
  }

 private:
  const T* y_;
  int64_t rows_, outputs_;
  Columns<Sum<T>> columns_;
  Scratch<T> panels_;
};

// The way back for the sums of some rows [rows][kPanel].
template <typename T>
void store_panel(const Sum<T>* sums, const Columns<Sum<T>>& columns, int64_t outputs, int64_t panel,
                 int64_t rows, T* y) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int v = 0; v < kPanelVectors; ++v) {
      const auto values = Simd<Sum<T>>::load(sums + row * kPanel<T> + v * kSumLanes<T>);
      Operand<T>::store_values(y + row * outputs + columns.first(panel, v), values,
                               columns.count(panel, v));
    }
  }
}

// FP takes so many panels at once. The kept inputs of a group, which tiles read from the L2 cache,
// then come from the L1 cache for all but the first.
template <typename T>
constexpr int64_t kFpPanels = kInTiles<T> ? 4 : 1;

template <typename T, typename Weight, typename Bias>
void fp(const T* x, const Weight& weight, const Bias* bias, int64_t rows, int64_t units,
        int64_t outputs, const Groups& groups, Sum<T> scale, T* y) {
  const auto columns = Columns<Sum<T>>::linear(outputs);
  const Scratch<T> gathered =
      gather_groups(row_pointers(x, rows, units), groups, scale, gather_units<T>);
  parallel(
      columns.panels(), double(groups.elements()) * kPanel<T>, [&](int64_t begin, int64_t end) {
        const Scratch<T> packed(kFpPanels<T> * panel_units(units) * kPanel<T>);
        const Scratch<Sum<T>> sums(kMaxGroupRows * kPanel<T>), biases(kFpPanels<T> * kPanel<T>);
        const auto product = [&](const Group& g, int64_t panel, const T* w, const Sum<T>* b,
                                 const T* next) {
          for (int64_t row = 0; row < g.rows; ++row) {
            prefetch_to_write<kPanel<T>>(y + (g.row + row) * outputs + panel * kPanel<T>);
            std::copy_n(b, kPanel<T>, sums.get() + row * kPanel<T>);
          }
          fp(gathered.get() + g.offset, g.rows, w, g.units, sums.get(), next);
          store_panel(sums.get(), columns, outputs, panel, g.rows, y + g.row * outputs);
        };
        for_parts(begin, end, kFpPanels<T>, [&](int64_t first, int64_t last) {
          const int64_t count = last - first;
          const Panels<T> weights = weight(first, count, 0, units, packed.get());
          for (int64_t p = 0; p < count; ++p)
            pack_vector(bias, columns, first + p, biases.get() + p * kPanel<T>);
          for (const Group& g : groups) {
            for (int64_t p = 0; p < count; ++p) {
              const T* w = weights.data + p * weights.stride;
              const T* next = first + p + 1 < end ? w + weights.stride : w;
              product(g, first + p, w, biases.get() + p * kPanel<T>,
                      Weight::kCached ? nullptr : next);
            }
          }
        });
      });
}

template <typename T, typename Weight>
void bp(const T* dy, const Weight& weight, int64_t rows, int64_t units, int64_t outputs,
        const Groups& groups, Sum<T> scale, Sum<T>* dx) {
  const PanelsOf<T> panels(dy, rows, outputs, kBlockPanels<T>);
  const auto gradients = [&](const Group& g, int64_t panel, int64_t count) {
    return panels(g.row, g.rows, panel, count);
  };
  input_gradient<T>(weight, units, Columns<Sum<T>>::linear(outputs).panels(), groups, scale,
                    gradients, dx);
}

template <typename T>
void wg(const T* x, const T* dy, int64_t rows, int64_t units, int64_t outputs, const Groups& groups,
        Sum<T> scale, Sum<T>* dweight, Sum<T>* dbias) {
  const auto columns = Columns<Sum<T>>::linear(outputs);
  const KeptInputs<T> inputs(row_pointers(x, rows, units), groups, scale, units);
  parallel(columns.panels(), inputs.cost(), [&](int64_t begin, int64_t end) {
    const PanelsOf<T> gradients(dy, rows, outputs, 1);
    const Scratch<Sum<T>> sums = inputs.room(), biases(kPanel<T>);
    for (int64_t panel = begin; panel < end; ++panel) {
      const T* g = gradients(0, rows, panel, 1).data;
      inputs.weight_gradient(g, columns, panel, sums.get(), dweight);
      std::fill_n(biases.get(), kPanel<T>, Sum<T>(0));
      add_rows(g, rows, biases.get());
      unpack_vector(biases.get(), columns, panel, dbias);
    }
  });
}

}  // namespace

at::Tensor linear_fp(const at::Tensor& x_, const at::Tensor& weight_,
                     const std::optional<at::Tensor>& bias_, at::IntArrayRef sizes,
                     at::TensorList masks) {
  check_activations("x", x_);
  check_matrix("x", x_);
  check_matrix("weight", weight_);
  const int64_t units = x_.size(1), outputs = weight_.size(0);
  check_weight("weight", weight_, x_, {outputs, units});
  if (bias_) check_like("bias", *bias_, weight_, {outputs});
  const at::Tensor x = x_.contiguous(), weight = weight_.contiguous();
  const at::Tensor bias = bias_ ? bias_->contiguous() : at::Tensor();
  const StepMask mask = input_mask("x", x, sizes, masks, units);
  at::Tensor y = empty({x.size(0), outputs}, x.options());
  dispatch(x, weight, [&]<typename T, typename W>() {
    const PlainWeight<T, W> plain = {weight.const_data_ptr<W>(), units,
                                     Columns<Sum<T>>::linear(outputs)};
    fp(x.const_data_ptr<T>(), plain, bias.defined() ? bias.const_data_ptr<W>() : nullptr, x.size(0),
       units, outputs, mask.sequence(), mask.scale(), y.data_ptr<T>());
  });
  return y;
}

at::Tensor linear_bp(const at::Tensor& dy_, const at::Tensor& weight_, at::IntArrayRef sizes,
                     at::TensorList masks) {
  check_activations("dy", dy_);
  check_matrix("dy", dy_);
  check_matrix("weight", weight_);
  const int64_t units = weight_.size(1), outputs = dy_.size(1);
  check_weight("weight", weight_, dy_, {outputs, units});
  const at::Tensor dy = dy_.contiguous(), weight = weight_.contiguous();
  const StepMask mask = input_mask("dy", dy, sizes, masks, units);
  at::Tensor dx = at::zeros({dy.size(0), units}, dy.options().dtype(sum_type(dy)));
  dispatch(dy, weight, [&]<typename T, typename W>() {
    const PlainWeight<T, W> plain = {weight.const_data_ptr<W>(), units,
                                     Columns<Sum<T>>::linear(outputs)};
    bp(dy.const_data_ptr<T>(), plain, dy.size(0), units, outputs, mask.sequence(), mask.scale(),
       dx.data_ptr<Sum<T>>());
  });
  return dx.to(dy.scalar_type());
}

at::Tensor pack_weight(const at::Tensor& weight_) {
  check_matrix("weight", weight_);
  const at::Tensor weight = weight_.contiguous();
  const int64_t units = weight.size(1);
  at::Tensor packed;
  dispatch(weight, [&]<typename T>() {
    const auto columns = Columns<Sum<T>>::linear(weight.size(0));
    packed = empty({columns.panels(), panel_units(units), kPanel<T>}, weight.options());
    const PlainWeight<T, T> plain = {weight.const_data_ptr<T>(), units, columns};
    parallel(columns.panels(), double(units) * kPanel<T>, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel)
        plain(panel, 1, 0, units, packed.data_ptr<T>() + panel * panel_units(units) * kPanel<T>);
    });
  });
  return packed;
}

at::Tensor packed_fp(const at::Tensor& x_, const at::Tensor& packed, int64_t outputs,
                     at::IntArrayRef sizes, at::TensorList masks) {
  check_activations("x", x_);
  check_matrix("x", x_);
  const at::Tensor x = x_.contiguous();
  const int64_t units = x.size(1);
  const StepMask mask = input_mask("x", x, sizes, masks, units);
  at::Tensor y = empty({x.size(0), outputs}, x.options());
  dispatch(x, [&]<typename T>() {
    check_packed<T>(packed, x, units, outputs);
    const PackedWeight<T> weight = {packed.const_data_ptr<T>(), units};
    const T* no_bias = nullptr;
    fp(x.const_data_ptr<T>(), weight, no_bias, x.size(0), units, outputs, mask.sequence(),
       mask.scale(), y.data_ptr<T>());
  });
  return y;
}

at::Tensor packed_bp(const at::Tensor& dy_, const at::Tensor& packed, int64_t units,
                     at::IntArrayRef sizes, at::TensorList masks) {
  check_activations("dy", dy_);
  check_matrix("dy", dy_);
  const at::Tensor dy = dy_.contiguous();
  const int64_t outputs = dy.size(1);
  const StepMask mask = input_mask("dy", dy, sizes, masks, units);
  at::Tensor dx = at::zeros({dy.size(0), units}, dy.options().dtype(sum_type(dy)));
  dispatch(dy, [&]<typename T>() {
    check_packed<T>(packed, dy, units, outputs);
    const PackedWeight<T> weight = {packed.const_data_ptr<T>(), units};
    bp(dy.const_data_ptr<T>(), weight, dy.size(0), units, outputs, mask.sequence(), mask.scale(),
       dx.data_ptr<Sum<T>>());
  });
  return dx.to(dy.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> linear_wg(const at::Tensor& x_, const at::Tensor& dy_,
                                             at::IntArrayRef sizes, at::TensorList masks) {
  check_activations("x", x_);
  check_matrix("x", x_);
  check_matrix("dy", dy_);
  const int64_t units = x_.size(1), outputs = dy_.size(1);
  check_like("dy", dy_, x_, {x_.size(0), outputs});
  const at::Tensor x = x_.contiguous(), dy = dy_.contiguous();
  const StepMask mask = input_mask("x", x, sizes, masks, units);
  const auto summed = x.options().dtype(sum_type(x));
  at::Tensor dweight = empty({outputs, units}, summed), dbias = empty({outputs}, summed);
  dispatch(x, [&]<typename T>() {
    wg(x.const_data_ptr<T>(), dy.const_data_ptr<T>(), x.size(0), units, outputs, mask.sequence(),
       mask.scale(), dweight.data_ptr<Sum<T>>(), dbias.data_ptr<Sum<T>>());
  });
  return {dweight, dbias};
}

}  // namespace structured_dropout
