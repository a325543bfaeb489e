#pragma once

#include <sparsum/estimator.h>

#include <memory>

namespace sparsum {

/// One factory for each estimator, in the file of the same name; each checks the options it reads.
/// A new estimator is its file, its line here, and its line in the table of estimator.cpp.
std::shared_ptr<Estimator> make_dense(const EstimatorOptions& options);
std::shared_ptr<Estimator> make_sparsemax(const EstimatorOptions& options);
std::shared_ptr<Estimator> make_entmax(const EstimatorOptions& options);
std::shared_ptr<Estimator> make_top_k(const EstimatorOptions& options);
std::shared_ptr<Estimator> make_top_k_adaptive(const EstimatorOptions& options);
std::shared_ptr<Estimator> make_sparsemap(const EstimatorOptions& options);
std::shared_ptr<Estimator> make_sparsemap_budget(const EstimatorOptions& options);
std::shared_ptr<Estimator> make_score_function(const EstimatorOptions& options);

/// The estimate of an estimator that lists its distribution's outcomes: E_q[ℓ] and H(q) as exact
/// sums over the support, so that the gradient is that of the objective itself.
Estimate marginalize(const SparseDistribution& q, const Problem& problem,
                     const std::optional<at::Generator>& generator);

}  // namespace sparsum
