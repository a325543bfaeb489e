#include "tests/estimators/toy.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/categorical.h>
#include <sparsum/sparse_distribution.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum {
namespace {

using sparsum_test::error_of;
using sparsum_test::normal;
using sparsum_test::seeded;

/// Two independent bits, described by indicators, without a partition function.
class TwoBits final : public Structure {
 public:
  std::string name() const override { return "two-bits"; }
  int64_t parts() const override { return 2; }
  double log_size() const override { return std::log(4.0); }
  std::optional<int64_t> size() const override { return 4; }
  Assignments enumerate(int64_t batch, const at::Device&, int64_t) const override {
    Assignments z;
    z.rows = at::arange(batch).repeat_interleave(4);
    z.row_splits = at::arange(batch + 1) * 4;
    z.parts = 2;
    z.indicators = at::tensor({0., 0., 0., 1., 1., 0., 1., 1.}).view({4, 2}).repeat({batch, 1});
    return z;
  }
  Assignments map(const at::Tensor&) const override { return {}; }
};

TEST(Gibbs, OfACategoricalIsSoftmax) {
  const Categorical structure(5);
  const at::Tensor scores = normal({3, 5}, seeded(1)).set_requires_grad(true);
  const Gibbs q(structure, scores);
  const at::Tensor probs = scores.detach().softmax(1);
  EXPECT_EQ(q.batch_size(), 3);
  EXPECT_TRUE(q.marginals().allclose(probs));
  EXPECT_TRUE(q.entropy().allclose(-(probs * probs.log()).sum(1)));
  EXPECT_TRUE(q.mode().indices.equal(probs.argmax(1)));
  const Assignments z = q.sample(4, seeded(2));
  EXPECT_EQ(z.count(), 12);
  const at::Tensor log_prob = q.log_prob(z);
  EXPECT_TRUE(log_prob.allclose(probs.log().index({z.rows, z.indices})));
  // ∂ Σ log π(z) / ∂t = counts − 4 π
  log_prob.sum().backward();
  const at::Tensor counts = at::zeros({3, 5}, at::kDouble)
                                .index_put({z.rows, z.indices}, at::ones({12}, at::kDouble), true);
  EXPECT_TRUE(scores.grad().allclose(counts - 4 * probs));
}

TEST(Gibbs, EnumerationIsAFullGrid) {
  const Categorical structure(5);
  const at::Tensor scores = normal({3, 5}, seeded(3)).set_requires_grad(true);
  const SparseDistribution q = Gibbs(structure, scores).enumerate();
  EXPECT_TRUE(q.support().full_grid);
  EXPECT_TRUE(q.probs().equal(scores.softmax(1).reshape(-1)));
  EXPECT_EQ(error_of([&] { Gibbs(structure, scores).enumerate(4); }),
            "categorical(5): enumerate: 5 outcomes are more than the limit of 4");
}

TEST(Gibbs, EnumerationLeavesOutWhatIsForbiddenAndNothingElse) {
  const Categorical structure(3);
  const at::Tensor scores = at::tensor({0., -INFINITY, 0., 0., 0., 0., 1e4, 0., -INFINITY})
                                .view({3, 3})
                                .set_requires_grad(true);
  const SparseDistribution q = Gibbs(structure, scores).enumerate();
  EXPECT_FALSE(q.support().full_grid);
  EXPECT_TRUE(q.evaluations().equal(at::tensor({2, 3, 2}, at::kLong)));
  // The softmax of the last but one underflows to 0: it is listed all the same.
  EXPECT_TRUE(q.support().indices.equal(at::tensor({0, 2, 0, 1, 2, 0, 1}, at::kLong)));
  EXPECT_TRUE(q.to_dense().allclose(scores.softmax(1)));
  q.entropy().sum().backward();
  EXPECT_TRUE(scores.grad().isfinite().all().item<bool>());
}

TEST(Gibbs, EnumerationNeedsNoPartitionFunction) {
  const TwoBits structure;
  const at::Tensor scores = normal({3, 2}, seeded(4));
  const SparseDistribution q = Gibbs(structure, scores).enumerate();
  EXPECT_TRUE(q.marginals().allclose(scores.sigmoid()));
  EXPECT_TRUE(q.evaluations().equal(at::full({3}, 4, at::kLong)));
  EXPECT_EQ(q.mode().indicators.sizes(), (std::vector<int64_t>{3, 2}));
  EXPECT_TRUE(q.mode().indicators.equal((scores > 0).to(at::kDouble)));
}

TEST(Gibbs, BadRowsAreNamed) {
  const Categorical structure(2);
  const at::Tensor scores = at::tensor({0., 0., -INFINITY, -INFINITY}).view({2, 2});
  EXPECT_EQ(error_of([&] { Gibbs(structure, scores).enumerate(); }),
            "categorical(2): enumerate: row 1 of the scores holds NaN or +inf, or allows no "
            "outcome at all");
  EXPECT_EQ(error_of([&] {
              Gibbs(structure, at::zeros({2, 3}));
            }),
            "Gibbs: expected scores to be [B, V] with V = 2 for categorical(2), got [2, 3]");
}

TEST(Gibbs, NoExamples) {
  const Categorical structure(2);
  const Gibbs q(structure, at::empty({0, 2}));
  EXPECT_EQ(q.enumerate().batch_size(), 0);
  EXPECT_EQ(q.sample(3, seeded(1)).count(), 0);
  EXPECT_EQ(q.entropy().size(0), 0);
}

}  // namespace
}  // namespace sparsum
