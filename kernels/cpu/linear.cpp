// A linear layer whose input was dropped by units: the softmax layer of a language model, for one.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <tuple>

#include "checks.h"
#include "gather.h"
#include "input_gradient.h"
#include "memory.h"
#include "ops.h"
#include "pack.h"
#include "parallel.h"
#include "products.h"
#include "sequence.h"

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

// One panel's columns of the rows of y [rows, outputs], to and from [rows][kPanel]; padding is
// zero.
template <typename T>
void load_panel(const T* y, int64_t outputs, int64_t panel, int64_t rows, T* out) {
  const int64_t columns = std::min(kPanel<T>, outputs - panel * kPanel<T>);
  for (int64_t row = 0; row < rows; ++row) {
    const T* from = y + row * outputs + panel * kPanel<T>;
    T* to = out + row * kPanel<T>;
    if (columns == kPanel<T>) {
      std::copy_n(from, kPanel<T>, to);
    } else {
      std::fill(std::copy_n(from, columns, to), to + kPanel<T>, T(0));
    }
  }
}

template <typename T>
void store_panel(const T* in, int64_t outputs, int64_t panel, int64_t rows, T* y) {
  const int64_t columns = std::min(kPanel<T>, outputs - panel * kPanel<T>);
  for (int64_t row = 0; row < rows; ++row) {
    T* to = y + row * outputs + panel * kPanel<T>;
    if (columns == kPanel<T>) {
      std::copy_n(in + row * kPanel<T>, kPanel<T>, to);
    } else {
      std::copy_n(in + row * kPanel<T>, columns, to);
    }
  }
}

template <typename T>
void fp(const T* x, const T* weight, const T* bias, int64_t rows, int64_t units, int64_t outputs,
        const Groups& groups, T scale, T* y) {
  const auto columns = Columns<T>::linear(outputs);
  const Scratch<T> gathered = gather_groups(row_pointers(x, rows, units), groups, scale);
  parallel(columns.panels(), double(groups.elements()) * kPanel<T>,
           [&](int64_t begin, int64_t end) {
             const Scratch<T> weights(units * kPanel<T>), sums(kMaxGroupRows * kPanel<T>),
                 biases(kPanel<T>);
             for (int64_t panel = begin; panel < end; ++panel) {
               pack_panel(weight, units, columns, panel, 0, units, weights.get());
               pack_vector(bias, columns, panel, biases.get());
               for (const Group& g : groups) {
                 for (int64_t row = 0; row < g.rows; ++row)
                   std::copy_n(biases.get(), kPanel<T>, sums.get() + row * kPanel<T>);
                 fp(gathered.get() + g.offset, g.rows, weights.get(), g.units, sums.get());
                 store_panel(sums.get(), outputs, panel, g.rows, y + g.row * outputs);
               }
             }
           });
}

template <typename T>
void bp(const T* dy, const T* weight, int64_t units, int64_t outputs, const Groups& groups, T scale,
        T* dx) {
  const auto gradients = [=](const Group& g, int64_t panel, int64_t count, T* scratch) {
    for (int64_t p = 0; p < count; ++p) {
      load_panel(dy + g.row * outputs, outputs, panel + p, g.rows,
                 scratch + p * g.rows * kPanel<T>);
    }
    return Panels<T>{scratch, g.rows * kPanel<T>, count};
  };
  input_gradient(weight, units, Columns<T>::linear(outputs), groups, scale, gradients, dx);
}

