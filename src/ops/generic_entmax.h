#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sparsum::ops {

// α-entmax in ATen alone, for devices without a kernel of ours. Scores and probabilities are
// float32 or float64; `alpha` is a number or broadcasts with size 1 along `dim`. No value checks:
// NaN spreads over its row.

at::Tensor generic_entmax(const at::Tensor& scores, double alpha, int64_t dim);
at::Tensor generic_entmax(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim);

at::Tensor generic_entmax_backward(const at::Tensor& grad, const at::Tensor& probs, double alpha,
                                   int64_t dim);
at::Tensor generic_entmax_backward(const at::Tensor& grad, const at::Tensor& probs,
                                   const at::Tensor& alpha, int64_t dim);

/// ⟨g, ∂p/∂α⟩ per row, with size 1 along `dim`.
at::Tensor generic_entmax_backward_alpha(const at::Tensor& grad, const at::Tensor& probs,
                                         const at::Tensor& alpha, int64_t dim);

/// H_α(p) per row, without `dim`: (1 − Σ p^α)/(α(α − 1)), Shannon's entropy at 1.
at::Tensor generic_tsallis_entropy(const at::Tensor& probs, double alpha, int64_t dim);

}  // namespace sparsum::ops
