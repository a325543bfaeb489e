#pragma once

#include <ATen/core/Generator.h>
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
  /// Called once or more. The first call is one whose graph the objective carries; others may be
  /// made without gradient, or for the gradient in relaxed indicators alone.
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
  /// Scalar or undefined: a loss over the estimator's own parameters alone (a baseline's squared
  /// error, the variance of a gradient); add it unscaled. They have their own learning rate.
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
  double alpha = 1.5;  ///< entmax: α ≥ 1
  /// top-k, top-k-adaptive: support size ≥ 1; sum-and-sample: outcomes that are summed ≥ 1. 0: the
  /// estimator's own, 10 and 1.
  int64_t k = 0;
  int64_t max_k = 160;                   ///< top-k-adaptive: the largest support ≥ k
  std::string encoding = "one-state";    ///< sparsemap: or "both-states" (of bits)
  std::string algorithm = "active-set";  ///< sparsemap: or "closed-form" (of bits)
  std::string init = "map";              ///< sparsemap, active set: or "random"
  double tolerance = 1e-9;               ///< sparsemap, active set: largest duality gap > 0
  int64_t max_iterations = 0;            ///< sparsemap, active set: an example; 0: 1000 + 20·V
  int64_t budget = -1;                   ///< sparsemap-budget: bits on at most; −1: half
  int64_t max_outcomes = 1 << 16;        ///< dense: the largest set it agrees to list

  /// Sampling estimators: draws per example, all evaluated in one call of the loss. 0: as few as
  /// the estimator needs, 1, or 2 where draws are compared with each other.
  int64_t samples = 0;
  /// What is subtracted from a cost; "auto": the estimator's own choice. sfe: "none",
  /// "moving-average"; muprop: the same; sum-and-sample: "none", "summed"; unordered-set: "none",
  /// "built-in".
  std::string baseline = "auto";
  double baseline_decay = 0.99;  ///< moving average: weight of the past, in [0, 1)
  int64_t context = 0;          ///< nvil ≥ 1, relax ≥ 0: numbers an example in Problem::context
  int64_t parts = 0;            ///< relax: V of the structure ≥ 1
  int64_t baseline_layers = 3;  ///< nvil, relax: hidden layers of the network ≥ 0
  int64_t baseline_hidden = 512;   ///< nvil, relax: width of each ≥ 1
  double control_scale = 1;        ///< rebar, relax with embed_loss: where η starts
  bool embed_loss = false;         ///< relax: the control variate holds η times the relaxed loss
  bool adapt_temperature = false;  ///< rebar: also learns τ, at one more evaluation a draw

  /// gumbel, st-gumbel, rebar, relax: τ > 0 of the relaxation, where its schedule starts:
  ///   max(temperature_min, temperature·exp(−temperature_decay·n)),
  /// n the number of estimates in training mode, rounded down to a multiple of temperature_every.
  /// rebar and relax keep τ.
  double temperature = 1;
  double temperature_decay = 0;      ///< ≥ 0; 0: the temperature stays
  double temperature_min = 0.5;      ///< > 0, at most `temperature` if that decays
  int64_t temperature_every = 1000;  ///< ≥ 1

  std::string noise = "gumbel";  ///< imle: or "sum-of-gamma"
  double noise_temperature = 1;  ///< imle: what the noise is multiplied by, ≥ 0
  int64_t gamma_size = 1;        ///< imle, sum-of-gamma: parts an outcome uses, κ ≥ 1
  int64_t gamma_terms = 10;      ///< imle, sum-of-gamma: terms of the sum ≥ 1
  double target_step = 10;       ///< imle: λ > 0, how far the target's scores are from the scores
};

/// The estimators' names, in the order of the documentation.
SPARSUM_API std::vector<std::string> estimator_names();

/// Makes the estimator called `name`. generator: where the initial parameters of learned baselines
/// (nvil, relax) are drawn from; the others need none. Errors: an unknown name, with the known ones
/// and the nearest spelling; an option out of range, named.
SPARSUM_API std::shared_ptr<Estimator> make_estimator(const std::string& name,
                                                      const EstimatorOptions& options = {},
                                                      std::optional<at::Generator> generator = {});

}  // namespace sparsum
