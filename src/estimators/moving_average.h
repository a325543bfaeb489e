#pragma once

#include "estimators/gibbs.h"

#include <torch/torch.h>

#include <memory>
#include <string>

namespace sparsum {

/// The exponential moving average of a cost, without the bias of its start at 0:
///   c_t = Σ_i d^{t−i} x_i / Σ_i d^{t−i},   d the decay.
/// Buffers, so that checkpoints carry it.
class MovingAverage : public torch::nn::Module {
 public:
  explicit MovingAverage(double decay)
      : torch::nn::Module("moving_average"),
        average_(register_buffer("average", at::zeros({}, at::kDouble))),
        weight_(register_buffer("weight", at::zeros({}, at::kDouble))),
        decay_(decay) {}

  /// 0 before the first update. Throws, naming the estimator, unless it is where `costs` are.
  const at::Tensor& value(const std::string& estimator, const at::Tensor& costs) const {
    TORCH_CHECK(costs.device() == average_.device(), "estimator '", estimator,
                "': its baseline is on ", average_.device(), ", the loss on ", costs.device(),
                "; move the estimator with to(device)");
    return average_;
  }

  void update(const at::Tensor& costs) {
    if (costs.size(0) == 0) return;
    const at::NoGradGuard no_grad;
    weight_.mul_(decay_).add_(1 - decay_);
    average_.lerp_(costs.mean(average_.scalar_type()), (1 - decay_) / weight_);
  }

 private:
  at::Tensor average_, weight_;
  double decay_;
};

/// The moving average that the options ask for as a baseline, null where that is "none". Throws if
/// they are out of range.
inline std::shared_ptr<MovingAverage> own_average(const char* name,
                                                  const EstimatorOptions& options) {
  const std::string baseline = own_baseline(name, options.baseline, {"moving-average", "none"});
  check_decay(name, options.baseline_decay);
  if (baseline == "none") return nullptr;
  return std::make_shared<MovingAverage>(options.baseline_decay);
}

}  // namespace sparsum
