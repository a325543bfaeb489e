#include "tests/estimators/toy.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/categorical.h>
#include <sparsum/entmax.h>
#include <sparsum/sparsemax.h>
#include <sparsum/top_k_sparsemax.h>
#include <torch/torch.h>

#include <cmath>
#include <thread>

namespace sparsum {
namespace {

using sparsum_test::error_of;
using sparsum_test::normal;
using sparsum_test::seeded;

/// Rows with 1, 3 and 2 outcomes.
at::Tensor dense_table() {
  return at::tensor({0., 1., 0., 0.,    //
                     .5, 0., .25, .25,  //
                     0., .5, 0., .5})
      .view({3, 4});
}

/// The same distributions over indicator rows of another encoding: outcome j is j's two bits.
SparseDistribution as_bits(const SparseDistribution& q) {
  Assignments z = q.support();
  z.indicators = at::stack({z.indices.bitwise_and(1), z.indices.__rshift__(1)}, 1).to(at::kDouble);
  z.indices.reset();
  z.parts = 2;
  return SparseDistribution(z, q.probs());
}

TEST(SparseDistribution, ListsTheNonZeros) {
  const at::Tensor table = dense_table().set_requires_grad(true);
  const SparseDistribution q = SparseDistribution::from_dense(table);
  EXPECT_TRUE(q.support().rows.equal(at::tensor({0, 1, 1, 1, 2, 2}, at::kLong)));
  EXPECT_TRUE(q.support().indices.equal(at::tensor({1, 0, 2, 3, 1, 3}, at::kLong)));
  EXPECT_TRUE(q.evaluations().equal(at::tensor({1, 3, 2}, at::kLong)));
  EXPECT_TRUE(q.probs().equal(at::tensor({1., .5, .25, .25, .5, .5})));
  EXPECT_TRUE(q.to_dense().equal(table));
  EXPECT_TRUE(q.marginals().equal(table));
  EXPECT_FALSE(q.support().full_grid);
  q.probs().backward(at::arange(6, at::kDouble));
  EXPECT_TRUE(table.grad().equal(
      at::tensor({0., 0., 0., 0., 1., 0., 2., 3., 0., 4., 0., 5.}).view({3, 4})));
  EXPECT_TRUE(SparseDistribution::from_dense(at::full({2, 3}, 1 / 3.)).support().full_grid);
}

TEST(SparseDistribution, AnyStridesAndDtypes) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
    const at::Tensor table = dense_table().to(dtype).t().contiguous().t();
    const SparseDistribution q = SparseDistribution::from_dense(table);
    EXPECT_TRUE(q.to_dense().equal(table));
    EXPECT_EQ(q.entropy().scalar_type(), dtype);
    EXPECT_NEAR(q.entropy()[2].item<double>(), std::log(2.0), 5e-3);
  }
}

TEST(SparseDistribution, EntropyAndItsGradient) {
  const at::Tensor table = dense_table().set_requires_grad(true);
  const at::Tensor entropy = SparseDistribution::from_dense(table).entropy();
  const double expected[] = {0, .5 * std::log(2.) + .5 * std::log(4.), std::log(2.)};
  for (int b = 0; b < 3; ++b) EXPECT_NEAR(entropy[b].item<double>(), expected[b], 1e-15);
  EXPECT_EQ(entropy[0].item<double>(), 0);
  entropy.sum().backward();
  for (int b = 0; b < 3; ++b) {
    for (int j = 0; j < 4; ++j) {
      const double p = table[b][j].item<double>();
      EXPECT_NEAR(table.grad()[b][j].item<double>(), p > 0 ? -std::log(p) - 1 : 0, 1e-15);
    }
  }
}

TEST(SparseDistribution, ListedZerosAreHarmless) {
  Assignments z = Categorical(2).enumerate(1, at::kCPU);
  const at::Tensor probs = at::tensor({0., 1.}).set_requires_grad(true);
  const at::Tensor entropy = SparseDistribution(z, probs).entropy();
  EXPECT_EQ(entropy.item<double>(), 0);
  entropy.sum().backward();
  EXPECT_TRUE(probs.grad().isfinite().all().item<bool>());
}

TEST(SparseDistribution, EntropyGradientThroughTheMap) {
  // Away from the kinks: 1e-6 steps do not change a support here, which the check confirms.
  const Categorical structure(5);
  const at::Tensor scores = normal({6, 5}, seeded(1)).set_requires_grad(true);
  const auto entropy = [&](const at::Tensor& s) { return sparsemax(structure, s).entropy().sum(); };
  entropy(scores).backward();
  const at::NoGradGuard no_grad;
  const at::Tensor support = sparsemax(structure, scores).evaluations();
  for (int64_t b = 0; b < 6; ++b) {
    for (int64_t j = 0; j < 5; ++j) {
      at::Tensor up = scores.clone(), down = scores.clone();
      up[b][j] += 1e-6;
      down[b][j] -= 1e-6;
      ASSERT_TRUE(sparsemax(structure, up).evaluations().equal(support));
      ASSERT_TRUE(sparsemax(structure, down).evaluations().equal(support));
      const double slope = (entropy(up) - entropy(down)).item<double>() / 2e-6;
      EXPECT_NEAR(scores.grad()[b][j].item<double>(), slope, 1e-7);
    }
  }
}

