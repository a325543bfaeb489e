#pragma once

#include <sparsum/distribution.h>

#include <optional>

namespace sparsum {

/// A batch of B distributions, each given by the few outcomes it supports: pair i is outcome
/// support.indices[i] (or support.indicators[i]) of example support.rows[i], with probability
/// probs[i]. Each example's probabilities sum to 1.
class SPARSUM_API SparseDistribution final : public Distribution {
 public:
  /// support: the outcomes; probs: [n], attached to the scores; exact: [B] bool or undefined.
  SparseDistribution(Assignments support, at::Tensor probs, at::Tensor exact = {});

  /// The non-zero entries of probs [B, K], over Categorical outcomes; differentiable in `probs`.
  /// exact: [B] bool or undefined. On the CPU a row that is no distribution is an error.
  static SparseDistribution from_dense(const at::Tensor& probs, at::Tensor exact = {});

  const Assignments& support() const { return support_; }
  const at::Tensor& probs() const { return probs_; }
  /// Per example, whether this is the solution over all of Z (a certificate): [B] bool, or
  /// undefined where the map gives none.
  const at::Tensor& exact() const { return exact_; }
  /// Loss evaluations that an expectation costs, the size of each support: [B] int64.
  at::Tensor evaluations() const { return support_.evaluations(); }

  int64_t batch_size() const override { return support_.batch_size(); }
  at::Tensor entropy() const override;
  at::Tensor marginals() const override;
  Assignments mode() const override;
  Assignments sample(int64_t samples, at::Generator generator) const override;
  at::Tensor log_prob(const Assignments& z) const override;
  SparseDistribution enumerate(int64_t limit = 1 << 16) const override;

  /// [B, K] probabilities of a Categorical's outcomes; throws for outcomes that are not indices.
  at::Tensor to_dense() const;

 private:
  Assignments support_;
  at::Tensor probs_, exact_;
};

}  // namespace sparsum
