#include "launch.h"

#include <deque>
#include <limits>
#include <mutex>
#include <sstream>

#include "dtype.h"

namespace structured_dropout::cuda {

namespace {

std::mutex kernels_lock;
std::deque<Kernel> kernels;  // which leaves its elements where they are

std::optional<at::ScalarType> type_of(char kind) {
  switch (kind) {
    case 'f':
      return at::kFloat;
    case 'b':
      return at::kBFloat16;
    case 'i':
      return at::kInt;
    case 'l':
      return at::kLong;
    default:
      return std::nullopt;
  }
}

}  // namespace

int64_t add_kernel(int64_t function, std::string name, bool cooperative,
                   std::vector<std::string> parameters) {
  Kernel kernel = {function, std::move(name), cooperative, {}};
  for (const std::string& parameter : parameters)
    kernel.parameters.push_back({parameter.at(0), parameter.substr(2)});
  const std::lock_guard<std::mutex> guard(kernels_lock);
  kernels.push_back(std::move(kernel));
  return int64_t(kernels.size()) - 1;
}

const Kernel& kernel_of(int64_t number) {
  const std::lock_guard<std::mutex> guard(kernels_lock);
  return kernels.at(number);
}

Arguments::Arguments(const Kernel& kernel, at::Device device, size_t count)
    : kernel_(kernel), device_(device) {
  TORCH_CHECK_TYPE(count == kernel.parameters.size(), "kernel ", kernel.name, " takes ",
                   kernel.parameters.size(), " arguments, not ", count);
  all_.reserve(count);
}

void Arguments::add(const at::Tensor& tensor) {
  const Parameter& parameter = next();
  const std::optional<at::ScalarType> type = type_of(parameter.kind);
  const bool fits =
      type && (!tensor.defined() || (tensor.scalar_type() == *type && tensor.device() == device_ &&
                                     tensor.is_contiguous()));
  if (!fits) {
    if (!tensor.defined()) refuse("null");
    std::ostringstream given;
    given << "a torch." << dtype_name(tensor.scalar_type()) << " tensor on " << tensor.device()
          << " of strides " << tensor.strides();
    refuse(given.str());
  }
  const int64_t bytes = tensor.defined() ? int64_t(tensor.nbytes()) : 0;
  const void* memory = tensor.defined() ? tensor.data_ptr() : nullptr;
  all_.push_back({.kind = parameter.kind, .bytes = bytes, .tensor = memory});
}

void Arguments::add(int64_t number) {
  using Limits = std::numeric_limits<int32_t>;
  if (next().kind != 'I' || number < Limits::min() || number > Limits::max())
    refuse(std::to_string(number));
  all_.push_back({.kind = 'I', .bytes = 0, .integer = int32_t(number)});
}

void Arguments::add(double number) {
  if (next().kind != 'F') refuse(std::to_string(number));
  all_.push_back({.kind = 'F', .bytes = 0, .real = float(number)});
}

void Arguments::refuse(const std::string& given) const {
  const Parameter& parameter = next();
  std::ostringstream wanted;
  if (const auto type = type_of(parameter.kind)) {
    wanted << "a contiguous torch." << dtype_name(*type) << " tensor on " << device_;
  } else {
    wanted << (parameter.kind == 'I' ? "a 32-bit int" : "a float");
  }
  TORCH_CHECK_TYPE(false, "kernel ", kernel_.name, ": ", parameter.name, " must be ", wanted.str(),
                   ", it is ", given);
}

Queue::Queue(at::IntArrayRef numbers, at::Device device) : device_(device) {
  TORCH_CHECK(numbers.size() == 2, "a queue is a launcher and a stream, not ", numbers.size(),
              " numbers");
  launcher_ = numbers[0] == 0 ? launch_by_driver : reinterpret_cast<Launcher>(numbers[0]);
  stream_ = numbers[1];
}

void Queue::launch(const Kernel& kernel, Size grid, Size block, int64_t shared_bytes,
                   const Arguments& arguments) const {
  Launch launch = {
      .function = kernel.function,
      .cooperative = kernel.cooperative,
      .device = device_.index(),
      .stream = stream_,
      .grid = grid,
      .block = block,
      .shared_bytes = shared_bytes,
      .count = int64_t(arguments.all().size()),
      .arguments = arguments.all().data(),
  };
  TORCH_CHECK(launcher_(&launch), "kernel ", kernel.name, ": ", launch.error);
}

}  // namespace structured_dropout::cuda
