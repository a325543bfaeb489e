#pragma once

#include "estimators/gibbs.h"

#include <string>

namespace sparsum {

/// Draws from a Gibbs distribution that come with a relaxation: scores perturbed by noise, whose
/// best outcome is the draw and whose tempered map is a point inside the polytope nearby.
///   a categorical: u = log softmax(t) + Gumbel noise,  b = one-hot(argmax u),  ζ = softmax(u/τ);
///   free bits:     u = t + logistic noise,             b = [u > 0],            ζ = σ(u/τ)
/// (Maddison, Mnih and Teh, 2017; Jang, Gu and Poole, 2017). All are [B, m, V], for m draws.
class Perturbed {
 public:
  /// scores: [B, V], attached or not. In float32 at least; −∞ becomes finite, but is never drawn.
  Perturbed(const Structure& structure, const at::Tensor& scores, int64_t samples,
            const at::Generator& generator);

  /// The draws, for a loss: n = B·m pairs.
  Assignments outcomes() const;
  /// b as numbers, detached.
  at::Tensor hard() const;
  /// ζ, attached to the scores.
  at::Tensor relaxed(double temperature) const;
  /// [B, m, V] values with the rows of outcomes(), for a loss.
  Assignments pairs(const at::Tensor& values) const;

  /// ∇_t log π(b): b − E[b], detached.
  at::Tensor score() const;
  /// The part of an estimate of ∂E[ℓ]/∂t that a control variate c, a function of the relaxation,
  /// brings in (Tucker et al., 2017; Grathwohl et al., 2018):
  ///   −c(ζ̃) ∇_t log π(b) + ∇_t c(ζ) − ∇_t c(ζ̃),   of expectation 0,
  /// where ζ̃ relaxes ũ, drawn given b. The noise of ũ is coupled with that of u so that ũ = u (the
  /// papers' common random numbers), and c is evaluated once for both; but ∂ũ/∂t = (1 − r) ∂u/∂t,
  ///   a categorical: r_i = exp(u_i − max u);   bits: r = σ(∓t)/σ(±(u − t)) for b = 1 (0).
  /// value: c [B, m] and gradient: ∇c [B, m, V] at ζ = relaxed(temperature); the result [B, m, V]
  /// is differentiable in both.
  at::Tensor control_variate(const at::Tensor& value, const at::Tensor& gradient,
                             double temperature) const;

 private:
  bool categorical_;
  at::Tensor scores_;  // [B, 1, V]: log-probabilities of a categorical, scores of bits
  at::Tensor u_;       // [B, m, V], attached
};

/// Throws unless the structure is a categorical or free bits.
void check_relaxable(const std::string& estimator, const Structure& structure);
/// Throws unless it is free bits.
void check_free_bits(const std::string& estimator, const Structure& structure);

/// Values of a loss and their gradients in relaxed indicators, without the graph of anything else:
/// what control variates need. value: [n]; gradient: [n, V]; detached.
struct RelaxedLoss {
  at::Tensor value, gradient;
};
/// z: with floating-point indicators. Errors: a loss without a gradient in them.
RelaxedLoss relaxed_loss(const std::string& estimator, const Assignments& z,
                         const Problem& problem);

/// Throws unless the options of control variates, temperature and control_scale, are in range.
void check_control(const char* name, const EstimatorOptions& options);

/// The schedule max(temperature_min, temperature·exp(−temperature_decay·n)), n the number of
/// estimates, rounded down to a multiple of temperature_every. Its count is a buffer, so that
/// checkpoints carry it.
class Temperature : public torch::nn::Module {
 public:
  /// Throws if the options are out of range.
  Temperature(const char* name, const EstimatorOptions& options);
  double now() const;
  void count();

 private:
  double start_, decay_, least_;
  int64_t every_;
  at::Tensor step_;
};

}  // namespace sparsum
