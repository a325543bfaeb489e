#pragma once

#include "estimators/gibbs.h"

namespace sparsum {

/// The score-function estimators, REINFORCE (Williams, 1992), with z_1 … z_m drawn from the Gibbs
/// distribution π:
///   1/m Σ_i [∇ℓ(z_i) + (ℓ(z_i) − b_i) ∇log π(z_i)] − w ∇H(π),   H exact, not sampled.
/// Unbiased for any b_i that does not depend on z_i: what differs from one to the next. A choice
/// that the loss makes itself has its term multiplied by ℓ − b_i as well.
class ScoreFunction : public GibbsEstimator {
 public:
  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override;

 protected:
  ScoreFunction(std::string name, int64_t samples, int64_t evaluations)
      : GibbsEstimator(std::move(name), evaluations), samples_(samples) {}

  struct Baseline {
    at::Tensor value;      ///< b: broadcasts against the costs [n], detached; undefined for 0
    at::Tensor auxiliary;  ///< of Estimate, or undefined
  };
  /// costs: [n], example by example. May learn from them, for the calls to come.
  virtual Baseline baseline(const at::Tensor& costs, const Problem& problem, const Gibbs& q,
                            const at::Generator& generator) = 0;

  int64_t samples() const { return samples_; }

 private:
  int64_t samples_;
};

}  // namespace sparsum
