#include "estimators/network.h"
#include "estimators/score_function.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// NVIL, the score-function estimator with a learned baseline (Mnih and Gregor, 2014):
/// score_function.h with b = c_ψ(x), a network that reads the example's context x. Its own loss,
/// 1/n Σ_i (ℓ(z_i) − c_ψ(x))², trains ψ and nothing else.
///
/// Unbiased. Costs m loss evaluations an example, and the network. Needs Problem::context, a
/// structure with exact samples, partition function and entropy, and a generator.
class Nvil final : public ScoreFunction {
 public:
  Nvil(int64_t samples, std::shared_ptr<Network> network)
      : ScoreFunction("nvil", samples, samples),
        network_(register_module("baseline", std::move(network))) {}

 protected:
  Baseline baseline(const at::Tensor& costs, const Problem& problem, const Gibbs&,
                    const at::Generator&) override {
    const at::Tensor context = checked_context(name(), problem, network_->inputs());
    at::Tensor predicted = network_->forward(context).to(costs.scalar_type());
    if (samples() > 1) predicted = predicted.repeat_interleave(samples());
    return {predicted.detach(),
            costs.size(0) == 0 ? at::Tensor() : (costs - predicted).square().mean()};
  }

 private:
  std::shared_ptr<Network> network_;
};

}  // namespace

std::shared_ptr<Estimator> make_nvil(const Making& making) {
  const EstimatorOptions& options = making.options;
  const int64_t samples = own_samples("nvil", options.samples, 1, 1);
  TORCH_CHECK(options.context >= 1, "estimator 'nvil': expected context >= 1, got ",
              options.context);
  return std::make_shared<Nvil>(samples, make_network("nvil", options.context, making));
}

}  // namespace sparsum
