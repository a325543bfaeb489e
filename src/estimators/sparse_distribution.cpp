#include "structures/regular.h"

#include <sparsum/categorical.h>
#include <sparsum/entmax.h>
#include <sparsum/sparse_distribution.h>
#include <sparsum/sparsemax.h>
#include <sparsum/support.h>
#include <sparsum/top_k_sparsemax.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

namespace sparsum {
namespace {

/// The smallest normal number of a floating dtype.
double smallest(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return std::numeric_limits<double>::min();
    case at::kHalf:
      return 6.103515625e-05;
    default:  // float32; bfloat16 has its exponents
      return std::numeric_limits<float>::min();
  }
}

/// Where outcome z.indices[i] of example z.rows[i] lies in a [B, K] table laid out flat.
at::Tensor flat_position(const Assignments& z) { return at::add(z.indices, z.rows, z.parts); }

/// The Categorical of a map that works on all its outcomes' scores at once.
void check_categorical(const char* caller, const Structure& structure, const char* others) {
  TORCH_CHECK(dynamic_cast<const Categorical*>(&structure) != nullptr, caller,
              ": expected a categorical structure, whose scores are its outcomes' scores, got ",
              structure.name(), others);
}

}  // namespace

SparseDistribution::SparseDistribution(Assignments support, at::Tensor probs, at::Tensor exact)
    : support_(std::move(support)), probs_(std::move(probs)), exact_(std::move(exact)) {
  TORCH_CHECK(probs_.dim() == 1 && probs_.size(0) == support_.count(),
              "SparseDistribution: expected probs to be [n] = [", support_.count(), "], got ",
              probs_.sizes());
  const int forms =
      support_.indices.defined() + support_.indicators.defined() + support_.base.defined();
  TORCH_CHECK(forms == 1,
              "SparseDistribution: expected a support of either indices, indicators or flips, got ",
              forms == 0 ? "neither" : "several");
  TORCH_CHECK(!exact_.defined() || (exact_.dim() == 1 && exact_.size(0) == batch_size() &&
                                    exact_.scalar_type() == at::kBool),
              "SparseDistribution: expected exact to be bool, one for each of ", batch_size(),
              " examples, got ", exact_.scalar_type(), " ", exact_.sizes());
}

namespace {

/// Throws, naming the row, unless each is a distribution up to rounding. NaN fails, too: as an
/// entry that is not above 0 it would be left out, and the expectation of any loss be 0.
void check_distributions(const at::Tensor& probs) {
  const auto type = probs.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor sums = probs.sum(1, /*keepdim=*/false, type);
  const at::Tensor legal = ((sums - 1).abs() <= 1e-2).logical_and(probs.amin(1) >= 0);
  if (legal.all().item<bool>()) return;
  const int64_t row = legal.logical_not().nonzero()[0].item<int64_t>();
  TORCH_CHECK_VALUE(false,
                    "SparseDistribution: expected each row of probs to be a distribution, got row ",
                    row, " with the sum ", sums[row].item<double>(), " and the least entry ",
                    probs[row].min().item<double>());
}

}  // namespace

SparseDistribution SparseDistribution::from_dense(const at::Tensor& probs, at::Tensor exact) {
  TORCH_CHECK(probs.dim() == 2, "SparseDistribution: expected probs to be [B, K], got ",
              probs.sizes());
  if (probs.is_cpu() && probs.numel() > 0) check_distributions(probs.detach());
  Assignments z;
  std::tie(z.row_splits, z.rows, z.indices) = sparsum::support(probs.detach());
  z.parts = probs.size(1);
  const at::Tensor flat = probs.reshape(-1);
  z.full_grid = z.count() == flat.size(0);
  at::Tensor own = z.full_grid ? flat : flat.index_select(0, flat_position(z));
  return SparseDistribution(std::move(z), std::move(own), std::move(exact));
}

at::Tensor SparseDistribution::entropy() const {
  // The clamp matters for listed zeros only: their term is exactly 0 and its gradient finite.
  const at::Tensor log_probs = probs_.clamp_min(smallest(probs_.scalar_type())).log();
  return support_.sum_per_example(probs_ * log_probs).neg();
}

at::Tensor SparseDistribution::marginals() const {
  if (support_.indices.defined()) return to_dense();
  return support_.sum_per_example(probs_.unsqueeze(1) * support_.values(probs_.scalar_type()));
}

