#pragma once

#include <cstdint>

namespace sparsum::kernels {

/// probs = sparsemax of the k ≥ 1 largest scores of each row (ties: the lower index), 0 elsewhere;
/// exact[row] = whether that is the row's sparsemax: the (k+1)-th largest score is ≤ τ, or k ≥
/// cols. Layout and return value as sparsemax_forward's. The backward is sparsemax_backward.
int64_t top_k_sparsemax_forward(const float* scores, float* probs, bool* exact, int64_t rows,
                                int64_t cols, int64_t k);
int64_t top_k_sparsemax_forward(const double* scores, double* probs, bool* exact, int64_t rows,
                                int64_t cols, int64_t k);

}  // namespace sparsum::kernels
