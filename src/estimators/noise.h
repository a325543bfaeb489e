#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace sparsum {

// What draws by perturbed scores are made with.

/// As good as −∞: exp of it, and σ of it, are 0, and so are their gradients; but two of them
/// subtract to 0.
inline constexpr double kLowest = -1e30;

/// Fills `noise` with independent Gumbel noise and returns it.
inline at::Tensor fill_gumbel(const at::Tensor& noise, const at::Generator& generator) {
  return noise.exponential_(1, generator).log_().neg_();
}

}  // namespace sparsum
