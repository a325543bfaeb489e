#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>
#include <sparsum/sparse_distribution.h>
#include <sparsum/structure.h>

#include <tuple>

namespace sparsum {

/// Sparsemax with at most k non-zeros along `dim`:
///   p = argmin_{p in Δ, ‖p‖₀ ≤ k} ‖p − s‖² = sparsemax of the k largest scores, the rest exactly
///   0.
///
/// scores: as for sparsemax. k ≥ 1; k ≥ K gives sparsemax.
/// Returns: (probs, exact). probs: the shape and dtype of `scores`. exact: bool, the shape of
/// `scores` without
///   `dim`: the certificate that this row is sparsemax's own solution, true if and only if the
///   (k+1)-th largest score is ≤ τ, or k ≥ K.
/// Ties: at the k-th place the lower index wins, on every device.
/// Errors: those of sparsemax; k < 1.
/// Vector-Jacobian product: sparsemax's, on the support of `probs`.
/// Cost: O(K), as sparsemax; no sort.
/// Source: Kyrillidis et al., 2013; Correia et al., 2020, §4.1 (whose certificate ‖p‖₀ < k is
/// sufficient only).
SPARSUM_API std::tuple<at::Tensor, at::Tensor> top_k_sparsemax(const at::Tensor& scores, int64_t k,
                                                               int64_t dim = -1);

/// The distribution over the k best outcomes of a structure: top-k sparsemax of the scores of all
/// outcomes, s_z = ⟨a_z, t⟩, of which only k + 1 are looked at.
///
/// structure: a Categorical, or any with k_best. scores t: [B, V] with V = structure.parts(); k
/// ≥ 1. Returns: the outcomes with mass, differentiable in the scores; exact: the certificate that
/// this is
///   sparsemax over all of Z, true if and only if the (k+1)-th best outcome's score is ≤ τ, or
///   there are no more than k.
/// Ties at the k-th place: as the structure's k_best orders them.
/// Vector-Jacobian product: ∂/∂t = Σ_z w_z a_z, w sparsemax's own, on the support.
/// Cost: the structure's k_best of k + 1, and sparsemax of B·(k + 1) scores.
SPARSUM_API SparseDistribution top_k_sparsemax(const Structure& structure, const at::Tensor& scores,
                                               int64_t k);

/// Sparsemax over all of Z by growing k until the certificate holds: exact wherever no more than
/// max_k outcomes have mass, which `exact` says per example; elsewhere the same as top_k_sparsemax
/// with k = max_k.
///
/// k: where structures with k_best start, which double it from there. Bits ignore it (but for the
///   errors): their outcomes are met best first, one by one, and an example stops at the first
///   without mass, so that its cost is that of its own support. So does a Categorical, where every
///   k costs the same.
/// Errors: those of top_k_sparsemax; max_k < k.
SPARSUM_API SparseDistribution adaptive_top_k_sparsemax(const Structure& structure,
                                                        const at::Tensor& scores, int64_t k,
                                                        int64_t max_k);

}  // namespace sparsum
