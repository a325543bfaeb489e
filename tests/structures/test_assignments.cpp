#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/assignments.h>
#include <sparsum/categorical.h>
#include <torch/torch.h>

#include <string>
#include <vector>

namespace sparsum {
namespace {

using sparsum_test::error_of;

/// Three examples with 2, 0 and 3 outcomes of 4.
Assignments ragged() {
  Assignments z;
  z.rows = at::tensor({0, 0, 2, 2, 2}, at::kLong);
  z.row_splits = at::tensor({0, 2, 2, 5}, at::kLong);
  z.indices = at::tensor({1, 3, 0, 3, 2}, at::kLong);
  z.parts = 4;
  return z;
}

/// The same pairs as indicator rows.
Assignments ragged_indicators() {
  Assignments z = ragged();
  z.indicators = z.values(at::kDouble);
  z.indices.reset();
  return z;
}

TEST(Assignments, CountsPairs) {
  const Assignments z = ragged();
  EXPECT_EQ(z.count(), 5);
  EXPECT_EQ(z.batch_size(), 3);
  EXPECT_TRUE(z.evaluations().equal(at::tensor({2, 0, 3}, at::kLong)));
}

TEST(Assignments, ValuesAreOneHot) {
  const at::Tensor expected = at::tensor({0, 1, 0, 0,  //
                                          0, 0, 0, 1,  //
                                          1, 0, 0, 0,  //
                                          0, 0, 0, 1,  //
                                          0, 0, 1, 0},
                                         at::kFloat)
                                  .view({5, 4});
  EXPECT_TRUE(ragged().values().equal(expected));
  EXPECT_EQ(ragged().values(at::kDouble).scalar_type(), at::kDouble);
  EXPECT_TRUE(ragged_indicators().values().equal(expected));
}

TEST(Assignments, EmbedIsTheProductWithValues) {
  const Assignments full = Categorical(4).enumerate(3, at::kCPU);
  for (const Assignments& z : {ragged(), ragged_indicators(), full}) {
    const at::Tensor table = at::rand({4, 6}, at::kDouble).set_requires_grad(true);
    const at::Tensor upstream = at::rand({z.count(), 6}, at::kDouble);
    const at::Tensor got = z.embed(table);
    EXPECT_TRUE(got.allclose(z.values(at::kDouble).matmul(table)));
    got.backward(upstream);
    EXPECT_TRUE(table.grad().allclose(z.values(at::kDouble).t().matmul(upstream)));
  }
}

TEST(Assignments, RelaxedIndicatorsGetTheirGradient) {
  Assignments z = ragged();
  z.indices.reset();
  z.indicators = at::rand({5, 4}, at::kDouble).set_requires_grad(true);
  const at::Tensor table = at::rand({4, 6}, at::kDouble);
  z.embed(table).sum().backward();
  EXPECT_TRUE(z.indicators.grad().allclose(table.sum(1).expand({5, 4})));
  EXPECT_TRUE(z.values(at::kDouble).requires_grad());
}

TEST(Assignments, GatherRepeatsExamples) {
  const at::Tensor per_example = at::arange(6, at::kDouble).view({3, 2}).set_requires_grad(true);
  const at::Tensor got = ragged().gather(per_example);
  EXPECT_TRUE(got.equal(at::tensor({0., 1., 0., 1., 4., 5., 4., 5., 4., 5.}).view({5, 2})));
  got.sum().backward();
  EXPECT_TRUE(per_example.grad().equal(at::tensor({2., 2., 0., 0., 3., 3.}).view({3, 2})));
}

TEST(Assignments, FullGridGathersAndSumsAsTheGeneralForm) {
  const Assignments grid = Categorical(4).enumerate(3, at::kCPU);
  Assignments general = grid;
  general.full_grid = false;
  const at::Tensor per_example = at::rand({3, 2, 5}, at::kDouble);
  EXPECT_TRUE(grid.gather(per_example).equal(general.gather(per_example)));
  const at::Tensor per_pair = at::rand({12}, at::kDouble);
  EXPECT_TRUE(grid.sum_per_example(per_pair).allclose(general.sum_per_example(per_pair)));
}

TEST(Assignments, SumsPerExample) {
  const at::Tensor per_pair = at::tensor({1., 2., 3., 4., 5.}).set_requires_grad(true);
  const at::Tensor sums = ragged().sum_per_example(per_pair);
  EXPECT_TRUE(sums.equal(at::tensor({3., 0., 12.})));
  sums.backward(at::tensor({1., 10., 100.}));
  EXPECT_TRUE(per_pair.grad().equal(at::tensor({1., 1., 100., 100., 100.})));
}

TEST(Assignments, SumsAreTheSameBytesEveryTime) {
  const int64_t batch = 64, pairs = 50000;
  Assignments z;
  auto generator = at::detail::createCPUGenerator(7);
  z.rows = std::get<0>(at::randint(0, batch, {pairs}, generator, at::kLong).sort());
  z.row_splits = at::searchsorted(z.rows, at::arange(batch + 1));
  const at::Tensor values = at::randn({pairs}, generator, at::TensorOptions(at::kFloat));
  const at::Tensor first = z.sum_per_example(values);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(z.sum_per_example(values).equal(first));
}

TEST(Assignments, SliceMaySplitAnExample) {
  const Assignments part = ragged().slice(1, 4);
  EXPECT_TRUE(part.rows.equal(at::tensor({0, 2, 2}, at::kLong)));
  EXPECT_TRUE(part.row_splits.equal(at::tensor({0, 1, 1, 3}, at::kLong)));
  EXPECT_TRUE(part.indices.equal(at::tensor({3, 0, 3}, at::kLong)));
  EXPECT_EQ(part.batch_size(), 3);
  const Assignments rows = ragged_indicators().slice(1, 4);
  EXPECT_TRUE(rows.indicators.equal(ragged_indicators().indicators.slice(0, 1, 4)));
  const Assignments grid = Categorical(4).enumerate(3, at::kCPU);
  EXPECT_TRUE(grid.slice(0, 12).full_grid);
  EXPECT_FALSE(grid.slice(0, 8).full_grid);
}

TEST(Assignments, NoExamples) {
  const Assignments z = Categorical(4).enumerate(0, at::kCPU);
  EXPECT_EQ(z.count(), 0);
  EXPECT_EQ(z.batch_size(), 0);
  EXPECT_EQ(z.evaluations().size(0), 0);
  EXPECT_EQ(z.sum_per_example(at::empty({0})).size(0), 0);
  EXPECT_EQ(z.embed(at::rand({4, 2})).sizes(), (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(z.gather(at::empty({0, 7})).sizes(), (std::vector<int64_t>{0, 7}));
}

TEST(Assignments, OnePerExample) {
  const at::Tensor classes = at::tensor({2, 0, 3}, at::kLong);
  const Assignments hard = one_per_example(classes, 4);
  EXPECT_TRUE(hard.rows.equal(at::arange(3)));
  EXPECT_TRUE(hard.row_splits.equal(at::arange(4)));
  EXPECT_EQ(hard.parts, 4);
  EXPECT_TRUE(hard.indices.equal(classes));
  EXPECT_FALSE(hard.indicators.defined());
  EXPECT_TRUE(hard.values().equal(at::one_hot(classes, 4).to(at::kFloat)));

  const at::Tensor relaxed = at::rand({3, 4}, at::kDouble).set_requires_grad(true);
  const Assignments soft = one_per_example(relaxed, 4);
  EXPECT_TRUE(soft.evaluations().equal(at::ones({3}, at::kLong)));
  EXPECT_FALSE(soft.indices.defined());
  soft.embed(at::ones({4, 2}, at::kDouble)).sum().backward();
  EXPECT_TRUE(relaxed.grad().equal(at::full({3, 4}, 2.0, at::kDouble)));

  EXPECT_EQ(one_per_example(at::empty({0}, at::kLong), 4).batch_size(), 0);
  EXPECT_EQ(one_per_example(at::empty({0, 4}), 4).values().sizes(), (std::vector<int64_t>{0, 4}));
  const std::string start =
      "one_per_example: expected outcomes to be [B] int64 or [B, V] with V = 4 parts, got ";
  EXPECT_EQ(error_of([&] { one_per_example(relaxed.slice(1, 1), 4); }), start + "Double [3, 3]");
  EXPECT_EQ(error_of([&] { one_per_example(classes.to(at::kInt), 4); }), start + "Int [3]");
  EXPECT_EQ(error_of([&] {
              one_per_example(classes.view({1, 3, 1}), 4);
            }),
            start + "Long [1, 3, 1]");
}

TEST(Assignments, WrongShapesAreNamed) {
  const Assignments z = ragged();
  EXPECT_EQ(error_of([&] {
              z.embed(at::rand({5, 2}));
            }),
            "embed: expected a table [V, H] with V = 4 parts, got [5, 2]");
  EXPECT_EQ(error_of([&] {
              z.gather(at::rand({4, 2}));
            }),
            "gather: expected one entry for each of B = 3 examples, got [4, 2]");
  EXPECT_EQ(error_of([&] { z.sum_per_example(at::rand({3})); }),
            "sum_per_example: expected one entry for each of n = 5 pairs, got [3]");
  EXPECT_EQ(error_of([&] { z.slice(2, 6); }),
            "slice: expected 0 <= begin <= end <= 5 pairs, got 2 and 6");
}

}  // namespace
}  // namespace sparsum
