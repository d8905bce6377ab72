#include "ops.h"
#include "simd.h"

#include <torch/library.h>

// Masks come as CSR: indices int32, the kept units of all draws; offsets int64 [draws + 1].
// linear's draw d serves the rows [rows[d], rows[d + 1]); lstm's step t reads with draw t /
// steps_per_draw.
#define LSTM_SEQUENCE_AND_MASKS                                                               \
  "Tensor batch_sizes, Tensor? nr_indices, Tensor? nr_offsets, int nr_steps_per_draw, float " \
  "nr_scale, "                                                                                \
  "Tensor[] rh_indices, Tensor[] rh_offsets, int rh_steps_per_draw, float rh_scale"

TORCH_LIBRARY(structured_dropout, m) {
  m.def("vector_bytes() -> int",
        [] { return int64_t(structured_dropout::kVectorBytes); });  // the layout of gates and cells
  m.def(
      "linear_fp(Tensor x, Tensor weight, Tensor? bias, Tensor indices, Tensor offsets, Tensor "
      "rows, float scale) -> Tensor");
  m.def(
      "linear_bp(Tensor dy, Tensor weight, Tensor indices, Tensor offsets, Tensor rows, float "
      "scale) -> Tensor");
  m.def(
      "linear_wg(Tensor x, Tensor dy, Tensor indices, Tensor offsets, Tensor rows, float scale)"
      " -> (Tensor dweight, Tensor dbias)");
  m.def(
      "lstm_fp(Tensor x, Tensor h0, Tensor c0, Tensor[] w_ih, Tensor[] w_hh, Tensor[] b_ih, "
      "Tensor[] b_hh, " LSTM_SEQUENCE_AND_MASKS
      ") -> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor cells)");
  m.def(
      "lstm_bp(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor[] w_ih, Tensor[] w_hh, Tensor gates, "
      "Tensor cells, " LSTM_SEQUENCE_AND_MASKS
      ") -> (Tensor dgates, Tensor dx, Tensor dh0, Tensor dc0)");
  m.def("lstm_wg(Tensor x, Tensor h0, Tensor y, Tensor dgates, " LSTM_SEQUENCE_AND_MASKS
        ") -> (Tensor[] dw_ih, Tensor[] dw_hh, Tensor[] db)");
  m.def("char_cnn_fp(Tensor x, Tensor weight, Tensor windows) -> (Tensor y, Tensor best)");
  m.def(
      "char_cnn_bp(Tensor dy, Tensor x, Tensor weight, Tensor windows, Tensor best) -> (Tensor dx, "
      "Tensor dweight)");
}

TORCH_LIBRARY_IMPL(structured_dropout, CPU, m) {
  m.impl("linear_fp", structured_dropout::linear_fp);
  m.impl("linear_bp", structured_dropout::linear_bp);
  m.impl("linear_wg", structured_dropout::linear_wg);
  m.impl("lstm_fp", structured_dropout::lstm_fp);
  m.impl("lstm_bp", structured_dropout::lstm_bp);
  m.impl("lstm_wg", structured_dropout::lstm_wg);
  m.impl("char_cnn_fp", structured_dropout::char_cnn_fp);
  m.impl("char_cnn_bp", structured_dropout::char_cnn_bp);
}
