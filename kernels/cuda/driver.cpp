// Launches by CUDA's driver, which is found at run time: a machine without a GPU has none.
#include <dlfcn.h>

#include <cstdio>
#include <type_traits>
#include <vector>

#include "launch.h"

namespace structured_dropout::cuda {

namespace {

// Of cuda.h, whose types these stand for: CUresult and CUdevice are int, the others pointers.
struct Driver {
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
                void**, void**);
  int (*launch_cooperative)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                            unsigned, void*, void**);
  int (*current_context)(void**);
  int (*set_context)(void*);
  int (*device)(int*, int);
  int (*primary_context)(void**, int);
  int (*describe)(int, const char**);

  Driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    TORCH_CHECK(library, "there is no CUDA driver: ", dlerror());
    const auto find = [&](auto& function, const char* name) {
      void* found = dlsym(library, name);
      TORCH_CHECK(found, "the CUDA driver has no ", name);
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(found);
    };
    find(launch, "cuLaunchKernel");
    find(launch_cooperative, "cuLaunchCooperativeKernel");
    find(current_context, "cuCtxGetCurrent");
    find(set_context, "cuCtxSetCurrent");
    find(device, "cuDeviceGet");
    find(primary_context, "cuDevicePrimaryCtxRetain");
    find(describe, "cuGetErrorString");
  }

  // A thread that torch has not used yet, such as one of autograd's, has no context: it gets the
  // primary one, which is torch's, and which nobody ever releases.
  int ensure_context(int index) const {
    void* context = nullptr;
    if (const int failed = current_context(&context)) return failed;
    if (context) return 0;
    int number = 0;
    if (const int failed = device(&number, index)) return failed;
    if (const int failed = primary_context(&context, number)) return failed;
    return set_context(context);
  }
};

}  // namespace

bool launch_by_driver(Launch* launch) {
  static const Driver driver;
  std::vector<void*> parameters;
  for (int64_t i = 0; i < launch->count; ++i)
    parameters.push_back(const_cast<const void**>(&launch->arguments[i].tensor));
  const auto [gx, gy, gz] = launch->grid;
  const auto [bx, by, bz] = launch->block;
  void* function = reinterpret_cast<void*>(launch->function);
  void* stream = reinterpret_cast<void*>(launch->stream);
  int failed = driver.ensure_context(int(launch->device));
  if (!failed && launch->cooperative) {
    failed = driver.launch_cooperative(function, gx, gy, gz, bx, by, bz, launch->shared_bytes,
                                       stream, parameters.data());
  } else if (!failed) {
    failed = driver.launch(function, gx, gy, gz, bx, by, bz, launch->shared_bytes, stream,
                           parameters.data(), nullptr);
  }
  if (!failed) return true;
  const char* text = nullptr;
  driver.describe(failed, &text);
  std::snprintf(launch->error, sizeof launch->error, "CUDA error %d: %s", failed,
                text ? text : "unknown");
  return false;
}

}  // namespace structured_dropout::cuda
