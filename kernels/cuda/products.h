// The three products of figure 2 on weights that are stored by unit (products.cu), and the ways to
// and from that layout (layout.cu).
//
// A product over a whole sequence is free to skip or not: where the plan has no kernel for it,
// since skipping does not pay (backends/cuda/payoff.py), it is torch's, of the masked operand. In
// bfloat16 it always is, with float32 sums.
#pragma once

#include "launch.h"
#include "mask.h"

namespace structured_dropout::cuda {

// The numbers of kernels, and the rows that fp and bp take at once; as backends/cuda/plan.py lays
// them out.
struct ProductPlan {
  int64_t by_unit, by_unit_float, by_output, masked, masked_float, positions;
  int64_t fp, bp, wg;  // -1: torch's
  int64_t tile;

  static constexpr size_t kNumbers = 10;
  explicit ProductPlan(at::IntArrayRef numbers);
};

// The columns of a row that is read in vectors of four.
inline int64_t padded(int64_t outputs) { return (outputs + 3) / 4 * 4; }

class Products {
 public:
  Products(at::IntArrayRef plan, const Queue& queue) : plan_(plan), queue_(queue) {}

  // Copies weight [out, in] to the columns [first, first + columns) of rows [in, at least so many],
  // rounded to their type; zeros follow the last output. gates is 4 where the outputs are the gates
  // of hidden units, [4, hidden]: their order becomes [hidden, 4]. Else it is 1.
  void by_unit(const at::Tensor& weight, const at::Tensor& rows, int64_t gates, int64_t first,
               int64_t columns) const;
  at::Tensor rows_by_unit(const at::Tensor& weight) const;

  // The weight [outputs, in] that by_unit would have copied to these rows.
  at::Tensor by_output(const at::Tensor& rows, int64_t outputs, int64_t gates = 1,
                       int64_t first = 0) const;

  // y [rows, outputs] of x [rows, units] and a weight by unit (figure 2a).
  at::Tensor fp(const at::Tensor& x, const at::Tensor& weight,
                const std::optional<at::Tensor>& bias, int64_t outputs,
                const std::optional<Mask>& mask) const;

  // dx [rows, units] of dy [rows, out] and a weight by unit (figure 2b).
  at::Tensor bp(const at::Tensor& dy, const at::Tensor& weight,
                const std::optional<Mask>& mask) const;

  // The weight's gradient by unit, [units, at least out] (figure 2c), by this kernel.
  at::Tensor wg(const at::Tensor& x, const at::Tensor& dy, const std::optional<Mask>& mask,
                int64_t kernel) const;
  at::Tensor wg(const at::Tensor& x, const at::Tensor& dy, const std::optional<Mask>& mask) const {
    return wg(x, dy, mask, plan_.wg);
  }

 private:
  // x [rows, units] times the scale where a row's draw keeps the unit, else 0; the scale is float32
  // where x is bfloat16, too.
  at::Tensor masked(const at::Tensor& x, const Mask& mask) const;

  // int32 [draws, units]: where a draw's list has a unit; -1 where it has not.
  at::Tensor positions(const Mask& mask) const;

  ProductPlan plan_;
  const Queue& queue_;
};

}  // namespace structured_dropout::cuda
