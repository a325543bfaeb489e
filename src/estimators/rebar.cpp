#include "estimators/relaxation.h"

#include <torch/torch.h>

#include <cmath>

namespace sparsum {
namespace {

/// REBAR (Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, 2017), with b a draw, ζ its relaxation
/// and ζ̃ that of a second draw given b, and the loss at relaxed values as control variate:
///   ∇ℓ(b) + (ℓ(b) − η ℓ(ζ̃)) ∇log π(b) + η ∇_t ℓ(ζ) − η ∇_t ℓ(ζ̃) − w ∇H(π).
/// ζ̃ = ζ in value by coupled noise, so that one evaluation serves both (relaxation.h).
///
/// η follows the gradient of the estimate's squared norm, which is quadratic in η and so needs no
/// second derivative of the loss. With adapt_temperature so does log τ, by a difference quotient
/// with the same random numbers.
///
/// Unbiased. Costs 2m loss evaluations an example, half of them at relaxed values (3m to adapt the
/// temperature; without the coupling it would be m more); needs a loss with a gradient in relaxed
/// indicators, a categorical or free bits, and a generator.
class Rebar final : public GibbsEstimator {
 public:
  Rebar(int64_t samples, double scale, double temperature, bool adapt)
      : GibbsEstimator("rebar", (adapt ? 3 : 2) * samples),
        samples_(samples),
        temperature_(temperature),
        scale_(register_parameter("scale", at::full({}, scale, at::kFloat))) {
    if (adapt) {
      log_temperature_ =
          register_parameter("log_temperature", at::full({}, std::log(temperature), at::kFloat));
    }
  }

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    check(problem.structure);
    const at::Generator draws = start(problem, generator);
    const Perturbed u(problem.structure, problem.scores.detach(), samples_, draws);
    const Loss loss = evaluate(u.outcomes(), problem, draws);
    const at::Tensor score = u.score();
    const std::vector<int64_t> table = {score.size(0), samples_};
    const at::Tensor plain = loss.value.detach().view(table).unsqueeze(2) * score;

    const bool adapt = log_temperature_.defined();
    const double temperature = adapt ? log_temperature_.exp().item<double>() : temperature_;
    const at::Tensor state = adapt ? state_of(draws) : at::Tensor();
    const auto variate_at = [&](double tau) {
      const auto [value, slope] = relaxed_loss(name(), u.pairs(u.relaxed(tau)), problem);
      return u.control_variate(value.view(table), slope.view_as(score), tau);
    };
    const at::Tensor variate = variate_at(temperature);
    const at::Tensor gradient = plain + scale_.detach() * variate;

    const at::Tensor mean = mean_per_example(with_choice(loss), samples_);
    Estimate estimate = answer(problem, mean + score_term(gradient.mean(1), problem.scores), mean);
    if (score.size(0) == 0) return estimate;
    estimate.auxiliary = (plain + scale_ * variate).square().sum(2).mean();
    if (adapt) {
      constexpr double kStep = 0.01;
      set_state(draws, state);
      const at::Tensor change = (variate_at(temperature * std::exp(kStep)) - variate) / kStep;
      const at::Tensor derivative = 2 * scale_.detach() * (gradient * change).sum(2).mean();
      estimate.auxiliary = estimate.auxiliary + gradient_term(derivative, log_temperature_);
    }
    return estimate;
  }

  void check(const Structure& structure) const override { check_relaxable(name(), structure); }

 private:
  int64_t samples_;
  double temperature_;
  at::Tensor scale_, log_temperature_;
};

}  // namespace

std::shared_ptr<Estimator> make_rebar(const Making& making) {
  const EstimatorOptions& options = making.options;
  const int64_t samples = own_samples("rebar", options.samples, 1, 1);
  check_control("rebar", options);
  return std::make_shared<Rebar>(samples, options.control_scale, options.temperature,
                                 options.adapt_temperature);
}

}  // namespace sparsum
