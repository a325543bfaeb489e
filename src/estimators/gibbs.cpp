#include "estimators/gibbs.h"

#include <ATen/CPUGeneratorImpl.h>
#include <sparsum/categorical.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum {

std::unique_ptr<Distribution> GibbsEstimator::distribution(const Structure& structure,
                                                           const at::Tensor& scores) const {
  return std::make_unique<Gibbs>(structure, scores);
}

at::Tensor GibbsEstimator::evaluations(const Structure& structure, const at::Tensor& scores) const {
  structure.check_scores(name_.c_str(), scores);
  return at::full({scores.size(0)}, evaluations_, scores.options().dtype(at::kLong));
}

void GibbsEstimator::check(const Structure& structure) const {
  // Oracles that do not exist say so for an empty batch as well.
  const at::Tensor nothing = at::empty({0, structure.parts()});
  try {
    structure.sample(nothing, 1, at::detail::createCPUGenerator());
    structure.log_partition(nothing);
    structure.entropy(nothing);
  } catch (const c10::Error& error) {
    TORCH_CHECK(false, "estimator '", name_,
                "' is for structures with exact samples, partition function and entropy; ",
                error.what_without_backtrace());
  }
}

void GibbsEstimator::check_marginals(const Structure& structure) const {
  GibbsEstimator::check(structure);
  try {
    structure.marginals(at::empty({0, structure.parts()}));
  } catch (const c10::Error& error) {
    TORCH_CHECK(false, "estimator '", name_, "' is for structures with marginals; ",
                error.what_without_backtrace());
  }
}

at::Generator GibbsEstimator::start(const Problem& problem,
                                    const std::optional<at::Generator>& generator) const {
  const at::Tensor scores = problem.scores.detach();
  problem.structure.check_scores(name_.c_str(), scores);
  if (scores.is_cpu() && scores.size(0) > 0) {
    const at::Tensor most = scores.amax(1);  // NaN if there is one
    // Bits may all be forbidden, a value of a categorical must be left.
    const bool categorical = dynamic_cast<const Categorical*>(&problem.structure) != nullptr;
    const at::Tensor good = categorical ? most.isfinite() : most < INFINITY;
    if (!good.all().item<bool>()) {
      const int64_t row = good.logical_not().nonzero()[0].item<int64_t>();
      TORCH_CHECK(false, "estimator '", name_, "': expected row ", row,
                  " of the scores to be finite or -inf", categorical ? ", with a finite one" : "",
                  ", its largest is ", most[row].item<double>());
    }
  }
  TORCH_CHECK(generator.has_value() && generator->defined(), "estimator '", name_,
              "': expected a generator to draw from");
  return *generator;
}

Estimate GibbsEstimator::answer(const Problem& problem, const at::Tensor& expected,
                                const at::Tensor& value) const {
  Estimate estimate;
  if (problem.entropy_weight == 0) {
    const at::NoGradGuard no_grad;
    estimate.entropy = problem.structure.entropy(problem.scores);
    estimate.objective = expected;
  } else {
    const at::Tensor entropy = problem.structure.entropy(problem.scores);
    estimate.entropy = entropy.detach();
    estimate.objective = at::sub(expected, entropy, problem.entropy_weight);
  }
  estimate.value = value.detach();
  estimate.evaluations = at::full({value.size(0)}, evaluations_, value.options().dtype(at::kLong));
  return estimate;
}

Loss evaluate(const Assignments& z, const Problem& problem, const at::Generator& generator) {
  return evaluate(z, problem.loss, problem.shared, {problem.max_evaluations_per_chunk, generator});
}

at::Tensor gradient_term(const at::Tensor& factor, const at::Tensor& at) {
  return factor.detach() * (at - at.detach());
}

at::Tensor score_term(const at::Tensor& gradient, const at::Tensor& scores) {
  // −∞ − (−∞) is NaN; what is forbidden stays so, and needs no gradient.
  return gradient_term(gradient, scores.masked_fill(scores.detach() == -INFINITY, 0)).sum(1);
}

at::Tensor mean_per_example(const at::Tensor& per_pair, int64_t samples) {
  return samples == 1 ? per_pair : per_pair.view({per_pair.size(0) / samples, samples}).mean(1);
}

int64_t own_samples(const char* name, int64_t samples, int64_t own, int64_t least) {
  if (samples == 0) return own;
  TORCH_CHECK(samples >= least, "estimator '", name, "': expected samples >= ", least, ", got ",
              samples);
  return samples;
}

std::string own_baseline(const char* name, const std::string& baseline,
                         std::initializer_list<const char*> known) {
  if (baseline == "auto") return *known.begin();
  std::string words;
  for (const char* word : known) {
    if (baseline == word) return baseline;
    words += (words.empty() ? "'" : ", '") + std::string(word) + "'";
  }
  TORCH_CHECK(false, "estimator '", name, "': expected baseline to be 'auto' or one of ", words,
              ", got '", baseline, "'");
}

void check_decay(const char* name, double decay) {
  TORCH_CHECK(decay >= 0 && decay < 1, "estimator '", name,
              "': expected baseline_decay in [0, 1), got ", decay);
}

}  // namespace sparsum
