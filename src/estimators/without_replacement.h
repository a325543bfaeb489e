#pragma once

#include "estimators/gibbs.h"

namespace sparsum {

/// What is left of a Gibbs distribution when some of its outcomes are taken out.
///
/// For free bits the rest is cut into disjoint subtrees of the tree of prefixes, those that hang
/// off the paths of the outcomes taken out: no mass is ever found by subtracting, so that it is
/// right however little is left. O(B·(K + n)) for a categorical, O(B·k²·D) for k outcomes of D
/// bits, in memory O(B·k·(k + D)).
class Rest {
 public:
  /// taken: distinct outcomes, indices of a Categorical or indicators of free bits.
  Rest(const Structure& structure, const at::Tensor& scores, const Assignments& taken);

  /// log Σ π(z) of what is left: [B], detached; −∞ if there is nothing.
  const at::Tensor& log_mass() const { return log_mass_; }
  /// Independent draws from π restricted to what is left; where that is nothing, from all of π.
  Assignments sample(int64_t samples, const at::Generator& generator) const;

 private:
  const Structure& structure_;
  at::Tensor scores_;  // [B, V], detached
  at::Tensor left_;  // categorical: [B, K] scores, −∞ where taken; bits: [B, k·D] of subtrees
  at::Tensor prefixes_;  // bits: [B, k, D] outcomes taken, padded with copies of the first
  at::Tensor log_mass_;
};

/// `samples` draws without replacement from π, fewer where it allows fewer, in the order in which
/// they would be drawn, by Gumbel top-k (Kool, van Hoof and Welling, 2019); of free bits by the
/// same over the tree of prefixes, in O(B·m·D²).
Assignments sample_without_replacement(const Structure& structure, const at::Tensor& scores,
                                       int64_t samples, const at::Generator& generator);

/// How many outcomes of each example no score of −∞ forbids, at most `limit`: [B] int64.
at::Tensor allowed_outcomes(const Structure& structure, const at::Tensor& scores, int64_t limit);

/// The problem with scores in float32 at least, attached: noise and weights have no digits to
/// spare.
Problem widened(const Problem& problem);

/// The pairs of both, example by example, those of `a` before those of `b`; and where each came
/// from: a number below a.count(), or a.count() more than one of b's. Of a Categorical's indices,
/// or indicators.
std::pair<Assignments, at::Tensor> join(const Assignments& a, const Assignments& b);

/// The pairs at which `kept` [n] holds.
Assignments filter(const Assignments& z, const at::Tensor& kept);

}  // namespace sparsum
