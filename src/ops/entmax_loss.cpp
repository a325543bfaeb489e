#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/generic_entmax.h"
#include "ops/rows.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <sparsum/entmax_loss.h>
#include <sparsum/kernels/entmax.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>

namespace sparsum::ops {
namespace {

constexpr const char* kOp = "entmax_loss";
using Pair = std::tuple<at::Tensor, at::Tensor>;

Pair call_forward(const at::Tensor& scores, const at::Tensor& target, double alpha, int64_t dim,
                  int64_t ignore_index) {
  static const auto op =
      find_op<Pair(const at::Tensor&, const at::Tensor&, double, int64_t, int64_t)>(
          "sparsum::entmax_loss_forward");
  return op.call(scores, target, alpha, dim, ignore_index);
}
at::Tensor call_backward(const at::Tensor& grad, const at::Tensor& probs, const at::Tensor& target,
                         int64_t dim, int64_t ignore_index) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                            int64_t, int64_t)>("sparsum::entmax_loss_backward");
  return op.call(grad, probs, target, dim, ignore_index);
}
at::Tensor call_entmax(const at::Tensor& scores, double alpha, int64_t dim) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, double, int64_t)>("sparsum::entmax");
  return op.call(scores, alpha, dim);
}
at::Tensor call_entmax_backward(const at::Tensor& grad, const at::Tensor& probs, double alpha,
                                int64_t dim) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, const at::Tensor&, double, int64_t)>(
      "sparsum::entmax_backward");
  return op.call(grad, probs, alpha, dim);
}

// Class indices, or else distributions.
bool is_index(const at::Tensor& target) { return target.scalar_type() == at::kLong; }

int64_t check(const at::Tensor& scores, const at::Tensor& target, double alpha, int64_t dim) {
  check_floating(kOp, "scores", scores);
  const int64_t last = check_dim(kOp, scores, dim);
  check_alpha(kOp, alpha);
  if (is_index(target)) {
    const auto expected = sizes_without(scores, last);
    TORCH_CHECK(target.sym_sizes() == at::SymIntArrayRef(expected), kOp,
                ": expected class indices of shape ", at::SymIntArrayRef(expected),
                " for scores of shape ", scores.sym_sizes(), ", got ", target.sym_sizes());
  } else {
    TORCH_CHECK_TYPE(
        target.scalar_type() == scores.scalar_type(), kOp,
        ": expected target to be Long class indices or distributions of the scores' dtype ",
        scores.scalar_type(), ", got ", target.scalar_type());
    TORCH_CHECK(target.sym_sizes() == scores.sym_sizes(), kOp,
                ": expected target distributions of shape ", scores.sym_sizes(), ", got ",
                target.sym_sizes());
  }
  TORCH_CHECK(target.device() == scores.device(), kOp, ": expected target on ", scores.device(),
              ", got ", target.device());
  return last;
}

// The classes as the kernel wants them: ignored rows are −1. Throws, naming the row, on any other
// class that is not one.
at::Tensor checked_classes(const at::Tensor& target, int64_t classes, int64_t ignore_index) {
  const at::Tensor checked = target.reshape(-1).clone();
  int64_t* data = checked.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < checked.size(0); ++i) {
    if (data[i] == ignore_index) {
      data[i] = -1;
      continue;
    }
    TORCH_CHECK_INDEX(data[i] >= 0 && data[i] < classes, kOp, ": expected target in [0, ",
                      classes - 1, "] or ignore_index ", ignore_index, ", got ", data[i],
                      " for row ", i);
  }
  return checked;
}

template <typename T>
void check_distributions(const T* target, int64_t rows, int64_t cols) {
  for (int64_t i = 0; i < rows; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const double y = static_cast<double>(target[i * cols + j]);
      TORCH_CHECK_VALUE(y >= 0, kOp, ": expected target distributions to be >= 0, got ", y,
                        " in row ", i, ", column ", j);
      sum += y;
    }
    TORCH_CHECK_VALUE(std::abs(sum - 1) <= 1e-3, kOp,
                      ": expected target distributions to sum to 1, got ", sum, " in row ", i);
  }
}

// ---- CPU ----

