// The operators of torch.ops.structured_dropout; ops.cpp has their schemas,
// structured_dropout/backends/cpu_ops.py their autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace structured_dropout {

// y = (x * mask) weight^T + bias, its input gradient, and the gradients of weight and bias.
at::Tensor linear_fp(const at::Tensor& x, const at::Tensor& weight,
                     const std::optional<at::Tensor>& bias, const at::Tensor& indices,
                     const at::Tensor& offsets, const at::Tensor& rows, double scale);
at::Tensor linear_bp(const at::Tensor& dy, const at::Tensor& weight, const at::Tensor& indices,
                     const at::Tensor& offsets, const at::Tensor& rows, double scale);
std::tuple<at::Tensor, at::Tensor> linear_wg(const at::Tensor& x, const at::Tensor& dy,
                                             const at::Tensor& indices, const at::Tensor& offsets,
                                             const at::Tensor& rows, double scale);

// One LSTM layer over a packed sequence: y, h_n, c_n, and what its backward needs: activated gates
// and cells by panel.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm_fp(
    const at::Tensor& x, const at::Tensor& h0, const at::Tensor& c0, at::TensorList w_ih,
    at::TensorList w_hh, at::TensorList b_ih, at::TensorList b_hh, const at::Tensor& batch_sizes,
    const std::optional<at::Tensor>& nr_indices, const std::optional<at::Tensor>& nr_offsets,
    int64_t nr_steps_per_draw, double nr_scale, at::TensorList rh_indices,
    at::TensorList rh_offsets, int64_t rh_steps_per_draw, double rh_scale);

// The gradients of the gates' sums, by panel; of x, h0 and c0.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm_bp(
    const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n,
    const std::optional<at::Tensor>& dc_n, at::TensorList w_ih, at::TensorList w_hh,
    const at::Tensor& gates, const at::Tensor& cells, const at::Tensor& batch_sizes,
    const std::optional<at::Tensor>& nr_indices, const std::optional<at::Tensor>& nr_offsets,
    int64_t nr_steps_per_draw, double nr_scale, at::TensorList rh_indices,
    at::TensorList rh_offsets, int64_t rh_steps_per_draw, double rh_scale);

// The gradients of w_ih, w_hh and either bias, by direction.
std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>, std::vector<at::Tensor>> lstm_wg(
    const at::Tensor& x, const at::Tensor& h0, const at::Tensor& y, const at::Tensor& dgates,
    const at::Tensor& batch_sizes, const std::optional<at::Tensor>& nr_indices,
    const std::optional<at::Tensor>& nr_offsets, int64_t nr_steps_per_draw, double nr_scale,
    at::TensorList rh_indices, at::TensorList rh_offsets, int64_t rh_steps_per_draw,
    double rh_scale);

// y [words, groups * filters] of x [rows, groups], weight [groups, width, filters] and the windows
// of each word [words], which lie one after the other; and the first row of the best window of
// each, by vector. Then the gradients of x and weight.
std::tuple<at::Tensor, at::Tensor> char_cnn_fp(const at::Tensor& x, const at::Tensor& weight,
                                               const at::Tensor& windows);
std::tuple<at::Tensor, at::Tensor> char_cnn_bp(const at::Tensor& dy, const at::Tensor& x,
                                               const at::Tensor& weight, const at::Tensor& windows,
                                               const at::Tensor& best);

}  // namespace structured_dropout
