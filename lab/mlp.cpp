#include "lab/mlp.h"

#include <torch/autograd.h>

#include <cmath>

namespace sparsum::lab {
namespace {

/// A linear layer with or without ReLU as one node of the graph: small layers cost as much in nodes
/// as in arithmetic.
class LinearNode : public torch::autograd::Function<LinearNode> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias, bool relu) {
    at::Tensor y = at::addmm(bias, x, weight.t());
    if (relu) y.relu_();
    context->saved_data["relu"] = relu;
    context->save_for_backward({x, weight, relu ? y : at::Tensor()});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor gradient = context->saved_data["relu"].toBool()
                                    ? at::threshold_backward(gradients[0], saved[2], 0)
                                    : gradients[0];
    return {context->needs_input_grad(0) ? gradient.mm(weight) : at::Tensor(), gradient.t().mm(x),
            gradient.sum(0), at::Tensor()};
  }
};

}  // namespace

at::Tensor initial(at::IntArrayRef shape, int64_t inputs, const at::Generator& generator) {
  const double bound = 1 / std::sqrt(static_cast<double>(inputs));
  return at::empty(shape, at::kFloat).uniform_(-bound, bound, generator);
}

Linear::Linear(int64_t inputs, int64_t outputs, at::Generator generator) {
  weight_ = register_parameter("weight", initial({outputs, inputs}, inputs, generator));
  bias_ = register_parameter("bias", initial({outputs}, inputs, generator));
}

at::Tensor Linear::forward(const at::Tensor& x) const {
  return LinearNode::apply(x, weight_, bias_, false);
}

at::Tensor Linear::forward_relu(const at::Tensor& x) const {
  return LinearNode::apply(x, weight_, bias_, true);
}

AssignmentLinear::AssignmentLinear(int64_t features, int64_t parts, int64_t outputs,
                                   at::Generator generator) {
  const int64_t inputs = features + parts;
  weight_ = register_parameter("weight", initial({outputs, features}, inputs, generator));
  table_ = register_parameter("table", initial({parts, outputs}, inputs, generator));
  bias_ = register_parameter("bias", initial({outputs}, inputs, generator));
}

at::Tensor AssignmentLinear::features(const at::Tensor& x) const {
  return LinearNode::apply(x, weight_, bias_, false);
}

at::Tensor AssignmentLinear::add(const at::Tensor& per_pair, const Assignments& z) const {
  if (z.full_grid) {
    return (per_pair.view({z.batch_size(), z.parts, -1}) + table_).flatten(0, 1);
  }
  return per_pair + z.embed(table_);
}

at::Tensor AssignmentLinear::add_to_examples(const at::Tensor& per_example,
                                             const Assignments& z) const {
  // Every example with every part in order: a broadcast sum, which needs no gathering at all.
  if (z.full_grid) return (per_example.unsqueeze(1) + table_).flatten(0, 1);
  return z.gather(per_example) + z.embed(table_);
}

AssignmentEmbedding::AssignmentEmbedding(int64_t parts, int64_t outputs, at::Generator generator) {
  table_ = register_parameter("table", initial({parts, outputs}, parts, generator));
  bias_ = register_parameter("bias", initial({outputs}, parts, generator));
}

at::Tensor AssignmentEmbedding::forward(const Assignments& z) const {
  return z.embed(table_) + bias_;
}

Mlp::Mlp(const std::vector<int64_t>& sizes, at::Generator generator) {
  TORCH_CHECK(sizes.size() >= 2, "Mlp: expected at least 2 widths, got ", sizes.size());
  for (size_t i = 0; i + 1 < sizes.size(); ++i) {
    layers_.push_back(register_module(std::to_string(i),
                                      std::make_shared<Linear>(sizes[i], sizes[i + 1], generator)));
  }
}

at::Tensor Mlp::forward(at::Tensor x) const {
  for (size_t i = 0; i + 1 < layers_.size(); ++i) x = layers_[i]->forward_relu(x);
  return layers_.back()->forward(x);
}

}  // namespace sparsum::lab
