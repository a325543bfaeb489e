#pragma once

// Derivatives against central differences, in float64.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <vector>

namespace sparsum::testing {

using Function = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// ∂⟨weights, f⟩/∂inputs by autograd against (f(x + h) − f(x − h))/2h, entry by entry. Inputs:
/// float64 leaves.
inline void expect_gradients(const Function& f, std::vector<at::Tensor> inputs, double step = 1e-6,
                             double tolerance = 1e-7) {
  for (at::Tensor& x : inputs) x = x.detach().clone().requires_grad_();
  const at::Tensor output = f(inputs);
  auto generator = at::detail::createCPUGenerator(3);
  const at::Tensor weights = at::randn(output.sizes(), generator, output.options());
  const auto gradients =
      torch::autograd::grad({(output * weights).sum()}, {inputs.begin(), inputs.end()}, {},
                            /*retain_graph=*/false, /*create_graph=*/false);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor base = inputs[i].detach().contiguous();
    const at::Tensor expected = at::zeros_like(base);
    for (int64_t j = 0; j < base.numel(); ++j) {
      const auto value = [&](double h) {
        std::vector<at::Tensor> moved;
        for (const at::Tensor& x : inputs) moved.push_back(x.detach().clone());
        moved[i].view(-1)[j] += h;
        return (f(moved) * weights).sum().item<double>();
      };
      expected.view(-1)[j] = (value(step) - value(-step)) / (2 * step);
    }
    const double worst = (gradients[i] - expected).abs().max().item<double>();
    EXPECT_LT(worst, tolerance * (1 + expected.abs().max().item<double>())) << "input " << i;
  }
}

/// The same one order up: the gradient itself, as a function of the inputs and of its own upstream
/// gradient.
inline void expect_second_gradients(const Function& f, std::vector<at::Tensor> inputs,
                                    double tolerance = 1e-6) {
  const at::Tensor output = f(inputs);
  auto generator = at::detail::createCPUGenerator(4);
  const size_t count = inputs.size();
  inputs.push_back(at::randn(output.sizes(), generator, output.options()));
  const auto gradient = [&](const std::vector<at::Tensor>& all) {
    std::vector<at::Tensor> x;
    for (size_t i = 0; i < count; ++i) {
      x.push_back(all[i].requires_grad() ? all[i] : all[i].detach().requires_grad_());
    }
    const bool graph = all.back().requires_grad();
    const auto gradients = torch::autograd::grad({f(x)}, {x.begin(), x.end()}, {all.back()},
                                                 /*retain_graph=*/true, graph);
    std::vector<at::Tensor> flat;
    for (const at::Tensor& g : gradients) flat.push_back(g.reshape(-1));
    return at::cat(flat);
  };
  expect_gradients(gradient, inputs, 1e-6, tolerance);
}

}  // namespace sparsum::testing
