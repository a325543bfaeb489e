#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/generic_entmax.h"
#include "ops/per_row.h"
#include "ops/rows.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <sparsum/entmax.h>
#include <sparsum/kernels/entmax.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>

namespace sparsum::ops {
namespace {

constexpr const char* kOp = "entmax";

// Two overloads, one α or one a row; everything below is written once for both.
at::Tensor call(const at::Tensor& scores, double alpha, int64_t dim) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, double, int64_t)>("sparsum::entmax");
  return op.call(scores, alpha, dim);
}
at::Tensor call(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t)>(
      "sparsum::entmax", "Tensor");
  return op.call(scores, alpha, dim);
}
at::Tensor call_backward(const at::Tensor& grad, const at::Tensor& probs, double alpha,
                         int64_t dim) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, const at::Tensor&, double, int64_t)>(
      "sparsum::entmax_backward");
  return op.call(grad, probs, alpha, dim);
}
at::Tensor call_backward(const at::Tensor& grad, const at::Tensor& probs, const at::Tensor& alpha,
                         int64_t dim) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t)>(
          "sparsum::entmax_backward", "Tensor");
  return op.call(grad, probs, alpha, dim);
}
at::Tensor call_backward_alpha(const at::Tensor& grad, const at::Tensor& probs,
                               const at::Tensor& alpha, int64_t dim) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t)>(
          "sparsum::entmax_backward_alpha");
  return op.call(grad, probs, alpha, dim);
}

// α of each row, in float64 on the CPU, checked: a vector, or one number with stride 0.
struct RowAlphas {
  const double* data;
  int64_t stride;
  double value = 0;
  at::Tensor rows;

  explicit RowAlphas(double alpha) : data(&value), stride(0), value(alpha) {
    check_alpha(kOp, alpha);
  }
  RowAlphas(const at::Tensor& alpha, const at::Tensor& like, int64_t dim)
      : data(nullptr),
        stride(1),
        rows(alpha.to(at::kDouble)
                 .expand_symint(check_per_row(kOp, "alpha", alpha, like, dim))
                 .contiguous()
                 .view(-1)) {
    data = rows.const_data_ptr<double>();
    for (int64_t i = 0; i < rows.size(0); ++i) {
      TORCH_CHECK_VALUE(std::isfinite(data[i]) && data[i] >= 1, kOp,
                        ": expected alpha to be finite and >= 1, got ", data[i], " for row ", i);
    }
  }
  RowAlphas(const RowAlphas&) = delete;
  RowAlphas& operator=(const RowAlphas&) = delete;
};

RowAlphas row_alphas(double alpha, const at::Tensor&, int64_t) { return RowAlphas(alpha); }
RowAlphas row_alphas(const at::Tensor& alpha, const at::Tensor& like, int64_t dim) {
  return RowAlphas(alpha, like, dim);
}

// ---- CPU ----

template <class Alpha>
at::Tensor entmax_cpu(const at::Tensor& scores, const Alpha& alpha, int64_t dim) {
  check_floating(kOp, "scores", scores);
  const int64_t last = check_dim(kOp, scores, dim);
  const RowAlphas alphas = row_alphas(alpha, scores, last);
  const at::Tensor input = to_rows(scores, last, compute_type(scores.scalar_type()));
  const at::Tensor probs = at::empty_like(input);
  const int64_t rows = input.size(0), cols = input.size(1);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), kOp, [&] {
    const auto* in = input.const_data_ptr<scalar_t>();
    auto* out = probs.mutable_data_ptr<scalar_t>();
    const int64_t bad = parallel_rows(rows, cols, [&](int64_t begin, int64_t end) {
      return kernels::entmax_forward(in + begin * cols, out + begin * cols, end - begin, cols,
                                     alphas.data + begin * alphas.stride, alphas.stride);
    });
    if (bad >= 0) throw_illegal_row(kOp, input, bad);
  });
  return from_rows(probs, scores, last);
}

