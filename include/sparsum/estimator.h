#pragma once

#include <sparsum/distribution.h>
#include <sparsum/expectation.h>
#include <sparsum/export.h>
#include <sparsum/structure.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace sparsum {

/// What an estimator is asked: the expectation of `loss` under the distribution that `scores`
/// define over `structure`, and its gradient.
struct Problem {
  const Structure& structure;
  at::Tensor scores;  ///< [B, V]
  LossFn loss;
  /// Tensors with gradient that the loss reads and that are not parameters (see expectation).
  std::vector<at::Tensor> shared;
  at::Tensor context;  ///< [B, …] or undefined: what learned baselines read; detached inside
  double entropy_weight = 1;  ///< the objective estimates E[loss] − entropy_weight·H(q)
  int64_t max_evaluations_per_chunk = 0;
};

/// An estimator's answer, per example.
struct Estimate {
  /// [B], attached: it and its gradient estimate E[loss] − entropy_weight·H(q) and the gradient
  /// thereof; the terms of the loss's own random choice (Loss::log_prob) are included.
  at::Tensor objective;
  /// Scalar or undefined: a loss over the estimator's own parameters (a baseline's error); add it
  /// unscaled.
  at::Tensor auxiliary;
  at::Tensor value;        ///< [B], detached: estimates E[loss]
  at::Tensor entropy;      ///< [B], detached: H(q), in nats
  at::Tensor evaluations;  ///< [B] int64: loss evaluations this example cost
};

/// A way to differentiate an expectation over a discrete variable. One interface for all, so that a
/// model's code does not change with the method. Parameters (learned baselines) and buffers (moving
/// averages, schedules' steps) belong to the module, so that checkpoints carry them.
class SPARSUM_API Estimator : public torch::nn::Module {
 public:
  /// Estimates the problem. generator: where estimators that sample draw from, and the loss if it
  /// draws; exact estimators need none. In training mode this may update running averages, after
  /// their use.
  virtual Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) = 0;

  /// The distribution the estimator takes scores to mean, for evaluation. It may refer to
  /// `structure`, which must outlive it.
  virtual std::unique_ptr<Distribution> distribution(const Structure& structure,
                                                     const at::Tensor& scores) const = 0;

  /// The loss evaluations that estimate() makes, per example: [B] int64. As declared here, the size
  /// of the distribution's support; estimators that sample say how many draws they evaluate
  /// instead.
  virtual at::Tensor evaluations(const Structure& structure, const at::Tensor& scores) const;

  /// The loss that trains a classifier under this estimator's own map, the Fenchel–Young loss of
  /// that map: cross-entropy for softmax, sparsemax loss for sparsemax. scores: [B, K], target: [B]
  /// int64 -> [B].
  virtual at::Tensor supervised_loss(const at::Tensor& scores, const at::Tensor& target) const;

  /// Throws, naming the structures it is defined for, if this is not one.
  virtual void check(const Structure& structure) const = 0;
};

/// The options of all estimators; each reads those it names in docs/estimators.md.
struct EstimatorOptions {
  double alpha = 1.5;                       ///< entmax: α ≥ 1
  int64_t k = 10;                           ///< top-k: support size ≥ 1
  int64_t max_k = 160;                      ///< top-k-adaptive: the largest support ≥ k
  std::string encoding = "one-state";       ///< sparsemap: or "both-states" (of bits)
  std::string algorithm = "active-set";     ///< sparsemap: or "closed-form" (of bits)
  std::string init = "map";                 ///< sparsemap, active set: or "random"
  double tolerance = 1e-9;                  ///< sparsemap, active set: largest duality gap > 0
  int64_t max_iterations = 0;               ///< sparsemap, active set: an example; 0: 1000 + 20·V
  int64_t budget = -1;                      ///< sparsemap-budget: bits on at most; −1: half
  int64_t samples = 1;                      ///< sampling estimators: draws per example ≥ 1
  std::string baseline = "moving-average";  ///< sfe: "none" or "moving-average"
  double baseline_decay = 0.99;             ///< moving average: weight of the past, in [0, 1)
  int64_t max_outcomes = 1 << 16;           ///< dense: the largest set it agrees to list
};

/// The estimators' names, in the order of the documentation.
SPARSUM_API std::vector<std::string> estimator_names();

/// Makes the estimator called `name`. Errors: an unknown name, with the known ones and the nearest
/// spelling; an option out of range, named.
SPARSUM_API std::shared_ptr<Estimator> make_estimator(const std::string& name,
                                                      const EstimatorOptions& options = {});

}  // namespace sparsum
