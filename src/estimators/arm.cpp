#include "estimators/relaxation.h"
#include "ops/rows.h"
#include "structures/regular.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// ARM (Yin and Zhou, 2019) and DisARM, also called U2G (Dong, Mnih and Tucker, 2020; Yin, Ho, Yan,
/// Qian and Zhou, 2020), for independent bits: a draw and its antithetic counterpart from the same
/// uniforms u in (0, 1)^D,
///   b = [u > σ(−t)],   b̃ = [u < σ(t)],
/// give the gradient in t_d
///   ARM      (ℓ(b) − ℓ(b̃)) (u_d − ½),
///   DisARM   ½ (ℓ(b) − ℓ(b̃)) (b_d − b̃_d) σ(|t_d|),
/// the second being the expectation of the first given b and b̃. That in the loss's own parameters
/// is the mean of both evaluations'. Means over m such pairs.
///
/// Unbiased. Costs 2m loss evaluations an example, in one call of the loss; needs free bits and a
/// generator.
class Arm final : public GibbsEstimator {
 public:
  Arm(const char* name, int64_t pairs, bool integrate)
      : GibbsEstimator(name, 2 * pairs), pairs_(pairs), integrate_(integrate) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    check(problem.structure);
    const at::Generator draws = start(problem, generator);
    const at::Tensor& scores = problem.scores;
    const int64_t batch = scores.size(0), bits = scores.size(1);
    const at::Tensor t = ops::widened(scores.detach());
    const at::Tensor p = t.unsqueeze(1);  // [B, 1, D]
    // In float64: a bit of probability 1e-8 is not to come on once in 2^24 draws.
    const at::Tensor u = at::rand({batch, pairs_, bits}, draws, t.options().dtype(at::kDouble));
    const at::Tensor exact = p.to(at::kDouble);
    const at::Tensor first = u > exact.neg().sigmoid(), second = u < exact.sigmoid();

    Assignments z = regular_assignments(batch, 2 * pairs_, bits, t.device());
    z.indicators = at::stack({first, second}, 2).view({batch * pairs_ * 2, bits}).to(at::kByte);
    const Loss loss = evaluate(z, problem, draws);
    const at::Tensor cost = loss.value.detach().view({batch, pairs_, 2});
    const at::Tensor difference = (cost.select(2, 0) - cost.select(2, 1)).unsqueeze(2);
    at::Tensor gradient;
    if (integrate_) {
      const at::Tensor sign = first.to(t.scalar_type()) - second.to(t.scalar_type());
      gradient = (0.5 * difference * sign * p.abs().sigmoid()).mean(1);
    } else {
      gradient = (difference * (u - 0.5)).mean(1).to(t.scalar_type());
    }
    const at::Tensor mean = mean_per_example(with_choice(loss), 2 * pairs_);
    return answer(problem, mean + score_term(gradient, scores), mean);
  }

  void check(const Structure& structure) const override { check_free_bits(name(), structure); }

 private:
  int64_t pairs_;
  bool integrate_;
};

std::shared_ptr<Estimator> make(const char* name, bool integrate, const Making& making) {
  return std::make_shared<Arm>(name, own_samples(name, making.options.samples, 1, 1), integrate);
}

}  // namespace

std::shared_ptr<Estimator> make_arm(const Making& making) { return make("arm", false, making); }

std::shared_ptr<Estimator> make_disarm(const Making& making) {
  return make("disarm", true, making);
}

}  // namespace sparsum
