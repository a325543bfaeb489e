// Importance sampling of p(x) against the exact sum over all codes.

#include <gtest/gtest.h>
#include <lab/importance.h>
#include <lab/random.h>
#include <sparsum/bits.h>
#include <sparsum/sparsemap.h>
#include <sparsum/top_k_sparsemax.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum::lab {
namespace {

/// Observations with log p(x_b|z) = −(distance of z's features from a point of x_b)².
struct Toy {
  Toy(int64_t batch, int64_t bits, double scale, uint64_t seed) : bits(bits) {
    const auto generator = make_generator(static_cast<int64_t>(seed), "toy");
    const at::TensorOptions options(at::kDouble);
    weights = at::randn({bits, 3}, generator, options) * scale;
    points = at::randn({batch, 3}, generator, options);
    scores = at::randn({batch, bits}, generator, options);
  }
  at::Tensor log_likelihood(const Assignments& z) const {
    return -(z.values(at::kDouble).matmul(weights) - z.gather(points)).square().sum(1);
  }
  /// log Σ_z p(x|z) / 2^D, summed.
  at::Tensor exact() const {
    const int64_t batch = points.size(0);
    const Assignments all = BitVector(bits).enumerate(batch, at::kCPU);
    return log_likelihood(all).view({batch, -1}).logsumexp(1) -
           static_cast<double>(bits) * std::log(2.0);
  }
  int64_t bits;
  at::Tensor weights, points, scores;
};

/// p(x), not its logarithm, is what is unbiased: |p̂ − p| ≤ factor · standard errors for all, and
/// errors that are not merely huge.
void expect_close(const LogEvidence& estimate, const at::Tensor& exact, double factor) {
  const at::Tensor ratio = (exact - estimate.log_evidence).exp();  // p / p̂
  const at::Tensor errors = (ratio - 1).abs() / estimate.standard_error.clamp_min(1e-12);
  EXPECT_LE(errors.max().item<double>(), factor)
      << estimate.log_evidence << exact << estimate.standard_error;
  EXPECT_LT(estimate.standard_error.max().item<double>(), 0.2);
}

TEST(Importance, OfASparseDistributionIsTheSumWithinItsError) {
  for (const int64_t bits : {3, 6, 12}) {
    const Toy toy(20, bits, 0.7, 11);
    const auto log_likelihood = [&](const Assignments& z) { return toy.log_likelihood(z); };
    const std::pair<const char*, SparseDistribution> cases[] = {
        {"top-k", top_k_sparsemax(BitVector(bits), toy.scores, 3)},
        {"sparsemap", sparsemap(BitVector(bits), toy.scores)},
        // The prior is uniform over all codes, with a budget too.
        {"budget", sparsemap(Budget(bits, bits / 2), toy.scores)},
    };
    for (const auto& [name, q] : cases) {
      SCOPED_TRACE(std::string(name) + ", D = " + std::to_string(bits));
      // 60 comparisons a D at fixed seeds: three standard errors would fail by chance in one of
      // six runs of other seeds.
      expect_close(log_evidence(q, log_likelihood, make_generator(3, "draws"), {4096, 500}),
                   toy.exact(), 3.5);
    }
  }
}

TEST(Importance, OfADenseDistributionIsTheSumWithinItsError) {
  const Toy toy(20, 8, 0.7, 12);
  const auto log_likelihood = [&](const Assignments& z) { return toy.log_likelihood(z); };
  const BitVector structure(8);
  const Gibbs q(structure, toy.scores);
  expect_close(log_evidence(q, 8, log_likelihood, make_generator(4, "draws"), {4096, 500}),
               toy.exact(), 3.5);
}

TEST(Importance, IsExactWhereAllIsListed) {
  const Toy toy(5, 4, 1, 13);
  const auto log_likelihood = [&](const Assignments& z) { return toy.log_likelihood(z); };
  const BitVector structure(4);
  const LogEvidence estimate = log_evidence(Gibbs(structure, toy.scores).enumerate(),
                                            log_likelihood, make_generator(5, "draws"));
  EXPECT_TRUE(estimate.log_evidence.allclose(toy.exact(), 1e-12, 1e-12));
  EXPECT_EQ(estimate.standard_error.abs().max().item<double>(), 0);
}

TEST(Importance, NeverCountsTheSupportTwice) {
  // Two bits, three of the four codes listed: every draw must be the fourth.
  const Toy toy(4, 2, 1, 14);
  const auto log_likelihood = [&](const Assignments& z) { return toy.log_likelihood(z); };
  const SparseDistribution q =
      SparseDistribution(BitVector(2).k_best(toy.scores, 3), at::full({12}, 1.0 / 3, at::kDouble));
  const LogEvidence estimate =
      log_evidence(q, log_likelihood, make_generator(6, "draws"), {16, 100});
  EXPECT_TRUE(estimate.log_evidence.allclose(toy.exact(), 1e-12, 1e-12));
  EXPECT_LT(estimate.standard_error.max().item<double>(), 1e-6);
}

TEST(Importance, DoesNotDependOnHowManyPairsAreHeldAtOnce) {
  const Toy toy(3, 10, 0.5, 15);
  const auto log_likelihood = [&](const Assignments& z) { return toy.log_likelihood(z); };
  const SparseDistribution q = top_k_sparsemax(BitVector(10), toy.scores, 4);
  const auto run = [&](int64_t seed) {
    return log_evidence(q, log_likelihood, make_generator(seed, "draws"), {512, 64}).log_evidence;
  };
  EXPECT_TRUE(run(1).equal(run(1)));
  EXPECT_FALSE(run(1).equal(run(2)));
}

TEST(Importance, SurvivesLikelihoodsOfThousandsOfNats) {
  const Toy toy(3, 20, 1, 16);
  const auto far = [&](const Assignments& z) { return toy.log_likelihood(z) * 100 - 5000; };
  const SparseDistribution q = top_k_sparsemax(BitVector(20), toy.scores, 4);
  const LogEvidence estimate = log_evidence(q, far, make_generator(7, "draws"), {64, 64});
  EXPECT_TRUE(estimate.log_evidence.isfinite().all().item<bool>());
  EXPECT_TRUE(estimate.standard_error.isfinite().all().item<bool>());
  EXPECT_LT(estimate.log_evidence.max().item<double>(), -4000);
}

}  // namespace
}  // namespace sparsum::lab
