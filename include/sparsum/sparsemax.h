#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>
#include <sparsum/sparse_distribution.h>
#include <sparsum/structure.h>

namespace sparsum {

/// The Euclidean projection of scores onto the probability simplex along `dim`:
///   p = argmin_{p in Δ} ‖p − s‖² = max(s − τ, 0), with τ such that Σp = 1.
///
/// scores: any shape with K ≥ 1 entries along `dim`; float32, float64, or float16 and bfloat16
/// (computed in
///   float32). −∞ means "forbidden" and gets exactly 0. Batches may be empty; any strides.
/// Returns: the shape and dtype of `scores`; on the simplex along `dim`, with exact zeros.
/// Ties: equal scores get equal probabilities.
/// Errors: integer or complex dtype, `dim` out of range, K = 0; on the CPU a row that holds NaN or
/// +∞, or no
///   finite score, named by its index (on CUDA that check would synchronise: there NaN spreads).
/// Vector-Jacobian product, with S = {p > 0}: g − mean_S(g) on S, exactly 0 elsewhere. It is the
/// derivative
///   wherever the support does not change under small steps. The second derivative is 0 there.
/// Cost: O(K) expected, one pass over the scores and one over the output; no sort.
/// Source: Martins and Astudillo, 2016; the threshold by Michelot's algorithm (1986) on {s > max −
/// 1}.
SPARSUM_API at::Tensor sparsemax(const at::Tensor& scores, int64_t dim = -1);

/// The distribution whose probabilities are `sparsemax(scores)` over the outcomes of `structure`.
///
/// scores: [B, V] with V = structure.parts(). The structure must be able to list its outcomes'
/// scores at no
///   more than O(V) (a Categorical); larger sets have top_k_sparsemax and sparsemap.
/// Errors: as above, and a structure that is not categorical, named.
SPARSUM_API SparseDistribution sparsemax(const Structure& structure, const at::Tensor& scores);

}  // namespace sparsum
