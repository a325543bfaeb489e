#pragma once

#include <sparsum/kernels/k_best_bits.h>

#include <cstdint>
#include <vector>

namespace sparsum::kernels {

/// The marginals of SparseMAP over bits of which `least` to `most` are on, in closed form:
///   μ = clip(a·t + c − τ, 0, 1),
/// with τ = 0 where that sum is between `least` and `most`, and else the τ that puts it on the
/// nearer bound: the Euclidean projection of a·t + c onto the convex hull of the configurations.
///
/// scores t, marginals μ: [rows, bits]; a > 0. A score of −∞ gives 0. tight [rows]: whether a bound
/// on the sum is active (τ ≠ 0).
/// Returns −1, or the first row with NaN, +∞ or fewer than `least` finite scores.
/// Cost: O(bits) an evaluation of the sum, of which a row needs one, and some five more if tight.
int64_t sparsemap_marginals(const float* scores, int64_t rows, int64_t bits, int64_t least,
                            int64_t most, double a, double c, float* marginals, bool* tight);
int64_t sparsemap_marginals(const double* scores, int64_t rows, int64_t bits, int64_t least,
                            int64_t most, double a, double c, double* marginals, bool* tight);

/// grad_scores = a·(g − mean_F(g) where tight) on F = {0 < μ < 1}, else 0: the derivative of μ is
/// symmetric, so this is its product with a vector from either side.
void sparsemap_marginals_backward(const float* grad, const float* marginals, const bool* tight,
                                  int64_t rows, int64_t bits, double a, float* grad_scores);
void sparsemap_marginals_backward(const double* grad, const double* marginals, const bool* tight,
                                  int64_t rows, int64_t bits, double a, double* grad_scores);

/// Distributions over configurations, row after row.
struct BitConfigurations {
  std::vector<int64_t> counts;  ///< [rows] configurations of each row
  std::vector<double> weights;  ///< [n], positive; each row's sum to 1
  /// weights[i] = cut(upper[i]) − cut(lower[i]): positions in the marginals laid out flat, −1 for
  /// the cut at 1 (upper) or at 0 (lower). The cut of bit j is at μ_j, or, on a line, at the
  /// fractional part of the sum of the row's fractional marginals up to and with j.
  std::vector<int64_t> upper, lower;
  FlipLists flips;  ///< [n] where a configuration differs from the one before it in its row
};

/// A distribution over few configurations of `least` to `most` bits that has the marginals μ [rows,
/// bits].
///
/// Any number of bits allowed (least = 0, most ≥ bits): for u in [0, 1] the configuration
/// {i : μ_i > u}, nested in each other. With a bound: the fractional μ_i end to end on a line, and
/// on are the bits whose interval contains u plus an integer; each configuration has ⌊Σμ⌋ or ⌈Σμ⌉
/// bits, where the sum counts as the nearer bound if tight[row], and never as beyond one: no
/// rounding of the marginals, and no marginals that nothing has, make a configuration of a wrong
/// size. The values of u between two
/// cuts make one configuration, and the length of that interval is its weight; intervals shorter
/// than 10⁻¹² are joined with the one before. base [rows, bits]: the configuration at u = 0 of each
/// row. Support: at most the number of fractional μ, plus one. Cost: O(bits + f log f), f
/// fractional.
void sparsemap_configurations(const float* marginals, const bool* tight, int64_t rows, int64_t bits,
                              int64_t least, int64_t most, uint8_t* base, BitConfigurations& out);
void sparsemap_configurations(const double* marginals, const bool* tight, int64_t rows,
                              int64_t bits, int64_t least, int64_t most, uint8_t* base,
                              BitConfigurations& out);

/// The gradient of those weights in the marginals, of rows `begin` to `end` − 1; row b has the
/// configurations splits[b] … splits[b + 1] − 1 of grad, upper and lower. A cut's gradient is that
/// of the weight below it less that of the weight above; with `on_line` the cut moves with all
/// fractional marginals of its row up to its own, else with its own alone.
void sparsemap_configurations_backward(const float* grad, const float* marginals,
                                       const int64_t* splits, const int64_t* upper,
                                       const int64_t* lower, bool on_line, int64_t begin,
                                       int64_t end, int64_t bits, float* grad_marginals);
void sparsemap_configurations_backward(const double* grad, const double* marginals,
                                       const int64_t* splits, const int64_t* upper,
                                       const int64_t* lower, bool on_line, int64_t begin,
                                       int64_t end, int64_t bits, double* grad_marginals);

}  // namespace sparsum::kernels
