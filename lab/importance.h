#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <sparsum/distribution.h>
#include <sparsum/sparse_distribution.h>

#include <cstdint>
#include <functional>

namespace sparsum::lab {

/// log p(x_b) of B observations, estimated, and the Monte Carlo standard error of each: [B]
/// float64, in nats. (The error is that of p(x) divided by it: of log p(x) to first order.)
struct LogEvidence {
  at::Tensor log_evidence, standard_error;
};

/// log p(x_b | z) of each pair: [n]. Called with a few thousand pairs at a time.
using LogLikelihood = std::function<at::Tensor(const Assignments& z)>;

struct ImportanceOptions {
  int64_t samples = 1024;        ///< of each observation
  int64_t pairs_at_once = 2048;  ///< bounds memory
};

/// p(x) = Σ_z p(x|z) / |Z| with a uniform prior over all vectors of D bits, |Z| = 2^D: the sum over
/// q's support S, all that it lists, is exact, the rest by draws that are uniform outside S
/// (redrawn until they are),
///   p(x) ≈ |Z|⁻¹ [Σ_{z in S} p(x|z) + (|Z| − |S|) · mean_m p(x|z_m)].
/// Unbiased for p(x). Of many bits the draws hardly ever meet a code outside S that explains x: the
/// estimate is then in effect the sum over S, a lower bound on p(x), and the standard error, which
/// is the draws' own, says nothing of what they did not meet. Where S is all of Z nothing is drawn
/// and the result is exact. Sums in log space, as they come.
LogEvidence log_evidence(const SparseDistribution& q, const LogLikelihood& log_likelihood,
                         at::Generator generator, const ImportanceOptions& options = {});

/// The same with draws of q as they come, p(x) ≈ mean_m p(x|z_m) / (|Z| q(z_m)): for a q that lists
/// no support and is nowhere 0.
LogEvidence log_evidence(const Distribution& q, int64_t bits, const LogLikelihood& log_likelihood,
                         at::Generator generator, const ImportanceOptions& options = {});

}  // namespace sparsum::lab
