// Around the body of an operator.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace structured_dropout::cuda {

// Inside, the tensor's device is the current one, and what torch computes there is neither
// differentiated nor cast: autocast would give a kernel tensors of half the size.
class Scope {
 public:
  explicit Scope(const at::Tensor& tensor) : device_(tensor.device()) {}

 private:
  c10::OptionalDeviceGuard device_;
  at::AutoDispatchBelowADInplaceOrView without_gradients_;
  c10::impl::ExcludeDispatchKeyGuard without_autocast_{c10::autocast_dispatch_keyset};
};

}  // namespace structured_dropout::cuda
