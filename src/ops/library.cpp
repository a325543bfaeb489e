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

  m.def("normmax(Tensor scores, Tensor alpha, int dim=-1) -> Tensor");
  m.def("normmax_backward(Tensor grad, Tensor probs, Tensor alpha, int dim) -> Tensor");

  m.def("budget_sparsemax(Tensor scores, Tensor budget, int dim=-1) -> Tensor");
  m.def("budget_sparsemax_backward(Tensor grad, Tensor probs, int dim) -> Tensor");

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
      "linear_cross_entropy(Tensor features, Tensor weight, Tensor bias, Tensor targets,"
      " Tensor rows) -> Tensor");
  m.def(
      "linear_cross_entropy_forward(Tensor features, Tensor weight, Tensor bias, Tensor targets,"
      " Tensor rows, int eager) -> (Tensor nll, Tensor by_features, Tensor by_weight,"
      " Tensor by_bias)");
  m.def(
      "linear_cross_entropy_backward(Tensor grad, Tensor features, Tensor weight, Tensor bias,"
      " Tensor targets, Tensor rows) -> (Tensor, Tensor, Tensor)");

  m.def("scalar_perceptron(Tensor e, Tensor u, Tensor w) -> Tensor");
  m.def(
      "scalar_perceptron_forward(Tensor e, Tensor u, Tensor w, bool derivatives)"
      " -> (Tensor y, Tensor outer, Tensor slopes)");
  m.def(
      "scalar_perceptron_backward(Tensor grad, Tensor e, Tensor u, Tensor w, Tensor outer,"
      " Tensor slopes, bool parameters) -> (Tensor, Tensor, Tensor)");

  m.def(
      "k_best_bits(Tensor scores, int least, int most, int k, bool until_exact=False)"
      " -> (Tensor row_splits, Tensor rows, Tensor base, Tensor flip_splits, Tensor flips)");
  m.def(
      "sparsemap_active_set(Tensor scores, int least, int most, bool both_states=False,"
      " float tolerance=1e-9, int max_iterations=0, Tensor? initial=None,"
      " Tensor? warm_row_splits=None, Tensor? warm_configurations=None, Tensor? warm_probs=None)"
      " -> (Tensor row_splits, Tensor configurations, Tensor probs, Tensor objective, Tensor gap,"
      " Tensor iterations, Tensor oracle_calls, Tensor converged)");
  m.def(
      "sparsemap_weights(Tensor scores, Tensor probs, Tensor row_splits, Tensor configurations,"
      " int variables, float slope=1.0) -> Tensor");
  m.def(
      "sparsemap_vjp(Tensor grad, Tensor row_splits, Tensor configurations, int variables)"
      " -> Tensor");
  m.def(
      "sparsemap_vjp_transpose(Tensor tangent, Tensor row_splits, Tensor configurations,"
      " int variables) -> Tensor");

  m.def(
      "sparsemap_marginals(Tensor scores, int least, int most, bool both_states=False)"
      " -> (Tensor marginals, Tensor tight)");
  m.def(
      "sparsemap_marginals_backward(Tensor grad, Tensor marginals, Tensor tight, bool both_states)"
      " -> Tensor");
  m.def(
      "sparsemap_configurations(Tensor marginals, Tensor tight, int least, int most)"
      " -> (Tensor row_splits, Tensor rows, Tensor base, Tensor flip_splits, Tensor flips,"
      " Tensor probs, Tensor upper, Tensor lower)");
  m.def(
      "sparsemap_configurations_backward(Tensor grad, Tensor marginals, Tensor row_splits,"
      " Tensor upper, Tensor lower, bool on_line) -> Tensor");

  m.def("support(Tensor probs) -> (Tensor row_splits, Tensor rows, Tensor indices)");
}
