#pragma once

#include <sparsum/estimator.h>

#include <memory>

namespace sparsum {

/// What a factory is given: the options, and where initial parameters are drawn from.
struct Making {
  const EstimatorOptions& options;
  std::optional<at::Generator> generator;
};

/// One factory for each estimator, in the file of the same name; each checks the options it reads.
/// A new estimator is its file, its line here, and its line in the table of estimator.cpp.
std::shared_ptr<Estimator> make_dense(const Making& making);
std::shared_ptr<Estimator> make_sparsemax(const Making& making);
std::shared_ptr<Estimator> make_entmax(const Making& making);
std::shared_ptr<Estimator> make_top_k(const Making& making);
std::shared_ptr<Estimator> make_top_k_adaptive(const Making& making);
std::shared_ptr<Estimator> make_sparsemap(const Making& making);
std::shared_ptr<Estimator> make_sparsemap_budget(const Making& making);
std::shared_ptr<Estimator> make_sfe(const Making& making);
std::shared_ptr<Estimator> make_sfe_plus(const Making& making);
std::shared_ptr<Estimator> make_sfe_loo(const Making& making);
std::shared_ptr<Estimator> make_nvil(const Making& making);
std::shared_ptr<Estimator> make_sum_and_sample(const Making& making);
std::shared_ptr<Estimator> make_unordered_set(const Making& making);
std::shared_ptr<Estimator> make_rebar(const Making& making);
std::shared_ptr<Estimator> make_relax(const Making& making);
std::shared_ptr<Estimator> make_arm(const Making& making);
std::shared_ptr<Estimator> make_disarm(const Making& making);
std::shared_ptr<Estimator> make_muprop(const Making& making);
std::shared_ptr<Estimator> make_vimco(const Making& making);
std::shared_ptr<Estimator> make_gumbel(const Making& making);
std::shared_ptr<Estimator> make_st_gumbel(const Making& making);
std::shared_ptr<Estimator> make_straight_through(const Making& making);
std::shared_ptr<Estimator> make_imle(const Making& making);

/// `k`, or the estimator's own where it is 0. Throws unless k >= 0.
int64_t own_k(const char* name, int64_t k, int64_t own);

/// The estimate of an estimator that lists its distribution's outcomes: E_q[ℓ] and H(q) as exact
/// sums over the support, so that the gradient is that of the objective itself.
Estimate marginalize(const SparseDistribution& q, const Problem& problem,
                     const std::optional<at::Generator>& generator);

}  // namespace sparsum
