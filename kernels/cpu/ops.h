// The operators of torch.ops.structured_dropout; ops.cpp has their schemas,
// structured_dropout/backends/cpu/operators.py their autograd.
//
// sizes are the rows of each step of a packed sequence; masks are what unpack_masks (sequence.h)
// reads; weights are what LayerWeights (layer.h) reads.
//
// Activations (x, h0, c0, y, h_n, c_n and the gradients of all but weights) have one type: float32,
// float64 or bfloat16. Weights have it too or, beside bfloat16, are float32: its masters. What is
// summed (gates and cells, the gradients of weights) is float32 beside bfloat16.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace structured_dropout {

// y = (x * mask) weight^T + bias, its input gradient, and the gradients of weight and bias.
at::Tensor linear_fp(const at::Tensor& x, const at::Tensor& weight,
                     const std::optional<at::Tensor>& bias, at::IntArrayRef sizes,
                     at::TensorList masks);
at::Tensor linear_bp(const at::Tensor& dy, const at::Tensor& weight, at::IntArrayRef sizes,
                     at::TensorList masks);
std::tuple<at::Tensor, at::Tensor> linear_wg(const at::Tensor& x, const at::Tensor& dy,
                                             at::IntArrayRef sizes, at::TensorList masks);

// The same y, without bias, and input gradient for a weight that many calls share: packed by
// pack_weight, of so many outputs or units.
at::Tensor pack_weight(const at::Tensor& weight);
at::Tensor packed_fp(const at::Tensor& x, const at::Tensor& packed, int64_t outputs,
                     at::IntArrayRef sizes, at::TensorList masks);
at::Tensor packed_bp(const at::Tensor& dy, const at::Tensor& packed, int64_t units,
                     at::IntArrayRef sizes, at::TensorList masks);

// One LSTM layer over a packed sequence: y, h_n, c_n, and what its backward needs: recurrent
// weights, activated gates and cells, by panel.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm_fp(
    const at::Tensor& x, const at::Tensor& h0, const at::Tensor& c0, at::TensorList weights,
    at::IntArrayRef sizes, at::TensorList masks);

// The gradients of the gates' sums, by panel; of x, h0 and c0. Recurrent weights that were not kept
// are packed anew.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm_bp(
    const at::Tensor& x, const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n,
    const std::optional<at::Tensor>& dc_n, at::TensorList weights,
    const std::optional<at::Tensor>& recurrent, const at::Tensor& gates, const at::Tensor& cells,
    at::IntArrayRef sizes, at::TensorList masks);

// The gradients of w_ih, w_hh and either bias, by direction.
std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>, std::vector<at::Tensor>> lstm_wg(
    const at::Tensor& x, const at::Tensor& h0, const at::Tensor& y, const at::Tensor& dgates,
    at::IntArrayRef sizes, at::TensorList masks);

// For each row of logits [rows, classes] in bfloat16 the largest, and log(sum(exp(row - largest))),
// in float32: apart, since logits far from zero have few digits. Then the logits become scale
// (softmax - one_hot(targets)), the gradient of their cross-entropy; scale is float32 [rows].
std::tuple<at::Tensor, at::Tensor> cross_entropy_fp(const at::Tensor& logits);
void cross_entropy_bp_(at::Tensor& logits, const at::Tensor& targets, const at::Tensor& largest,
                       const at::Tensor& log_sum, const at::Tensor& scale);

// y [words, groups * filters] of x [rows, groups], weight [groups, width, filters] and the windows
// of each word [words], which lie one after the other; and the first row of the best window of
// each, by vector. Then the gradients of x and weight.
std::tuple<at::Tensor, at::Tensor> char_cnn_fp(const at::Tensor& x, const at::Tensor& weight,
                                               const at::Tensor& windows);
std::tuple<at::Tensor, at::Tensor> char_cnn_bp(const at::Tensor& dy, const at::Tensor& x,
                                               const at::Tensor& weight, const at::Tensor& windows,
                                               const at::Tensor& best);

}  // namespace structured_dropout
