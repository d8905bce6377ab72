#include "ops.h"

#include <torch/library.h>

#include "launch.h"
#include "scope.h"

namespace structured_dropout::cuda {

void launch_kernel(int64_t number, at::IntArrayRef grid, at::IntArrayRef block,
                   int64_t shared_bytes, at::TensorList tensors, at::ArrayRef<at::Scalar> numbers,
                   at::IntArrayRef queue_numbers) {
  TORCH_CHECK(grid.size() == 3 && block.size() == 3, "a grid and a block have three sizes");
  TORCH_CHECK(!tensors.empty(), "a kernel runs on the device of its tensors: it has none");
  const Scope scope(tensors[0]);
  const Queue queue(queue_numbers, tensors[0].device());
  const Kernel& kernel = kernel_of(number);
  Arguments arguments(kernel, queue.device(), tensors.size() + numbers.size());
  for (const Parameter& parameter : kernel.parameters) {
    if (parameter.is_tensor()) {
      arguments.add(tensors.front());
      tensors = tensors.slice(1);
    } else if (numbers.front().isFloatingPoint()) {
      arguments.add(numbers.front().toDouble());
      numbers = numbers.slice(1);
    } else {
      arguments.add(numbers.front().toLong());
      numbers = numbers.slice(1);
    }
  }
  queue.launch(kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes,
               arguments);
}

}  // namespace structured_dropout::cuda

#define SEQUENCE "int[] sizes, Tensor bounds, Tensor[] masks"
#define WHERE "int[] plan, int[] queue"

TORCH_LIBRARY_FRAGMENT(structured_dropout, m) {
  m.def("cuda_linear_fp(Tensor x, Tensor weight, Tensor? bias, " SEQUENCE ", " WHERE
        ") -> (Tensor y, Tensor by_unit)");
  m.def("cuda_linear_bp(Tensor dy, Tensor by_unit, " SEQUENCE ", " WHERE ") -> Tensor");
  m.def("cuda_linear_wg(Tensor x, Tensor dy, " SEQUENCE ", " WHERE
        ") -> (Tensor dweight, Tensor dbias)");
  m.def("cuda_by_unit(Tensor weight, " WHERE ") -> Tensor");
  m.def("cuda_lstm_fp(Tensor x, Tensor h_0, Tensor c_0, Tensor[] weights, " SEQUENCE ", " WHERE
        ") -> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor cells, Tensor w, Tensor u)");
  m.def(
      "cuda_lstm_bp(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor c_0, Tensor gates, "
      "Tensor cells, Tensor w, Tensor u, " SEQUENCE ", " WHERE
      ") -> (Tensor dgates, Tensor dx, Tensor dh_0, Tensor dc_0)");
  m.def("cuda_lstm_wg(Tensor x, Tensor h_0, Tensor y, Tensor dgates, Tensor[] before, " SEQUENCE
        ", " WHERE ") -> (Tensor[] dw_ih, Tensor[] dw_hh, Tensor[] db)");
  m.def("cuda_kernel(int function, str name, bool cooperative, str[] parameters) -> int",
        structured_dropout::cuda::add_kernel);
  m.def(
      "cuda_launch(int kernel, int[] grid, int[] block, int shared_bytes, Tensor(a!)[] tensors, "
      "Scalar[] numbers, int[] queue) -> ()");
}

// On all devices: on the CPU the tests run them.
TORCH_LIBRARY_IMPL(structured_dropout, CompositeExplicitAutograd, m) {
  m.impl("cuda_linear_fp", structured_dropout::cuda::linear_fp);
  m.impl("cuda_linear_bp", structured_dropout::cuda::linear_bp);
  m.impl("cuda_linear_wg", structured_dropout::cuda::linear_wg);
  m.impl("cuda_by_unit", structured_dropout::cuda::by_unit);
  m.impl("cuda_lstm_fp", structured_dropout::cuda::lstm_fp);
  m.impl("cuda_lstm_bp", structured_dropout::cuda::lstm_bp);
  m.impl("cuda_lstm_wg", structured_dropout::cuda::lstm_wg);
  m.impl("cuda_launch", structured_dropout::cuda::launch_kernel);
}
