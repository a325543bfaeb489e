#pragma once

#include <cstdint>

namespace sparsum::kernels {

// Arrays are row-major and dense, rows × cols with cols ≥ 1; input and output do not overlap.
// Serial: callers give each thread a range of rows. A row's result does not depend on the rows
// beside it.

/// probs = sparsemax of each row of scores: max(s − τ, 0), on the simplex.
/// Returns −1, or the index of the first row that holds NaN or +∞ or no finite score; the outputs
/// of that row and the following ones are then unspecified.
int64_t sparsemax_forward(const float* scores, float* probs, int64_t rows, int64_t cols);
int64_t sparsemax_forward(const double* scores, double* probs, int64_t rows, int64_t cols);

/// grad_scores = grad − mean of grad over the row's support {probs > 0}, on the support; 0
/// elsewhere. Entries of `grad` off the support are not read into the result, whatever they hold.
void sparsemax_backward(const float* grad, const float* probs, float* grad_scores, int64_t rows,
                        int64_t cols);
void sparsemax_backward(const double* grad, const double* probs, double* grad_scores, int64_t rows,
                        int64_t cols);

}  // namespace sparsum::kernels
