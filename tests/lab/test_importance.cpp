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
  Toy(int64_t batch, int64_t width, double scale, uint64_t seed) : bits(width) {
    const auto generator = make_generator(static_cast<int64_t>(seed), "toy");
    const at::TensorOptions options(at::kDouble);
    weights = at::randn({bits, 3}, generator, options) * scale;
    points = at::randn({batch, 3}, generator, options);
    scores = at::randn({batch, bits}, generator, options) * 0.5;
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
    const Toy toy(12, bits, 0.2, 11);
    const auto log_likelihood = [&](const Assignments& z) { return toy.log_likelihood(z); };
    const std::pair<const char*, SparseDistribution> cases[] = {
        {"top-k", top_k_sparsemax(BitVector(bits), toy.scores, 3)},
        {"sparsemap", sparsemap(BitVector(bits), toy.scores)},
        // The prior is uniform over all codes, with a budget too.
        {"budget", sparsemap(Budget(bits, bits / 2), toy.scores)},
    };
    for (const auto& [name, q] : cases) {
      SCOPED_TRACE(std::string(name) + ", D = " + std::to_string(bits));
      // Twelve comparisons at a fixed seed, each within three standard errors: of other seeds, one
      // in thirty would fail by chance.
      expect_close(log_evidence(q, log_likelihood, make_generator(8, "draws"), {4096, 500}),
                   toy.exact(), 3);
    }
  }
}

TEST(Importance, OfADenseDistributionIsTheSumWithinItsError) {
  const Toy toy(12, 8, 0.2, 12);
  const auto log_likelihood = [&](const Assignments& z) { return toy.log_likelihood(z); };
  const BitVector structure(8);
  const Gibbs q(structure, toy.scores);
  expect_close(log_evidence(q, 8, log_likelihood, make_generator(4, "draws"), {4096, 500}),
               toy.exact(), 3);
}

TEST(Importance, ErrorsAreAsLargeAsTheySay) {
  const Toy toy(12, 8, 0.1, 17);
  const at::Tensor exact = toy.exact();
  const auto log_likelihood = [&](const Assignments& z) { return toy.log_likelihood(z); };
  const BitVector structure(8);
  const SparseDistribution sparse = top_k_sparsemax(structure, toy.scores, 5);
  const Gibbs dense(structure, toy.scores);
  at::Tensor squares = at::zeros({2}, at::kDouble), sums = at::zeros({2}, at::kDouble);
  constexpr int kSeeds = 40;
  for (int seed = 0; seed < kSeeds; ++seed) {
    const auto draws = [&] { return make_generator(seed, "draws"); };
    const LogEvidence estimates[] = {log_evidence(sparse, log_likelihood, draws(), {500, 6000}),
                                     log_evidence(dense, 8, log_likelihood, draws(), {500, 6000})};
    for (int i = 0; i < 2; ++i) {
      const at::Tensor z =
          (1 - (exact - estimates[i].log_evidence).exp()) / estimates[i].standard_error;
      squares[i] += z.square().mean();
      sums[i] += z.mean();
    }
  }
  // 480 standard normal numbers: their mean square is 1 ± 0.065, their mean 0 ± 0.046.
  for (int i = 0; i < 2; ++i) {
    EXPECT_NEAR(squares[i].item<double>() / kSeeds, 1, 0.25) << i;
    EXPECT_NEAR(sums[i].item<double>() / kSeeds, 0, 0.2) << i;
  }
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

TEST(Importance, CountsListedOutcomesOnceWhateverTheirProbability) {
  // The second of three listed codes has a probability that underflowed: it is in the sum all the
  // same, so no draw may be it.
  const Toy toy(4, 2, 1, 14);
  const auto log_likelihood = [&](const Assignments& z) { return toy.log_likelihood(z); };
  const at::Tensor probs = at::tensor({0.5, 0.0, 0.5}, at::kDouble).repeat({4});
  const SparseDistribution q(BitVector(2).k_best(toy.scores, 3), probs);
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
