#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/rows.h"
#include "ops/sorted_sparsemax.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <sparsum/kernels/sparsemax.h>
#include <sparsum/sparsemax.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace sparsum::ops {
namespace {

constexpr const char* kOp = "sparsemax";

at::Tensor call(const at::Tensor& scores, int64_t dim) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, int64_t)>("sparsum::sparsemax");
  return op.call(scores, dim);
}

at::Tensor call_backward(const at::Tensor& grad, const at::Tensor& probs, int64_t dim) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t)>(
      "sparsum::sparsemax_backward");
  return op.call(grad, probs, dim);
}

// ---- CPU ----

at::Tensor sparsemax_cpu(const at::Tensor& scores, int64_t dim) {
  check_floating(kOp, "scores", scores);
  const int64_t last = check_dim(kOp, scores, dim);
  const at::Tensor input = to_rows(scores, last, compute_type(scores.scalar_type()));
  const at::Tensor probs = at::empty_like(input);
  const int64_t rows = input.size(0), cols = input.size(1);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), kOp, [&] {
    const auto* in = input.const_data_ptr<scalar_t>();
    auto* out = probs.mutable_data_ptr<scalar_t>();
    const int64_t bad = parallel_rows(rows, cols, [&](int64_t begin, int64_t end) {
      return kernels::sparsemax_forward(in + begin * cols, out + begin * cols, end - begin, cols);
    });
    if (bad >= 0) throw_illegal_row(kOp, input, bad);
  });
  return from_rows(probs, scores, last);
}

at::Tensor sparsemax_backward_cpu(const at::Tensor& grad, const at::Tensor& probs, int64_t dim) {
  const int64_t last = check_dim("sparsemax_backward", probs, dim);
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
      kernels::sparsemax_backward(g_data + at, p_data + at, out_data + at, end - begin, cols);
      return int64_t{-1};
    });
  });
  return from_rows(out, probs, last);
}

// ---- any other device ----

at::Tensor sparsemax_generic(const at::Tensor& scores, int64_t dim) {
  check_floating(kOp, "scores", scores);
  const int64_t last = check_dim(kOp, scores, dim);
  return sorted_sparsemax(scores.to(compute_type(scores.scalar_type())), last)
      .to(scores.scalar_type());
}

at::Tensor sparsemax_backward_generic(const at::Tensor& grad, const at::Tensor& probs,
                                      int64_t dim) {
  const auto type = compute_type(probs.scalar_type());
  const at::Tensor on = probs > 0;
  const at::Tensor g = at::where(on, grad.to(type), 0);
  const at::Tensor mean = g.sum(dim, true) / on.to(type).sum(dim, true);
  return at::where(on, g - mean, 0).to(probs.scalar_type());
}

// ---- Meta ----

at::Tensor sparsemax_meta(const at::Tensor& scores, int64_t dim) {
  check_floating(kOp, "scores", scores);
  check_dim(kOp, scores, dim);
  return at::empty_symint(scores.sym_sizes(), scores.options());
}

at::Tensor sparsemax_backward_meta(const at::Tensor&, const at::Tensor& probs, int64_t) {
  return at::empty_symint(probs.sym_sizes(), probs.options());
}

// ---- Autograd ----

// v = J(p) g is linear in g with the symmetric J, and p's support is constant under small steps.
struct SparsemaxBackward : torch::autograd::Function<SparsemaxBackward> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& grad,
                            const at::Tensor& probs, int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({probs});
    ctx->saved_data["dim"] = dim;
    return call_backward(grad, probs, dim);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const int64_t dim = ctx->saved_data["dim"].toInt();
    return {call_backward(grads[0], ctx->get_saved_variables()[0], dim), {}, {}};
  }
};

struct Sparsemax : torch::autograd::Function<Sparsemax> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& scores,
                            int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor probs = call(scores, dim);
    ctx->save_for_backward({probs});
    ctx->saved_data["dim"] = dim;
    return probs;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const int64_t dim = ctx->saved_data["dim"].toInt();
    return {call_backward(grads[0], ctx->get_saved_variables()[0], dim), {}};
  }
};

at::Tensor sparsemax_autograd(const at::Tensor& scores, int64_t dim) {
  refuse_forward_mode(kOp, scores);
  if (needs_graph(scores)) return Sparsemax::apply(scores, dim);
  at::AutoDispatchBelowADInplaceOrView below;
  return call(scores, dim);
}

at::Tensor sparsemax_backward_autograd(const at::Tensor& grad, const at::Tensor& probs,
                                       int64_t dim) {
  refuse_forward_mode("sparsemax_backward", grad);
  if (needs_graph(grad, probs)) return SparsemaxBackward::apply(grad, probs, dim);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_backward(grad, probs, dim);
}

TORCH_LIBRARY_IMPL(sparsum, CPU, m) {
  m.impl("sparsemax", &sparsemax_cpu);
  m.impl("sparsemax_backward", &sparsemax_backward_cpu);
}
TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("sparsemax", &sparsemax_generic);
  m.impl("sparsemax_backward", &sparsemax_backward_generic);
}
TORCH_LIBRARY_IMPL(sparsum, Meta, m) {
  m.impl("sparsemax", &sparsemax_meta);
  m.impl("sparsemax_backward", &sparsemax_backward_meta);
}
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) {
  m.impl("sparsemax", &sparsemax_autograd);
  m.impl("sparsemax_backward", &sparsemax_backward_autograd);
}

}  // namespace
}  // namespace sparsum::ops

namespace sparsum {

at::Tensor sparsemax(const at::Tensor& scores, int64_t dim) { return ops::call(scores, dim); }

}  // namespace sparsum
