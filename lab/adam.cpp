#include "lab/adam.h"

#include "lab/checkpoint.h"

#include <map>

namespace sparsum::lab {

Adam::Adam(Parameters parameters, AdamOptions options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const auto& [name, parameter] : parameters_) {
    means_.push_back(at::zeros_like(parameter));
    squares_.push_back(at::zeros_like(parameter));
    steps_.push_back(0);
  }
}

void Adam::step() {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> parameters, gradients, means, squares, steps;
  // The kernel wants the count as a tensor; parameters with the same count share one.
  std::map<int64_t, at::Tensor> counts;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& gradient = parameters_[i].second.grad();
    if (!gradient.defined()) continue;
    parameters.push_back(parameters_[i].second);
    gradients.push_back(gradient);
    means.push_back(means_[i]);
    squares.push_back(squares_[i]);
    at::Tensor& count = counts[++steps_[i]];
    if (!count.defined()) {
      count = at::scalar_tensor(steps_[i], gradient.options().dtype(at::kFloat));
    }
    steps.push_back(count);
  }
  if (parameters.empty()) return;
  at::_fused_adam_(parameters, gradients, means, squares, /*max_exp_avg_sqs=*/{}, steps,
                   options_.learning_rate, options_.beta1, options_.beta2, options_.weight_decay,
                   options_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
}

void Adam::zero_grad() {
  for (auto& [name, parameter] : parameters_) parameter.mutable_grad().reset();
}

void Adam::save(Checkpoint& checkpoint) const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const std::string prefix = "adam/" + parameters_[i].first;
    checkpoint.put(prefix + "/mean", means_[i]);
    checkpoint.put(prefix + "/square", squares_[i]);
    checkpoint.put(prefix + "/steps", at::scalar_tensor(steps_[i], at::kLong));
  }
}

void Adam::load(const Checkpoint& checkpoint) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const std::string prefix = "adam/" + parameters_[i].first;
    checkpoint.copy_to(prefix + "/mean", means_[i]);
    checkpoint.copy_to(prefix + "/square", squares_[i]);
    at::Tensor steps = at::empty({}, at::kLong);
    checkpoint.copy_to(prefix + "/steps", steps);
    steps_[i] = steps.item<int64_t>();
  }
}

}  // namespace sparsum::lab
