// Cross-entropy of bfloat16 logits: all but the logits and their gradient, which takes their place,
// is float32.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "checks.h"
#include "operand.h"
#include "ops.h"
#include "parallel.h"
#include "simd.h"

namespace structured_dropout {
namespace {

using S = Simd<float>;
using O = Operand<BFloat16>;

constexpr double kCost = 4;  // of an exponential, in multiply-adds

// Calls f(offset, lanes) for the vectors of a row.
template <typename F>
void for_vectors(int64_t classes, F f) {
  int64_t i = 0;
  for (; i + S::kLanes <= classes; i += S::kLanes) f(i, S::kLanes);
  if (i < classes) f(i, classes - i);
}

float largest(const BFloat16* row, int64_t classes) {  // NaN if there is one
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  auto most = S::broadcast(lowest);
  for_vectors(classes, [&](int64_t i, int64_t lanes) {
    auto x = O::load_values(row + i, lanes);
    for (int64_t lane = lanes; lane < S::kLanes; ++lane) x[lane] = lowest;
    most = (x > most) | (x != x) ? x : most;
  });
  float result = lowest;
  for (int lane = 0; lane < S::kLanes; ++lane) {
    if (most[lane] > result || std::isnan(most[lane])) result = most[lane];
  }
  return result;
}

float sum_of_powers(const BFloat16* row, int64_t classes, float largest) {
  typename S::Vector sum{};
  for_vectors(classes, [&](int64_t i, int64_t lanes) {
    auto power = S::exp(O::load_values(row + i, lanes) - largest);
    for (int64_t lane = lanes; lane < S::kLanes; ++lane) power[lane] = 0;
    sum += power;
  });
  float total = 0;
  for (int lane = 0; lane < S::kLanes; ++lane) total += sum[lane];
  return total;
}

void check_logits(const at::Tensor& logits) {
  check_matrix("logits", logits);
  TORCH_CHECK(logits.is_cpu() && logits.scalar_type() == at::kBFloat16 && logits.is_contiguous(),
              "logits must be contiguous bfloat16 on the CPU, are ", logits.toString());
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> cross_entropy_fp(const at::Tensor& logits) {
  check_logits(logits);
  const int64_t rows = logits.size(0), classes = logits.size(1);
  const auto options = logits.options().dtype(at::kFloat);
  at::Tensor most = at::empty({rows}, options), log_sum = at::empty({rows}, options);
  const BFloat16* x = logits.const_data_ptr<BFloat16>();
  float *most_of = most.data_ptr<float>(), *log_sum_of = log_sum.data_ptr<float>();
  parallel(rows, kCost * classes, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      most_of[row] = largest(x + row * classes, classes);
      log_sum_of[row] = std::log(sum_of_powers(x + row * classes, classes, most_of[row]));
    }
  });
  return {most, log_sum};
}

void cross_entropy_bp_(at::Tensor& logits, const at::Tensor& targets_, const at::Tensor& most_,
                       const at::Tensor& log_sum_, const at::Tensor& scale_) {
  check_logits(logits);
  const int64_t rows = logits.size(0), classes = logits.size(1);
  check_shape("targets", targets_, {rows});
  check_shape("largest", most_, {rows});
  check_shape("log_sum", log_sum_, {rows});
  check_shape("scale", scale_, {rows});
  const at::Tensor targets = targets_.contiguous(), most = most_.contiguous(),
                   log_sum = log_sum_.contiguous(), scale = scale_.contiguous();
  BFloat16* x = logits.data_ptr<BFloat16>();
  const int64_t* target_of = targets.const_data_ptr<int64_t>();
  const float *most_of = most.const_data_ptr<float>(),
              *log_sum_of = log_sum.const_data_ptr<float>(),
              *scale_of = scale.const_data_ptr<float>();
  parallel(rows, kCost * classes, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t target = target_of[row];
      TORCH_CHECK(0 <= target && target < classes, "targets[", row, "] is ", target, ", there are ",
                  classes, " classes");
      BFloat16* own = x + row * classes;
      const float probability = std::exp((own[target] - most_of[row]) - log_sum_of[row]);
      for_vectors(classes, [&](int64_t i, int64_t lanes) {
        const auto exponent = (O::load_values(own + i, lanes) - most_of[row]) - log_sum_of[row];
        O::store_values(own + i, scale_of[row] * S::exp(exponent), lanes);
      });
      own[target] = scale_of[row] * (probability - 1);
    }
  });
}

}  // namespace structured_dropout
