#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/rows.h"
#include "ops/sorted_sparsemax.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <sparsum/kernels/top_k_sparsemax.h>
#include <sparsum/top_k_sparsemax.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace sparsum::ops {
namespace {

constexpr const char* kOp = "top_k_sparsemax";
using Result = std::tuple<at::Tensor, at::Tensor>;

Result call(const at::Tensor& scores, int64_t k, int64_t dim) {
  static const auto op =
      find_op<Result(const at::Tensor&, int64_t, int64_t)>("sparsum::top_k_sparsemax");
  return op.call(scores, k, dim);
}

int64_t check(const at::Tensor& scores, int64_t k, int64_t dim) {
  check_floating(kOp, "scores", scores);
  TORCH_CHECK_VALUE(k >= 1, kOp, ": expected k >= 1, got ", k);
  return check_dim(kOp, scores, dim);
}

Result top_k_sparsemax_cpu(const at::Tensor& scores, int64_t k, int64_t dim) {
  const int64_t last = check(scores, k, dim);
  const at::Tensor input = to_rows(scores, last, compute_type(scores.scalar_type()));
  const at::Tensor probs = at::empty_like(input);
  const int64_t rows = input.size(0), cols = input.size(1);
  const at::Tensor exact = at::empty({rows}, scores.options().dtype(at::kBool));
  bool* exact_data = exact.mutable_data_ptr<bool>();
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), kOp, [&] {
    const auto* in = input.const_data_ptr<scalar_t>();
    auto* out = probs.mutable_data_ptr<scalar_t>();
    const int64_t bad = parallel_rows(rows, cols, [&](int64_t begin, int64_t end) {
      return kernels::top_k_sparsemax_forward(in + begin * cols, out + begin * cols,
                                              exact_data + begin, end - begin, cols, k);
    });
    if (bad >= 0) throw_illegal_row(kOp, input, bad);
  });
  return {from_rows(probs, scores, last), exact.view_symint(sizes_without(scores, last))};
}

Result top_k_sparsemax_generic(const at::Tensor& scores, int64_t k, int64_t dim) {
  const int64_t last = check(scores, k, dim);
  const at::Tensor x = scores.to(compute_type(scores.scalar_type()));
  const int64_t kept = std::min(k, x.size(last));
  // A stable sort breaks ties by the lower index, which topk does not promise.
  const auto [sorted, order] = x.sort(/*stable=*/true, last, /*descending=*/true);
  const at::Tensor best = sorted.narrow(last, 0, kept);
  const at::Tensor mass = sorted_sparsemax(best, last);
  const at::Tensor probs = at::zeros_like(x).scatter(last, order.narrow(last, 0, kept), mass);
  at::Tensor exact;
  if (kept == x.size(last)) {
    exact = at::ones_symint(sizes_without(scores, last), scores.options().dtype(at::kBool));
  } else {
    // τ from the largest score, which always has mass: τ = s₍₁₎ − p₍₁₎.
    const at::Tensor next = sorted.select(last, kept) - best.select(last, 0);
    exact = next <= -mass.select(last, 0);
  }
  return {probs.to(scores.scalar_type()), exact};
}

Result top_k_sparsemax_meta(const at::Tensor& scores, int64_t k, int64_t dim) {
  const int64_t last = check(scores, k, dim);
  return {at::empty_symint(scores.sym_sizes(), scores.options()),
          at::empty_symint(sizes_without(scores, last), scores.options().dtype(at::kBool))};
}

struct TopKSparsemax : torch::autograd::Function<TopKSparsemax> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& scores, int64_t k, int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [probs, exact] = call(scores, k, dim);
    ctx->save_for_backward({probs});
    ctx->mark_non_differentiable({exact});
    ctx->saved_data["dim"] = dim;
    return {probs, exact};
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    static const auto op = find_op<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t)>(
        "sparsum::sparsemax_backward");
    const int64_t dim = ctx->saved_data["dim"].toInt();
    return {op.call(grads[0], ctx->get_saved_variables()[0], dim), {}, {}};
  }
};

Result top_k_sparsemax_autograd(const at::Tensor& scores, int64_t k, int64_t dim) {
  refuse_forward_mode(kOp, scores);
  if (needs_graph(scores)) {
    const auto outputs = TopKSparsemax::apply(scores, k, dim);
    return {outputs[0], outputs[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call(scores, k, dim);
}

TORCH_LIBRARY_IMPL(sparsum, CPU, m) { m.impl("top_k_sparsemax", &top_k_sparsemax_cpu); }
TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("top_k_sparsemax", &top_k_sparsemax_generic);
}
TORCH_LIBRARY_IMPL(sparsum, Meta, m) { m.impl("top_k_sparsemax", &top_k_sparsemax_meta); }
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) { m.impl("top_k_sparsemax", &top_k_sparsemax_autograd); }

}  // namespace
}  // namespace sparsum::ops

namespace sparsum {

std::tuple<at::Tensor, at::Tensor> top_k_sparsemax(const at::Tensor& scores, int64_t k,
                                                   int64_t dim) {
  return ops::call(scores, k, dim);
}

}  // namespace sparsum
