#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>

namespace sparsum {

/// Sparsemax with a budget along `dim`: the Euclidean projection onto {p in [0, 1]^K : Σp =
/// budget},
///   p = clip(s − τ, 0, 1), with τ such that Σp = budget.
/// At an integer budget k these are the marginals of SparseMAP over all sets of k, at 1 sparsemax.
///
/// scores: any shape with K ≥ 1 entries along `dim`; any floating dtype (computed in float64). −∞
///   means "forbidden" and gets exactly 0.
/// budget: broadcasts against `scores`, with size 1 along `dim`; between 0 and the number of finite
///   scores of its row.
/// Returns: the shape and dtype of `scores`. Equal scores get equal results.
/// Errors: those of sparsemax; a budget out of range, named by its row (on the CPU).
/// Vector-Jacobian product, with F = {0 < p < 1}: g − mean_F(g) on F and exactly 0 elsewhere; in
/// the
///   budget mean_F(g), and 0 where F is empty. Second derivatives are 0.
/// Cost: O(K log K), a sort.
/// Source: Niculae et al., 2018, §3 (budget constraints); Almeida and Martins, 2013.
SPARSUM_API at::Tensor budget_sparsemax(const at::Tensor& scores, const at::Tensor& budget,
                                        int64_t dim = -1);

}  // namespace sparsum
