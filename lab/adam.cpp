#include "lab/adam.h"

#include "lab/checkpoint.h"

#include <map>

namespace sparsum::lab {

Adam::Adam(Parameters parameters, AdamOptions options)
    : Adam(std::vector<Group>{{std::move(parameters), options}}) {}

Adam::Adam(std::vector<Group> groups) {
  for (auto& group : groups) {
    StatefulGroup stateful{{}, group.options};
    for (const auto& [name, parameter] : group.parameters) {
      stateful.states.push_back(
          {name, parameter, at::zeros_like(parameter), at::zeros_like(parameter), 0});
    }
    groups_.push_back(std::move(stateful));
  }
}

void Adam::step(double scale) {
  const at::NoGradGuard no_grad;
  for (StatefulGroup& group : groups_) step(group, scale);
}

void Adam::step(StatefulGroup& group, double scale) {
  std::vector<at::Tensor> parameters, gradients, means, squares, steps;
  // The kernel wants the count as a tensor; parameters with the same count share one.
  std::map<int64_t, at::Tensor> counts;
  for (State& state : group.states) {
    const auto& gradient = state.parameter.grad();
    if (!gradient.defined()) continue;
    parameters.push_back(state.parameter);
    gradients.push_back(gradient);
    means.push_back(state.mean);
    squares.push_back(state.square);
    at::Tensor& count = counts[++state.steps];
    if (!count.defined()) {
      count = at::scalar_tensor(state.steps, gradient.options().dtype(at::kFloat));
    }
    steps.push_back(count);
  }
  if (parameters.empty()) return;
  const AdamOptions& options = group.options;
  at::_fused_adam_(parameters, gradients, means, squares, /*max_exp_avg_sqs=*/{}, steps,
                   scale * options.learning_rate, options.beta1, options.beta2,
                   options.weight_decay, options.epsilon, /*amsgrad=*/false, /*maximize=*/false);
}

void Adam::zero_grad() {
  for (StatefulGroup& group : groups_) {
    for (State& state : group.states) state.parameter.mutable_grad().reset();
  }
}

void Adam::save(Checkpoint& checkpoint) const {
  for (const StatefulGroup& group : groups_) {
    for (const State& state : group.states) {
      const std::string prefix = "adam/" + state.name;
      checkpoint.put(prefix + "/mean", state.mean);
      checkpoint.put(prefix + "/square", state.square);
      checkpoint.put(prefix + "/steps", at::scalar_tensor(state.steps, at::kLong));
    }
  }
}

void Adam::load(const Checkpoint& checkpoint) {
  for (StatefulGroup& group : groups_) {
    for (State& state : group.states) {
      const std::string prefix = "adam/" + state.name;
      checkpoint.copy_to(prefix + "/mean", state.mean);
      checkpoint.copy_to(prefix + "/square", state.square);
      at::Tensor steps = at::empty({}, at::kLong);
      checkpoint.copy_to(prefix + "/steps", steps);
      state.steps = steps.item<int64_t>();
    }
  }
}

}  // namespace sparsum::lab