template <typename T>
void wg(const T* x, const T* dy, int64_t rows, int64_t units, int64_t outputs, const Groups& groups,
        T scale, T* dweight, T* dbias) {
  const auto columns = Columns<T>::linear(outputs);
  const Scratch<T> gathered = gather_groups(row_pointers(x, rows, units), groups, scale);
  parallel(columns.panels(), double(groups.elements()) * kPanel<T>,
           [&](int64_t begin, int64_t end) {
             const Scratch<T> sums(units * kPanel<T>), gradients(kMaxGroupRows * kPanel<T>),
                 biases(kPanel<T>);
             for (int64_t panel = begin; panel < end; ++panel) {
               std::fill_n(sums.get(), units * kPanel<T>, T(0));
               std::fill_n(biases.get(), kPanel<T>, T(0));
               for (const Group& g : groups) {
                 load_panel(dy + g.row * outputs, outputs, panel, g.rows, gradients.get());
                 for (int64_t row = 0; row < g.rows; ++row) {
                   for (int64_t i = 0; i < kPanel<T>; ++i)
                     biases.get()[i] += gradients.get()[row * kPanel<T> + i];
                 }
                 wg(gathered.get() + g.offset, g.rows, gradients.get(), g.units, sums.get());
               }
               unpack_panel(sums.get(), units, columns, panel, dweight);
               unpack_vector(biases.get(), columns, panel, dbias);
             }
           });
}

}  // namespace

at::Tensor linear_fp(const at::Tensor& x_, const at::Tensor& weight_,
                     const std::optional<at::Tensor>& bias_, at::IntArrayRef sizes,
                     at::TensorList masks) {
  check_float("x", x_);
  check_matrix("x", x_);
  check_matrix("weight", weight_);
  const int64_t units = x_.size(1), outputs = weight_.size(0);
  check_like("weight", weight_, x_, {outputs, units});
  if (bias_) check_like("bias", *bias_, x_, {outputs});
  const at::Tensor x = x_.contiguous(), weight = weight_.contiguous();
  const at::Tensor bias = bias_ ? bias_->contiguous() : at::Tensor();
  const StepMask mask = input_mask("x", x, sizes, masks, units);
  at::Tensor y = empty({x.size(0), outputs}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "linear_fp", [&] {
    fp<scalar_t>(x.const_data_ptr<scalar_t>(), weight.const_data_ptr<scalar_t>(),
                 bias.defined() ? bias.const_data_ptr<scalar_t>() : nullptr, x.size(0), units,
                 outputs, mask.sequence(), mask.scale(), y.data_ptr<scalar_t>());
  });
  return y;
}

at::Tensor linear_bp(const at::Tensor& dy_, const at::Tensor& weight_, at::IntArrayRef sizes,
                     at::TensorList masks) {
  check_float("dy", dy_);
  check_matrix("dy", dy_);
  check_matrix("weight", weight_);
  const int64_t units = weight_.size(1), outputs = dy_.size(1);
  check_like("weight", weight_, dy_, {outputs, units});
  const at::Tensor dy = dy_.contiguous(), weight = weight_.contiguous();
  const StepMask mask = input_mask("dy", dy, sizes, masks, units);
  at::Tensor dx = at::zeros({dy.size(0), units}, dy.options());
  AT_DISPATCH_FLOATING_TYPES(dy.scalar_type(), "linear_bp", [&] {
    bp<scalar_t>(dy.const_data_ptr<scalar_t>(), weight.const_data_ptr<scalar_t>(), units, outputs,
                 mask.sequence(), mask.scale(), dx.data_ptr<scalar_t>());
  });
  return dx;
}

std::tuple<at::Tensor, at::Tensor> linear_wg(const at::Tensor& x_, const at::Tensor& dy_,
                                             at::IntArrayRef sizes, at::TensorList masks) {
  check_float("x", x_);
  check_matrix("x", x_);
  check_matrix("dy", dy_);
  const int64_t units = x_.size(1), outputs = dy_.size(1);
  check_like("dy", dy_, x_, {x_.size(0), outputs});
  const at::Tensor x = x_.contiguous(), dy = dy_.contiguous();
  const StepMask mask = input_mask("x", x, sizes, masks, units);
  at::Tensor dweight = empty({outputs, units}, x.options()), dbias = empty({outputs}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "linear_wg", [&] {
    wg<scalar_t>(x.const_data_ptr<scalar_t>(), dy.const_data_ptr<scalar_t>(), x.size(0), units,
                 outputs, mask.sequence(), mask.scale(), dweight.data_ptr<scalar_t>(),
                 dbias.data_ptr<scalar_t>());
  });
  return {dweight, dbias};
}

}  // namespace structured_dropout
