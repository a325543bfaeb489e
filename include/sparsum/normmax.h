#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>

namespace sparsum {

/// α-normmax along `dim`:
///   p = argmax_{p in Δ} ⟨p, s⟩ − ‖p‖_α ∝ [(s − τ)_+]^{1/(α − 1)},   Σ [(s − τ)_+]^{α/(α − 1)} = 1.
///
/// scores: any shape with K ≥ 1 entries along `dim`; any floating dtype (computed in float64). −∞
///   means "forbidden" and gets exactly 0.
/// alpha: α > 1; broadcasts against `scores`, with size 1 along `dim`.
/// Returns: the shape and dtype of `scores`; on the simplex along `dim`. Equal scores get equal
///   probabilities.
/// Errors: those of sparsemax; α ≤ 1, infinite or NaN (on the CPU); α that requires a gradient:
/// there is
///   none in α.
/// Vector-Jacobian product, with b = p^{2−α} on the support and c = ‖p‖_α^{α−1}/(α − 1):
///   c (b ⊙ g − p⟨b, g⟩ − b⟨p, g⟩ + p⟨p, g⟩Σb). It has derivatives itself.
/// Cost: some ten passes of K powers.
/// Source: Blondel, Martins and Niculae, 2020, §4.4 (norm-entropies).
SPARSUM_API at::Tensor normmax(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim = -1);

}  // namespace sparsum
