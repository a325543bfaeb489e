#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/categorical.h>
#include <sparsum/structure.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum {
namespace {

using sparsum_test::error_of;

/// Two independent bits, with the oracles that Structure does not provide by itself.
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
  at::Tensor log_partition(const at::Tensor& scores) const override {
    return scores.exp().log1p().sum(1);
  }
  at::Tensor marginals(const at::Tensor& scores) const override { return scores.sigmoid(); }
};

/// A structure with nothing but its most probable outcome.
class MapOnly final : public Structure {
 public:
  std::string name() const override { return "map-only"; }
  int64_t parts() const override { return 3; }
  double log_size() const override { return 0; }
  std::optional<int64_t> size() const override { return std::nullopt; }
  Assignments map(const at::Tensor&) const override { return {}; }
};

TEST(Structure, ScoreSumsThePartsThatAreOn) {
  const at::Tensor scores = at::tensor({0.5, -2.0}).view({1, 2});
  const TwoBits bits;
  EXPECT_TRUE(
      bits.score(scores, bits.enumerate(1, at::kCPU, 4)).equal(at::tensor({0., -2., 0.5, -1.5})));
}

TEST(Structure, AForbiddenPartCountsOnlyWhereItIsOn) {
  const at::Tensor scores = at::tensor({0.5, -INFINITY}).view({1, 2}).set_requires_grad(true);
  const TwoBits bits;
  const at::Tensor got = bits.score(scores, bits.enumerate(1, at::kCPU, 4));
  EXPECT_TRUE(got.equal(at::tensor({0., -INFINITY, 0.5, -INFINITY})));
  got.sum().backward();
  EXPECT_TRUE(scores.grad().equal(at::tensor({2., 2.}).view({1, 2})));
}

TEST(Structure, EntropyFollowsFromPartitionAndMarginals) {
  const at::Tensor scores = at::tensor({0.5, -2.0, 1.0, -INFINITY}).view({2, 2});
  const auto bit = [](double t) {
    const double p = 1 / (1 + std::exp(-t));
    return -p * std::log(p) - (1 - p) * std::log(1 - p);
  };
  const at::Tensor expected = at::tensor({bit(0.5) + bit(-2.0), bit(1.0)});
  EXPECT_TRUE(TwoBits().entropy(scores).allclose(expected, 1e-12, 1e-12));
}

TEST(Structure, MissingOraclesAreNamed) {
  const MapOnly structure;
  const at::Tensor scores = at::zeros({2, 3});
  EXPECT_EQ(error_of([&] { structure.k_best(scores, 2); }), "map-only: k_best is not available");
  EXPECT_EQ(error_of([&] { structure.sample(scores, 2, at::detail::createCPUGenerator()); }),
            "map-only: sample is not available");
  EXPECT_EQ(error_of([&] { structure.enumerate(2, at::kCPU); }),
            "map-only: enumerate is not available");
  EXPECT_EQ(error_of([&] { structure.log_partition(scores); }),
            "map-only: log_partition is not available");
  EXPECT_EQ(error_of([&] { structure.marginals(scores); }), "map-only: marginals is not available");
}

TEST(Structure, WrongScoresAreNamed) {
  const Categorical structure(10);
  EXPECT_EQ(error_of([&] {
              structure.check_scores("sparsemax", at::zeros({2, 3}));
            }),
            "sparsemax: expected scores to be [B, V] with V = 10 for categorical(10), got [2, 3]");
  EXPECT_EQ(error_of([&] { structure.check_scores("sparsemax", at::zeros({10})); }),
            "sparsemax: expected scores to be [B, V] with V = 10 for categorical(10), got [10]");
  EXPECT_EQ(error_of([&] {
              structure.check_scores("sparsemax", at::zeros({2, 10}, at::kLong));
            }),
            "sparsemax: expected scores to be floating point, got Long");
  EXPECT_EQ(error_of([&] { structure.check_scores("sparsemax", at::Tensor()); }),
            "sparsemax: expected scores for categorical(10), got an undefined tensor");
}

}  // namespace
}  // namespace sparsum
