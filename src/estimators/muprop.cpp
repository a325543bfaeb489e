#include "estimators/moving_average.h"
#include "estimators/relaxation.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// MuProp (Gu, Levine, Sutskever and Mnih, 2016), with z_1 … z_m drawn from π and the loss's
/// first-order expansion at the marginals μ = E[a_z] as control variate:
///   1/m Σ_i [∇ℓ(z_i) + (ℓ(z_i) − ℓ(μ) − ⟨∇ℓ(μ), a_{z_i} − μ⟩ − b) ∇log π(z_i)]
///     + (∂μ/∂t)ᵀ ∇ℓ(μ) − w ∇H(π),
/// b the moving average of that difference in earlier calls, or 0.
///
/// Unbiased. Costs m + 1 loss evaluations an example, one of them at μ; needs a loss with a
/// gradient in relaxed indicators, a structure with exact samples, partition function, marginals
/// and entropy, and a generator.
class MuProp final : public GibbsEstimator {
 public:
  MuProp(int64_t samples, std::shared_ptr<MovingAverage> average)
      : GibbsEstimator("muprop", samples + 1), samples_(samples) {
    if (average) average_ = register_module("baseline", std::move(average));
  }

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    const at::Generator draws = start(problem, generator);
    const Gibbs q(problem.structure, problem.scores);
    const Assignments z = q.sample(samples_, draws);
    const Loss loss = evaluate(z, problem, draws);
    const at::Tensor marginals = q.marginals();
    const auto [at_mean, slope] =
        relaxed_loss(name(), one_per_example(marginals, z.parts), problem);

    const at::Tensor off_mean = z.values(marginals.scalar_type()) - z.gather(marginals.detach());
    at::Tensor rest = loss.value.detach() - z.gather(at_mean) - (z.gather(slope) * off_mean).sum(1);
    if (average_) {
      const at::Tensor difference = rest;
      rest = rest - average_->value(name(), difference);
      if (is_training()) average_->update(difference);
    }
    const at::Tensor per_pair = with_choice(loss) + gradient_term(rest, q.log_prob(z));
    const at::Tensor expected =
        mean_per_example(per_pair, samples_) + gradient_term(slope, marginals).sum(1);
    return answer(problem, expected, mean_per_example(loss.value, samples_));
  }

  void check(const Structure& structure) const override { check_marginals(structure); }

 private:
  int64_t samples_;
  std::shared_ptr<MovingAverage> average_;
};

}  // namespace

std::shared_ptr<Estimator> make_muprop(const Making& making) {
  const EstimatorOptions& options = making.options;
  const int64_t samples = own_samples("muprop", options.samples, 1, 1);
  return std::make_shared<MuProp>(samples, own_average("muprop", options));
}

}  // namespace sparsum
