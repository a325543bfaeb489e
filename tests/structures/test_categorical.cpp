#include "tests/ops/tensors.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/categorical.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>
#include <vector>

namespace sparsum {
namespace {

using sparsum_test::error_of;
using sparsum_test::seeded;

at::Tensor random_scores(int64_t batch, int64_t values, uint64_t seed) {
  return sparsum_test::normal({batch, values}, seed);
}

/// Softmax of one row, in plain loops.
std::vector<double> softmax_row(const at::Tensor& scores, int64_t b) {
  std::vector<double> p(scores.size(1));
  double best = -INFINITY, total = 0;
  for (size_t j = 0; j < p.size(); ++j) {
    best = std::max(best, scores[b][static_cast<int64_t>(j)].item<double>());
  }
  for (size_t j = 0; j < p.size(); ++j) {
    p[j] = std::exp(scores[b][static_cast<int64_t>(j)].item<double>() - best);
    total += p[j];
  }
  for (double& x : p) x /= total;
  return p;
}

TEST(Categorical, Describes) {
  const Categorical structure(10);
  EXPECT_EQ(structure.name(), "categorical(10)");
  EXPECT_EQ(structure.parts(), 10);
  EXPECT_EQ(structure.size(), 10);
  EXPECT_DOUBLE_EQ(structure.log_size(), std::log(10.0));
  EXPECT_EQ(error_of([] { Categorical(0); }), "Categorical: expected at least 1 value, got 0");
}

TEST(Categorical, EnumeratesInOrder) {
  const Assignments z = Categorical(3).enumerate(2, at::kCPU);
  EXPECT_TRUE(z.rows.equal(at::tensor({0, 0, 0, 1, 1, 1}, at::kLong)));
  EXPECT_TRUE(z.row_splits.equal(at::tensor({0, 3, 6}, at::kLong)));
  EXPECT_TRUE(z.indices.equal(at::tensor({0, 1, 2, 0, 1, 2}, at::kLong)));
  EXPECT_TRUE(z.full_grid);
  EXPECT_EQ(error_of([] { Categorical(10).enumerate(2, at::kCPU, 9); }),
            "categorical(10): enumerate: 10 outcomes are more than the limit of 9");
}

TEST(Categorical, MapTakesTheFirstOfTies) {
  const at::Tensor scores =
      at::tensor({1., 3., 3., 0., -INFINITY, -INFINITY, -1e4, -INFINITY}).view({2, 4});
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    EXPECT_TRUE(Categorical(4).map(scores.to(dtype)).indices.equal(at::tensor({1, 2}, at::kLong)));
  }
}

TEST(Categorical, KBestIsAStableSort) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
    for (int64_t k = 1; k <= 9; ++k) {
      SCOPED_TRACE(k);
      // Few distinct values, so that most places are tied.
      const at::Tensor scores =
          at::randint(-2, 3, {20, 7}, seeded(k), at::kLong).to(dtype).t().contiguous().t();
      const Assignments z = Categorical(7).k_best(scores, k);
      const int64_t kept = std::min<int64_t>(k, 7);
      ASSERT_EQ(z.count(), 20 * kept);
      for (int64_t b = 0; b < 20; ++b) {
        std::vector<int64_t> order(7);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
          return scores[b][i].item<double>() > scores[b][j].item<double>();
        });
        for (int64_t i = 0; i < kept; ++i) {
          ASSERT_EQ(z.indices[b * kept + i].item<int64_t>(), order[i]);
          ASSERT_EQ(z.rows[b * kept + i].item<int64_t>(), b);
        }
      }
    }
  }
}

TEST(Categorical, ScoreReadsTheScores) {
  const at::Tensor scores = random_scores(3, 4, 1).set_requires_grad(true);
  Assignments z;
  z.rows = at::tensor({0, 0, 2}, at::kLong);
  z.row_splits = at::tensor({0, 2, 2, 3}, at::kLong);
  z.indices = at::tensor({3, 1, 0}, at::kLong);
  z.parts = 4;
  const at::Tensor got = Categorical(4).score(scores, z);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(got[i].item<double>(),
              scores[z.rows[i].item<int64_t>()][z.indices[i].item<int64_t>()].item<double>());
  }
  Assignments relaxed = z;
  relaxed.indicators = z.values(at::kDouble);
  relaxed.indices.reset();
  EXPECT_TRUE(Categorical(4).score(scores, relaxed).allclose(got));
  const Assignments all = Categorical(4).enumerate(3, at::kCPU);
  EXPECT_TRUE(Categorical(4).score(scores, all).equal(scores.reshape(-1)));
}

