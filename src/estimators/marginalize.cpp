#include "estimators/estimators.h"

#include <sparsum/expectation.h>
#include <torch/torch.h>

namespace sparsum {

Estimate marginalize(const SparseDistribution& q, const Problem& problem,
                     const std::optional<at::Generator>& generator) {
  const at::Tensor loss =
      expectation(q, problem.loss, problem.shared, {problem.max_evaluations_per_chunk, generator});
  Estimate estimate;
  if (problem.entropy_weight == 0) {
    const at::NoGradGuard no_grad;
    estimate.entropy = q.entropy();
    estimate.objective = loss;
  } else {
    const at::Tensor entropy = q.entropy();
    estimate.entropy = entropy.detach();
    estimate.objective = at::sub(loss, entropy, problem.entropy_weight);
  }
  estimate.value = loss.detach();
  estimate.evaluations = q.evaluations();
  return estimate;
}

}  // namespace sparsum
