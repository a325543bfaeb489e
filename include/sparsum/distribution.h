#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <sparsum/assignments.h>
#include <sparsum/export.h>
#include <sparsum/structure.h>

#include <cstdint>

namespace sparsum {

class SparseDistribution;

/// A batch of B distributions over the outcomes of a structure. Quantities in nats; tensors are
/// attached to the scores they came from unless said otherwise.
class SPARSUM_API Distribution {
 public:
  virtual ~Distribution() = default;

  virtual int64_t batch_size() const = 0;
  /// H(q): [B]. 0·log 0 = 0, and its gradient is finite everywhere.
  virtual at::Tensor entropy() const = 0;
  /// E_q[a_z]: [B, V].
  virtual at::Tensor marginals() const = 0;
  /// The most probable outcome of each example; ties as the structure's.
  virtual Assignments mode() const = 0;
  /// `samples` independent draws per example, sorted by example.
  virtual Assignments sample(int64_t samples, at::Generator generator) const = 0;
  /// log q(z) of each pair: [n]; −∞ outside the support.
  virtual at::Tensor log_prob(const Assignments& z) const = 0;
  /// The outcomes of non-zero probability, listed; throws, naming the size, if a dense distribution
  /// has more than `limit` outcomes per example. Outcomes that a score of −∞ forbids are left out;
  /// if there are none in a Categorical, the listing is a full grid.
  virtual SparseDistribution enumerate(int64_t limit = 1 << 16) const = 0;
};

/// The Gibbs distribution π(z) ∝ exp(⟨a_z, t⟩) of a structure, by the structure's own oracles; for
/// a Categorical, softmax. Holds a reference to `structure`, which must outlive it.
class SPARSUM_API Gibbs final : public Distribution {
 public:
  /// scores: [B, V].
  Gibbs(const Structure& structure, at::Tensor scores);

  int64_t batch_size() const override { return scores_.size(0); }
  at::Tensor entropy() const override;
  at::Tensor marginals() const override;
  Assignments mode() const override;
  Assignments sample(int64_t samples, at::Generator generator) const override;
  at::Tensor log_prob(const Assignments& z) const override;
  SparseDistribution enumerate(int64_t limit = 1 << 16) const override;

 private:
  const Structure& structure_;
  at::Tensor scores_;
};

}  // namespace sparsum
