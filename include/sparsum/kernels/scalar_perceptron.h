#pragma once

#include <cstdint>
#include <functional>

namespace sparsum::kernels {

// One small perceptron applied to each of many numbers:
//   y = σ(a),   a = Σ_j w_j σ(u_j e),   σ(x) = 1/(1 + exp(−x)).
// In float, where the numbers are many against the range of u_j·e, a is interpolated: the line is
// cut into cells of a width of 1/(2·max|u|) to 1/max|u|, at fixed places, and the sums are taken at
// eight points of each cell that is between the smallest and the largest e. The error of the
// interpolation is below the rounding of float. Gradients in u and w are sums over the same points,
// each with the weight that interpolation gives it. What the grid cannot do is summed number by
// number: few numbers or a wide range, sums that might overflow, +∞, −∞ and NaN.
//
// Where u_j·e is NaN (a NaN, or 0·∞), so is what it enters. An infinite upstream gradient may give
// NaN. Results do not depend on how the work is shared out.

/// Calls f(begin, end) on ranges that make up 0 … count − 1, of `grain` or more if possible, in any
/// order and on any thread, and returns when all are done.
using InRanges = std::function<void(int64_t count, int64_t grain,
                                    const std::function<void(int64_t, int64_t)>& f)>;

template <typename T>
struct ScalarPerceptronInputs {
  const T* e;  // [count]
  int64_t count;
  const T* u;      // [hidden]
  const T* w;      // [hidden]
  int64_t hidden;  // ≥ 1
};

/// y [count]; and unless null y' = σ'(a) and slopes = ∂a/∂e = Σ_j w_j u_j σ'(u_j e), [count] each.
/// Cost with the grid: some 10 ns a number, and 8·hidden exponentials a cell. Without: hidden
/// exponentials a number.
void scalar_perceptron_forward(const ScalarPerceptronInputs<float>& inputs,
                               const InRanges& in_ranges, float* y, float* derivatives,
                               float* slopes);
void scalar_perceptron_forward(const ScalarPerceptronInputs<double>& inputs,
                               const InRanges& in_ranges, double* y, double* derivatives,
                               double* slopes);

/// With c = ∂L/∂a [count]: by_u = w_j Σ_i c_i e_i σ'(u_j e_i) and by_w = Σ_i c_i σ(u_j e_i),
/// [hidden] each, summed across shares in double. Cost: as the forward's.
void scalar_perceptron_parameters(const ScalarPerceptronInputs<float>& inputs, const float* c,
                                  const InRanges& in_ranges, float* by_u, float* by_w);
void scalar_perceptron_parameters(const ScalarPerceptronInputs<double>& inputs, const double* c,
                                  const InRanges& in_ranges, double* by_u, double* by_w);

/// Whether the grid will be used for these inputs.
bool scalar_perceptron_interpolates(const ScalarPerceptronInputs<float>& inputs);

}  // namespace sparsum::kernels
