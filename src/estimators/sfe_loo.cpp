#include "estimators/score_function.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// The score-function estimator with leave-one-out baselines (Salimans and Knowles, 2014; Kool, van
/// Hoof and Welling, 2019): score_function.h with b_i = 1/(m − 1) Σ_{j≠i} ℓ(z_j).
///
/// Unbiased. Costs m ≥ 2 loss evaluations an example, in one call of the loss. Needs a structure
/// with exact samples, partition function and entropy, and a generator.
class SfeLoo final : public ScoreFunction {
 public:
  explicit SfeLoo(int64_t samples) : ScoreFunction("sfe-loo", samples, samples) {}

 protected:
  Baseline baseline(const at::Tensor& costs, const Problem&, const Gibbs&,
                    const at::Generator&) override {
    const at::Tensor table = costs.view({costs.size(0) / samples(), samples()});
    const auto others = static_cast<double>(samples() - 1);
    return {((table.sum(1, /*keepdim=*/true) - table) / others).flatten(), {}};
  }
};

}  // namespace

std::shared_ptr<Estimator> make_sfe_loo(const Making& making) {
  return std::make_shared<SfeLoo>(own_samples("sfe-loo", making.options.samples, 2, 2));
}

}  // namespace sparsum
