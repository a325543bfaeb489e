#pragma once

#include "estimators/estimators.h"

#include <string>
#include <vector>

namespace sparsum {

/// The perceptron of learned baselines and control variates: `layers` hidden layers of `hidden`
/// units with ReLU, one number out. Weights and biases are drawn as torch::nn::Linear draws them,
/// but from the generator that is passed in.
class Network : public torch::nn::Module {
 public:
  Network(int64_t inputs, int64_t hidden, int64_t layers, at::Generator generator);

  /// x: [n, inputs] of any dtype -> [n].
  at::Tensor forward(at::Tensor x) const;
  int64_t inputs() const;

 private:
  std::vector<at::Tensor> weights_, biases_;
};

/// The network that the options describe, of `inputs` numbers. Throws if they are out of range or
/// there is no generator.
std::shared_ptr<Network> make_network(const char* name, int64_t inputs, const Making& making);

/// Problem::context as [B, width], detached. Throws unless it has that many numbers an example.
at::Tensor checked_context(const std::string& name, const Problem& problem, int64_t width);

}  // namespace sparsum
