#include <sparsum/distribution.h>
#include <sparsum/sparse_distribution.h>
#include <torch/torch.h>

namespace sparsum {
namespace {

/// The pairs of a full listing, [B·size] of them, that the scores [B·size] do not forbid.
SparseDistribution drop_forbidden(const Structure& structure, const Assignments& all,
                                  const at::Tensor& scores, const at::Tensor& probs) {
  const at::Tensor table = probs.detach().view({all.batch_size(), -1});
  const at::Tensor invalid = table.sum(1).isfinite().logical_not_().nonzero();
  TORCH_CHECK(invalid.size(0) == 0, structure.name(), ": enumerate: row ",
              invalid[0].item<int64_t>(),
              " of the scores holds NaN or +inf, or allows no outcome at all");
  const at::Tensor kept = (scores > -INFINITY).nonzero().squeeze(1);
  Assignments z;
  z.rows = all.rows.index_select(0, kept);
  z.row_splits = at::searchsorted(z.rows, at::arange(all.batch_size() + 1, z.rows.options()));
  z.parts = all.parts;
  if (all.indices.defined()) z.indices = all.indices.index_select(0, kept);
  if (all.indicators.defined()) z.indicators = all.indicators.index_select(0, kept);
  return SparseDistribution(std::move(z), probs.index_select(0, kept));
}

}  // namespace

Gibbs::Gibbs(const Structure& structure, at::Tensor scores)
    : structure_(structure), scores_(std::move(scores)) {
  structure_.check_scores("Gibbs", scores_);
}

at::Tensor Gibbs::entropy() const { return structure_.entropy(scores_); }

at::Tensor Gibbs::marginals() const { return structure_.marginals(scores_); }

Assignments Gibbs::mode() const { return structure_.map(scores_.detach()); }

Assignments Gibbs::sample(int64_t samples, at::Generator generator) const {
  return structure_.sample(scores_.detach(), samples, std::move(generator));
}

at::Tensor Gibbs::log_prob(const Assignments& z) const {
  return structure_.score(scores_, z) - z.gather(structure_.log_partition(scores_));
}

SparseDistribution Gibbs::enumerate(int64_t limit) const {
  const int64_t batch = scores_.size(0);
  Assignments z = structure_.enumerate(batch, scores_.device(), limit);
  // The softmax over what is listed needs no partition function: some structures have none.
  const int64_t size = structure_.size().value();
  const at::Tensor scores = structure_.score(scores_, z);
  at::Tensor probs = scores.view({batch, size}).softmax(1).reshape(batch * size);
  if (batch > 0) {
    // Usually nothing is forbidden; then the listing stays a full grid. Also false for NaN.
    const auto [least, most] = at::aminmax(scores.detach());
    const bool all_finite = least.item<double>() > -INFINITY && most.item<double>() < INFINITY;
    if (!all_finite) return drop_forbidden(structure_, z, scores.detach(), probs);
  }
  return SparseDistribution(std::move(z), std::move(probs));
}

}  // namespace sparsum
