#include "estimators/gibbs.h"

#include <torch/torch.h>

#include <cmath>

namespace sparsum {
namespace {

/// VIMCO (Mnih and Rezende, 2016): not the expectation of the loss but a tighter bound, with
/// z_1 … z_m drawn from π and f_i = −ℓ(z_i) − w log π(z_i),
///   −E[L̂],   L̂ = log 1/m Σ_i exp f_i,
/// in which the entropy is part of the bound (for m = 1 it would be E[ℓ] − w·H(π)). Its gradient:
///   −Σ_i [(L̂ − L̂₋ᵢ) ∇log π(z_i) + softmax(f)_i ∇f_i],
/// L̂₋ᵢ being L̂ with f_i replaced by the mean of the others. A choice that the loss makes itself is
/// treated like z.
///
/// Unbiased, for that bound. Costs m ≥ 2 loss evaluations an example, in one call of the loss; the
/// loss must be −log p(x, z), or a part of it whose missing constant is no matter. Needs a
/// structure with exact samples, partition function and entropy, and a generator.
class Vimco final : public GibbsEstimator {
 public:
  explicit Vimco(int64_t samples) : GibbsEstimator("vimco", samples), samples_(samples) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    const at::Generator draws = start(problem, generator);
    const Gibbs q(problem.structure, problem.scores);
    const Assignments z = q.sample(samples_, draws);
    const Loss loss = evaluate(z, problem, draws);
    const at::Tensor log_prob = q.log_prob(z);
    const auto per_example = [&](const at::Tensor& t) {
      return t.view({problem.scores.size(0), samples_});
    };
    const at::Tensor f = per_example(loss.value + problem.entropy_weight * log_prob).neg();
    const double log_samples = std::log(static_cast<double>(samples_));
    const at::Tensor bound = f.logsumexp(1) - log_samples;

    const at::Tensor g = f.detach();
    const at::Tensor others = (g.sum(1, /*keepdim=*/true) - g) / static_cast<double>(samples_ - 1);
    // [B, m, m]: row i is f with f_i replaced.
    const at::Tensor replaced =
        at::where(at::eye(samples_, g.options().dtype(at::kBool)), others.unsqueeze(2),
                  g.unsqueeze(1).expand({-1, samples_, -1}));
    const at::Tensor signal = bound.detach().unsqueeze(1) - (replaced.logsumexp(2) - log_samples);
    const at::Tensor drawn =
        per_example(loss.log_prob.defined() ? log_prob + loss.log_prob : log_prob);

    const at::Tensor expected = -(bound + gradient_term(signal, drawn).sum(1));
    Problem without_entropy = problem;  // which the bound holds
    without_entropy.entropy_weight = 0;
    return answer(without_entropy, expected, mean_per_example(loss.value, samples_));
  }

 private:
  int64_t samples_;
};

}  // namespace

std::shared_ptr<Estimator> make_vimco(const Making& making) {
  return std::make_shared<Vimco>(own_samples("vimco", making.options.samples, 2, 2));
}

}  // namespace sparsum