TEST(SparseDistribution, ModeTakesTheFirstOfTies) {
  const SparseDistribution q = SparseDistribution::from_dense(dense_table());
  EXPECT_TRUE(q.mode().indices.equal(at::tensor({1, 0, 1}, at::kLong)));
  // By index though listed the other way round, and by place for indicators.
  Assignments z;
  z.rows = at::tensor({0, 0, 0}, at::kLong);
  z.row_splits = at::tensor({0, 3}, at::kLong);
  z.indices = at::tensor({3, 0, 2}, at::kLong);
  z.parts = 4;
  const SparseDistribution reversed(z, at::tensor({.4, .2, .4}));
  EXPECT_EQ(reversed.mode().indices.item<int64_t>(), 2);
  EXPECT_TRUE(as_bits(reversed).mode().indicators.equal(at::tensor({1., 1.}).view({1, 2})));
}

TEST(SparseDistribution, LogProbIsMinusInfinityOutsideTheSupport) {
  const at::Tensor table = dense_table().set_requires_grad(true);
  const SparseDistribution q = SparseDistribution::from_dense(table);
  const Assignments all = Categorical(4).enumerate(3, at::kCPU);
  EXPECT_TRUE(q.log_prob(all).equal(table.reshape(-1).log()));
  EXPECT_EQ(q.log_prob(all)[0].item<double>(), -INFINITY);
  q.log_prob(q.support()).sum().backward();
  const at::Tensor expected = at::where(table > 0, 1 / table, at::zeros_like(table)).detach();
  EXPECT_TRUE(table.grad().equal(expected));

  const SparseDistribution bits = as_bits(SparseDistribution::from_dense(table));
  Assignments all_bits = as_bits(SparseDistribution(all, at::full({12}, .25))).support();
  all_bits.full_grid = false;
  table.mutable_grad().reset();
  EXPECT_TRUE(bits.log_prob(all_bits).equal(table.reshape(-1).log()));
  bits.log_prob(bits.support()).sum().backward();
  EXPECT_TRUE(table.grad().equal(expected));
}

TEST(SparseDistribution, LogProbNearAZeroHasAFiniteGradient) {
  const at::Tensor table = dense_table().set_requires_grad(true);
  const SparseDistribution q = SparseDistribution::from_dense(table);
  const at::Tensor log_prob = q.log_prob(Categorical(4).enumerate(3, at::kCPU));
  log_prob.masked_fill(log_prob.isneginf(), 0).sum().backward();
  EXPECT_TRUE(table.grad().isfinite().all().item<bool>());
}

TEST(SparseDistribution, SamplesWithTheRightFrequencies) {
  const int64_t draws = 100000;
  const SparseDistribution q = SparseDistribution::from_dense(dense_table());
  for (const SparseDistribution& p : {q, as_bits(q)}) {
    const Assignments z = p.sample(draws, seeded(2));
    ASSERT_EQ(z.count(), 3 * draws);
    EXPECT_TRUE(z.rows.equal(at::arange(3).repeat_interleave(draws)));
    EXPECT_TRUE(p.log_prob(z.slice(0, 3 * 200)).isfinite().all().item<bool>());
    const at::Tensor frequencies =
        z.sum_per_example(z.values(at::kDouble)) / static_cast<double>(draws);
    // Six standard errors of the largest kind, ½/√draws: P(outside) < 2e-9 each.
    EXPECT_LT((frequencies - p.marginals()).abs().max().item<double>(), 6 * .5 / std::sqrt(draws));
    EXPECT_TRUE(frequencies.masked_select(p.marginals() == 0).eq(0).all().item<bool>());
  }
}

TEST(SparseDistribution, MarginalsOfIndicators) {
  const at::Tensor table = dense_table().set_requires_grad(true);
  const at::Tensor marginals = as_bits(SparseDistribution::from_dense(table)).marginals();
  EXPECT_TRUE(marginals.equal(at::tensor({1., 0., .25, .5, 1., .5}).view({3, 2})));
  EXPECT_TRUE(marginals.requires_grad());
}

