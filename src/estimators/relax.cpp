#include "estimators/moving_average.h"
#include "estimators/network.h"
#include "estimators/relaxation.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// RELAX (Grathwohl, Choi, Wu, Roeder and Duvenaud, 2018): REBAR (rebar.cpp) with a learned control
/// variate, a network that reads the relaxation and the example's context x,
///   c(ζ) = c_φ(ζ, x) + b   or, with embed_loss,   c_φ(ζ, x) + b + η ℓ(ζ),
/// b the moving average of what is left of ℓ in earlier calls, which spares the network its level.
/// φ and η follow the gradient of the estimate's squared norm, which needs the second derivative of
/// the network but not that of the loss.
///
/// Unbiased. Costs m loss evaluations an example, and with embed_loss m more at relaxed values, and
/// the network; needs a categorical or free bits, and a generator; with embed_loss a loss with a
/// gradient in relaxed indicators.
class Relax final : public GibbsEstimator {
 public:
  Relax(int64_t samples, int64_t context, bool embed_loss, double scale, double temperature,
        double decay, std::shared_ptr<Network> network)
      : GibbsEstimator("relax", (embed_loss ? 2 : 1) * samples),
        samples_(samples),
        context_(context),
        temperature_(temperature),
        network_(register_module("control", std::move(network))),
        average_(register_module("baseline", std::make_shared<MovingAverage>(decay))) {
    if (embed_loss) scale_ = register_parameter("scale", at::full({}, scale, at::kFloat));
  }

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    check(problem.structure);
    const at::Generator draws = start(problem, generator);
    const Perturbed u(problem.structure, problem.scores.detach(), samples_, draws);
    const Loss loss = evaluate(u.outcomes(), problem, draws);
    const at::Tensor score = u.score();
    const std::vector<int64_t> table = {score.size(0), samples_};
    const at::Tensor zeta = u.relaxed(temperature_);

    at::Tensor rest = loss.value.detach().view(table);
    at::Tensor gradient = (rest - average_->value(name(), rest)).unsqueeze(2) * score;
    {
      const at::AutoGradMode enable(true);
      at::Tensor input = zeta.detach().set_requires_grad(true);
      const at::Tensor own = control(input, problem);
      const at::Tensor slope =
          torch::autograd::grad({own.sum()}, {input}, {}, /*retain_graph=*/true,
                                /*create_graph=*/true)[0];
      gradient = gradient + u.control_variate(own.view(table), slope, temperature_);
      rest = rest - own.detach().view(table);
    }
    if (scale_.defined()) {
      const auto [value, slope] = relaxed_loss(name(), u.pairs(zeta), problem);
      const at::Tensor variate =
          u.control_variate(value.view(table), slope.view_as(score), temperature_);
      gradient = gradient + scale_ * variate;
      rest = rest - scale_.detach() * value.view(table);
    }
    if (is_training()) average_->update(rest);
    const at::Tensor mean = mean_per_example(with_choice(loss), samples_);
    Estimate estimate = answer(problem, mean + score_term(gradient.mean(1), problem.scores), mean);
    if (score.size(0) > 0) estimate.auxiliary = gradient.square().sum(2).mean();
    return estimate;
  }

  void check(const Structure& structure) const override {
    check_relaxable(name(), structure);
    TORCH_CHECK(structure.parts() + context_ == network_->inputs(), "estimator 'relax': made for ",
                network_->inputs() - context_, " parts; ", structure.name(), " has ",
                structure.parts());
  }

 private:
  /// c_φ of zeta [B, m, V]: [B·m].
  at::Tensor control(const at::Tensor& zeta, const Problem& problem) const {
    at::Tensor input = zeta;
    if (context_ > 0) {
      const at::Tensor context = checked_context(name(), problem, context_).to(zeta.dtype());
      input = at::cat({zeta, context.unsqueeze(1).expand({-1, samples_, -1})}, 2);
    }
    return network_->forward(input.flatten(0, 1)).to(zeta.scalar_type());
  }

  int64_t samples_, context_;
  double temperature_;
  std::shared_ptr<Network> network_;
  std::shared_ptr<MovingAverage> average_;
  at::Tensor scale_;
};

}  // namespace

std::shared_ptr<Estimator> make_relax(const Making& making) {
  const EstimatorOptions& options = making.options;
  const int64_t samples = own_samples("relax", options.samples, 1, 1);
  check_control("relax", options);
  check_decay("relax", options.baseline_decay);
  TORCH_CHECK(options.parts >= 1, "estimator 'relax': expected parts >= 1, got ", options.parts);
  TORCH_CHECK(options.context >= 0, "estimator 'relax': expected context >= 0, got ",
              options.context);
  return std::make_shared<Relax>(samples, options.context, options.embed_loss,
                                 options.control_scale, options.temperature, options.baseline_decay,
                                 make_network("relax", options.parts + options.context, making));
}

}  // namespace sparsum
