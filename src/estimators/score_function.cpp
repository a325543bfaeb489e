#include "estimators/estimators.h"
#include "estimators/evaluate.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/torch.h>

namespace sparsum {
namespace {

/// The exponential moving average of a cost, without the bias of its start at 0:
///   c_t = Σ_i d^{t−i} x_i / Σ_i d^{t−i},   d the decay.
/// Buffers, so that checkpoints carry it.
class MovingAverage : public torch::nn::Module {
 public:
  explicit MovingAverage(double decay)
      : torch::nn::Module("moving_average"),
        average_(register_buffer("average", at::zeros({}, at::kDouble))),
        weight_(register_buffer("weight", at::zeros({}, at::kDouble))),
        decay_(decay) {}

  /// 0 before the first update.
  const at::Tensor& value() const { return average_; }

  void update(const at::Tensor& costs) {
    const at::NoGradGuard no_grad;
    weight_.mul_(decay_).add_(1 - decay_);
    average_.lerp_(costs.mean(average_.scalar_type()), (1 - decay_) / weight_);
  }

 private:
  at::Tensor average_, weight_;
  double decay_;
};

/// The score-function estimator, REINFORCE (Williams, 1992), with z_1 … z_m drawn from the Gibbs
/// distribution π:
///   1/m Σ_i [∇ℓ(z_i) + (ℓ(z_i) − b) ∇log π(z_i)] − w ∇H(π),   H exact, not sampled.
/// b is 0 or a moving average of the costs of earlier calls: never of this one's, which would bias
/// the gradient. A choice that the loss makes itself has its term multiplied by (ℓ − b) as well.
///
/// Unbiased for any b that does not depend on z. Costs m loss evaluations an example. Needs a
/// structure with exact samples, partition function and entropy, and a generator.
class ScoreFunction final : public Estimator {
 public:
  ScoreFunction(int64_t samples, bool moving_average, double decay) : samples_(samples) {
    if (moving_average) {
      baseline_ = register_module("baseline", std::make_shared<MovingAverage>(decay));
    }
  }

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    TORCH_CHECK(generator.has_value() && generator->defined(),
                "estimator 'sfe': expected a generator to draw from");
    const Gibbs q(problem.structure, problem.scores);
    const int64_t batch = q.batch_size();
    const Assignments z = q.sample(samples_, *generator);
    const Loss loss =
        evaluate(z, problem.loss, problem.shared, {problem.max_evaluations_per_chunk, generator});
    const at::Tensor cost = loss.value.detach();
    at::Tensor advantage = cost;
    if (baseline_) {
      check_device(cost);
      advantage = cost - baseline_->value();
    }
    at::Tensor log_prob = q.log_prob(z);
    if (loss.log_prob.defined()) log_prob = log_prob + loss.log_prob;
    // Subtracting the detached log-probability keeps the objective's value an estimate, too.
    const at::Tensor per_pair = loss.value + advantage * (log_prob - log_prob.detach());
    if (baseline_ && is_training() && batch > 0) baseline_->update(cost);

    Estimate estimate;
    const at::Tensor expected = mean_per_example(per_pair, batch);
    if (problem.entropy_weight == 0) {
      const at::NoGradGuard no_grad;
      estimate.entropy = q.entropy();
      estimate.objective = expected;
    } else {
      const at::Tensor entropy = q.entropy();
      estimate.entropy = entropy.detach();
      estimate.objective = at::sub(expected, entropy, problem.entropy_weight);
    }
    estimate.value = mean_per_example(cost, batch);
    estimate.evaluations = at::full({batch}, samples_, z.rows.options());
    return estimate;
  }

  std::unique_ptr<Distribution> distribution(const Structure& structure,
                                             const at::Tensor& scores) const override {
    return std::make_unique<Gibbs>(structure, scores);
  }

  at::Tensor evaluations(const Structure& structure, const at::Tensor& scores) const override {
    structure.check_scores("sfe", scores);
    return at::full({scores.size(0)}, samples_, scores.options().dtype(at::kLong));
  }

  void check(const Structure& structure) const override {
    // Oracles that do not exist say so for an empty batch as well.
    const at::Tensor nothing = at::empty({0, structure.parts()});
    try {
      structure.sample(nothing, 1, at::detail::createCPUGenerator());
      structure.log_partition(nothing);
      structure.entropy(nothing);
    } catch (const c10::Error& error) {
      TORCH_CHECK(false,
                  "estimator 'sfe' is for structures with exact samples, partition function "
                  "and entropy; ",
                  error.what_without_backtrace());
    }
  }

 private:
  /// Every example has `samples_` pairs, so that no pass over ragged rows is needed.
  at::Tensor mean_per_example(const at::Tensor& per_pair, int64_t batch) const {
    return samples_ == 1 ? per_pair : per_pair.view({batch, samples_}).mean(1);
  }

  void check_device(const at::Tensor& cost) const {
    TORCH_CHECK(cost.device() == baseline_->value().device(),
                "estimator 'sfe': its baseline is on ", baseline_->value().device(),
                ", the loss on ", cost.device(), "; move the estimator with to(device)");
  }

  int64_t samples_;
  std::shared_ptr<MovingAverage> baseline_;
};

}  // namespace

std::shared_ptr<Estimator> make_score_function(const EstimatorOptions& options) {
  TORCH_CHECK(options.samples >= 1, "estimator 'sfe': expected samples >= 1, got ",
              options.samples);
  TORCH_CHECK(options.baseline == "none" || options.baseline == "moving-average",
              "estimator 'sfe': expected baseline to be 'none' or 'moving-average', got '",
              options.baseline, "'");
  TORCH_CHECK(options.baseline_decay >= 0 && options.baseline_decay < 1,
              "estimator 'sfe': expected baseline_decay in [0, 1), got ", options.baseline_decay);
  return std::make_shared<ScoreFunction>(options.samples, options.baseline == "moving-average",
                                         options.baseline_decay);
}

}  // namespace sparsum
