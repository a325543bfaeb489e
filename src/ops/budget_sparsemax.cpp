#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/per_row.h"

#include <ATen/ATen.h>
#include <sparsum/budget_sparsemax.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace sparsum::ops {
namespace {

constexpr const char* kOp = "budget_sparsemax";
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor call(const at::Tensor& scores, const at::Tensor& budget, int64_t dim) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t)>(
      "sparsum::budget_sparsemax");
  return op.call(scores, budget, dim);
}

at::Tensor call_backward(const at::Tensor& grad, const at::Tensor& probs, int64_t dim) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t)>(
      "sparsum::budget_sparsemax_backward");
  return op.call(grad, probs, dim);
}

void check(const at::Tensor& scores, const at::Tensor& budget, int64_t dim) {
  check_floating(kOp, "scores", scores);
  check_per_row(kOp, "budget", budget, scores, check_dim(kOp, scores, dim));
}

// Σ clip(s − τ, 0, 1) as τ falls is linear between 2K corners, s and s − 1, and grows by the number
// of scores in between: sorted corners and running sums find the piece on which it is the budget.
at::Tensor budget_sparsemax_any(const at::Tensor& scores, const at::Tensor& budget_in,
                                int64_t dim) {
  check(scores, budget_in, dim);
  check_rows(kOp, scores, dim);
  const int64_t last = dim < 0 ? dim + scores.dim() : dim;
  const at::Tensor x = scores.to(at::kDouble).movedim(last, -1);
  at::SymDimVector sizes(scores.sym_sizes().begin(), scores.sym_sizes().end());
  sizes[static_cast<size_t>(last)] = 1;
  const at::Tensor budget =
      budget_in.to(scores.device(), at::kDouble).expand_symint(sizes).movedim(last, -1);
  const at::Tensor finite = x > -INFINITY;
  const at::Tensor most = finite.sum(-1, true);
  if (scores.is_cpu() && budget.numel() > 0) {
    const at::Tensor illegal = budget.ge(0).logical_and(budget <= most).logical_not().reshape(-1);
    if (illegal.any().item<bool>()) {
      const int64_t row = illegal.nonzero()[0].item<int64_t>();
      TORCH_CHECK_VALUE(false, kOp, ": expected budget in 0 … ",
                        most.reshape(-1)[row].item<int64_t>(),
                        ", the number of finite scores, got ",
                        budget.reshape(-1)[row].item<double>(), " for row ", row);
    }
  }
  // Forbidden scores have corners that count for nothing, at the last of the others.
  const at::Tensor count = finite.to(at::kDouble);
  const at::Tensor end = at::where(finite, x, INFINITY).amin(-1, true) - 1;
  const auto [corners, order] =
      at::cat({at::where(finite, x, end), at::where(finite, x - 1, end)}, -1)
          .sort(/*stable=*/true, -1, /*descending=*/true);
  const at::Tensor between = at::cat({count, -count}, -1).gather(-1, order).cumsum(-1);
  // Where nothing grows, no gap counts, however wide.
  const at::Tensor grown =
      (between.narrow(-1, 0, between.size(-1) - 1) * -corners.diff(1, -1)).cumsum(-1);
  const at::Tensor sums = at::cat({at::zeros_like(end), grown}, -1);
  const at::Tensor reached = sums >= budget;
  // The first corner at which the budget is reached; rounding may have kept the last one from it.
  const at::Tensor at_corner =
      at::where(reached.any(-1, true), reached.to(at::kByte).argmax(-1, true), sums.size(-1) - 1);
  const at::Tensor slope = between.gather(-1, (at_corner - 1).clamp_min(0));
  const at::Tensor excess =
      at::where(at_corner > 0, sums.gather(-1, at_corner) - budget, 0).clamp_min(0);
  const at::Tensor above = at::where(slope > 0, excess / slope.clamp_min(1), 0);
  // Relative to the corner: what decides are differences of less than 1.
  const at::Tensor probs = ((x - corners.gather(-1, at_corner)) - above).clamp(0, 1);
  return probs.movedim(-1, last).to(scores.scalar_type()).contiguous();
}

at::Tensor budget_sparsemax_meta(const at::Tensor& scores, const at::Tensor& budget, int64_t dim) {
  check(scores, budget, dim);
  return at::empty_symint(scores.sym_sizes(), scores.options());
}

at::Tensor mean_inside(const at::Tensor& grad, const at::Tensor& inside, int64_t dim) {
  return at::where(inside, grad, 0).sum(dim, true) / inside.sum(dim, true).clamp_min(1);
}

// In operations that have derivatives: it is linear in the gradient.
at::Tensor budget_sparsemax_backward(const at::Tensor& grad, const at::Tensor& probs, int64_t dim) {
  const at::Tensor inside = (probs > 0).logical_and(probs < 1);
  const at::Tensor g = grad.to(at::kDouble);
  return at::where(inside, g - mean_inside(g, inside, dim), 0).to(probs.scalar_type());
}

struct BudgetSparsemax : torch::autograd::Function<BudgetSparsemax> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& scores,
                            const at::Tensor& budget, int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor probs = call(scores, budget, dim);
    ctx->save_for_backward({probs, budget});
    ctx->saved_data["dim"] = dim;
    return probs;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor probs = saved[0].detach(), &budget = saved[1];
    const int64_t dim = ctx->saved_data["dim"].toInt();
    at::Tensor by_scores, by_budget;
    if (ctx->needs_input_grad(0)) by_scores = call_backward(grads[0], probs, dim);
    if (ctx->needs_input_grad(1)) {
      const at::Tensor inside = (probs > 0).logical_and(probs < 1);
      by_budget = mean_inside(grads[0].to(at::kDouble), inside, dim)
                      .sum_to_size(budget.sizes())
                      .to(budget.device(), budget.scalar_type());
    }
    return {by_scores, by_budget, {}};
  }
};

at::Tensor budget_sparsemax_autograd(const at::Tensor& scores, const at::Tensor& budget,
                                     int64_t dim) {
  refuse_forward_mode(kOp, scores);
  refuse_forward_mode(kOp, budget);
  if (needs_graph(scores, budget)) return BudgetSparsemax::apply(scores, budget, dim);
  at::AutoDispatchBelowADInplaceOrView below;
  return call(scores, budget, dim);
}

TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("budget_sparsemax", &budget_sparsemax_any);
}
TORCH_LIBRARY_IMPL(sparsum, Meta, m) { m.impl("budget_sparsemax", &budget_sparsemax_meta); }
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) { m.impl("budget_sparsemax", &budget_sparsemax_autograd); }
TORCH_LIBRARY_IMPL(sparsum, CompositeImplicitAutograd, m) {
  m.impl("budget_sparsemax_backward", &budget_sparsemax_backward);
}

}  // namespace
}  // namespace sparsum::ops

namespace sparsum {

at::Tensor budget_sparsemax(const at::Tensor& scores, const at::Tensor& budget, int64_t dim) {
  return ops::call(scores, budget, dim);
}

}  // namespace sparsum
