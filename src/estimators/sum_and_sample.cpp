#include "estimators/relaxation.h"
#include "estimators/without_replacement.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// Sum-and-sample, Rao–Blackwellisation (Liu, Regier, Tripuraneni, Jordan and McAuliffe, 2019): the
/// k most probable outcomes C are summed, and z_1 … z_m drawn from the rest of π,
///   Σ_{z in C} π(z) [∇ℓ(z) + (ℓ(z) − b) ∇log π(z)]
///     + π(C̄)/m Σ_i [∇ℓ(z_i) + (ℓ(z_i) − b) ∇log π(z_i)] − w ∇H(π).
/// b is the mean of the losses summed, Σ_C π ℓ / π(C), or 0. Because it is subtracted in both
/// places and does not depend on what is drawn, it leaves the expectation as it is.
///
/// Unbiased, with no more variance than the score function with the same b. Costs k + m loss
/// evaluations an example, in one call of the loss (fewer where a score of −∞ leaves fewer
/// outcomes); needs a categorical or free bits of more than k outcomes, and a generator.
class SumAndSample final : public GibbsEstimator {
 public:
  SumAndSample(int64_t k, int64_t samples, bool centred)
      : GibbsEstimator("sum-and-sample", k + samples),
        k_(k),
        samples_(samples),
        centred_(centred) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    check(problem.structure);
    const at::Generator draws = start(problem, generator);
    const Problem wide = widened(problem);
    const Gibbs q(wide.structure, wide.scores);
    Assignments best = wide.structure.k_best(wide.scores.detach(), k_);
    {
      const at::NoGradGuard no_grad;
      best = filter(best, wide.structure.score(wide.scores, best) > -INFINITY);
    }
    const Rest rest(wide.structure, wide.scores, best);
    const auto [z, order] = join(best, rest.sample(samples_, draws));
    const Loss loss = evaluate(z, wide, draws);
    const at::Tensor log_prob = q.log_prob(z);
    const at::Tensor cost = loss.value.detach();

    // What each pair stands for: its own probability, or its share of the rest's.
    const at::Tensor summed = order < best.count();
    const at::Tensor log_p = log_prob.detach();
    const at::Tensor share = rest.log_mass().exp() / static_cast<double>(samples_);
    const at::Tensor weight = at::where(summed, log_p.exp(), z.gather(share));
    at::Tensor advantage = cost;
    if (centred_ && z.count() > 0) {
      // Relative to the best, the first pair of each example: all of them may underflow.
      const at::Tensor most = log_p.index_select(0, z.row_splits.slice(0, 0, -1));
      const at::Tensor listed = summed * (log_p - z.gather(most)).clamp_max(0).exp();
      const at::Tensor mean = z.sum_per_example(listed * cost) / z.sum_per_example(listed);
      advantage = cost - z.gather(mean);
    }
    const at::Tensor per_pair = weight * (with_choice(loss) + gradient_term(advantage, log_prob));
    Estimate estimate = answer(wide, z.sum_per_example(per_pair), z.sum_per_example(weight * cost));
    estimate.evaluations = z.evaluations();
    return estimate;
  }

  at::Tensor evaluations(const Structure& structure, const at::Tensor& scores) const override {
    return allowed_outcomes(structure, scores, k_) + samples_;
  }

  void check(const Structure& structure) const override {
    check_relaxable(name(), structure);
    const std::optional<int64_t> size = structure.size();
    TORCH_CHECK(!size || k_ < *size, "estimator 'sum-and-sample': expected k < ", *size,
                ", the number of outcomes of ", structure.name(), ", got ", k_);
  }

 private:
  int64_t k_, samples_;
  bool centred_;
};

}  // namespace

std::shared_ptr<Estimator> make_sum_and_sample(const Making& making) {
  const EstimatorOptions& options = making.options;
  const int64_t k = own_k("sum-and-sample", options.k, 1);
  const int64_t samples = own_samples("sum-and-sample", options.samples, 1, 1);
  const std::string baseline = own_baseline("sum-and-sample", options.baseline, {"summed", "none"});
  return std::make_shared<SumAndSample>(k, samples, baseline == "summed");
}

}  // namespace sparsum
