#include "estimators/relaxation.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// Gumbel-Softmax, the concrete distribution (Jang, Gu and Poole, 2017; Maddison, Mnih and Teh,
/// 2017), with ζ_1 … ζ_m relaxed draws from π at temperature τ (relaxation.h):
///   1/m Σ_i ∇ℓ(ζ_i) − w ∇H(π),   through ζ into the scores.
/// Its straight-through form evaluates the loss at the draw itself, the best outcome of the
/// *perturbed* scores, and takes the gradient as if it had been ζ.
///
/// Biased; for τ → 0 the bias of the first goes to 0 and its variance to ∞. τ may be annealed: see
/// EstimatorOptions. Costs m loss evaluations an example, at relaxed values; needs a loss with a
/// gradient in them, a categorical or free bits (binary concrete), and a generator.
class GumbelSoftmax final : public GibbsEstimator {
 public:
  GumbelSoftmax(const char* name, int64_t samples, bool straight_through,
                std::shared_ptr<Temperature> temperature)
      : GibbsEstimator(name, samples),
        samples_(samples),
        straight_through_(straight_through),
        temperature_(register_module("temperature", std::move(temperature))) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    check(problem.structure);
    const at::Generator draws = start(problem, generator);
    const Perturbed u(problem.structure, problem.scores, samples_, draws);
    at::Tensor values = u.relaxed(temperature_->now());
    if (is_training()) temperature_->count();
    if (straight_through_) values = values - values.detach() + u.hard();
    const Loss loss = evaluate(u.pairs(values), problem, draws);
    const at::Tensor per_example = mean_per_example(with_choice(loss), samples_);
    return answer(problem, per_example, per_example);
  }

  void check(const Structure& structure) const override { check_relaxable(name(), structure); }

 private:
  int64_t samples_;
  bool straight_through_;
  std::shared_ptr<Temperature> temperature_;
};

std::shared_ptr<Estimator> make(const char* name, bool straight_through, const Making& making) {
  return std::make_shared<GumbelSoftmax>(name, own_samples(name, making.options.samples, 1, 1),
                                         straight_through,
                                         std::make_shared<Temperature>(name, making.options));
}

}  // namespace

std::shared_ptr<Estimator> make_gumbel(const Making& making) {
  return make("gumbel", false, making);
}

std::shared_ptr<Estimator> make_st_gumbel(const Making& making) {
  return make("st-gumbel", true, making);
}

}  // namespace sparsum
