#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>

namespace sparsum {

/// The same small perceptron applied to every number of a tensor,
///   y = σ(a),   a = Σ_j w_j σ(u_j e),   σ(x) = 1/(1 + exp(−x)),   j = 1 … H.
///
/// e: any shape, n numbers; u, w: [H], H ≥ 1; of one floating dtype (half types are computed in
///   float32). Returns: y, of the shape and dtype of e, contiguous.
/// NaN in e or 0·∞ in u_j e gives NaN where it stands; NaN in u or w everywhere.
/// Vector-Jacobian product: with c = g σ'(a),
///   c Σ_j w_j u_j σ'(u_j e) in e,   w_j Σ c e σ'(u_j e) in u_j,   Σ c σ(u_j e) in w_j.
///   The n derivatives in e come with the forward pass. Second derivatives go through ATen's own
///   operations and hold a few tensors of n·H numbers.
/// Cost: n·H exponentials in each pass, or, in float32 on the CPU, far fewer: a is a function of
///   one variable, so it is tabulated by polynomials on cells of width 1/max|u| or less, to below
///   the rounding of float32, wherever fewer points do (8 a cell) than there are numbers. Gradients
///   in u and w are summed over the same points. So y may differ in the last digits between calls
///   with few and with many numbers. Memory beyond the arguments: 2n numbers for the backward pass;
///   never n·H. The result does not depend on the number of threads.
/// On other devices than the CPU: ATen's own operations, some numbers at a time.
/// Errors: shapes, dtypes. Forward-mode differentiation is refused.
SPARSUM_API at::Tensor scalar_perceptron(const at::Tensor& e, const at::Tensor& u,
                                         const at::Tensor& w);

}  // namespace sparsum