template <class Alpha>
at::Tensor entmax_backward_cpu(const at::Tensor& grad, const at::Tensor& probs, const Alpha& alpha,
                               int64_t dim) {
  const int64_t last = check_dim("entmax_backward", probs, dim);
  const RowAlphas alphas = row_alphas(alpha, probs, last);
  const auto type = compute_type(probs.scalar_type());
  const at::Tensor g = to_rows(grad, last, type), p = to_rows(probs, last, type);
  const at::Tensor out = at::empty_like(p);
  const int64_t rows = p.size(0), cols = p.size(1);
  AT_DISPATCH_FLOATING_TYPES(type, kOp, [&] {
    const auto* g_data = g.const_data_ptr<scalar_t>();
    const auto* p_data = p.const_data_ptr<scalar_t>();
    auto* out_data = out.mutable_data_ptr<scalar_t>();
    parallel_rows(rows, cols, [&](int64_t begin, int64_t end) {
      const int64_t at = begin * cols;
      kernels::entmax_backward(g_data + at, p_data + at, out_data + at, end - begin, cols,
                               alphas.data + begin * alphas.stride, alphas.stride);
      return int64_t{-1};
    });
  });
  return from_rows(out, probs, last);
}

// ∂/∂α, summed over what `alpha` was broadcast to: its shape and dtype.
at::Tensor entmax_backward_alpha_cpu(const at::Tensor& grad, const at::Tensor& probs,
                                     const at::Tensor& alpha, int64_t dim) {
  const int64_t last = check_dim("entmax_backward_alpha", probs, dim);
  const RowAlphas alphas(alpha, probs, last);
  const auto type = compute_type(probs.scalar_type());
  const at::Tensor g = to_rows(grad, last, type), p = to_rows(probs, last, type);
  const int64_t rows = p.size(0), cols = p.size(1);
  const at::Tensor out = at::empty({rows}, p.options().dtype(at::kDouble));
  double* out_data = out.mutable_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES(type, kOp, [&] {
    const auto* g_data = g.const_data_ptr<scalar_t>();
    const auto* p_data = p.const_data_ptr<scalar_t>();
    parallel_rows(rows, cols, [&](int64_t begin, int64_t end) {
      const int64_t at = begin * cols;
      kernels::entmax_backward_alpha(g_data + at, p_data + at, out_data + begin, end - begin, cols,
                                     alphas.data + begin, 1);
      return int64_t{-1};
    });
  });
  return out.view_symint(check_per_row(kOp, "alpha", alpha, probs, last))
      .sum_to_size(alpha.sizes())
      .to(alpha.scalar_type());
}

// ---- any other device ----

template <class Alpha>
at::Tensor entmax_any(const at::Tensor& scores, const Alpha& alpha, int64_t dim) {
  check_floating(kOp, "scores", scores);
  const int64_t last = check_dim(kOp, scores, dim);
  if constexpr (std::is_same_v<Alpha, double>) {
    check_alpha(kOp, alpha);
  } else {
    check_per_row(kOp, "alpha", alpha, scores, last);
  }
  return generic_entmax(scores.to(compute_type(scores.scalar_type())), alpha, last)
      .to(scores.scalar_type());
}

template <class Alpha>
at::Tensor entmax_backward_any(const at::Tensor& grad, const at::Tensor& probs, const Alpha& alpha,
                               int64_t dim) {
  const auto type = compute_type(probs.scalar_type());
  return generic_entmax_backward(grad.to(type), probs.to(type), alpha, dim).to(probs.scalar_type());
}

at::Tensor entmax_backward_alpha_any(const at::Tensor& grad, const at::Tensor& probs,
                                     const at::Tensor& alpha, int64_t dim) {
  return generic_entmax_backward_alpha(grad.to(at::kDouble), probs.to(at::kDouble),
                                       alpha.to(at::kDouble), dim)
      .sum_to_size(alpha.sizes())
      .to(alpha.scalar_type());
}

// ---- Meta ----

template <class Alpha>
at::Tensor entmax_meta(const at::Tensor& scores, const Alpha& alpha, int64_t dim) {
  check_floating(kOp, "scores", scores);
  const int64_t last = check_dim(kOp, scores, dim);
  if constexpr (std::is_same_v<Alpha, double>) {
    check_alpha(kOp, alpha);
  } else {
    check_per_row(kOp, "alpha", alpha, scores, last);
  }
  return at::empty_symint(scores.sym_sizes(), scores.options());
}

template <class Alpha>
at::Tensor entmax_backward_meta(const at::Tensor&, const at::Tensor& probs, const Alpha&, int64_t) {
  return at::empty_symint(probs.sym_sizes(), probs.options());
}

at::Tensor entmax_backward_alpha_meta(const at::Tensor&, const at::Tensor&, const at::Tensor& alpha,
                                      int64_t) {
  return at::empty_symint(alpha.sym_sizes(), alpha.options());
}

