// Cross-entropy of bfloat16 logits: all but the logits and their gradient, which takes their place,
// is float32.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

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

// log(sum(exp(row))), with the largest logit taken out first, so that nothing overflows.
float log_sum(const BFloat16* row, int64_t classes) {
  const float lowest = -INFINITY;
  auto most = S::broadcast(lowest);
  for_vectors(classes, [&](int64_t i, int64_t lanes) {
    auto x = O::load_values(row + i, lanes);
    for (int64_t lane = lanes; lane < S::kLanes; ++lane) x[lane] = lowest;
    most = (x > most) | (x != x) ? x : most;  // NaN stays NaN
  });
  float largest = lowest;
  for (int lane = 0; lane < S::kLanes; ++lane) {
    if (most[lane] > largest || std::isnan(most[lane])) largest = most[lane];
  }
  typename S::Vector sum{};
  for_vectors(classes, [&](int64_t i, int64_t lanes) {
    auto e = S::exp(O::load_values(row + i, lanes) - largest);
    for (int64_t lane = lanes; lane < S::kLanes; ++lane) e[lane] = 0;
    sum += e;
  });
  float total = 0;
  for (int lane = 0; lane < S::kLanes; ++lane) total += sum[lane];
  return largest + std::log(total);
}

void check_logits(const at::Tensor& logits) {
  check_matrix("logits", logits);
  TORCH_CHECK(logits.is_cpu() && logits.scalar_type() == at::kBFloat16 && logits.is_contiguous(),
              "logits must be contiguous bfloat16 on the CPU, are ", logits.toString());
}

}  // namespace

at::Tensor cross_entropy_fp(const at::Tensor& logits) {
  check_logits(logits);
  const int64_t rows = logits.size(0), classes = logits.size(1);
  at::Tensor log_sums = at::empty({rows}, logits.options().dtype(at::kFloat));
  const BFloat16* x = logits.const_data_ptr<BFloat16>();
  float* out = log_sums.data_ptr<float>();
  parallel(rows, 2 * kCost * classes, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) out[row] = log_sum(x + row * classes, classes);
  });
  return log_sums;
}

void cross_entropy_bp_(at::Tensor& logits, const at::Tensor& targets_, const at::Tensor& log_sums_,
                       const at::Tensor& scale_) {
  check_logits(logits);
  const int64_t rows = logits.size(0), classes = logits.size(1);
  check_shape("targets", targets_, {rows});
  check_shape("log_sums", log_sums_, {rows});
  check_shape("scale", scale_, {rows});
  const at::Tensor targets = targets_.contiguous(), log_sums = log_sums_.contiguous(),
                   scale = scale_.contiguous();
  BFloat16* x = logits.data_ptr<BFloat16>();
  const int64_t* target = targets.const_data_ptr<int64_t>();
  const float *log_sum = log_sums.const_data_ptr<float>(), *factor = scale.const_data_ptr<float>();
  parallel(rows, kCost * classes, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      TORCH_CHECK(0 <= target[row] && target[row] < classes, "targets[", row, "] is ", target[row],
                  ", there are ", classes, " classes");
      BFloat16* own = x + row * classes;
      const float of_target = std::exp(own[target[row]] - log_sum[row]);
      for_vectors(classes, [&](int64_t i, int64_t lanes) {
        const auto probability = S::exp(O::load_values(own + i, lanes) - log_sum[row]);
        O::store_values(own + i, factor[row] * probability, lanes);
      });
      own[target[row]] = factor[row] * (of_target - 1);
    }
  });
}

}  // namespace structured_dropout
