#include "ops/find_op.h"
#include "sparsemap/solvers.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

using Configurations = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                  at::Tensor, at::Tensor, at::Tensor>;

}  // namespace

std::pair<at::Tensor, at::Tensor> bit_marginals(const Bits& bits, const at::Tensor& scores,
                                                Encoding encoding) {
  static const auto op =
      ops::find_op<std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, int64_t, int64_t, bool)>(
          "sparsum::sparsemap_marginals");
  const auto [marginals, tight] =
      op.call(scores, bits.least(), bits.most(), encoding == Encoding::kBothStates);
  return {marginals, tight};
}

at::Tensor bit_objective(const at::Tensor& scores, const at::Tensor& marginals, Encoding encoding) {
  const at::NoGradGuard no_grad;
  const at::Tensor t = scores.to(at::kDouble), mu = marginals.to(at::kDouble);
  at::Tensor terms = (mu - t).square();
  if (encoding == Encoding::kBothStates) terms = terms + (1 - mu).square();
  return terms.masked_fill(t == -INFINITY, 0).sum(1) / 2;
}

SparsemapResult solve_closed_form(const Bits& bits, const at::Tensor& scores,
                                  const SparsemapOptions& options, bool diagnostics) {
  static const auto op =
      ops::find_op<Configurations(const at::Tensor&, const at::Tensor&, int64_t, int64_t)>(
          "sparsum::sparsemap_configurations");
  // In float64, whatever the scores: sums of marginals decide how many bits are on.
  const auto [marginals, tight] = bit_marginals(bits, scores.to(at::kDouble), options.encoding);
  Assignments z;
  at::Tensor probs, upper, lower;
  std::tie(z.row_splits, z.rows, z.base, z.flip_splits, z.flips, probs, upper, lower) =
      op.call(marginals, tight, bits.least(), bits.most());
  z.parts = bits.parts();
  z.chained = true;
  const auto dtype = scores.scalar_type();
  const int64_t batch = scores.size(0);
  const auto longs = z.rows.options();
  const at::Tensor converged = at::ones({batch}, longs.dtype(at::kBool));
  SparseDistribution q(std::move(z), probs.to(dtype), converged);
  if (!diagnostics) return {std::move(q), marginals.to(dtype), {}, {}, {}, {}, converged};
  return {std::move(q),
          marginals.to(dtype),
          bit_objective(scores, marginals, options.encoding),
          at::zeros({batch}, longs.dtype(at::kDouble)),
          at::zeros({batch}, longs),
          at::zeros({batch}, longs),
          converged};
}

}  // namespace sparsum