Assignments SparseDistribution::mode() const {
  const at::NoGradGuard no_grad;
  const int64_t batch = batch_size();
  const at::Tensor& rows = support_.rows;
  const at::Tensor best = at::full({batch}, -INFINITY, probs_.options())
                              .scatter_reduce(0, rows, probs_, "amax", /*include_self=*/true);
  // Among equals the first in the structure's order: the lowest index, or the first that is listed.
  const bool hard = support_.indices.defined();
  const at::Tensor order = hard ? support_.indices : at::arange(support_.count(), rows.options());
  const int64_t last = (hard ? support_.parts : support_.count()) - 1;
  const at::Tensor candidate =
      order.masked_fill(probs_ < best.index_select(0, rows), std::max<int64_t>(last, 0));
  const at::Tensor first = at::full({batch}, last, rows.options())
                               .scatter_reduce(0, rows, candidate, "amin", /*include_self=*/true);
  Assignments z = regular_assignments(batch, 1, support_.parts, rows.device());
  if (!hard) return support_.select(first, z.rows, z.row_splits);
  z.indices = first;
  return z;
}

Assignments SparseDistribution::sample(int64_t samples, at::Generator generator) const {
  TORCH_CHECK(samples >= 1, "SparseDistribution: sample: expected at least 1 sample, got ",
              samples);
  const at::NoGradGuard no_grad;
  const int64_t batch = batch_size();
  Assignments z = regular_assignments(batch, samples, support_.parts, support_.rows.device());
  if (batch > 0) {
    // One running sum over all pairs; example b's outcomes split (begin[b], end[b]] of it.
    const at::Tensor cumulative = probs_.cumsum(0, at::kDouble);
    const at::Tensor bounds =
        at::constant_pad_nd(cumulative, {1, 0}).index_select(0, support_.row_splits);
    const at::Tensor begin = bounds.slice(0, 0, -1).unsqueeze(1);
    const at::Tensor end = bounds.slice(0, 1).unsqueeze(1);
    const at::Tensor noise = at::rand({batch, samples}, generator, cumulative.options());
    // Rounding may carry begin + u·(end − begin) to `end`, which belongs to the next example.
    const at::Tensor point = at::minimum(begin + noise * (end - begin), at::nextafter(end, begin));
    const at::Tensor chosen =
        at::searchsorted(cumulative, point.reshape(-1), /*out_int32=*/false, /*right=*/true);
    return support_.select(chosen, z.rows, z.row_splits);
  }
  return support_.select(at::empty({0}, z.rows.options()), z.rows, z.row_splits);
}

at::Tensor SparseDistribution::log_prob(const Assignments& z) const {
  TORCH_CHECK(z.parts == support_.parts && z.batch_size() == batch_size(),
              "SparseDistribution: log_prob: expected assignments of ", batch_size(),
              " examples and ", support_.parts, " parts, got ", z.batch_size(), " and ", z.parts);
  if (support_.indices.defined() && z.indices.defined()) {
    return to_dense().reshape(-1).index_select(0, flat_position(z)).log();
  }
  // Compares every pair of z with every supported outcome of its example.
  const at::Tensor candidates = evaluations().index_select(0, z.rows);
  const at::Tensor query =
      at::repeat_interleave(at::arange(z.count(), z.rows.options()), candidates);
  const at::Tensor first = support_.row_splits.index_select(0, z.rows) - candidates.cumsum(0);
  const at::Tensor supported =
      at::arange(query.size(0), query.options()) + (first + candidates).index_select(0, query);
  const at::Tensor same = (z.values().detach().index_select(0, query) ==
                           support_.values().detach().index_select(0, supported))
                              .all(1);
  const at::Tensor mass = probs_.index_select(0, supported).masked_fill(same.logical_not(), 0);
  return at::zeros({z.count()}, probs_.options()).index_add(0, query, mass).log();
}

SparseDistribution SparseDistribution::enumerate(int64_t) const { return *this; }

at::Tensor SparseDistribution::to_dense() const {
  TORCH_CHECK(support_.indices.defined(),
              "SparseDistribution: to_dense: the outcomes are vectors of ", support_.parts,
              " indicators, not the indices of a categorical");
  const int64_t batch = batch_size();
  if (support_.full_grid) return probs_.view({batch, support_.parts});
  return at::zeros({batch * support_.parts}, probs_.options())
      .index_add(0, flat_position(support_), probs_)
      .view({batch, support_.parts});
}

SparseDistribution sparsemax(const Structure& structure, const at::Tensor& scores) {
  check_categorical("sparsemax", structure, " (top_k_sparsemax and sparsemap are for larger sets)");
  structure.check_scores("sparsemax", scores);
  return SparseDistribution::from_dense(sparsemax(scores));
}

SparseDistribution entmax(const Structure& structure, const at::Tensor& scores, double alpha) {
  check_categorical("entmax", structure, "");
  structure.check_scores("entmax", scores);
  return SparseDistribution::from_dense(entmax(scores, alpha));
}

}  // namespace sparsum