Pair forward_cpu(const at::Tensor& scores, const at::Tensor& target, double alpha, int64_t dim,
                 int64_t ignore_index) {
  const int64_t last = check(scores, target, alpha, dim);
  const auto type = compute_type(scores.scalar_type());
  const at::Tensor input = to_rows(scores, last, type);
  const int64_t rows = input.size(0), cols = input.size(1);
  const at::Tensor classes =
      is_index(target) ? checked_classes(target, cols, ignore_index) : at::Tensor();
  const at::Tensor distributions = is_index(target) ? at::Tensor() : to_rows(target, last, type);
  const at::Tensor losses = at::empty({rows}, input.options()), probs = at::empty_like(input);
  AT_DISPATCH_FLOATING_TYPES(type, kOp, [&] {
    const auto* in = input.const_data_ptr<scalar_t>();
    const int64_t* index = is_index(target) ? classes.const_data_ptr<int64_t>() : nullptr;
    const scalar_t* y = is_index(target) ? nullptr : distributions.const_data_ptr<scalar_t>();
    auto* p = probs.mutable_data_ptr<scalar_t>();
    auto* loss = losses.mutable_data_ptr<scalar_t>();
    if (y != nullptr) check_distributions(y, rows, cols);
    const int64_t bad = parallel_rows(rows, cols, [&](int64_t begin, int64_t end) {
      const int64_t at = begin * cols, count = end - begin;
      const int64_t illegal = kernels::entmax_forward(in + at, p + at, count, cols, &alpha, 0);
      if (illegal >= 0) return illegal;
      kernels::entmax_loss_forward(in + at, p + at, index ? index + begin : nullptr,
                                   y ? y + at : nullptr, loss + begin, count, cols, alpha);
      return int64_t{-1};
    });
    if (bad >= 0) throw_illegal_row(kOp, input, bad);
  });
  return {losses.to(scores.scalar_type()).view_symint(sizes_without(scores, last)),
          from_rows(probs, scores, last)};
}

// ---- any device ----

Pair forward_any(const at::Tensor& scores, const at::Tensor& target, double alpha, int64_t dim,
                 int64_t ignore_index) {
  const int64_t last = check(scores, target, alpha, dim);
  const at::Tensor s = scores.to(at::kDouble);
  const at::Tensor probs = call_entmax(s, alpha, last);
  const at::Tensor centred = s - s.amax(last, true);
  // p·(s − max) is 0 where p is, also at −∞.
  const at::Tensor own = at::where(probs > 0, probs * centred, 0).sum(last) +
                         generic_tsallis_entropy(probs, alpha, last);
  at::Tensor losses;
  if (is_index(target)) {
    const at::Tensor ignored = target == ignore_index;
    const at::Tensor classes = at::where(ignored, 0, target).unsqueeze(last);
    losses =
        at::where(ignored, 0, (own - centred.gather(last, classes).squeeze(last)).clamp_min(0));
  } else {
    const at::Tensor y = target.to(at::kDouble);
    losses =
        (own - at::where(y > 0, y * centred, 0).sum(last) - generic_tsallis_entropy(y, alpha, last))
            .clamp_min(0);
  }
  return {losses.to(scores.scalar_type()), probs.to(scores.scalar_type())};
}

// g (p − y), also the CPU's: two passes over memory at most.
at::Tensor backward_any(const at::Tensor& grad, const at::Tensor& probs, const at::Tensor& target,
                        int64_t dim, int64_t ignore_index) {
  const int64_t last = dim < 0 ? dim + probs.dim() : dim;
  if (!is_index(target)) return grad.unsqueeze(last) * (probs - target);
  const at::Tensor ignored = target == ignore_index;
  const at::Tensor g = at::where(ignored, 0, grad).unsqueeze(last);
  const at::Tensor classes = at::where(ignored, 0, target).unsqueeze(last);
  return (probs * g).scatter_add(last, classes, -g);
}

// ---- Meta ----

Pair forward_meta(const at::Tensor& scores, const at::Tensor& target, double alpha, int64_t dim,
                  int64_t) {
  const int64_t last = check(scores, target, alpha, dim);
  return {at::empty_symint(sizes_without(scores, last), scores.options()),
          at::empty_symint(scores.sym_sizes(), scores.options())};
}

at::Tensor backward_meta(const at::Tensor&, const at::Tensor& probs, const at::Tensor&, int64_t,
                         int64_t) {
  return at::empty_symint(probs.sym_sizes(), probs.options());
}

// ---- Autograd ----

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// g (p − y): linear in g and, with rows that are not ignored, in p.
struct EntmaxLossBackward : torch::autograd::Function<EntmaxLossBackward> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& grad, const at::Tensor& probs,
                            const at::Tensor& target, int64_t dim, int64_t ignore_index) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({grad, probs, target});
    ctx->saved_data["dim"] = dim;
    ctx->saved_data["ignore_index"] = ignore_index;
    return call_backward(grad, probs, target, dim, ignore_index);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &grad = saved[0], &probs = saved[1], &target = saved[2];
    const int64_t dim = ctx->saved_data["dim"].toInt();
    const int64_t last = dim < 0 ? dim + probs.dim() : dim;
    at::Tensor per_row;
    at::Tensor g = grad.unsqueeze(last);
    if (is_index(target)) {
      const at::Tensor ignored = target == ctx->saved_data["ignore_index"].toInt();
      const at::Tensor classes = at::where(ignored, 0, target).unsqueeze(last);
      per_row = (grads[0] * probs).sum(last) - grads[0].gather(last, classes).squeeze(last);
      per_row = at::where(ignored, 0, per_row);
      g = at::where(ignored.unsqueeze(last), 0, g);
    } else {
      per_row = (grads[0] * (probs - target)).sum(last);
    }
    return {per_row, g * grads[0], {}, {}, {}};
  }
};

