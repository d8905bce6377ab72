// The character CNN of the tagger (Ma & Hovy, 2016): a grouped convolution over the characters of
// each word and its maximum over the word's windows, in one pass; of all windows only the best one
// has a gradient.
#include "checks.h"
#include "ops.h"
#include "parallel.h"
#include "simd.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

namespace structured_dropout {
namespace {

struct Sizes {
  int64_t rows, groups, width, filters;
};

Sizes check(const at::Tensor& x, const at::Tensor& weight) {
  check_float("x", x);
  check_matrix("x", x);
  TORCH_CHECK(weight.dim() == 3, "weight must have 3 dimensions, has shape ", weight.sizes());
  check_like("weight", weight, x, {x.size(1), weight.size(1), weight.size(2)});
  return {x.size(0), x.size(1), weight.size(1), weight.size(2)};
}

// The row at which each word's first window begins; one more at the end.
std::vector<int64_t> first_rows(const at::Tensor& windows, int64_t rows, int64_t width) {
  TORCH_CHECK(windows.is_cpu() && windows.dim() == 1 && windows.scalar_type() == at::kLong,
              "windows must be a vector of int64 on the CPU");
  const at::Tensor counts = windows.contiguous();
  std::vector<int64_t> first{0};
  for (int64_t word = 0; word < counts.numel(); ++word) {
    const int64_t count = counts.const_data_ptr<int64_t>()[word];
    TORCH_CHECK(count > 0, "windows[", word, "] must be positive, is ", count);
    first.push_back(first.back() + count);
  }
  TORCH_CHECK(first.back() == 0 || first.back() + width - 1 == rows, "x must have ",
              first.back() + width - 1, " rows, one for each window and width - 1 more, has ",
              rows);
  return first;
}

// Filters are computed by the vector; rows of filters are padded so that the last vector of a row
// is whole.
template <typename T>
int64_t padded(int64_t filters) {
  return (filters + Simd<T>::kLanes - 1) / Simd<T>::kLanes * Simd<T>::kLanes;
}

template <typename T>
std::vector<T> padded_rows(const T* weight, const Sizes& s) {
  const int64_t size = padded<T>(s.filters);
  std::vector<T> rows(s.groups * s.width * size);
  for (int64_t row = 0; row < s.groups * s.width; ++row)
    std::copy_n(weight + row * s.filters, s.filters, &rows[row * size]);
  return rows;
}

template <typename T>
void fp(const Sizes& s, const std::vector<int64_t>& first, const T* x, const T* weight, T* y,
        typename Simd<T>::Int* best) {
  using S = Simd<T>;
  const int64_t size = padded<T>(s.filters), features = s.groups * s.filters,
                words = first.size() - 1;
  const std::vector<T> taps = padded_rows(weight, s);
  parallel(words, double(s.rows) / std::max<int64_t>(words, 1) * features * s.width,
           [&](int64_t begin, int64_t end) {
             for (int64_t word = begin; word < end; ++word) {
               for (int64_t group = 0; group < s.groups; ++group) {
                 for (int64_t filter = 0; filter < s.filters; filter += S::kLanes) {
                   const T* tap = &taps[group * s.width * size + filter];
                   auto highest = S::broadcast(-std::numeric_limits<T>::infinity());
                   auto at = typename S::Int(first[word]) - typename S::IntVector{};
                   for (int64_t row = first[word]; row < first[word + 1]; ++row) {
                     typename S::Vector sum{};
                     for (int64_t k = 0; k < s.width; ++k)
                       sum += x[(row + k) * s.groups + group] * S::load(tap + k * size);
                     const auto higher = (sum > highest) | (sum != sum);  // NaN stays NaN
                     highest = higher ? sum : highest;
                     at = higher ? typename S::Int(row) - typename S::IntVector{} : at;
                   }
                   const int64_t lanes = std::min<int64_t>(S::kLanes, s.filters - filter);
                   S::store(y + word * features + group * s.filters + filter, highest, lanes);
                   std::memcpy(&best[(word * s.groups + group) * size + filter], &at, sizeof at);
                 }
               }
             }
           });
}

template <typename T>
void bp(const Sizes& s, const std::vector<int64_t>& first, const T* dy, const T* x, const T* weight,
        const typename Simd<T>::Int* best, T* dx, T* dweight) {
  using S = Simd<T>;
  const int64_t size = padded<T>(s.filters), features = s.groups * s.filters,
                words = first.size() - 1;
  const std::vector<T> taps = padded_rows(weight, s);
  parallel(s.groups, double(s.rows) * s.filters * s.width, [&](int64_t begin, int64_t end) {
    std::vector<T> column(s.rows);                             // of x: a group reads no other
    std::vector<T> dcolumn((s.rows + S::kLanes) * S::kLanes);  // by lane, to be added up at the end
    std::vector<T> dtaps(s.width * size);
    for (int64_t group = begin; group < end; ++group) {
      for (int64_t row = 0; row < s.rows; ++row) column[row] = x[row * s.groups + group];
      std::fill(dcolumn.begin(), dcolumn.end(), T(0));
      std::fill(dtaps.begin(), dtaps.end(), T(0));
      for (int64_t word = 0; word < words; ++word) {
        for (int64_t filter = 0; filter < s.filters; filter += S::kLanes) {
          const int64_t lanes = std::min<int64_t>(S::kLanes, s.filters - filter);
          const auto d = S::load(dy + word * features + group * s.filters + filter, lanes);
          typename S::IntVector at;
          std::memcpy(&at, &best[(word * s.groups + group) * size + filter], sizeof at);
          for (int64_t k = 0; k < s.width; ++k) {
            const auto products = d * S::load(&taps[(group * s.width + k) * size + filter]);
            T* dtap = &dtaps[k * size + filter];
            auto sum = S::load(dtap);
            for (int64_t row = first[word]; row < first[word + 1]; ++row) {
              const auto here = at == typename S::Int(row) - typename S::IntVector{};
              T* dc = &dcolumn[(row + k) * S::kLanes];
              S::store(dc, S::load(dc) + (here ? products : typename S::Vector{}));
              sum += here ? d * column[row + k] : typename S::Vector{};
            }
            S::store(dtap, sum);
          }
        }
      }
      for (int64_t row = 0; row < s.rows; row += S::kLanes) {
        typename S::Vector sums[S::kLanes];
        std::memcpy(sums, &dcolumn[row * S::kLanes], sizeof sums);
        const auto sum = S::sums(sums);
        for (int64_t i = 0; i < std::min<int64_t>(S::kLanes, s.rows - row); ++i)
          dx[(row + i) * s.groups + group] = sum[i];
      }
      for (int64_t k = 0; k < s.width; ++k) {
        std::copy_n(&dtaps[k * size], s.filters, dweight + (group * s.width + k) * s.filters);
      }
    }
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> char_cnn_fp(const at::Tensor& x, const at::Tensor& weight,
                                               const at::Tensor& windows) {
  const Sizes s = check(x, weight);
  const std::vector<int64_t> first = first_rows(windows, s.rows, s.width);
  const at::Tensor y = at::empty({windows.numel(), s.groups * s.filters}, x.options());
  const at::Tensor x_rows = x.contiguous(), weight_rows = weight.contiguous();
  at::Tensor best;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "char_cnn_fp", [&] {
    using Int = Simd<scalar_t>::Int;
    best = at::empty({windows.numel(), s.groups, padded<scalar_t>(s.filters)},
                     x.options().dtype<Int>());
    fp(s, first, x_rows.const_data_ptr<scalar_t>(), weight_rows.const_data_ptr<scalar_t>(),
       y.mutable_data_ptr<scalar_t>(), best.mutable_data_ptr<Int>());
  });
  return {y, best};
}

std::tuple<at::Tensor, at::Tensor> char_cnn_bp(const at::Tensor& dy, const at::Tensor& x,
                                               const at::Tensor& weight, const at::Tensor& windows,
                                               const at::Tensor& best) {
  const Sizes s = check(x, weight);
  const std::vector<int64_t> first = first_rows(windows, s.rows, s.width);
  check_like("dy", dy, x, {windows.numel(), s.groups * s.filters});
  const at::Tensor dx = at::empty(x.sizes(), x.options()),
                   dweight = at::empty(weight.sizes(), x.options());
  const at::Tensor dy_rows = dy.contiguous(), x_rows = x.contiguous(),
                   weight_rows = weight.contiguous();
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "char_cnn_bp", [&] {
    check_shape("best", best, {windows.numel(), s.groups, padded<scalar_t>(s.filters)});
    bp(s, first, dy_rows.const_data_ptr<scalar_t>(), x_rows.const_data_ptr<scalar_t>(),
       weight_rows.const_data_ptr<scalar_t>(), best.const_data_ptr<Simd<scalar_t>::Int>(),
       dx.mutable_data_ptr<scalar_t>(), dweight.mutable_data_ptr<scalar_t>());
  });
  return {dx, dweight};
}

}  // namespace structured_dropout
