// The schemas of every op, in one place; each op's own file registers its kernels.

#include <torch/library.h>

TORCH_LIBRARY(sparsum, m) {
  m.def("sparsemax(Tensor scores, int dim=-1) -> Tensor");
  m.def("sparsemax_backward(Tensor grad, Tensor probs, int dim) -> Tensor");

  m.def("top_k_sparsemax(Tensor scores, int k, int dim=-1) -> (Tensor probs, Tensor exact)");

  m.def("entmax(Tensor scores, float alpha=1.5, int dim=-1) -> Tensor");
  m.def("entmax.Tensor(Tensor scores, Tensor alpha, int dim=-1) -> Tensor");
  m.def("entmax_backward(Tensor grad, Tensor probs, float alpha, int dim) -> Tensor");
  m.def("entmax_backward.Tensor(Tensor grad, Tensor probs, Tensor alpha, int dim) -> Tensor");
  m.def("entmax_backward_alpha(Tensor grad, Tensor probs, Tensor alpha, int dim) -> Tensor");

  m.def(
      "entmax_loss_forward(Tensor scores, Tensor target, float alpha, int dim, int ignore_index)"
      " -> (Tensor losses, Tensor probs)");
  m.def(
      "entmax_loss_backward(Tensor grad, Tensor probs, Tensor target, int dim, int ignore_index)"
      " -> Tensor");
  m.def(
      "entmax_loss(Tensor scores, Tensor target, float alpha=1.5, int dim=-1, int "
      "ignore_index=-100,"
      " int reduction=1) -> Tensor");
  m.def(
      "sparsemax_loss(Tensor scores, Tensor target, int dim=-1, int ignore_index=-100,"
      " int reduction=1) -> Tensor");

  m.def(
      "k_best_bits(Tensor scores, int least, int most, int k, bool until_exact=False)"
      " -> (Tensor row_splits, Tensor base, Tensor flip_splits, Tensor flips)");
  m.def(
      "sparsemap_marginals(Tensor scores, int least, int most, bool both_states=False)"
      " -> (Tensor marginals, Tensor tight)");
  m.def(
      "sparsemap_marginals_backward(Tensor grad, Tensor marginals, Tensor tight, bool both_states)"
      " -> Tensor");
  m.def(
      "sparsemap_configurations(Tensor marginals, Tensor tight, bool on_line)"
      " -> (Tensor row_splits, Tensor base, Tensor flip_splits, Tensor flips, Tensor probs,"
      " Tensor upper, Tensor lower)");

  m.def("support(Tensor probs) -> (Tensor row_splits, Tensor rows, Tensor indices)");
}
