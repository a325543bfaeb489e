#include "estimators/estimators.h"

#include <torch/torch.h>

namespace sparsum {
namespace {

/// Dense marginalization: the Gibbs distribution's expectation, summed over all outcomes,
///   Σ_z π(z) ℓ(z),   π(z) = exp(⟨a_z, t⟩) / Z.
///
/// Exact. Costs |Z| loss evaluations an example, less those that a score of −∞ forbids.
/// Needs a structure that can list its outcomes, at most `max_outcomes` of them.
class Dense final : public Estimator {
 public:
  explicit Dense(int64_t max_outcomes) : max_outcomes_(max_outcomes) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    check(problem.structure);
    return marginalize(Gibbs(problem.structure, problem.scores).enumerate(max_outcomes_), problem,
                       generator);
  }

  std::unique_ptr<Distribution> distribution(const Structure& structure,
                                             const at::Tensor& scores) const override {
    return std::make_unique<Gibbs>(structure, scores);
  }

  at::Tensor evaluations(const Structure& structure, const at::Tensor& scores) const override {
    const at::NoGradGuard no_grad;
    return Gibbs(structure, scores).enumerate(max_outcomes_).evaluations();
  }

  void check(const Structure& structure) const override {
    const std::optional<int64_t> size = structure.size();
    TORCH_CHECK(size, "estimator 'dense' is for structures of at most ", max_outcomes_,
                " outcomes (max_outcomes); ", structure.name(), " has more than 2^63");
    TORCH_CHECK(*size <= max_outcomes_, "estimator 'dense' is for structures of at most ",
                max_outcomes_, " outcomes (max_outcomes); ", structure.name(), " has ", *size);
  }

 private:
  int64_t max_outcomes_;
};

}  // namespace

std::shared_ptr<Estimator> make_dense(const Making& making) {
  const EstimatorOptions& options = making.options;
  TORCH_CHECK(options.max_outcomes >= 1, "estimator 'dense': expected max_outcomes >= 1, got ",
              options.max_outcomes);
  return std::make_shared<Dense>(options.max_outcomes);
}

}  // namespace sparsum
