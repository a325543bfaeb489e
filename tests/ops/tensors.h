#pragma once

// Random tensors in float64, and how far they are from zero.

#include <torch/torch.h>

#include <cstdint>

namespace sparsum_test {

inline at::Generator seeded(uint64_t seed) { return at::detail::createCPUGenerator(seed); }

inline at::Tensor normal(at::IntArrayRef shape, at::Generator generator) {
  return at::randn(shape, generator, at::TensorOptions(at::kDouble));
}
inline at::Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  return normal(shape, seeded(seed));
}

/// The largest absolute value; 0 if there is none.
inline double largest(const at::Tensor& x) {
  return x.numel() == 0 ? 0 : x.abs().max().item<double>();
}

}  // namespace sparsum_test
