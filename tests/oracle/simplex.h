#pragma once

// Slow independent references for the maps onto the simplex: by sorting, and by bisection, in long
// double.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

namespace sparsum::oracle {

using Real = long double;

/// Sparsemax by sorting (Held, Wolfe and Crowder, 1974).
inline std::vector<Real> sparsemax(const std::vector<Real>& scores) {
  std::vector<Real> sorted = scores;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  Real sum = 0, tau = 0;
  for (size_t j = 0; j < sorted.size(); ++j) {
    sum += sorted[j];
    const Real candidate = (sum - 1) / static_cast<Real>(j + 1);
    if (sorted[j] > candidate) tau = candidate;
  }
  std::vector<Real> probs;
  for (Real s : scores) probs.push_back(std::max(s - tau, Real{0}));
  return probs;
}

/// Indices of the k best scores; ties go to the lower index.
inline std::vector<size_t> top_k(const std::vector<Real>& scores, size_t k) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(std::min(k, order.size()));
  return order;
}

struct TopK {
  std::vector<Real> probs;
  bool exact;
};

/// Sparsemax of the k best; exact by comparing with the sparsemax of all.
inline TopK top_k_sparsemax(const std::vector<Real>& scores, size_t k) {
  const auto order = top_k(scores, k);
  std::vector<Real> best;
  for (size_t i : order) best.push_back(scores[i]);
  const auto solved = sparsemax(best);
  TopK result{std::vector<Real>(scores.size(), 0), true};
  for (size_t i = 0; i < order.size(); ++i) result.probs[order[i]] = solved[i];
  const auto full = sparsemax(scores);
  for (size_t i = 0; i < scores.size(); ++i) {
    if (std::abs(full[i] - result.probs[i]) > Real{1e-12}) result.exact = false;
  }
  return result;
}

/// α-entmax by bisection on τ in p = [((α−1)s − τ)_+]^{1/(α−1)}; softmax at α = 1.
inline std::vector<Real> entmax(const std::vector<Real>& scores, Real alpha) {
  const Real max = *std::max_element(scores.begin(), scores.end());
  std::vector<Real> probs(scores.size());
  const auto fill = [&](Real tau) {
    Real sum = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      const Real x = (alpha - 1) * (scores[i] - max) - tau;
      probs[i] = x > 0 ? std::pow(x, 1 / (alpha - 1)) : Real{0};
      sum += probs[i];
    }
    return sum;
  };
  if (alpha == 1) {
    Real sum = 0;
    for (size_t i = 0; i < scores.size(); ++i) sum += probs[i] = std::exp(scores[i] - max);
    for (Real& p : probs) p /= sum;
    return probs;
  }
  Real low = -1, high = 0;
  for (int i = 0; i < 80; ++i) {
    const Real middle = (low + high) / 2;
    (fill(middle) >= 1 ? low : high) = middle;
  }
  const Real sum = fill(low);
  for (Real& p : probs) p /= sum;
  return probs;
}

}  // namespace sparsum::oracle