// ---- Autograd ----

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// α travels with the node as a number, or as a saved tensor behind `probs`.
void save(AutogradContext* ctx, variable_list tensors, double alpha, int64_t dim) {
  ctx->save_for_backward(std::move(tensors));
  ctx->saved_data["alpha"] = alpha;
  ctx->saved_data["dim"] = dim;
}
void save(AutogradContext* ctx, variable_list tensors, const at::Tensor& alpha, int64_t dim) {
  tensors.push_back(alpha);
  ctx->save_for_backward(std::move(tensors));
  ctx->saved_data["dim"] = dim;
}

at::Tensor broadcastable(double alpha, const at::Tensor& like) {
  return at::scalar_tensor(alpha, like.options().dtype(at::kDouble));
}
at::Tensor broadcastable(const at::Tensor& alpha, const at::Tensor&) {
  return alpha.to(at::kDouble);
}

// The derivative of v = u ⊙ (g − ⟨q, g⟩), q = u/Σu, u = p^{2−α}, contracted with c, in p:
//   ∂⟨c, v⟩/∂u = (g − ⟨q, g⟩) ⊙ (c − ⟨q, c⟩),  ∂u/∂p = (2 − α) p^{1−α}.
template <class Alpha>
at::Tensor second_derivative(const at::Tensor& c, const at::Tensor& grad, const at::Tensor& probs,
                             const Alpha& alpha, int64_t dim) {
  const at::Tensor a = broadcastable(alpha, probs).to(probs.device());
  const at::Tensor on = probs > 0;
  const at::Tensor p =
      at::where(on, probs.to(at::kDouble), 1);  // 1: no infinities to be masked later
  const at::Tensor u = at::where(on, p.pow(2 - a), 0);
  const at::Tensor q = u / u.sum(dim, true);
  const at::Tensor g = at::where(on, grad.to(at::kDouble), 0),
                   cc = at::where(on, c.to(at::kDouble), 0);
  const at::Tensor du = (g - (q * g).sum(dim, true)) * (cc - (q * cc).sum(dim, true));
  return at::where(on, (2 - a) * p.pow(1 - a) * du, 0).to(probs.scalar_type());
}

template <class Alpha>
struct EntmaxBackward : torch::autograd::Function<EntmaxBackward<Alpha>> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& grad, const at::Tensor& probs,
                            Alpha alpha, int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    save(ctx, {grad, probs}, alpha, dim);
    return call_backward(grad, probs, alpha, dim);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const int64_t dim = ctx->saved_data["dim"].toInt();
    const auto differentiate = [&](const auto& alpha) -> variable_list {
      at::Tensor grad_probs;
      if (ctx->needs_input_grad(1))
        grad_probs = second_derivative(grads[0], saved[0], saved[1], alpha, dim);
      return {call_backward(grads[0], saved[1], alpha, dim), grad_probs, {}, {}};
    };
    if constexpr (std::is_same_v<Alpha, double>) {
      return differentiate(ctx->saved_data["alpha"].toDouble());
    } else {
      TORCH_CHECK_NOT_IMPLEMENTED(
          !ctx->needs_input_grad(2),
          "entmax: second derivatives in alpha are not "
          "implemented; detach alpha where the first derivative is differentiated");
      return differentiate(saved[2]);
    }
  }
};

struct EntmaxBackwardAlpha : torch::autograd::Function<EntmaxBackwardAlpha> {
  static at::Tensor forward(AutogradContext*, const at::Tensor& grad, const at::Tensor& probs,
                            const at::Tensor& alpha, int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    return call_backward_alpha(grad, probs, alpha, dim);
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false,
        "entmax: second derivatives in alpha are not implemented; detach alpha "
        "where the first derivative is differentiated");
  }
};

template <class Alpha>
struct Entmax : torch::autograd::Function<Entmax<Alpha>> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& scores, Alpha alpha,
                            int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor probs = call(scores, alpha, dim);
    save(ctx, {probs}, alpha, dim);
    return probs;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const int64_t dim = ctx->saved_data["dim"].toInt();
    if constexpr (std::is_same_v<Alpha, double>) {
      return {call_backward(grads[0], saved[0], ctx->saved_data["alpha"].toDouble(), dim), {}, {}};
    } else {
      at::Tensor grad_scores, grad_alpha;
      if (ctx->needs_input_grad(0)) grad_scores = call_backward(grads[0], saved[0], saved[1], dim);
      if (ctx->needs_input_grad(1))
        grad_alpha = call_backward_alpha(grads[0], saved[0], saved[1], dim);
      return {grad_scores, grad_alpha, {}};
    }
  }
};

bool alpha_needs_graph(double) { return false; }
bool alpha_needs_graph(const at::Tensor& alpha) {
  refuse_forward_mode(kOp, alpha);
  return needs_graph(alpha);
}

