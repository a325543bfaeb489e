#pragma once

#include "estimators/estimators.h"
#include "estimators/evaluate.h"

#include <string>

namespace sparsum {

/// What the estimators of the Gibbs distribution π(z) ∝ exp(⟨a_z, t⟩) that make the same number of
/// evaluations for every example have in common.
class GibbsEstimator : public Estimator {
 public:
  std::unique_ptr<Distribution> distribution(const Structure& structure,
                                             const at::Tensor& scores) const override;
  at::Tensor evaluations(const Structure& structure, const at::Tensor& scores) const override;
  /// Here: structures with exact samples, partition function and entropy.
  void check(const Structure& structure) const override;

 protected:
  GibbsEstimator(std::string name, int64_t evaluations)
      : name_(std::move(name)), evaluations_(evaluations) {}

  const std::string& name() const { return name_; }

  /// Throws unless the structure has marginals besides what check() asks for here.
  void check_marginals(const Structure& structure) const;

  /// What every estimate begins with: the generator to draw from. Throws if there is none, and for
  /// scores of another shape, or with a row that no distribution belongs to (not finite; checked on
  /// the CPU only, where that does not synchronise).
  at::Generator start(const Problem& problem, const std::optional<at::Generator>& generator) const;

  /// The estimate whose objective is expected − w·H(π), the entropy exact. expected: [B], estimates
  /// E[ℓ] and its gradient; value: [B].
  Estimate answer(const Problem& problem, const at::Tensor& expected,
                  const at::Tensor& value) const;

 private:
  std::string name_;
  int64_t evaluations_;
};

/// The losses of the pairs `z`, evaluated as the problem says.
Loss evaluate(const Assignments& z, const Problem& problem, const at::Generator& generator);

/// 0 whose gradient is factor·∇at, the score-function term: factor·(at − at). `factor` is detached.
at::Tensor gradient_term(const at::Tensor& factor, const at::Tensor& at);

/// The same for a gradient in scores, which may be −∞: both [B, V] -> [B].
at::Tensor score_term(const at::Tensor& gradient, const at::Tensor& scores);

/// Means over the `samples` pairs that every example has: [B·samples] -> [B].
at::Tensor mean_per_example(const at::Tensor& per_pair, int64_t samples);

/// Draws per example: `samples`, or `own` where it is 0. Throws unless it is then at least `least`.
int64_t own_samples(const char* name, int64_t samples, int64_t own, int64_t least);

/// `baseline`, or the first of the known ones where it is "auto". Throws if it is none of them.
std::string own_baseline(const char* name, const std::string& baseline,
                         std::initializer_list<const char*> known);

/// Throws unless decay is in [0, 1).
void check_decay(const char* name, double decay);

}  // namespace sparsum
