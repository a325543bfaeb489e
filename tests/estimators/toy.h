#pragma once

// A small problem whose expectation and gradient are written out in plain loops, without the
// library and without automatic differentiation:
//   ℓ(b, z) = sin(a_z x_b + c) + 0.3 a_z²,   x_b = tanh(u_b),
// with parameters a [K] and c, and a non-leaf x that the loss shares among an example's outcomes.

#include "tests/ops/tensors.h"
#include "tests/oracle/simplex.h"

#include <sparsum/estimator.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

namespace sparsum_test {

/// Leaves with gradients, and the loss over them.
struct Toy {
  at::Tensor scores, a, c, u;
  at::Tensor context;  // of the problem, or undefined

  Toy(int64_t batch, int64_t values, uint64_t seed) {
    at::Generator generator = seeded(seed);
    scores = normal({batch, values}, generator).set_requires_grad(true);
    a = normal({values}, generator).set_requires_grad(true);
    c = normal({}, generator).set_requires_grad(true);
    u = normal({batch}, generator).set_requires_grad(true);
  }

  std::vector<at::Tensor> leaves() const { return {scores, a, c, u}; }
  at::Tensor embedding() const { return u.tanh(); }

  sparsum::LossFn loss() const {
    return [a = a, c = c](const sparsum::Assignments& z, const std::vector<at::Tensor>& shared) {
      const at::Tensor own = z.embed(a.unsqueeze(1)).squeeze(1);
      return (own * z.gather(shared[0]) + c).sin() + 0.3 * own.square();
    };
  }

  sparsum::Problem problem(const sparsum::Structure& structure, double entropy_weight,
                           int64_t chunk = 0) const {
    return {structure, scores, loss(), {embedding()}, context, entropy_weight, chunk};
  }
};

/// The gradients that a call of backward has left in the leaves (zeros where none), which are
/// cleared.
inline std::vector<at::Tensor> take_gradients(const std::vector<at::Tensor>& leaves) {
  std::vector<at::Tensor> gradients;
  for (at::Tensor leaf : leaves) {
    gradients.push_back(leaf.grad().defined() ? leaf.grad().clone() : at::zeros_like(leaf));
    leaf.mutable_grad().reset();
  }
  return gradients;
}

/// A map from the scores of one example to probabilities, with the α of its Jacobian on the
/// support.
struct Map {
  std::function<std::vector<long double>(const std::vector<long double>&)> probs;
  double alpha;
};

inline Map entmax_map(double alpha) {
  return {[alpha](const auto& s) { return sparsum::oracle::entmax(s, alpha); }, alpha};
}
inline Map sparsemax_map() {
  return {[](const auto& s) { return sparsum::oracle::sparsemax(s); }, 2};
}
inline Map top_k_map(size_t k) {
  return {[k](const auto& s) { return sparsum::oracle::top_k_sparsemax(s, k).probs; }, 2};
}

struct Exact {
  at::Tensor loss, entropy;           // [B]
  at::Tensor support;                 // [B] int64
  std::vector<at::Tensor> gradients;  // of Σ_b E[ℓ] − w·H, for Toy::leaves()
};

/// Value and gradient of Σ_b E[ℓ] − entropy_weight·H(p), by hand:
///   ∂/∂p_j = ℓ_j + w (log p_j + 1), and through the map by u ⊙ (g − ⟨u, g⟩/Σu), u = p^{2−α}.
inline Exact exact(const Toy& toy, const Map& map, double entropy_weight) {
  const int64_t batch = toy.scores.size(0), values = toy.scores.size(1);
  Exact result;
  result.loss = at::zeros({batch}, at::kDouble);
  result.entropy = at::zeros({batch}, at::kDouble);
  result.support = at::zeros({batch}, at::kLong);
  for (const at::Tensor& leaf : toy.leaves()) {
    result.gradients.push_back(at::zeros(leaf.sizes(), at::kDouble));
  }
  const double c = toy.c.item<double>();
  for (int64_t b = 0; b < batch; ++b) {
    std::vector<long double> s(values);
    for (int64_t j = 0; j < values; ++j) s[j] = toy.scores[b][j].item<double>();
    const std::vector<long double> p = map.probs(s);
    const double x = std::tanh(toy.u[b].item<double>());
    long double loss = 0, entropy = 0, mass = 0, mean = 0, grad_c = 0, grad_x = 0;
    std::vector<long double> g(values), u(values);
    for (int64_t j = 0; j < values; ++j) {
      if (p[j] <= 0) continue;
      const double a = toy.a[j].item<double>();
      const double value = std::sin(a * x + c) + 0.3 * a * a;
      const double slope = std::cos(a * x + c);
      loss += p[j] * value;
      entropy -= p[j] * std::log(p[j]);
      result.support[b] += 1;
      g[j] = value + entropy_weight * (std::log(p[j]) + 1);
      u[j] = std::pow(p[j], static_cast<long double>(2 - map.alpha));
      mass += u[j];
      mean += u[j] * g[j];
      result.gradients[1][j] += static_cast<double>(p[j] * (slope * x + 0.6 * a));
      grad_c += p[j] * slope;
      grad_x += p[j] * slope * a;
    }
    for (int64_t j = 0; j < values; ++j) {
      result.gradients[0][b][j] = static_cast<double>(u[j] * (g[j] - mean / mass));
    }
    result.loss[b] = static_cast<double>(loss);
    result.entropy[b] = static_cast<double>(entropy);
    result.gradients[2] += static_cast<double>(grad_c);
    result.gradients[3][b] = static_cast<double>(grad_x) * (1 - x * x);
  }
  return result;
}

inline double largest_difference(const std::vector<at::Tensor>& left,
                                 const std::vector<at::Tensor>& right) {
  double largest = 0;
  for (size_t i = 0; i < left.size(); ++i) {
    if (left[i].numel() == 0) continue;
    largest = std::max(largest, (left[i] - right[i]).abs().max().item<double>());
  }
  return largest;
}

}  // namespace sparsum_test
