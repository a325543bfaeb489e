#include "estimators/moving_average.h"
#include "estimators/score_function.h"

namespace sparsum {
namespace {

/// The score-function estimator (Williams, 1992): score_function.h with b = 0, or b the moving
/// average of the costs of earlier calls, never of this one's, which would bias the gradient.
///
/// Unbiased. Costs m loss evaluations an example. Needs a structure with exact samples, partition
/// function and entropy, and a generator.
class Sfe final : public ScoreFunction {
 public:
  Sfe(int64_t samples, std::shared_ptr<MovingAverage> average)
      : ScoreFunction("sfe", samples, samples) {
    if (average) average_ = register_module("baseline", std::move(average));
  }

 protected:
  Baseline baseline(const at::Tensor& costs, const Problem&, const Gibbs&,
                    const at::Generator&) override {
    if (!average_) return {};
    const at::Tensor before = average_->value(name(), costs).clone();
    if (is_training()) average_->update(costs);
    return {before, {}};
  }

 private:
  std::shared_ptr<MovingAverage> average_;
};

}  // namespace

std::shared_ptr<Estimator> make_sfe(const Making& making) {
  const EstimatorOptions& options = making.options;
  const int64_t samples = own_samples("sfe", options.samples, 1, 1);
  return std::make_shared<Sfe>(samples, own_average("sfe", options));
}

}  // namespace sparsum
