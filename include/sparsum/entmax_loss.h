#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>

namespace sparsum {

/// How the losses of single rows become the value that is returned.
enum class Reduction : int64_t {
  kNone = 0,  ///< one loss a row; 0 for ignored rows
  kMean = 1,  ///< mean over the rows that are not ignored (NaN if all are, as cross_entropy)
  kSum = 2,
};

struct LossOptions {
  int64_t dim = -1;
  int64_t ignore_index = -100;  ///< rows with this class index count as nothing; any integer
  Reduction reduction = Reduction::kMean;
};

/// The Fenchel–Young loss of α-entmax, in the scores' own unit (nats at α = 1, where it is
/// cross-entropy):
///   L(s; y) = Ω*(s) + Ω(y) − ⟨s, y⟩ = H_α(p) − H_α(y) + ⟨p − y, s⟩ ≥ 0,   p = entmax(s, α),
///   H_α(p) = (1 − Σ p^α) / (α(α − 1)); zero if and only if y = p.
///
/// scores: as for entmax, K classes along `dim`.
/// target: class indices, int64, the shape of `scores` without `dim`; or distributions over the
/// classes, the
///   dtype and shape of `scores`, each on the simplex.
/// alpha: α ≥ 1.
/// Returns: the shape of `scores` without `dim` (kNone) or a scalar; float32 for float16 and
/// bfloat16 scores
///   under autocast rules of the caller, otherwise the dtype of `scores`.
/// −∞: target mass on a score of −∞ gives +∞, never NaN; its gradient is still p − y.
/// Errors: those of entmax; a class index out of range that is not `ignore_index`, and a target row
/// that is
///   not a distribution (an entry < 0 or a sum off by more than 1e-3), each named by its row and
///   value.
/// Vector-Jacobian product in the scores: g (p − y). Second derivatives as entmax's first. There is
/// none in
///   the target.
/// Cost: entmax's, plus O(K) for distributions.
/// Source: Blondel, Martins and Niculae, 2020; Martins and Astudillo, 2016.
SPARSUM_API at::Tensor entmax_loss(const at::Tensor& scores, const at::Tensor& target,
                                   double alpha = 1.5, const LossOptions& options = {});

/// entmax_loss at α = 2, the loss whose gradient is sparsemax(s) − y.
SPARSUM_API at::Tensor sparsemax_loss(const at::Tensor& scores, const at::Tensor& target,
                                      const LossOptions& options = {});

}  // namespace sparsum
