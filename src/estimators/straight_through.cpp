#include "estimators/gibbs.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// The straight-through estimator (Hinton, 2012; Bengio, Léonard and Courville, 2013), with
/// z_1 … z_m drawn from π: the loss at z_i, the gradient as if z_i were the marginals μ = E[a_z],
///   1/m Σ_i (∂μ/∂t)ᵀ ∇_z ℓ(z_i) − w ∇H(π).
///
/// Biased, unless the loss is linear in z. Costs m loss evaluations an example; needs a loss with a
/// gradient in relaxed indicators, a structure with exact samples, partition function, marginals
/// and entropy, and a generator.
class StraightThrough final : public GibbsEstimator {
 public:
  explicit StraightThrough(int64_t samples)
      : GibbsEstimator("straight-through", samples), samples_(samples) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    const at::Generator draws = start(problem, generator);
    const Gibbs q(problem.structure, problem.scores);
    Assignments z = q.sample(samples_, draws);
    const at::Tensor marginals = z.gather(q.marginals());
    z.indicators = z.values(marginals.scalar_type()) + (marginals - marginals.detach());
    z.indices.reset();
    const Loss loss = evaluate(z, problem, draws);
    const at::Tensor per_example = mean_per_example(with_choice(loss), samples_);
    return answer(problem, per_example, per_example);
  }

  void check(const Structure& structure) const override { check_marginals(structure); }

 private:
  int64_t samples_;
};

}  // namespace

std::shared_ptr<Estimator> make_straight_through(const Making& making) {
  return std::make_shared<StraightThrough>(
      own_samples("straight-through", making.options.samples, 1, 1));
}

}  // namespace sparsum
