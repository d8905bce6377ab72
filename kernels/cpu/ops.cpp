#include "ops.h"

#include <torch/library.h>

TORCH_LIBRARY(structured_dropout, m) {
  m.def("linear_fp(Tensor x, Tensor weight, Tensor? bias, int[] sizes, Tensor[] masks) -> Tensor");
  m.def("linear_bp(Tensor dy, Tensor weight, int[] sizes, Tensor[] masks) -> Tensor");
  m.def(
      "linear_wg(Tensor x, Tensor dy, int[] sizes, Tensor[] masks)"
      " -> (Tensor dweight, Tensor dbias)");
  m.def("pack_weight(Tensor weight) -> Tensor");
  m.def("packed_fp(Tensor x, Tensor packed, int outputs, int[] sizes, Tensor[] masks) -> Tensor");
  m.def("packed_bp(Tensor dy, Tensor packed, int units, int[] sizes, Tensor[] masks) -> Tensor");
  m.def(
      "lstm_fp(Tensor x, Tensor h0, Tensor c0, Tensor[] weights, int[] sizes, Tensor[] masks)"
      " -> (Tensor y, Tensor h_n, Tensor c_n, Tensor recurrent, Tensor gates, Tensor cells)");
  m.def(
      "lstm_bp(Tensor x, Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor[] weights, Tensor? "
      "recurrent, Tensor gates, Tensor cells, int[] sizes, Tensor[] masks)"
      " -> (Tensor dgates, Tensor dx, Tensor dh0, Tensor dc0)");
  m.def(
      "lstm_wg(Tensor x, Tensor h0, Tensor y, Tensor dgates, int[] sizes, Tensor[] masks)"
      " -> (Tensor[] dw_ih, Tensor[] dw_hh, Tensor[] db)");
  m.def("cross_entropy_fp(Tensor logits) -> (Tensor largest, Tensor log_sum)");
  m.def(
      "cross_entropy_bp_(Tensor(a!) logits, Tensor targets, Tensor largest, Tensor log_sum, Tensor "
      "scale) -> ()");
  m.def("char_cnn_fp(Tensor x, Tensor weight, Tensor windows) -> (Tensor y, Tensor best)");
  m.def(
      "char_cnn_bp(Tensor dy, Tensor x, Tensor weight, Tensor windows, Tensor best) -> (Tensor dx, "
      "Tensor dweight)");
}

TORCH_LIBRARY_IMPL(structured_dropout, CPU, m) {
  m.impl("linear_fp", structured_dropout::linear_fp);
  m.impl("linear_bp", structured_dropout::linear_bp);
  m.impl("linear_wg", structured_dropout::linear_wg);
  m.impl("pack_weight", structured_dropout::pack_weight);
  m.impl("packed_fp", structured_dropout::packed_fp);
  m.impl("packed_bp", structured_dropout::packed_bp);
  m.impl("lstm_fp", structured_dropout::lstm_fp);
  m.impl("lstm_bp", structured_dropout::lstm_bp);
  m.impl("lstm_wg", structured_dropout::lstm_wg);
  m.impl("cross_entropy_fp", structured_dropout::cross_entropy_fp);
  m.impl("cross_entropy_bp_", structured_dropout::cross_entropy_bp_);
  m.impl("char_cnn_fp", structured_dropout::char_cnn_fp);
  m.impl("char_cnn_bp", structured_dropout::char_cnn_bp);
}
