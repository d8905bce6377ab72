// Launches of the kernels, each argument held against the parameter that takes it: a kernel would
// read whatever bytes are there.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

namespace structured_dropout::cuda {

struct Size {
  int64_t x = 1, y = 1, z = 1;
};

// What a kernel's parameter gets: of kind f(loat32), b(float16), i(nt32) or l(ong) a tensor of so
// many bytes, or null; of kind F(loat32) or I(nt32) a number.
//
// Launchers read this and Launch; one of them is Python (tests/cuda_shim).
struct Argument {
  char kind;
  int64_t bytes;
  union {
    const void* tensor;
    float real;
    int32_t integer;
  };
};

struct Launch {
  int64_t function;  // what the launcher calls the kernel
  bool cooperative;
  int64_t device, stream;
  Size grid, block;
  int64_t shared_bytes;
  int64_t count;
  const Argument* arguments;
  char error[1024];  // why it failed
};

// Queues a kernel; says whether it could.
using Launcher = bool (*)(Launch*);

bool launch_by_driver(Launch* launch);  // on a GPU

struct Parameter {
  char kind;  // as an argument's
  std::string name;

  bool is_tensor() const { return kind != 'F' && kind != 'I'; }
};

// A compiled kernel.
struct Kernel {
  int64_t function;
  std::string name;
  bool cooperative;
  std::vector<Parameter> parameters;
};

// Parameters are texts of a kind and a name. Returns the number of the kernel in plans.
int64_t add_kernel(int64_t function, std::string name, bool cooperative,
                   std::vector<std::string> parameters);
const Kernel& kernel_of(int64_t number);

// So many arguments of a kernel, in order; throws TypeError where one does not fit.
class Arguments {
 public:
  Arguments(const Kernel& kernel, at::Device device, size_t count);

  void add(const at::Tensor& tensor);
  void add(const std::optional<at::Tensor>& tensor) { add(tensor.value_or(at::Tensor())); }
  void add(int64_t number);
  void add(double number);

  const std::vector<Argument>& all() const { return all_; }

 private:
  const Parameter& next() const { return kernel_.parameters[all_.size()]; }
  [[noreturn]] void refuse(const std::string& given) const;

  const Kernel& kernel_;
  at::Device device_;
  std::vector<Argument> all_;
};

// Where kernels are queued: the address of a Launcher, 0 for the GPU's driver, and the stream, as
// backends/cuda/launch.py gives them.
class Queue {
 public:
  Queue(at::IntArrayRef numbers, at::Device device);

  at::Device device() const { return device_; }
  void launch(const Kernel& kernel, Size grid, Size block, int64_t shared_bytes,
              const Arguments& arguments) const;

 private:
  Launcher launcher_;
  int64_t stream_;
  at::Device device_;
};

// Tensors (undefined ones and nullopt for a null pointer), integers and floating-point numbers.
template <typename... Values>
void launch(const Queue& queue, int64_t number, Size grid, Size block, int64_t shared_bytes,
            const Values&... values) {
  const Kernel& kernel = kernel_of(number);
  Arguments arguments(kernel, queue.device(), sizeof...(values));
  (arguments.add(values), ...);
  queue.launch(kernel, grid, block, shared_bytes, arguments);
}

}  // namespace structured_dropout::cuda
