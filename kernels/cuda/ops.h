// The operators cuda_* of kernels/cuda. sizes, bounds and masks as backends/cuda/masks.py packs
// them; plan as plan.py lays it out, queue as launch.py; all tensors on one device. Weights and
// gradients of weights are by unit inside: [in, out].
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace structured_dropout::cuda {

// y [rows, out] of x [rows, in], and the weight by unit, which BP reads again; dx; dweight [out,
// in] and dbias. All in float32.
std::tuple<at::Tensor, at::Tensor> linear_fp(const at::Tensor& x, const at::Tensor& weight,
                                             const std::optional<at::Tensor>& bias,
                                             at::IntArrayRef sizes, const at::Tensor& bounds,
                                             at::TensorList masks, at::IntArrayRef plan,
                                             at::IntArrayRef queue);
at::Tensor linear_bp(const at::Tensor& dy, const at::Tensor& by_unit, at::IntArrayRef sizes,
                     const at::Tensor& bounds, at::TensorList masks, at::IntArrayRef plan,
                     at::IntArrayRef queue);
std::tuple<at::Tensor, at::Tensor> linear_wg(const at::Tensor& x, const at::Tensor& dy,
                                             at::IntArrayRef sizes, const at::Tensor& bounds,
                                             at::TensorList masks, at::IntArrayRef plan,
                                             at::IntArrayRef queue);
at::Tensor by_unit(const at::Tensor& weight, at::IntArrayRef plan, at::IntArrayRef queue);

// One LSTM layer over a packed sequence; weights as flat_weights gives them. x is float32, or
// bfloat16: then the products are, with float32 sums. All else is float32.
//
// Returns y [rows, directions * hidden], like x; h_n, c_n [directions, batch, hidden]; and what the
// backward reads: activated gates [rows, directions, hidden, 4], cells [rows, directions, hidden],
// W by unit [in, directions * hidden * 4] and U by unit [directions, hidden, units, 4], both like
// x, with one unit of zeros at last where hidden is odd and vectors have the gates of two.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
lstm_fp(const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& c_0, at::TensorList weights,
        at::IntArrayRef sizes, const at::Tensor& bounds, at::TensorList masks, at::IntArrayRef plan,
        at::IntArrayRef queue);

// From the gradients of y, h_n and c_n (nullopt: zeros): dgates [rows, directions, hidden, 4],
// before the activations, and dx [rows, in], like W and U; dh_0 and dc_0 [directions, batch,
// hidden].
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm_bp(
    const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n,
    const std::optional<at::Tensor>& dc_n, const at::Tensor& c_0, const at::Tensor& gates,
    const at::Tensor& cells, const at::Tensor& w, const at::Tensor& u, at::IntArrayRef sizes,
    const at::Tensor& bounds, at::TensorList masks, at::IntArrayRef plan, at::IntArrayRef queue);

// By direction dW [4 * hidden, in], dU [4 * hidden, hidden] and the biases' [4 * hidden]. `before`
// has for each direction the place of h_{t-1} of each row: in y, or behind it in h_0; it is empty
// where all steps have the same rows.
std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>, std::vector<at::Tensor>> lstm_wg(
    const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& y, const at::Tensor& dgates,
    at::TensorList before, at::IntArrayRef sizes, const at::Tensor& bounds, at::TensorList masks,
    at::IntArrayRef plan, at::IntArrayRef queue);

// One kernel by itself; its tensors and its numbers, each in the order of its parameters.
void launch_kernel(int64_t number, at::IntArrayRef grid, at::IntArrayRef block,
                   int64_t shared_bytes, at::TensorList tensors, at::ArrayRef<at::Scalar> numbers,
                   at::IntArrayRef queue);

}  // namespace structured_dropout::cuda
