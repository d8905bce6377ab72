// Types of numbers by torch's names, for errors.
#pragma once

#include <c10/core/ScalarType.h>

#include <string>

namespace structured_dropout::cuda {

inline std::string dtype_name(c10::ScalarType type) {
  return std::string(c10::getDtypeNames(type).first);
}

}  // namespace structured_dropout::cuda
