#pragma once

#include <ATen/ATen.h>

namespace sparsum::bench {

/// Sparsemax as one writes it in ATen: sort, cumulative sum, threshold.
inline at::Tensor sorted_sparsemax(const at::Tensor& scores) {
  const at::Tensor x = scores - scores.amax(-1, true);
  const at::Tensor sorted = std::get<0>(x.sort(-1, true));
  const at::Tensor rank = at::arange(1, x.size(-1) + 1, x.options());
  const at::Tensor sums = sorted.cumsum(-1) - 1;
  const at::Tensor count = (rank * sorted > sums).sum(-1, true);
  return (x - sums.gather(-1, count - 1) / count).clamp_min(0);
}

inline at::Tensor sorted_sparsemax_backward(const at::Tensor& grad, const at::Tensor& probs) {
  const at::Tensor on = (probs > 0).to(grad.scalar_type());
  const at::Tensor g = grad * on;
  return g - on * (g.sum(-1, true) / on.sum(-1, true));
}

}  // namespace sparsum::bench