TEST(SparseDistribution, NoExamples) {
  const Categorical structure(4);
  const SparseDistribution q = sparsemax(structure, at::empty({0, 4}));
  EXPECT_EQ(q.batch_size(), 0);
  EXPECT_EQ(q.entropy().size(0), 0);
  EXPECT_EQ(q.mode().count(), 0);
  EXPECT_EQ(q.sample(3, seeded(1)).count(), 0);
  EXPECT_EQ(q.marginals().sizes(), (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(q.log_prob(structure.enumerate(0, at::kCPU)).size(0), 0);
}

TEST(SparseDistribution, MapsOverACategorical) {
  const Categorical structure(5);
  const at::Tensor scores = normal({6, 5}, seeded(3));
  EXPECT_TRUE(sparsemax(structure, scores).to_dense().equal(sparsemax(scores)));
  EXPECT_FALSE(sparsemax(structure, scores).exact().defined());
  EXPECT_TRUE(entmax(structure, scores, 1.3).to_dense().equal(entmax(scores, 1.3)));
  const auto [probs, exact] = top_k_sparsemax(scores, 2);
  const SparseDistribution top = top_k_sparsemax(structure, scores, 2);
  EXPECT_TRUE(top.to_dense().equal(probs));
  EXPECT_TRUE(top.exact().equal(exact));
  EXPECT_LE(top.evaluations().max().item<int64_t>(), 2);
}

/// Not categorical.
class Bits final : public Structure {
 public:
  std::string name() const override { return "bits(4)"; }
  int64_t parts() const override { return 4; }
  double log_size() const override { return 4 * std::log(2.0); }
  std::optional<int64_t> size() const override { return 16; }
  Assignments map(const at::Tensor&) const override { return {}; }
};

TEST(SparseDistribution, WrongInputIsNamed) {
  const at::Tensor scores = at::zeros({2, 4});
  EXPECT_EQ(error_of([&] { sparsemax(Bits(), scores); }),
            "sparsemax: expected a categorical structure, whose scores are its outcomes' scores, "
            "got bits(4) (top_k_sparsemax and sparsemap are for larger sets)");
  EXPECT_EQ(error_of([&] { entmax(Bits(), scores); }),
            "entmax: expected a categorical structure, whose scores are its outcomes' scores, got "
            "bits(4)");
  EXPECT_EQ(error_of([&] { top_k_sparsemax(Bits(), scores, 2); }),
            "bits(4): k_best is not available");
  EXPECT_EQ(error_of([&] { SparseDistribution::from_dense(at::zeros({3})); }),
            "SparseDistribution: expected probs to be [B, K], got [3]");
  const Assignments all = Categorical(4).enumerate(2, at::kCPU);
  EXPECT_EQ(error_of([&] { SparseDistribution(all, at::zeros({7})); }),
            "SparseDistribution: expected probs to be [n] = [8], got [7]");
  EXPECT_EQ(error_of([&] { SparseDistribution(all, at::zeros({8}), at::zeros({2})); }),
            "SparseDistribution: expected exact to be bool, one for each of 2 examples, got Float "
            "[2]");
  Assignments neither = all;
  neither.indices.reset();
  EXPECT_EQ(error_of([&] { SparseDistribution(neither, at::zeros({8})); }),
            "SparseDistribution: expected a support of either indices, indicators or flips, got "
            "neither");
  const SparseDistribution q = SparseDistribution::from_dense(dense_table());
  EXPECT_EQ(error_of([&] { q.log_prob(all); }),
            "SparseDistribution: log_prob: expected assignments of 3 examples and 4 parts, got 2 "
            "and 4");
  EXPECT_EQ(error_of([&] { q.sample(0, seeded(1)); }),
            "SparseDistribution: sample: expected at least 1 sample, got 0");
  EXPECT_EQ(error_of([&] { as_bits(q).to_dense(); }),
            "SparseDistribution: to_dense: the outcomes are vectors of 2 indicators, not the "
            "indices of a categorical");
}

TEST(SparseDistribution, SeveralThreadsAtOnce) {
  const Categorical structure(30);
  const SparseDistribution q = sparsemax(structure, normal({20, 30}, seeded(4)));
  const at::Tensor entropy = q.entropy(), mode = q.mode().indices;
  const at::Tensor sampled = q.sample(3, seeded(5)).indices;
  std::vector<char> same(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < same.size(); ++t) {
    threads.emplace_back([&, t] {
      bool all = true;
      for (int i = 0; i < 20; ++i) {
        all &= q.entropy().equal(entropy) && q.mode().indices.equal(mode);
        all &= q.sample(3, seeded(5)).indices.equal(sampled);
        all &= q.log_prob(q.support()).equal(q.probs().log());
      }
      same[t] = all;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const char ok : same) EXPECT_TRUE(ok);
}

}  // namespace
}  // namespace sparsum
