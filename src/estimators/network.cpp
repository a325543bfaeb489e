#include "estimators/network.h"

#include <torch/torch.h>

#include <cmath>

namespace sparsum {

Network::Network(int64_t inputs, int64_t hidden, int64_t layers, at::Generator generator)
    : torch::nn::Module("network") {
  for (int64_t i = 0; i <= layers; ++i) {
    const int64_t from = i == 0 ? inputs : hidden, to = i == layers ? 1 : hidden;
    const double bound = 1 / std::sqrt(static_cast<double>(from));
    const auto draw = [&](at::IntArrayRef shape) {
      return at::empty(shape, at::kFloat).uniform_(-bound, bound, generator);
    };
    const std::string layer = std::to_string(i);
    weights_.push_back(register_parameter("weight" + layer, draw({to, from})));
    biases_.push_back(register_parameter("bias" + layer, draw({to})));
  }
}

at::Tensor Network::forward(at::Tensor x) const {
  TORCH_CHECK(x.device() == weights_.front().device(), "the network of an estimator is on ",
              weights_.front().device(), ", what it reads on ", x.device(),
              "; move the estimator with to(device)");
  x = x.to(weights_.front().scalar_type());
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (i > 0) x = x.relu();
    x = at::linear(x, weights_[i], biases_[i]);
  }
  return x.squeeze(1);
}

int64_t Network::inputs() const { return weights_.front().size(1); }

std::shared_ptr<Network> make_network(const char* name, int64_t inputs, const Making& making) {
  const EstimatorOptions& options = making.options;
  TORCH_CHECK(options.baseline_layers >= 0, "estimator '", name,
              "': expected baseline_layers >= 0, got ", options.baseline_layers);
  TORCH_CHECK(options.baseline_hidden >= 1, "estimator '", name,
              "': expected baseline_hidden >= 1, got ", options.baseline_hidden);
  TORCH_CHECK(making.generator.has_value() && making.generator->defined(), "estimator '", name,
              "': expected a generator to draw the network's initial parameters from");
  return std::make_shared<Network>(inputs, options.baseline_hidden, options.baseline_layers,
                                   *making.generator);
}

at::Tensor checked_context(const std::string& name, const Problem& problem, int64_t width) {
  const at::Tensor& context = problem.context;
  const int64_t batch = problem.scores.size(0);
  TORCH_CHECK(context.defined(), "estimator '", name, "': expected a context of ", width,
              " numbers an example, got an undefined tensor");
  TORCH_CHECK(context.dim() >= 1 && context.size(0) == batch && context.numel() == batch * width,
              "estimator '", name, "': expected a context of ", batch, " examples of ", width,
              " numbers, got ", context.sizes());
  return context.detach().reshape({batch, width});
}

}  // namespace sparsum
