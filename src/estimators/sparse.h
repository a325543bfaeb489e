#pragma once

#include "estimators/estimators.h"

#include <string>

namespace sparsum {

/// Sparse marginalization (Correia, Niculae, Aziz and Martins, 2020): scores become a distribution
/// with few outcomes of non-zero probability, and the loss is summed over exactly those,
///   Σ_{z : ξ(z) > 0} ξ(z) ℓ(z).
/// Exact for its own ξ, in value and gradient; costs ‖ξ‖₀ loss evaluations an example. What differs
/// from one estimator to the next is the map from scores to ξ alone.
class SparseMarginalization : public Estimator {
 public:
  explicit SparseMarginalization(std::string name) : name_(std::move(name)) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override;
  std::unique_ptr<Distribution> distribution(const Structure& structure,
                                             const at::Tensor& scores) const override;
  /// Here: sparsemax's loss, that of every map of a categorical's scores that is sparsemax wherever
  /// it may be. Where top-k sparsemax is not, its own loss has a gradient that jumps when scores
  /// tie at the k-th place; this one's does not, and both are zero for the same scores: the true
  /// class 1 above all others.
  at::Tensor supervised_loss(const at::Tensor& scores, const at::Tensor& target) const override;
  /// Here: a Categorical.
  void check(const Structure& structure) const override;

 protected:
  /// Throws unless the structure lists its k best outcomes.
  void check_k_best(const Structure& structure) const;
  /// Throws unless SparseMAP can be solved over the structure.
  void check_sparsemap(const Structure& structure) const;
  const std::string& name() const { return name_; }

  virtual SparseDistribution map(const Structure& structure, const at::Tensor& scores) const = 0;

 private:
  std::string name_;
};

}  // namespace sparsum
