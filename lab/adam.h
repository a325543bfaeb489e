#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

namespace sparsum::lab {

class Checkpoint;

struct AdamOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9,
         beta2 = 0.999;  ///< decay of the running means of gradient and squared gradient
  double epsilon = 1e-8;
  double weight_decay =
      0;  ///< λ: adds λ·parameter to the gradient (an L2 penalty, as torch.optim.Adam)
};

/// Adam over groups of named parameters, in one fused kernel call a group and step. The same
/// updates as torch.optim.Adam: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − lr·m̂/(√v̂ + ε).
/// Parameters without a gradient are left alone, state included.
/// Source: Kingma and Ba, 2015, algorithm 1.
class Adam {
 public:
  using Parameters = std::vector<std::pair<std::string, at::Tensor>>;
  struct Group {
    Parameters parameters;
    AdamOptions options;
  };

  Adam(Parameters parameters, AdamOptions options);
  /// Each group with its own options; names are unique over all groups.
  explicit Adam(std::vector<Group> groups);

  /// One update from the parameters' gradients, at `scale` times the learning rates.
  void step(double scale = 1);
  /// Drops the gradients: the next backward pass stores its own instead of adding to zeros.
  void zero_grad();

  /// State under "adam/<parameter>/{mean,square,steps}".
  void save(Checkpoint& checkpoint) const;
  /// Throws InputError if the checkpoint lacks a parameter's state or has it in another shape.
  void load(const Checkpoint& checkpoint);

 private:
  struct State {
    std::string name;
    at::Tensor parameter, mean, square;
    int64_t steps;  // updates that this parameter has had
  };
  struct StatefulGroup {
    std::vector<State> states;
    AdamOptions options;
  };
  static void step(StatefulGroup& group, double scale);

  std::vector<StatefulGroup> groups_;
};

}  // namespace sparsum::lab
