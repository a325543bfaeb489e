#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>

namespace sparsum {

/// A linear map and the cross-entropy of its softmax, fused, for many small problems that share the
/// map: pair i has features x_p at P positions and a class to predict at each,
///   nll_i = Σ_p (log Σ_c exp(l_c) − l_{y_p}),   l_c = b_c + ⟨W_c, x_p⟩,   y_p = targets[rows_i,
///   p].
/// Made for decoders that end in a small shared layer, say 5 numbers a pixel and 256 grey levels:
/// the n·P·C scores are never held, and neither are their exponentials.
///
/// features: [n, P, F], weight: [C, F], bias: [C], of one floating dtype (half types are computed
/// in
///   float32); targets: [B, P], integers in 0 … C − 1; rows: [n] int64, the row of `targets` of
///   each pair.
/// Returns: nll [n], in nats, of the features' dtype.
/// −∞ in the bias gives its class probability 0; a target of probability 0 gives +∞. NaN and +∞
/// among
///   the scores give NaN.
/// Vector-Jacobian product: with p the softmax and e the target's indicator, Σ_p g_i (p − e) W in
/// the
///   features, Σ_{i,p} g_i (p − e) xᵀ in the weight, Σ_{i,p} g_i (p − e) in the bias. Where P ≥
///   4·(F + 1) they come with the forward pass, from the same exponentials, as one gradient a pair;
///   else the backward pass computes the exponentials again. Double backward is refused.
/// Cost: n·P·C exponentials. Memory beyond the arguments: a gradient the size of the features and,
/// if
///   the weight has one, n·C·(F + 1) numbers where P ≥ 4·(F + 1). Vectorised over positions: P of
///   16 or more is worth its while. The result does not depend on the number of threads.
/// On other devices than the CPU: ATen's own operations, a few pairs at a time.
/// Errors: shapes, dtypes; a target outside 0 … C − 1 or a row outside 0 … B − 1, named (on the
/// CPU).
SPARSUM_API at::Tensor linear_cross_entropy(const at::Tensor& features, const at::Tensor& weight,
                                            const at::Tensor& bias, const at::Tensor& targets,
                                            const at::Tensor& rows);

}  // namespace sparsum
