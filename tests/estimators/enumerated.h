#pragma once

// A problem over any structure small enough to list, whose expectation and gradient come from sums
// over all outcomes, written with plain tensor operations and none of the library's estimators:
//   ℓ(b, z) = sin(h_1 w_1 + w_3) + 0.3 h_2² w_2 + h_1 h_2,   h = a_z M,
// with a row of parameters w for each example, so that every row of a batch of equal examples
// brings an independent draw of the gradient in them. With a choice, the loss picks c in {0, 1}, 1
// with probability σ(h_1 w_3), and is (1 + c) ℓ.

#include "tests/estimators/toy.h"

#include <sparsum/bits.h>
#include <sparsum/categorical.h>
#include <sparsum/estimator.h>
#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

namespace sparsum_test {

struct Enumerated {
  std::shared_ptr<const sparsum::Structure> structure;
  at::Tensor table;     // M [V, 2]
  at::Tensor scores;    // [V]
  at::Tensor w;         // [3]
  at::Tensor outcomes;  // [N, V] indicators
  bool choice = false;
  double offset = 0;  // added to every loss

  Enumerated(std::shared_ptr<const sparsum::Structure> s, uint64_t seed, bool with_choice = false)
      : structure(std::move(s)), choice(with_choice) {
    at::Generator generator = seeded(seed);
    const int64_t parts = structure->parts();
    table = normal({parts, 2}, generator);
    scores = normal({parts}, generator);
    w = normal({3}, generator);
    outcomes = structure->enumerate(1, at::kCPU).values(at::kDouble);
  }

  static at::Tensor formula(const at::Tensor& h, const at::Tensor& w) {
    const at::Tensor first = h.select(1, 0), second = h.select(1, 1);
    return (first * w.select(1, 0) + w.select(1, 2)).sin() +
           0.3 * second.square() * w.select(1, 1) + first * second;
  }

  /// The loss of pairs; draws its choice from `generator`.
  sparsum::LossFn loss(at::Generator generator) const {
    return [m = table, choose = choice, add = offset, generator](
               const sparsum::Assignments& z, const std::vector<at::Tensor>& shared) {
      const at::Tensor h = z.embed(m), own = z.gather(shared[0]);
      const at::Tensor value = formula(h, own) + add;
      if (!choose) return sparsum::Loss(value);
      const at::Tensor logit = h.select(1, 0) * own.select(1, 2);
      const at::Tensor picked =
          (at::rand(logit.sizes(), generator, logit.detach().options()) < logit.detach().sigmoid())
              .to(at::kDouble);
      return sparsum::Loss(value * (1 + picked), at::log_sigmoid(logit * (2 * picked - 1)));
    };
  }

  /// Rows of equal examples: leaves (scores [rows, V], w [rows, 3]).
  std::vector<at::Tensor> rows(int64_t count) const {
    const auto repeat = [&](const at::Tensor& t) {
      return t.unsqueeze(0).expand({count, t.size(0)}).contiguous().set_requires_grad(true);
    };
    return {repeat(scores), repeat(w)};
  }
  sparsum::Problem problem(const std::vector<at::Tensor>& leaves, double entropy_weight,
                           at::Generator generator, int64_t chunk = 0) const {
    return {*structure,     leaves[0], loss(std::move(generator)), {leaves[1]},
            leaves[1],  // context
            entropy_weight, chunk};
  }

  /// log π of each outcome, and its loss with the choice summed out: [N].
  std::pair<at::Tensor, at::Tensor> listed(const at::Tensor& t, const at::Tensor& own) const {
    const at::Tensor h = outcomes.matmul(table);
    const at::Tensor row = own.unsqueeze(0);
    at::Tensor value = formula(h, row) + offset;
    if (choice) value = value * (1 + (h.select(1, 0) * row.select(1, 2)).sigmoid());
    return {outcomes.matmul(t).log_softmax(0), value};
  }

  struct Exact {
    at::Tensor loss, entropy;           // []
    std::vector<at::Tensor> gradients;  // of E[ℓ] − weight·H in (scores, w)
  };
  Exact exact(double entropy_weight) const {
    const at::Tensor t = scores.clone().set_requires_grad(true);
    const at::Tensor own = w.clone().set_requires_grad(true);
    const auto [log_probs, value] = listed(t, own);
    const at::Tensor expected = (log_probs.exp() * value).sum();
    const at::Tensor entropy = -(log_probs.exp() * log_probs).sum();
    (expected - entropy_weight * entropy).backward();
    return {expected.detach(), entropy.detach(), {t.grad(), own.grad()}};
  }
};

inline std::shared_ptr<const sparsum::Structure> categorical(int64_t values) {
  return std::make_shared<sparsum::Categorical>(values);
}
inline std::shared_ptr<const sparsum::Structure> bits(int64_t count) {
  return std::make_shared<sparsum::BitVector>(count);
}

/// The gradients of each row, (scores [R, V], w [R, 3]) side by side, and the values [R].
struct Draws {
  at::Tensor gradients, values;
  sparsum::Estimate estimate;
};
inline Draws draw(const Enumerated& problem, sparsum::Estimator& estimator, int64_t rows,
                  double entropy_weight, uint64_t seed) {
  const auto leaves = problem.rows(rows);
  at::Generator generator = seeded(seed);
  auto estimate = estimator.estimate(problem.problem(leaves, entropy_weight, generator), generator);
  estimate.objective.sum().backward();
  const auto gradients = take_gradients(leaves);
  return {at::cat(gradients, 1), estimate.value, estimate};
}

/// The largest |mean − expected| in standard errors, over columns. A column without spread counts
/// as 0 if it agrees to 1e-9 and as infinity otherwise.
inline double largest_z(const at::Tensor& draws, const at::Tensor& expected) {
  const at::Tensor table = draws.dim() == 1 ? draws.unsqueeze(1) : draws;
  const double rows = static_cast<double>(table.size(0));
  const at::Tensor difference = (table.mean(0) - expected.reshape(-1)).abs();
  const at::Tensor error = table.std(0) / std::sqrt(rows);
  const at::Tensor z = at::where(difference < 1e-9, at::zeros_like(error), difference / error);
  return z.max().item<double>();
}

}  // namespace sparsum_test
