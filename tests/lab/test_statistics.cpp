#include <gtest/gtest.h>
#include <lab/statistics.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

namespace sparsum::lab {
namespace {

void expect(const at::Tensor& values, double mean, double q25, double median, double q75) {
  const Quartiles q = quartiles(values);
  EXPECT_DOUBLE_EQ(q.mean, mean) << values;
  EXPECT_DOUBLE_EQ(q.q25, q25) << values;
  EXPECT_DOUBLE_EQ(q.median, median) << values;
  EXPECT_DOUBLE_EQ(q.q75, q75) << values;
}

TEST(Quartiles, MatchHandWorkedCases) {
  expect(torch::tensor({3.0}), 3, 3, 3, 3);
  expect(torch::tensor({1.0, 2.0}), 1.5, 1.25, 1.5, 1.75);
  expect(torch::tensor({4.0, 1.0, 3.0, 2.0}), 2.5, 1.75, 2.5, 3.25);
  expect(torch::tensor({5.0, 1.0, 2.0, 4.0, 3.0}), 3, 2, 3, 4);
  expect(torch::tensor({1.0, 1.0, 1.0, 10.0}), 3.25, 1, 1, 3.25);
}

TEST(Quartiles, TakeAnyShapeAndDtype) {
  const at::Tensor values = at::arange(12).view({3, 4}).t();
  for (const auto type : {at::kLong, at::kInt, at::kByte, at::kFloat, at::kDouble, at::kHalf}) {
    expect(values.to(type), 5.5, 2.75, 5.5, 8.25);
  }
  expect(torch::tensor({true, false}), 0.5, 0.25, 0.5, 0.75);
}

TEST(Quartiles, LieBetweenTheirNeighbours) {
  auto generator = at::detail::createCPUGenerator(3);
  for (int64_t n = 1; n < 40; ++n) {
    const at::Tensor values = at::randn({n}, generator, at::TensorOptions(at::kDouble));
    const Quartiles q = quartiles(values);
    // At least a quarter (half, three quarters) on either side, counting the two neighbours.
    const auto below = [&](double x) { return (values < x).sum().item<int64_t>(); };
    const auto above = [&](double x) { return (values > x).sum().item<int64_t>(); };
    const double steps = static_cast<double>(n - 1);
    EXPECT_LE(below(q.q25), std::ceil(steps * 0.25)) << n;
    EXPECT_LE(above(q.q25), std::ceil(steps * 0.75)) << n;
    EXPECT_LE(below(q.median), std::ceil(steps * 0.5)) << n;
    EXPECT_LE(above(q.median), std::ceil(steps * 0.5)) << n;
    EXPECT_LE(below(q.q75), std::ceil(steps * 0.75)) << n;
    EXPECT_LE(above(q.q75), std::ceil(steps * 0.25)) << n;
    EXPECT_NEAR(q.mean, values.mean().item<double>(), 1e-12);
  }
}

TEST(Quartiles, SpreadNanAndKeepInfinity) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const Quartiles spread = quartiles(torch::tensor({1.0, nan, 2.0}));
  EXPECT_TRUE(std::isnan(spread.mean) && std::isnan(spread.q25) && std::isnan(spread.median) &&
              std::isnan(spread.q75));
  expect(torch::tensor({infinity, infinity, infinity, infinity}), infinity, infinity, infinity,
         infinity);
}

TEST(Quartiles, RefuseNothing) {
  EXPECT_THROW(quartiles(torch::empty({0, 3})), c10::Error);
  EXPECT_THROW(quartiles(torch::ones({2}, at::kComplexDouble)), c10::Error);
}

}  // namespace
}  // namespace sparsum::lab
