#pragma once

#include <cstdint>

namespace sparsum::kernels {

// Layout, threads and return values as in kernels/sparsemax.h. alpha: row i uses alpha[i *
// alpha_stride], so stride 0 gives every row the same; every value finite and ≥ 1 (the caller
// checks).

/// probs = α-entmax of each row of scores. α = 1, 1.5 and 2 in the scores' precision; every other α
/// inside in float64.
int64_t entmax_forward(const float* scores, float* probs, int64_t rows, int64_t cols,
                       const double* alpha, int64_t alpha_stride);
int64_t entmax_forward(const double* scores, double* probs, int64_t rows, int64_t cols,
                       const double* alpha, int64_t alpha_stride);

/// grad_scores = u ⊙ (g − ⟨u, g⟩/Σu), u = probs^{2−α} on the support, 0 elsewhere. Entries of
/// `grad` off the support do not matter.
void entmax_backward(const float* grad, const float* probs, float* grad_scores, int64_t rows,
                     int64_t cols, const double* alpha, int64_t alpha_stride);
void entmax_backward(const double* grad, const double* probs, double* grad_scores, int64_t rows,
                     int64_t cols, const double* alpha, int64_t alpha_stride);

/// grad_alpha[row] = ⟨g, ∂p/∂α⟩ (see sparsum/entmax.h), in float64 inside.
void entmax_backward_alpha(const float* grad, const float* probs, double* grad_alpha, int64_t rows,
                           int64_t cols, const double* alpha, int64_t alpha_stride);
void entmax_backward_alpha(const double* grad, const double* probs, double* grad_alpha,
                           int64_t rows, int64_t cols, const double* alpha, int64_t alpha_stride);

/// The Fenchel–Young loss of each row, H_α(p) − H_α(y) + ⟨p − y, s⟩ ≥ 0, in float64 inside; probs:
/// the row's entmax. y: the class target_index[row] (a row whose index is negative gets 0), or, if
/// target_index is null, the row of target_probs. Mass on a score of −∞ gives +∞.
void entmax_loss_forward(const float* scores, const float* probs, const int64_t* target_index,
                         const float* target_probs, float* losses, int64_t rows, int64_t cols,
                         double alpha);
void entmax_loss_forward(const double* scores, const double* probs, const int64_t* target_index,
                         const double* target_probs, double* losses, int64_t rows, int64_t cols,
                         double alpha);

}  // namespace sparsum::kernels