// The probabilities are an output like any other, so that the second derivative flows through them.
struct EntmaxLoss : torch::autograd::Function<EntmaxLoss> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& scores,
                               const at::Tensor& target, double alpha, int64_t dim,
                               int64_t ignore_index) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [losses, probs] = call_forward(scores, target, alpha, dim, ignore_index);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({probs, target});
    ctx->saved_data["alpha"] = alpha;
    ctx->saved_data["dim"] = dim;
    ctx->saved_data["ignore_index"] = ignore_index;
    return {losses, probs};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const int64_t dim = ctx->saved_data["dim"].toInt();
    at::Tensor grad_scores;
    if (grads[0].defined()) {
      grad_scores =
          call_backward(grads[0], saved[0], saved[1], dim, ctx->saved_data["ignore_index"].toInt());
    }
    if (grads[1].defined()) {
      const at::Tensor through =
          call_entmax_backward(grads[1], saved[0], ctx->saved_data["alpha"].toDouble(), dim);
      grad_scores = grad_scores.defined() ? grad_scores + through : through;
    }
    return {grad_scores, {}, {}, {}, {}};
  }
};

Pair forward_autograd(const at::Tensor& scores, const at::Tensor& target, double alpha, int64_t dim,
                      int64_t ignore_index) {
  refuse_forward_mode(kOp, scores);
  TORCH_CHECK(!target.requires_grad(), kOp, ": there is no derivative in the target; detach it");
  if (needs_graph(scores)) {
    const auto outputs = EntmaxLoss::apply(scores, target, alpha, dim, ignore_index);
    return {outputs[0], outputs[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_forward(scores, target, alpha, dim, ignore_index);
}

at::Tensor backward_autograd(const at::Tensor& grad, const at::Tensor& probs,
                             const at::Tensor& target, int64_t dim, int64_t ignore_index) {
  refuse_forward_mode("entmax_loss_backward", grad);
  if (needs_graph(grad, probs))
    return EntmaxLossBackward::apply(grad, probs, target, dim, ignore_index);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_backward(grad, probs, target, dim, ignore_index);
}

// ---- the losses: reductions of the above ----

at::Tensor entmax_loss_reduced(const at::Tensor& scores, const at::Tensor& target, double alpha,
                               int64_t dim, int64_t ignore_index, int64_t reduction) {
  TORCH_CHECK_VALUE(reduction >= 0 && reduction <= 2, kOp,
                    ": expected reduction 0 (none), 1 (mean) or 2 (sum), got ", reduction);
  const at::Tensor losses = std::get<0>(call_forward(scores, target, alpha, dim, ignore_index));
  switch (static_cast<Reduction>(reduction)) {
    case Reduction::kNone:
      return losses;
    case Reduction::kSum:
      return losses.sum();
    case Reduction::kMean:
      break;
  }
  if (!is_index(target)) return losses.mean();
  return losses.sum() / (target != ignore_index).sum();
}

at::Tensor sparsemax_loss_reduced(const at::Tensor& scores, const at::Tensor& target, int64_t dim,
                                  int64_t ignore_index, int64_t reduction) {
  return entmax_loss_reduced(scores, target, 2, dim, ignore_index, reduction);
}

TORCH_LIBRARY_IMPL(sparsum, CPU, m) { m.impl("entmax_loss_forward", &forward_cpu); }
TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("entmax_loss_forward", &forward_any);
  m.impl("entmax_loss_backward", &backward_any);
}
TORCH_LIBRARY_IMPL(sparsum, Meta, m) {
  m.impl("entmax_loss_forward", &forward_meta);
  m.impl("entmax_loss_backward", &backward_meta);
}
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) {
  m.impl("entmax_loss_forward", &forward_autograd);
  m.impl("entmax_loss_backward", &backward_autograd);
}
TORCH_LIBRARY_IMPL(sparsum, CompositeImplicitAutograd, m) {
  m.impl("entmax_loss", &entmax_loss_reduced);
  m.impl("sparsemax_loss", &sparsemax_loss_reduced);
}

}  // namespace
}  // namespace sparsum::ops

namespace sparsum {

at::Tensor entmax_loss(const at::Tensor& scores, const at::Tensor& target, double alpha,
                       const LossOptions& options) {
  static const auto op =
      ops::find_op<at::Tensor(const at::Tensor&, const at::Tensor&, double, int64_t, int64_t,
                              int64_t)>("sparsum::entmax_loss");
  return op.call(scores, target, alpha, options.dim, options.ignore_index,
                 static_cast<int64_t>(options.reduction));
}

at::Tensor sparsemax_loss(const at::Tensor& scores, const at::Tensor& target,
                          const LossOptions& options) {
  static const auto op =
      ops::find_op<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t, int64_t, int64_t)>(
          "sparsum::sparsemax_loss");
  return op.call(scores, target, options.dim, options.ignore_index,
                 static_cast<int64_t>(options.reduction));
}

}  // namespace sparsum
