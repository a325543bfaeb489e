#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>
#include <sparsum/sparse_distribution.h>
#include <sparsum/structure.h>

namespace sparsum {

/// α-entmax along `dim`:
///   p = argmax_{p in Δ} ⟨p, s⟩ + H_α(p),   H_α(p) = (1 − Σ p^α) / (α(α − 1)),
///   p = [((α − 1)s − τ)_+]^{1/(α − 1)}.
/// α = 1 is softmax (H_1 is Shannon's entropy, in nats), α = 2 is sparsemax; 1.5 and 2 are solved
/// in closed form on the support, every other α > 1 by a bracketed Newton iteration to the dtype's
/// precision.
///
/// scores: any shape with K ≥ 1 entries along `dim`; float32, float64, or float16 and bfloat16
/// (computed in
///   float32). −∞ means "forbidden" and gets exactly 0.
/// alpha: α ≥ 1.
/// Returns: the shape and dtype of `scores`; on the simplex along `dim`, with exact zeros when α
/// > 1. Errors: those of sparsemax; α < 1, infinite or NaN. Vector-Jacobian product, with u =
/// p^{2−α} on the support S and 0 elsewhere:
///   u ⊙ (g − ⟨u, g⟩ / Σu). Second derivatives are defined away from the support's boundary.
/// Cost: O(K) plus a few passes over the candidates {s > max − 1/(α − 1)}; no sort.
/// Source: Peters, Niculae and Martins, 2019 (entmax, and 1.5 in closed form); Correia, Niculae and
/// Martins,
///   2019 (the derivative in α).
SPARSUM_API at::Tensor entmax(const at::Tensor& scores, double alpha = 1.5, int64_t dim = -1);

/// α-entmax with one α per row, and its derivative in α.
///
/// alpha: broadcasts against `scores`, with size 1 along `dim` (a scalar tensor, one α per head,
/// one per row).
///   Every entry ≥ 1.
/// Vector-Jacobian product in α, with p̃ = p^{2−α}/Σp^{2−α} on S and h = −p log p:
///   ⟨g, (p − p̃)/(α − 1)² + (h − p̃ Σh)/(α − 1)⟩, evaluated in float64 in a form that has no
///   cancellation near α = 1, where it is −½ ⟨g, p (log² p − Σ p log² p)⟩. Second derivatives in α
///   are refused by name.
SPARSUM_API at::Tensor entmax(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim = -1);

/// The distribution whose probabilities are `entmax(scores, alpha)` over a Categorical `structure`.
/// scores: [B, V] with V = structure.parts().
SPARSUM_API SparseDistribution entmax(const Structure& structure, const at::Tensor& scores,
                                      double alpha = 1.5);

}  // namespace sparsum
