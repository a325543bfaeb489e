#include "estimators/noise.h"
#include "estimators/relaxation.h"
#include "structures/regular.h"

#include <sparsum/bits.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum {
namespace {

/// I-MLE, perturb-and-MAP (Papandreou and Yuille, 2011) with implicit maximum likelihood (Niepert,
/// Minervini and Franceschi, 2021): with noise ε_1 … ε_m on the parts,
///   z_i = MAP(t + ε_i),   z'_i = MAP(t + ε_i − λ ∇_z ℓ(z_i)),
///   ∇_t ≈ 1/m Σ_i (a_{z_i} − a_{z'_i})/λ − w ∇H(π),
/// a finite difference towards the target distribution, whose scores moved down the loss. Noise:
///   gumbel        Gumbel; for bits logistic: then z_i is a draw of π, where π is a product;
///   sum-of-gamma  temperature/κ (Σ_{s=1}^S Gamma(1/κ, κ/s) − log S), whose sum over the κ parts
///   that
///                 an outcome uses is Gumbel for S → ∞.
///
/// Biased. Costs m loss evaluations (2m in chunks) and 2m MAP calls an example; needs a loss with a
/// gradient in relaxed indicators, any structure with a MAP, and a generator; an entropy of the
/// structure's only if it is to be rewarded (Estimate::entropy is undefined where there is none).
class Imle final : public GibbsEstimator {
 public:
  Imle(int64_t samples, bool sum_of_gamma, const EstimatorOptions& options)
      : GibbsEstimator("imle", samples),
        samples_(samples),
        sum_of_gamma_(sum_of_gamma),
        size_(options.gamma_size),
        terms_(options.gamma_terms),
        noise_temperature_(options.noise_temperature),
        step_(options.target_step) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    const Structure& structure = problem.structure;
    const at::Generator draws = start(problem, generator);
    const at::Tensor scores = problem.scores.detach();
    const int64_t batch = scores.size(0), parts = scores.size(1);
    const at::Tensor perturbed =
        (scores.unsqueeze(1) + noise(structure, scores, draws)).view({batch * samples_, parts});
    const auto map = [&](const at::Tensor& t) { return structure.map(t).values(t.scalar_type()); };

    Assignments z = regular_assignments(batch, samples_, parts, scores.device());
    z.indicators = map(perturbed).set_requires_grad(true);
    const at::Tensor attached = with_choice(evaluate(z, problem, draws));
    const bool again = problem.max_evaluations_per_chunk > 0 || !attached.requires_grad();
    const at::Tensor target = map(perturbed - step_ * slope(z, attached, problem, again));
    const at::Tensor gradient =
        ((z.indicators.detach() - target) / step_).view({batch, samples_, parts}).mean(1);

    const at::Tensor mean = mean_per_example(attached, samples_);
    const at::Tensor expected = mean + score_term(gradient, problem.scores);
    if (problem.entropy_weight != 0 || has_entropy(structure)) {
      Estimate estimate = answer(problem, expected, mean);
      if (again) estimate.evaluations.mul_(2);
      return estimate;
    }
    Estimate estimate;
    estimate.objective = expected;
    estimate.value = mean.detach();
    estimate.evaluations = evaluations(structure, scores).mul_(again ? 2 : 1);
    return estimate;
  }

  void check(const Structure& structure) const override {
    try {
      structure.map(at::empty({0, structure.parts()}));
    } catch (const c10::Error& error) {
      TORCH_CHECK(false, "estimator 'imle' is for structures with map; ",
                  error.what_without_backtrace());
    }
  }

 private:
  /// [B, m, V].
  at::Tensor noise(const Structure& structure, const at::Tensor& scores,
                   const at::Generator& draws) const {
    const std::vector<int64_t> shape = {scores.size(0), samples_, scores.size(1)};
    const auto gumbel = [&] { return fill_gumbel(at::empty(shape, scores.options()), draws); };
    if (!sum_of_gamma_) {
      at::Tensor drawn = gumbel();
      if (dynamic_cast<const Bits*>(&structure)) drawn.sub_(gumbel());
      return drawn.mul_(noise_temperature_);
    }
    const auto size = static_cast<double>(size_);
    const at::Tensor alpha = at::full(shape, 1 / size, scores.options());
    at::Tensor sum = at::zeros(shape, scores.options());
    for (int64_t s = 1; s <= terms_; ++s) {
      sum.add_(at::_standard_gamma(alpha, draws), size / static_cast<double>(s));
    }
    return sum.sub_(std::log(static_cast<double>(terms_))).mul_(noise_temperature_ / size);
  }

  /// ∇_z ℓ of each pair, from the graph that the loss has left, or, where it keeps none (`again`),
  /// by another evaluation.
  at::Tensor slope(const Assignments& z, const at::Tensor& value, const Problem& problem,
                   bool again) const {
    if (!again) {
      const at::Tensor gradient =
          torch::autograd::grad({value.sum()}, {z.indicators}, {}, /*retain_graph=*/true,
                                /*create_graph=*/false, /*allow_unused=*/true)[0];
      TORCH_CHECK(gradient.defined(),
                  "estimator 'imle' needs a loss with a gradient in relaxed "
                  "indicators; this one has none");
      return gradient;
    }
    return relaxed_loss(name(), z, problem).gradient;
  }

  static bool has_entropy(const Structure& structure) {
    try {
      structure.entropy(at::empty({0, structure.parts()}));
      return true;
    } catch (const c10::Error&) {
      return false;
    }
  }

  int64_t samples_;
  bool sum_of_gamma_;
  int64_t size_, terms_;
  double noise_temperature_, step_;
};

}  // namespace

std::shared_ptr<Estimator> make_imle(const Making& making) {
  const EstimatorOptions& options = making.options;
  const int64_t samples = own_samples("imle", options.samples, 1, 1);
  TORCH_CHECK(options.noise == "gumbel" || options.noise == "sum-of-gamma",
              "estimator 'imle': expected noise to be 'gumbel' or 'sum-of-gamma', got '",
              options.noise, "'");
  TORCH_CHECK(options.noise_temperature >= 0 && std::isfinite(options.noise_temperature),
              "estimator 'imle': expected a finite noise_temperature >= 0, got ",
              options.noise_temperature);
  TORCH_CHECK(options.gamma_size >= 1, "estimator 'imle': expected gamma_size >= 1, got ",
              options.gamma_size);
  TORCH_CHECK(options.gamma_terms >= 1, "estimator 'imle': expected gamma_terms >= 1, got ",
              options.gamma_terms);
  TORCH_CHECK(options.target_step > 0 && std::isfinite(options.target_step),
              "estimator 'imle': expected a finite target_step > 0, got ", options.target_step);
  return std::make_shared<Imle>(samples, options.noise == "sum-of-gamma", options);
}

}  // namespace sparsum
