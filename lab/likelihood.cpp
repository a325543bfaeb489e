#include "lab/likelihood.h"

#include <torch/autograd.h>

namespace sparsum::lab {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class BernoulliNll : public torch::autograd::Function<BernoulliNll> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits,
                            const at::Tensor& targets, const at::Tensor& rows) {
    context->save_for_backward({logits, targets, rows});
    const at::Tensor explained = targets.index_select(0, rows).mul_(logits).sum(1);
    return at::softplus(logits).sum(1).sub_(explained);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    at::Tensor gradient = saved[0].sigmoid();
    gradient.sub_(saved[1].index_select(0, saved[2])).mul_(gradients[0].unsqueeze(1));
    return {gradient, {}, {}};
  }
};

class GaussianSample : public torch::autograd::Function<GaussianSample> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& mean_and_log_sigma,
                               const at::Tensor& noise) {
    const auto halves = mean_and_log_sigma.chunk(2, 1);
    const at::Tensor sigma = halves[1].exp();
    const at::Tensor scaled = sigma * noise;
    // ½ Σ (μ² + σ²) − Σ log σ − ½ D
    const at::Tensor divergence = (halves[0].square() + sigma.square())
                                      .mul_(0.5)
                                      .sub_(halves[1])
                                      .sum(1)
                                      .sub_(0.5 * static_cast<double>(noise.size(1)));
    context->save_for_backward({halves[0], sigma, scaled});
    return {halves[0] + scaled, divergence};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& mean = saved[0];
    const at::Tensor& sigma = saved[1];
    const at::Tensor& scaled = saved[2];
    const at::Tensor by_sample = gradients[0];
    const at::Tensor by_divergence = gradients[1].unsqueeze(1);
    const at::Tensor by_mean = at::addcmul(by_sample, mean, by_divergence);
    const at::Tensor by_log_sigma =
        (by_sample * scaled).addcmul_(sigma.square().sub_(1), by_divergence);
    return {at::cat({by_mean, by_log_sigma}, 1), {}};
  }
};

}  // namespace

at::Tensor bernoulli_nll(const at::Tensor& logits, const at::Tensor& targets,
                         const at::Tensor& rows) {
  return BernoulliNll::apply(logits, targets, rows);
}

std::pair<at::Tensor, at::Tensor> sample_gaussian(const at::Tensor& mean_and_log_sigma,
                                                  at::Generator generator) {
  const int64_t n = mean_and_log_sigma.size(0), latents = mean_and_log_sigma.size(1) / 2;
  const at::Tensor noise =
      at::randn({n, latents}, generator, mean_and_log_sigma.options().requires_grad(false));
  return shift_gaussian(mean_and_log_sigma, noise);
}

std::pair<at::Tensor, at::Tensor> shift_gaussian(const at::Tensor& mean_and_log_sigma,
                                                 const at::Tensor& noise) {
  const auto result = GaussianSample::apply(mean_and_log_sigma, noise);
  return {result[0], result[1]};
}

}  // namespace sparsum::lab
