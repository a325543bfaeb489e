#include "sparsemap/solvers.h"

#include <sparsum/categorical.h>
#include <sparsum/sparsemap.h>
#include <sparsum/sparsemax.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum {
namespace {

/// Over the indicators of one of K values the hull is the simplex: SparseMAP is sparsemax.
SparsemapResult solve_categorical(const at::Tensor& scores) {
  const at::Tensor probs = sparsemax(scores);
  const at::NoGradGuard no_grad;
  const auto longs = scores.options().requires_grad(false).dtype(at::kLong);
  const int64_t batch = scores.size(0);
  const at::Tensor converged = at::ones({batch}, longs.dtype(at::kBool));
  const at::Tensor residual = (probs - scores).masked_fill(scores == -INFINITY, 0).to(at::kDouble);
  at::AutoGradMode with_grad(true);
  return {SparseDistribution::from_dense(probs, converged),
          probs,
          residual.square().sum(1).detach() / 2,
          at::zeros({batch}, longs.dtype(at::kDouble)),
          at::zeros({batch}, longs),
          at::zeros({batch}, longs),
          converged};
}

void check(const char* caller, const Structure& structure, const at::Tensor& scores,
           const SparsemapOptions& options) {
  if (const auto* custom = dynamic_cast<const CustomStructure*>(&structure)) {
    custom->check_parts(caller);
  }
  structure.check_scores(caller, scores);
  TORCH_CHECK_VALUE(options.tolerance > 0 && std::isfinite(options.tolerance), caller,
                    ": expected a finite tolerance > 0, got ", options.tolerance);
  TORCH_CHECK_VALUE(options.max_iterations >= 0, caller, ": expected max_iterations >= 0, got ",
                    options.max_iterations);
  const bool bits = dynamic_cast<const Bits*>(&structure) != nullptr;
  TORCH_CHECK(bits || options.encoding == Encoding::kOneState, caller,
              ": Encoding::kBothStates is for bits, got ", structure.name());
  TORCH_CHECK(bits || options.algorithm == SparsemapAlgorithm::kActiveSet ||
                  dynamic_cast<const Categorical*>(&structure),
              caller, ": the closed form is for bits, got ", structure.name());
}

constexpr const char* kKnown =
    ": expected Bits, a Categorical or a CustomStructure, whose best outcome is all the solver "
    "needs, got ";

/// Without the outcomes whose weight a narrow dtype rounds to 0: what is listed is evaluated.
SparseDistribution drop_zeros(const SparseDistribution& q) {
  const at::Tensor kept = (q.probs().detach() > 0).nonzero().squeeze(1);
  if (kept.size(0) == q.support().count()) return q;
  const at::Tensor rows = q.support().rows.index_select(0, kept);
  const at::Tensor splits = at::searchsorted(rows, at::arange(q.batch_size() + 1, rows.options()));
  return SparseDistribution(q.support().select(kept, rows, splits), q.probs().index_select(0, kept),
                            q.exact());
}

SparsemapResult solve(const Structure& structure, const at::Tensor& scores,
                      const SparsemapOptions& options, bool diagnostics) {
  constexpr const char* kName = "sparsemap";
  check(kName, structure, scores, options);
  if (const auto* bits = dynamic_cast<const Bits*>(&structure)) {
    return options.algorithm == SparsemapAlgorithm::kClosedForm
               ? solve_closed_form(*bits, scores, options, diagnostics)
               : solve_active_set(*bits, scores, options);
  }
  if (dynamic_cast<const Categorical*>(&structure)) return solve_categorical(scores);
  const auto* custom = dynamic_cast<const CustomStructure*>(&structure);
  TORCH_CHECK(custom != nullptr, kName, kKnown, structure.name());
  return solve_active_set(*custom, scores, options);
}

SparsemapResult solve_listed(const Structure& structure, const at::Tensor& scores,
                             const SparsemapOptions& options, bool diagnostics) {
  SparsemapResult result = solve(structure, scores, options, diagnostics);
  if (c10::elementSize(scores.scalar_type()) < 4) {
    result.distribution = drop_zeros(result.distribution);
  }
  return result;
}

}  // namespace

SparsemapResult solve_sparsemap(const Structure& structure, const at::Tensor& scores,
                                const SparsemapOptions& options) {
  return solve_listed(structure, scores, options, /*diagnostics=*/true);
}

SparseDistribution sparsemap(const Structure& structure, const at::Tensor& scores,
                             const SparsemapOptions& options) {
  return solve_listed(structure, scores, options, /*diagnostics=*/false).distribution;
}

at::Tensor sparsemap_marginals(const Structure& structure, const at::Tensor& scores,
                               const SparsemapOptions& options) {
  check("sparsemap_marginals", structure, scores, options);
  if (const auto* bits = dynamic_cast<const Bits*>(&structure)) {
    return bit_marginals(*bits, scores, options.encoding).first;
  }
  return solve_sparsemap(structure, scores, options).marginals;
}

at::Tensor sparsemap_loss(const Structure& structure, const at::Tensor& scores,
                          const at::Tensor& target, const SparsemapOptions& options) {
  constexpr const char* kName = "sparsemap_loss";
  check(kName, structure, scores, options);
  TORCH_CHECK(target.sizes() == scores.sizes(), kName,
              ": expected target to be [B, V] = ", scores.sizes(), ", got ", target.sizes());
  const at::Tensor marginals = sparsemap_marginals(structure, scores, options);
  const at::Tensor y = target.to(scores.scalar_type());
  const int64_t variables = structure.variables();
  const auto omega = [&](const at::Tensor& point) {
    const at::Tensor u = point.slice(1, 0, variables);
    at::Tensor squares = u.square().sum(1);
    if (options.encoding == Encoding::kBothStates) squares = squares + (1 - u).square().sum(1);
    return squares / 2;
  };
  // max_μ ⟨t, μ⟩ − Ω(μ) is attained at the marginals: by the envelope theorem their own derivative
  // does not count in the first order, and does in the second; autograd gets both right.
  const at::Tensor forbidden = scores == -INFINITY;
  const at::Tensor finite = scores.masked_fill(forbidden, 0);
  const at::Tensor loss = omega(y) - omega(marginals) + (finite * (marginals - y)).sum(1);
  const at::Tensor illegal = forbidden.logical_and(y > 0).any(1);
  // The clamp is of the value alone: at a loss of 0 the gradient is as right as elsewhere.
  return (loss - loss.detach().clamp_max(0)).masked_fill(illegal, INFINITY);
}

}  // namespace sparsum
