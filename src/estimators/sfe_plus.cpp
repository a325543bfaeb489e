#include "estimators/score_function.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// SFE+, the score-function estimator with a self-critic (Rennie et al., 2017, greedy there; an
/// independent sample in Correia et al., 2020): score_function.h with b_i = ℓ(z'_i), z'_i a second
/// draw from π, evaluated without gradient.
///
/// Unbiased. Costs 2m loss evaluations an example, m of them without a backward pass. Needs a
/// structure with exact samples, partition function and entropy, and a generator.
class SfePlus final : public ScoreFunction {
 public:
  explicit SfePlus(int64_t samples) : ScoreFunction("sfe-plus", samples, 2 * samples) {}

 protected:
  Baseline baseline(const at::Tensor&, const Problem& problem, const Gibbs& q,
                    const at::Generator& generator) override {
    const at::NoGradGuard no_grad;
    return {evaluate(q.sample(samples(), generator), problem, generator).value, {}};
  }
};

}  // namespace

std::shared_ptr<Estimator> make_sfe_plus(const Making& making) {
  return std::make_shared<SfePlus>(own_samples("sfe-plus", making.options.samples, 1, 1));
}

}  // namespace sparsum
