#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/per_row.h"

#include <ATen/ATen.h>
#include <sparsum/normmax.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace sparsum::ops {
namespace {

constexpr const char* kOp = "normmax";
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor call(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t)>("sparsum::normmax");
  return op.call(scores, alpha, dim);
}

at::Tensor call_backward(const at::Tensor& grad, const at::Tensor& probs, const at::Tensor& alpha,
                         int64_t dim) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t)>(
          "sparsum::normmax_backward");
  return op.call(grad, probs, alpha, dim);
}

void check(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim) {
  check_floating(kOp, "scores", scores);
  check_per_row(kOp, "alpha", alpha, scores, check_dim(kOp, scores, dim));
}

// Newton's method on the norm h(τ) = ‖(x − τ)_+‖_β = 1, β = α/(α − 1): convex and falling, nearly
// linear, from the left, where each step stays left of the root.
at::Tensor normmax_any(const at::Tensor& scores, const at::Tensor& alpha_in, int64_t dim) {
  check(scores, alpha_in, dim);
  check_rows(kOp, scores, dim);
  const at::Tensor alpha = alpha_in.to(scores.device(), at::kDouble);
  if (alpha.is_cpu() && alpha.numel() > 0) {
    const at::Tensor illegal = alpha.gt(1).logical_and(alpha.isfinite()).logical_not();
    TORCH_CHECK_VALUE(!illegal.any().item<bool>(), kOp,
                      ": expected alpha to be finite and > 1, got ",
                      alpha.masked_select(illegal)[0].item<double>());
  }
  const at::Tensor beta = alpha / (alpha - 1);
  at::Tensor x = scores.to(at::kDouble);
  x = x - x.amax(dim, true);
  at::Tensor tau = at::full_like(x.amax(dim, true), -1);
  at::Tensor ratio;
  for (int iteration = 0; iteration < 60; ++iteration) {
    // The largest score is 0, so the largest of (x − τ)_+ is −τ; powers of ratios do not overflow.
    ratio = (1 - x / tau).clamp_min(0);
    const at::Tensor sum = ratio.pow(beta).sum(dim, true);
    const at::Tensor norm = -tau * sum.pow(1 / beta);
    const at::Tensor slope =
        ratio.pow(beta - 1).masked_fill(ratio == 0, 0).sum(dim, true) / sum.pow(1 / alpha);
    const at::Tensor step = (norm - 1) / slope;
    tau = at::minimum(tau + step, at::full_like(tau, -1e-300));
    // Elsewhere reading the step would synchronise: there all of them are made.
    if (step.is_cpu() && (step.numel() == 0 || step.abs().max().item<double>() < 1e-15)) break;
    if (!step.is_cpu() && iteration == 20) break;
  }
  ratio = (1 - x / tau).clamp_min(0);
  const at::Tensor weights = ratio.pow(beta - 1).masked_fill(ratio == 0, 0);
  return (weights / weights.sum(dim, true)).to(scores.scalar_type());
}

at::Tensor normmax_meta(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim) {
  check(scores, alpha, dim);
  return at::empty_symint(scores.sym_sizes(), scores.options());
}

// In operations that have derivatives.
at::Tensor normmax_backward(const at::Tensor& grad, const at::Tensor& probs,
                            const at::Tensor& alpha_in, int64_t dim) {
  const at::Tensor alpha = alpha_in.to(probs.device(), at::kDouble);
  const at::Tensor on = probs > 0;
  const at::Tensor p = at::where(on, probs.to(at::kDouble), 1);  // 1: no infinities to be masked
  const at::Tensor a = at::where(on, p, 0), b = at::where(on, p.pow(2 - alpha), 0);
  const at::Tensor g = at::where(on, grad.to(at::kDouble), 0);
  const at::Tensor by_a = (a * g).sum(dim, true), by_b = (b * g).sum(dim, true);
  const at::Tensor norm = at::where(on, p.pow(alpha), 0).sum(dim, true);
  const at::Tensor scale = norm.pow((alpha - 1) / alpha) / (alpha - 1);
  return (scale * (b * (g - by_a) + a * (by_a * b.sum(dim, true) - by_b))).to(probs.scalar_type());
}

struct Normmax : torch::autograd::Function<Normmax> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& scores, const at::Tensor& alpha,
                            int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor probs = call(scores, alpha, dim);
    ctx->save_for_backward({probs, alpha});
    ctx->saved_data["dim"] = dim;
    return probs;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {call_backward(grads[0], saved[0], saved[1], ctx->saved_data["dim"].toInt()), {}, {}};
  }
};

at::Tensor normmax_autograd(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim) {
  refuse_forward_mode(kOp, scores);
  TORCH_CHECK_NOT_IMPLEMENTED(!needs_graph(alpha), kOp,
                              ": there is no derivative in alpha; detach it");
  if (needs_graph(scores)) return Normmax::apply(scores, alpha, dim);
  at::AutoDispatchBelowADInplaceOrView below;
  return call(scores, alpha, dim);
}

TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) { m.impl("normmax", &normmax_any); }
TORCH_LIBRARY_IMPL(sparsum, Meta, m) { m.impl("normmax", &normmax_meta); }
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) { m.impl("normmax", &normmax_autograd); }
TORCH_LIBRARY_IMPL(sparsum, CompositeImplicitAutograd, m) {
  m.impl("normmax_backward", &normmax_backward);
}

}  // namespace
}  // namespace sparsum::ops

namespace sparsum {

at::Tensor normmax(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim) {
  return ops::call(scores, alpha, dim);
}

}  // namespace sparsum
