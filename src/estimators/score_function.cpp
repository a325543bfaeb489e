#include "estimators/score_function.h"

#include <torch/torch.h>

namespace sparsum {

Estimate ScoreFunction::estimate(const Problem& problem, std::optional<at::Generator> generator) {
  const at::Generator draws = start(problem, generator);
  const Gibbs q(problem.structure, problem.scores);
  const Assignments z = q.sample(samples_, draws);
  const Loss loss = evaluate(z, problem, draws);
  const at::Tensor cost = loss.value.detach();
  const Baseline b = baseline(cost, problem, q, draws);
  at::Tensor log_prob = q.log_prob(z);
  if (loss.log_prob.defined()) log_prob = log_prob + loss.log_prob;
  const at::Tensor per_pair =
      loss.value + gradient_term(b.value.defined() ? cost - b.value : cost, log_prob);
  Estimate estimate =
      answer(problem, mean_per_example(per_pair, samples_), mean_per_example(cost, samples_));
  estimate.auxiliary = b.auxiliary;
  return estimate;
}

}  // namespace sparsum
