#pragma once

#include <cstdint>

namespace sparsum::kernels {

// A linear map and the cross-entropy of its softmax, for many small problems that share the map.
// Pair i has features x_p ∈ ℝ^F at positions p and the targets y_p = targets[rows[i], p]:
//   nll_i = Σ_p (log Σ_c exp(l_c) − l_{y_p}),   l_c = b_c + ⟨W_c, x_p⟩, in nats.
// Scores live in registers, and the exponentials of a few vectors of positions in a buffer of at
// most 256 KB (or those of one vector, whatever the number of classes). Nothing of size positions ×
// classes is ever held.
//
// Serial: callers give each thread a range of pairs. Every array is the whole one, row-major and
// dense; of those with a pair dimension only begin ≤ i < end is read or written. Outputs overlap
// nothing. A pair's results do not depend on the range it is in.
//
// Targets must lie in [0, classes) (the caller checks). A class whose bias is −∞ has probability 0,
// and as a target gives nll = +∞. NaN among a pair's scores, a score of +∞ and a position whose
// scores are all −∞ give NaN, in nll and in every gradient they enter. Scores of any finite size
// are fine: those whose softmax fits into float without subtracting a maximum, as a cheap bound on
// each vector of positions tells, take a short cut in float.

struct LinearCrossEntropyShape {
  int64_t positions;
  int64_t features;
  int64_t classes;  // ≥ 1
};

template <typename T>
struct LinearCrossEntropyInputs {
  const T* features;       // [pairs, positions, features]
  const T* weight;         // [classes, features]
  const T* bias;           // [classes]
  const int64_t* targets;  // [rows, positions]
  const int64_t* rows;     // [pairs]: the row of `targets` of each pair; null: pair i has row i
};

/// What to differentiate, and where to put it. The derivatives of pair i are those of g_i·nll_i.
template <typename T>
struct LinearCrossEntropyGradients {
  const T* pair_weights;  // [pairs]: g; null: 1 each
  T* features;            // [pairs, positions, features], or null: not wanted
  T* weight;              // [pairs, classes, features] or [classes, features], or null
  T* bias;                // [pairs, classes] or [classes], or null
  /// true: a gradient of the weight and the bias for each pair. false: their sum over the range
  /// (in float64 inside), overwritten like everything else, 0 for an empty range.
  bool per_pair;
};

/// nll[i] for every pair of the range. Cost in float with 5 features: about 0.22 ns for a class at
/// a position with AVX-512, 0.4 with AVX2.
void linear_cross_entropy_forward(const LinearCrossEntropyShape& shape,
                                  const LinearCrossEntropyInputs<float>& inputs, int64_t begin,
                                  int64_t end, float* nll);
void linear_cross_entropy_forward(const LinearCrossEntropyShape& shape,
                                  const LinearCrossEntropyInputs<double>& inputs, int64_t begin,
                                  int64_t end, double* nll);

/// The gradients of the range, with one exponential for each score, and nll (the same bits as the
/// forward's) unless it is null. Cost: about twice the forward's.
void linear_cross_entropy_gradients(const LinearCrossEntropyShape& shape,
                                    const LinearCrossEntropyInputs<float>& inputs,
                                    const LinearCrossEntropyGradients<float>& gradients,
                                    int64_t begin, int64_t end, float* nll);
void linear_cross_entropy_gradients(const LinearCrossEntropyShape& shape,
                                    const LinearCrossEntropyInputs<double>& inputs,
                                    const LinearCrossEntropyGradients<double>& gradients,
                                    int64_t begin, int64_t end, double* nll);

}  // namespace sparsum::kernels
