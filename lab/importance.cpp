#include "lab/importance.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace sparsum::lab {
namespace {

/// log Σ w and log Σ w² of numbers that come in batches as log w, for each of B observations.
class StreamingSums {
 public:
  explicit StreamingSums(int64_t batch)
      : log_sum_(at::full({batch}, -INFINITY, at::kDouble)), log_squares_(log_sum_.clone()) {}

  /// log_weights: [B, m].
  void add(const at::Tensor& log_weights) {
    const at::Tensor w = log_weights.to(at::kCPU, at::kDouble);
    log_sum_ = at::logaddexp(log_sum_, w.logsumexp(1));
    log_squares_ = at::logaddexp(log_squares_, (2 * w).logsumexp(1));
    count_ += w.size(1);
  }
  int64_t count() const { return count_; }
  /// log of the mean of w.
  at::Tensor log_mean() const { return log_sum_ - std::log(static_cast<double>(count_)); }
  /// log of the standard error of that mean.
  at::Tensor log_error() const {
    const auto m = static_cast<double>(count_);
    // Var = Σw²/m − mean², of the mean divided by m − 1; in units of Σw², so that nothing
    // underflows.
    const at::Tensor mean_square = log_squares_ - std::log(m);
    const at::Tensor ratio = (2 * log_mean() - mean_square).exp();
    const at::Tensor variance = (1 - ratio).clamp_min(0) / std::max(1.0, m - 1);
    return (mean_square + variance.log()) / 2;
  }

 private:
  at::Tensor log_sum_, log_squares_;
  int64_t count_ = 0;
};

/// m rows of bits for each of `batch` examples: [batch·m, bits] bytes, as assignments.
Assignments as_assignments(const at::Tensor& bits, int64_t batch) {
  const int64_t per_example = bits.size(0) / std::max<int64_t>(1, batch);
  const auto longs = bits.options().dtype(at::kLong);
  Assignments z;
  z.rows = at::arange(batch, longs).repeat_interleave(per_example);
  z.row_splits = at::arange(batch + 1, longs) * per_example;
  z.parts = bits.size(1);
  z.indicators = bits;
  return z;
}

at::Tensor uniform_bits(int64_t rows, int64_t bits, const at::Generator& generator,
                        const c10::Device& device) {
  return at::randint(0, 2, {rows, bits}, generator,
                     at::TensorOptions().dtype(at::kByte).device(device));
}

/// The pairs numbered begin … end − 1, a few at a time.
at::Tensor in_pieces(const Assignments& z, int64_t pairs_at_once, const LogLikelihood& f) {
  std::vector<at::Tensor> pieces;
  for (int64_t begin = 0; begin < z.count(); begin += pairs_at_once) {
    pieces.push_back(f(z.slice(begin, std::min(begin + pairs_at_once, z.count()))));
  }
  return pieces.empty() ? at::empty({0}, at::kDouble) : at::cat(pieces).to(at::kCPU, at::kDouble);
}

/// How many draws of each of `batch` observations to make at once.
int64_t draws_at_once(const ImportanceOptions& options, int64_t batch, int64_t missing) {
  return std::clamp<int64_t>(options.pairs_at_once / std::max<int64_t>(1, batch), 1, missing);
}

}  // namespace

LogEvidence log_evidence(const SparseDistribution& q, const LogLikelihood& log_likelihood,
                         at::Generator generator, const ImportanceOptions& options) {
  const at::NoGradGuard no_grad;
  const Assignments& support = q.support();
  const int64_t batch = q.batch_size(), bits = support.parts;
  const at::Tensor inside = in_pieces(support, options.pairs_at_once, log_likelihood);
  const at::Tensor rows = support.rows.cpu();
  // log Σ_S: each example's largest term first, so that nothing underflows.
  const at::Tensor largest = at::full({batch}, -INFINITY, at::kDouble)
                                 .scatter_reduce(0, rows, inside, "amax", /*include_self=*/true);
  const at::Tensor scaled = (inside - largest.index_select(0, rows)).exp();
  const at::Tensor on_support =
      at::zeros({batch}, at::kDouble).index_add(0, rows, scaled).log() + largest;
  const double log_size = static_cast<double>(bits) * std::log(2.0);
  const at::Tensor share =
      support.evaluations().cpu().to(at::kDouble).log() - log_size;  // log |S|/|Z|
  const at::Tensor all_listed = share >= -1e-12;
  if (all_listed.all().item<bool>()) {
    return {on_support - log_size, at::zeros({batch}, at::kDouble)};
  }

  // Finite log-probability where an outcome is listed, whatever its own probability: that may have
  // underflowed to 0.
  const SparseDistribution membership(support, at::ones_like(q.probs()));
  StreamingSums outside(batch);
  while (outside.count() < options.samples) {
    const int64_t m = draws_at_once(options, batch, options.samples - outside.count());
    at::Tensor drawn = uniform_bits(batch * m, bits, generator, support.rows.device());
    // Redraw those that are in the support; where that is everything there is no outside.
    for (;;) {
      const at::Tensor hit =
          membership.log_prob(as_assignments(drawn, batch))
              .isfinite()
              .logical_and(all_listed.logical_not().to(drawn.device()).repeat_interleave(m));
      const at::Tensor which = hit.nonzero().squeeze(1);
      if (which.size(0) == 0) break;
      drawn.index_copy_(0, which, uniform_bits(which.size(0), bits, generator, drawn.device()));
    }
    outside.add(log_likelihood(as_assignments(drawn, batch)).view({batch, m}));
  }
  // (|Z| − |S|)/|Z| = 1 − share; nothing where all is listed.
  const at::Tensor log_rest = at::log1p(-share.exp().clamp_max(1));
  const at::Tensor log_outside = log_rest + outside.log_mean();
  const at::Tensor log_p = at::logaddexp(on_support - log_size, log_outside);
  const at::Tensor error = (log_rest + outside.log_error() - log_p).exp();
  return {log_p, error};
}

LogEvidence log_evidence(const Distribution& q, int64_t bits, const LogLikelihood& log_likelihood,
                         at::Generator generator, const ImportanceOptions& options) {
  const at::NoGradGuard no_grad;
  const int64_t batch = q.batch_size();
  const double log_size = static_cast<double>(bits) * std::log(2.0);
  StreamingSums sums(batch);
  while (sums.count() < options.samples) {
    const int64_t m = draws_at_once(options, batch, options.samples - sums.count());
    const Assignments z = q.sample(m, generator);
    const at::Tensor log_weights = log_likelihood(z).to(at::kDouble) - q.log_prob(z);
    sums.add(log_weights.view({batch, m}) - log_size);
  }
  const at::Tensor log_p = sums.log_mean();
  return {log_p, (sums.log_error() - log_p).exp()};
}

}  // namespace sparsum::lab