TEST(Categorical, PartitionMarginalsAndEntropyAgainstLoops) {
  const at::Tensor scores = random_scores(5, 6, 2) * 3;
  const Categorical structure(6);
  for (int64_t b = 0; b < 5; ++b) {
    const std::vector<double> p = softmax_row(scores, b);
    double entropy = 0, total = 0;
    for (int64_t j = 0; j < 6; ++j) {
      EXPECT_NEAR(structure.marginals(scores)[b][j].item<double>(), p[j], 1e-14);
      entropy -= p[j] * std::log(p[j]);
      total += std::exp(scores[b][j].item<double>());
    }
    EXPECT_NEAR(structure.entropy(scores)[b].item<double>(), entropy, 1e-13);
    EXPECT_NEAR(structure.log_partition(scores)[b].item<double>(), std::log(total), 1e-13);
  }
}

TEST(Categorical, EntropyGradient) {
  const at::Tensor scores = random_scores(4, 5, 3).set_requires_grad(true);
  Categorical(5).entropy(scores).sum().backward();
  for (int64_t b = 0; b < 4; ++b) {
    const std::vector<double> p = softmax_row(scores.detach(), b);
    double entropy = 0;
    for (const double x : p) entropy -= x * std::log(x);
    for (int64_t j = 0; j < 5; ++j) {
      EXPECT_NEAR(scores.grad()[b][j].item<double>(), -p[j] * (std::log(p[j]) + entropy), 1e-14);
    }
  }
}

TEST(Categorical, ForbiddenAndHugeScoresHaveFiniteEntropyGradients) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    const at::Tensor scores =
        at::tensor({0., -INFINITY, 0., 1e4, -1e4, 0., -INFINITY, 7., -INFINITY})
            .view({3, 3})
            .to(dtype)
            .set_requires_grad(true);
    const at::Tensor entropy = Categorical(3).entropy(scores);
    EXPECT_NEAR(entropy[0].item<double>(), std::log(2.0), 1e-6);
    EXPECT_EQ(entropy[1].item<double>(), 0);
    EXPECT_EQ(entropy[2].item<double>(), 0);
    entropy.sum().backward();
    EXPECT_TRUE(scores.grad().isfinite().all().item<bool>());
    EXPECT_LT(scores.grad().abs().max().item<double>(), 1e-6);
  }
}

TEST(Categorical, SamplesWithTheRightFrequencies) {
  const int64_t draws = 100000;
  const at::Tensor scores = random_scores(2, 5, 4);
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    const Assignments z = Categorical(5).sample(scores.to(dtype), draws, seeded(11));
    ASSERT_EQ(z.count(), 2 * draws);
    for (int64_t b = 0; b < 2; ++b) {
      const std::vector<double> p = softmax_row(scores, b);
      const at::Tensor counts = z.indices.slice(0, b * draws, (b + 1) * draws).bincount({}, 5);
      double statistic = 0;
      for (int64_t j = 0; j < 5; ++j) {
        const double expected = p[j] * draws;
        statistic += std::pow(counts[j].item<double>() - expected, 2) / expected;
      }
      EXPECT_LT(statistic, 41.4);  // χ² with 4 degrees of freedom: P(> 41.4) = 2e-8, 4 tests
    }
  }
}

TEST(Categorical, EveryDrawIsIndependentOfTheOthers) {
  // Adjacent draws and adjacent rows must not share noise: their agreement is that of chance.
  const int64_t draws = 20000;
  const Assignments z = Categorical(2).sample(at::zeros({2, 2}), draws, seeded(12));
  const at::Tensor table = z.indices.view({2, draws}).to(at::kDouble);
  const double rows = (table[0] == table[1]).to(at::kDouble).mean().item<double>();
  const double adjacent =
      (table[0].slice(0, 1) == table[0].slice(0, 0, -1)).to(at::kDouble).mean().item<double>();
  const double tolerance = 6 * 0.5 / std::sqrt(draws);  // six standard errors: P < 2e-9 each
  EXPECT_NEAR(rows, 0.5, tolerance);
  EXPECT_NEAR(adjacent, 0.5, tolerance);
}

