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

/// The distribution over a Categorical `structure` given by top_k_sparsemax, with its certificate
/// in `exact`. scores: [B, V] with V = structure.parts().
SPARSUM_API SparseDistribution top_k_sparsemax(const Structure& structure, const at::Tensor& scores,
                                               int64_t k);

}  // namespace sparsum
