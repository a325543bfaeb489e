#pragma once

#include <ATen/core/Generator.h>
#include <sparsum/assignments.h>
#include <torch/nn/module.h>

#include <memory>
#include <vector>

namespace sparsum::lab {

/// Fresh weights or biases of a layer with so many inputs, float32: uniform on ±1/√inputs, which is
/// what kaiming_uniform_(a = √5) of torch::nn::Linear comes to.
at::Tensor initial(at::IntArrayRef shape, int64_t inputs, const at::Generator& generator);

/// x ↦ x Wᵀ + b, initialised as torch::nn::Linear (weights and biases uniform on ±1/√inputs), but
/// from a generator that is passed in instead of the global one.
class Linear : public torch::nn::Module {
 public:
  Linear(int64_t inputs, int64_t outputs, at::Generator generator);
  /// x: [n, inputs] -> [n, outputs].
  at::Tensor forward(const at::Tensor& x) const;
  /// max(forward(x), 0).
  at::Tensor forward_relu(const at::Tensor& x) const;

  const at::Tensor& weight() const { return weight_; }
  const at::Tensor& bias() const { return bias_; }

 private:
  at::Tensor weight_, bias_;
};

/// A linear layer whose input is features and an assignment side by side, (x, a_z): x Wᵀ + Σ_v
/// a_z[v]·table[v] + b, without building the two side by side. What the features contribute can so
/// be computed once per example, however many of its assignments are evaluated. Initialised as one
/// linear layer with `features` + `parts` inputs.
class AssignmentLinear : public torch::nn::Module {
 public:
  AssignmentLinear(int64_t features, int64_t parts, int64_t outputs, at::Generator generator);
  /// The features' part, with the bias: [m, features] -> [m, outputs].
  at::Tensor features(const at::Tensor& x) const;
  /// Adds the assignments' part to features that are given per pair: [n, outputs] -> [n, outputs].
  at::Tensor add(const at::Tensor& per_pair, const Assignments& z) const;
  /// Adds it to features that are given per example: [B, outputs] -> [n, outputs].
  at::Tensor add_to_examples(const at::Tensor& per_example, const Assignments& z) const;

 private:
  at::Tensor weight_, bias_, table_;
};

/// A linear layer whose input is an assignment alone: Σ_v a_z[v]·table[v] + b, [n, outputs].
class AssignmentEmbedding : public torch::nn::Module {
 public:
  AssignmentEmbedding(int64_t parts, int64_t outputs, at::Generator generator);
  at::Tensor forward(const Assignments& z) const;

 private:
  at::Tensor table_, bias_;
};

/// Linear layers with ReLU between them.
class Mlp : public torch::nn::Module {
 public:
  /// sizes: widths from the input to the output, at least two.
  Mlp(const std::vector<int64_t>& sizes, at::Generator generator);
  at::Tensor forward(at::Tensor x) const;

 private:
  std::vector<std::shared_ptr<Linear>> layers_;
};

}  // namespace sparsum::lab