template <class Alpha>
at::Tensor entmax_autograd(const at::Tensor& scores, const Alpha& alpha, int64_t dim) {
  refuse_forward_mode(kOp, scores);
  if (alpha_needs_graph(alpha) || needs_graph(scores))
    return Entmax<Alpha>::apply(scores, alpha, dim);
  at::AutoDispatchBelowADInplaceOrView below;
  return call(scores, alpha, dim);
}

template <class Alpha>
at::Tensor entmax_backward_autograd(const at::Tensor& grad, const at::Tensor& probs,
                                    const Alpha& alpha, int64_t dim) {
  refuse_forward_mode("entmax_backward", grad);
  if (alpha_needs_graph(alpha) || needs_graph(grad, probs)) {
    return EntmaxBackward<Alpha>::apply(grad, probs, alpha, dim);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_backward(grad, probs, alpha, dim);
}

at::Tensor entmax_backward_alpha_autograd(const at::Tensor& grad, const at::Tensor& probs,
                                          const at::Tensor& alpha, int64_t dim) {
  refuse_forward_mode("entmax_backward_alpha", grad);
  if (needs_graph(grad, probs, alpha)) return EntmaxBackwardAlpha::apply(grad, probs, alpha, dim);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_backward_alpha(grad, probs, alpha, dim);
}

// One α: a plain number in the schema arrives by value.
at::Tensor one_cpu(const at::Tensor& s, double a, int64_t d) { return entmax_cpu(s, a, d); }
at::Tensor one_any(const at::Tensor& s, double a, int64_t d) { return entmax_any(s, a, d); }
at::Tensor one_meta(const at::Tensor& s, double a, int64_t d) { return entmax_meta(s, a, d); }
at::Tensor one_autograd(const at::Tensor& s, double a, int64_t d) {
  return entmax_autograd(s, a, d);
}
at::Tensor one_backward_cpu(const at::Tensor& g, const at::Tensor& p, double a, int64_t d) {
  return entmax_backward_cpu(g, p, a, d);
}
at::Tensor one_backward_any(const at::Tensor& g, const at::Tensor& p, double a, int64_t d) {
  return entmax_backward_any(g, p, a, d);
}
at::Tensor one_backward_meta(const at::Tensor& g, const at::Tensor& p, double a, int64_t d) {
  return entmax_backward_meta(g, p, a, d);
}
at::Tensor one_backward_autograd(const at::Tensor& g, const at::Tensor& p, double a, int64_t d) {
  return entmax_backward_autograd(g, p, a, d);
}

TORCH_LIBRARY_IMPL(sparsum, CPU, m) {
  m.impl("entmax", &one_cpu);
  m.impl("entmax.Tensor", &entmax_cpu<at::Tensor>);
  m.impl("entmax_backward", &one_backward_cpu);
  m.impl("entmax_backward.Tensor", &entmax_backward_cpu<at::Tensor>);
  m.impl("entmax_backward_alpha", &entmax_backward_alpha_cpu);
}
TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("entmax", &one_any);
  m.impl("entmax.Tensor", &entmax_any<at::Tensor>);
  m.impl("entmax_backward", &one_backward_any);
  m.impl("entmax_backward.Tensor", &entmax_backward_any<at::Tensor>);
  m.impl("entmax_backward_alpha", &entmax_backward_alpha_any);
}
TORCH_LIBRARY_IMPL(sparsum, Meta, m) {
  m.impl("entmax", &one_meta);
  m.impl("entmax.Tensor", &entmax_meta<at::Tensor>);
  m.impl("entmax_backward", &one_backward_meta);
  m.impl("entmax_backward.Tensor", &entmax_backward_meta<at::Tensor>);
  m.impl("entmax_backward_alpha", &entmax_backward_alpha_meta);
}
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) {
  m.impl("entmax", &one_autograd);
  m.impl("entmax.Tensor", &entmax_autograd<at::Tensor>);
  m.impl("entmax_backward", &one_backward_autograd);
  m.impl("entmax_backward.Tensor", &entmax_backward_autograd<at::Tensor>);
  m.impl("entmax_backward_alpha", &entmax_backward_alpha_autograd);
}

}  // namespace
}  // namespace sparsum::ops

namespace sparsum {

at::Tensor entmax(const at::Tensor& scores, double alpha, int64_t dim) {
  return ops::call(scores, alpha, dim);
}

at::Tensor entmax(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim) {
  return ops::call(scores, alpha, dim);
}

}  // namespace sparsum
