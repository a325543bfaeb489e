#include "estimators/sparse.h"

#include <sparsum/bits.h>
#include <sparsum/categorical.h>
#include <sparsum/sparsemap.h>
#include <torch/torch.h>

#include <cmath>
#include <memory>

namespace sparsum {
namespace {

/// Sparse marginalization by SparseMAP (Niculae, Martins, Blondel and Cardie, 2018; Correia et al.,
/// 2020, §4.2):
///   ξ ∈ argmin_{ξ in Δ^|Z|} ½‖A_u ξ − t_u‖² − ⟨A_v ξ, t_v⟩.
///
/// Exact for its own ξ. Costs ‖ξ‖₀ loss evaluations an example, at most one more than there are
/// variables. Needs Bits, a categorical, or a structure of the user's own.
class Sparsemap : public SparseMarginalization {
 public:
  Sparsemap(const char* name, const EstimatorOptions& options)
      : SparseMarginalization(name), options_(options) {
    solver_.encoding =
        options.encoding == "both-states" ? Encoding::kBothStates : Encoding::kOneState;
    solver_.algorithm = options.algorithm == "closed-form" ? SparsemapAlgorithm::kClosedForm
                                                           : SparsemapAlgorithm::kActiveSet;
    solver_.tolerance = options.tolerance;
    solver_.max_iterations = options.max_iterations;
  }

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    TORCH_CHECK(options_.init == "map" || generator.has_value(), "estimator '", name(),
                "': expected a generator to draw init = 'random' from");
    return marginalize(solve(problem.structure, problem.scores, generator), problem, generator);
  }

  void check(const Structure& structure) const override {
    check_sparsemap(structure);
    TORCH_CHECK(solver_.encoding == Encoding::kOneState || dynamic_cast<const Bits*>(&structure),
                "estimator '", name(), "': the encoding 'both-states' is for bits; got ",
                structure.name());
    TORCH_CHECK(solver_.algorithm == SparsemapAlgorithm::kActiveSet ||
                    dynamic_cast<const Bits*>(&structure) ||
                    dynamic_cast<const Categorical*>(&structure),
                "estimator '", name(), "': the algorithm 'closed-form' is for bits; got ",
                structure.name());
  }

 protected:
  SparseDistribution map(const Structure& structure, const at::Tensor& scores) const override {
    // distribution(): what it is must not depend on chance, so the start is the MAP.
    return solve(structure, scores, std::nullopt);
  }

  /// Over which set the scores of `structure` are solved.
  virtual SparseDistribution solve_over(const Structure& structure, const at::Tensor& scores,
                                        const SparsemapOptions& solver) const {
    return sparsemap(structure, scores, solver);
  }

 private:
  SparseDistribution solve(const Structure& structure, const at::Tensor& scores,
                           const std::optional<at::Generator>& generator) const {
    SparsemapOptions solver = solver_;
    if (options_.init == "random" && generator) {
      solver.init = SparsemapInit::kRandom;
      solver.generator = generator;
    }
    return solve_over(structure, scores, solver);
  }

  EstimatorOptions options_;
  SparsemapOptions solver_;
};

/// The same over the bit vectors with at most B bits on, though the structure allows any number:
/// half of the bits unless `budget` says otherwise.
class SparsemapBudget final : public Sparsemap {
 public:
  explicit SparsemapBudget(const EstimatorOptions& options)
      : Sparsemap("sparsemap-budget", options), budget_(options.budget) {}

  void check(const Structure& structure) const override {
    const auto* bits = dynamic_cast<const Bits*>(&structure);
    TORCH_CHECK(
        bits && bits->free(),
        "estimator 'sparsemap-budget' is for bit vectors without a bound of their own; got ",
        structure.name());
    budget(structure);
  }

 protected:
  SparseDistribution solve_over(const Structure& structure, const at::Tensor& scores,
                                const SparsemapOptions& solver) const override {
    return sparsemap(budget(structure), scores, solver);
  }

 private:
  Budget budget(const Structure& structure) const {
    return Budget(structure.parts(), budget_ < 0 ? structure.parts() / 2 : budget_);
  }
  int64_t budget_;
};

void check_options(const char* name, const EstimatorOptions& options) {
  TORCH_CHECK(options.encoding == "one-state" || options.encoding == "both-states", "estimator '",
              name, "': expected encoding to be 'one-state' or 'both-states', got '",
              options.encoding, "'");
  TORCH_CHECK(
      options.algorithm == "active-set" || options.algorithm == "closed-form", "estimator '", name,
      "': expected algorithm to be 'active-set' or 'closed-form', got '", options.algorithm, "'");
  TORCH_CHECK(options.init == "map" || options.init == "random", "estimator '", name,
              "': expected init to be 'map' or 'random', got '", options.init, "'");
  TORCH_CHECK(options.tolerance > 0 && std::isfinite(options.tolerance), "estimator '", name,
              "': expected a finite tolerance > 0, got ", options.tolerance);
  TORCH_CHECK(options.budget >= -1, "estimator '", name, "': expected budget >= -1, got ",
              options.budget);
  TORCH_CHECK(options.max_iterations >= 0, "estimator '", name,
              "': expected max_iterations >= 0, got ", options.max_iterations);
}

}  // namespace

std::shared_ptr<Estimator> make_sparsemap(const Making& making) {
  check_options("sparsemap", making.options);
  return std::make_shared<Sparsemap>("sparsemap", making.options);
}

std::shared_ptr<Estimator> make_sparsemap_budget(const Making& making) {
  check_options("sparsemap-budget", making.options);
  return std::make_shared<SparsemapBudget>(making.options);
}

}  // namespace sparsum