TEST(Categorical, ForbiddenOutcomesAreNeverDrawn) {
  const at::Tensor row = at::tensor({-INFINITY, 0., -INFINITY, -20., -INFINITY});
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf}) {
    const at::Tensor scores = row.to(dtype).expand({100, 5});
    const Assignments z = Categorical(5).sample(scores, 1000, seeded(13));
    EXPECT_TRUE(((z.indices == 1) | (z.indices == 3)).all().item<bool>());
  }
}

TEST(Categorical, SamplesComeFromTheGeneratorAlone) {
  const at::Tensor scores = random_scores(6, 5, 5);
  const Categorical structure(5);
  const at::Tensor first = structure.sample(scores, 8, seeded(14)).indices;
  at::manual_seed(999);
  EXPECT_TRUE(structure.sample(scores, 8, seeded(14)).indices.equal(first));
  EXPECT_FALSE(structure.sample(scores, 8, seeded(15)).indices.equal(first));
}

TEST(Categorical, BadRowsAreNamed) {
  const Categorical structure(3);
  at::Tensor scores = at::zeros({4, 3});
  scores[2][1] = std::nan("");
  EXPECT_EQ(error_of([&] { structure.map(scores); }),
            "categorical(3): map: row 2 of the scores holds NaN");
  scores[2][1] = INFINITY;
  EXPECT_EQ(error_of([&] { structure.k_best(scores, 2); }),
            "categorical(3): k_best: row 2 of the scores holds +inf");
  scores.select(0, 2).fill_(-INFINITY);
  EXPECT_EQ(error_of([&] { structure.sample(scores, 1, seeded(1)); }),
            "categorical(3): sample: row 2 of the scores has no finite score");
  EXPECT_EQ(error_of([&] {
              structure.k_best(at::zeros({4, 3}), 0);
            }),
            "categorical(3): k_best: expected k >= 1, got 0");
  EXPECT_EQ(error_of([&] {
              structure.sample(at::zeros({4, 3}), 0, seeded(1));
            }),
            "categorical(3): sample: expected at least 1 sample, got 0");
  EXPECT_EQ(error_of([&] {
              structure.score(at::zeros({4, 3}), Categorical(2).enumerate(4, at::kCPU));
            }),
            "categorical(3): score: expected assignments of 3 parts, got 2");
}

TEST(Categorical, NoExamples) {
  const Categorical structure(3);
  const at::Tensor none = at::empty({0, 3});
  EXPECT_EQ(structure.map(none).count(), 0);
  EXPECT_EQ(structure.k_best(none, 2).count(), 0);
  EXPECT_EQ(structure.sample(none, 2, seeded(1)).count(), 0);
  EXPECT_EQ(structure.entropy(none).size(0), 0);
  EXPECT_EQ(structure.score(none, structure.enumerate(0, at::kCPU)).size(0), 0);
}

TEST(Categorical, OneValue) {
  const Categorical structure(1);
  const at::Tensor scores = at::tensor({-3., 5.}).view({2, 1});
  EXPECT_TRUE(structure.sample(scores, 2, seeded(1)).indices.equal(at::zeros({4}, at::kLong)));
  EXPECT_TRUE(structure.entropy(scores).equal(at::zeros({2}, at::kDouble)));
}

TEST(Categorical, SeveralThreadsAtOnce) {
  const Categorical structure(50);
  const at::Tensor scores = random_scores(40, 50, 6);
  const at::Tensor sampled = structure.sample(scores, 3, seeded(20)).indices;
  const at::Tensor best = structure.k_best(scores, 7).indices;
  const at::Tensor entropy = structure.entropy(scores);
  std::vector<std::thread> threads;
  std::vector<char> same(4, 0);
  for (size_t t = 0; t < same.size(); ++t) {
    threads.emplace_back([&, t] {
      bool all = true;
      for (int i = 0; i < 20; ++i) {
        all &= structure.sample(scores, 3, seeded(20)).indices.equal(sampled);
        all &= structure.k_best(scores, 7).indices.equal(best);
        all &= structure.entropy(scores).equal(entropy);
      }
      same[t] = all;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const char ok : same) EXPECT_TRUE(ok);
}

}  // namespace
}  // namespace sparsum
