// linear_cross_entropy against ATen's own operations, unfused, in float64.

#include "tests/ops/gradcheck.h"
#include "tests/ops/memory.h"
#include "tests/ops/tensors.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/linear_cross_entropy.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace sparsum {
namespace {

using sparsum_test::error_of;
using sparsum_test::largest;
using sparsum_test::normal;
using sparsum_test::peak_bytes;
using sparsum_test::seeded;

struct Shape {
  int64_t pairs, positions, width, classes, examples;
  /// Whether the gradients come with the forward pass.
  bool eager() const { return positions >= 4 * (width + 1); }
};

std::string describe(const Shape& s) {
  return "n " + std::to_string(s.pairs) + ", P " + std::to_string(s.positions) + ", F " +
         std::to_string(s.width) + ", C " + std::to_string(s.classes);
}

struct Inputs {
  at::Tensor features, weight, bias, targets, rows;

  /// Rows come ascending, with repeats and gaps, or in any order.
  explicit Inputs(const Shape& s, uint64_t seed, bool ascending = true) {
    features = normal({s.pairs, s.positions, s.width}, seed);
    weight = normal({s.classes, s.width}, seed + 1);
    bias = normal({s.classes}, seed + 2);
    targets = at::randint(0, s.classes, {s.examples, s.positions}, seeded(seed + 3), at::kLong);
    rows = at::randint(0, std::max<int64_t>(1, s.examples), {s.pairs}, seeded(seed + 4), at::kLong);
    if (ascending) rows = std::get<0>(rows.sort());
  }

  Inputs to(at::ScalarType dtype) const {
    Inputs other = *this;
    other.features = features.to(dtype);
    other.weight = weight.to(dtype);
    other.bias = bias.to(dtype);
    return other;
  }
  Inputs detached() const {
    Inputs other = *this;
    other.features = features.detach();
    other.weight = weight.detach();
    other.bias = bias.detach();
    return other;
  }
  /// Fresh leaves, those with gradient whose bit is set: features 1, weight 2, bias 4.
  Inputs leaves(int with_gradient = 7) const {
    Inputs other = *this;
    other.features = features.detach().clone().requires_grad_(with_gradient & 1);
    other.weight = weight.detach().clone().requires_grad_(with_gradient & 2);
    other.bias = bias.detach().clone().requires_grad_(with_gradient & 4);
    return other;
  }
  std::vector<at::Tensor> floating() const { return {features, weight, bias}; }

  at::Tensor fused() const { return linear_cross_entropy(features, weight, bias, targets, rows); }
  at::Tensor unfused() const {
    const at::Tensor scores = at::matmul(features, weight.t()) + bias;
    const at::Tensor classes = targets.to(at::kLong).index_select(0, rows).unsqueeze(2);
    return (scores.logsumexp(2) - scores.gather(2, classes).squeeze(2)).sum(1);
  }
};

/// The gradients that backward(upstream) leaves in the three leaves; undefined where none.
std::vector<at::Tensor> gradients(const Inputs& leaves, const at::Tensor& nll,
                                  const at::Tensor& upstream, bool retain = false) {
  for (at::Tensor x : leaves.floating()) x.mutable_grad().reset();
  nll.backward(upstream, retain);
  std::vector<at::Tensor> all;
  for (const at::Tensor& x : leaves.floating()) {
    all.push_back(x.grad().defined() ? x.grad().clone() : at::Tensor());
  }
  return all;
}

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {5, 1, 1, 1, 2},   {4, 3, 2, 2, 3},     {6, 8, 7, 3, 9},     {7, 16, 3, 10, 3},
      {7, 15, 3, 10, 3}, {3, 100, 3, 256, 2}, {9, 784, 5, 256, 4}, {40, 33, 1, 17, 5},
      {2, 24, 5, 1, 2},  {50, 5, 20, 7, 11},  {1, 64, 0, 4, 1}};
  return all;
}

TEST(LinearCrossEntropy, IsTheUnfusedOne) {
  uint64_t seed = 1;
  for (const Shape& shape : shapes()) {
    for (const bool ascending : {true, false}) {
      SCOPED_TRACE(describe(shape));
      const Inputs x(shape, seed += 10, ascending);
      const at::Tensor expected = x.unfused();
      const at::Tensor wide = x.fused();
      EXPECT_EQ(wide.scalar_type(), at::kDouble);
      EXPECT_EQ(wide.sizes(), (at::IntArrayRef{shape.pairs}));
      EXPECT_TRUE(wide.allclose(expected, 1e-10, 1e-10)) << wide << expected;
      const Inputs narrow = x.to(at::kFloat);
      EXPECT_EQ(narrow.fused().scalar_type(), at::kFloat);
      EXPECT_TRUE(
          narrow.fused().to(at::kDouble).allclose(narrow.to(at::kDouble).unfused(), 1e-5, 1e-5));
    }
  }
}

TEST(LinearCrossEntropy, GradientsAreTheUnfusedOnes) {
  uint64_t seed = 500;
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(describe(shape));
    const Inputs values(shape, seed += 10);
    const at::Tensor g = normal({shape.pairs}, seed);
    const Inputs a = values.leaves(), b = values.leaves();
    const auto got = gradients(a, a.fused(), g), expected = gradients(b, b.unfused(), g);
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_EQ(got[i].sizes(), expected[i].sizes());
      EXPECT_LT(largest(got[i] - expected[i]), 1e-10 * (1 + largest(expected[i]))) << i;
    }
    const Inputs narrow = values.to(at::kFloat).leaves();
    const Inputs exact = narrow.to(at::kDouble).leaves();
    const auto low = gradients(narrow, narrow.fused(), g.to(at::kFloat));
    const auto high = gradients(exact, exact.unfused(), g.to(at::kFloat).to(at::kDouble));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(low[i].scalar_type(), at::kFloat);
      EXPECT_LT(largest(low[i].to(at::kDouble) - high[i]), 1e-4 * (1 + largest(high[i]))) << i;
    }
  }
}

TEST(LinearCrossEntropy, GradientsAreFiniteDifferences) {
  // P ≥ 4(F + 1), at it and below it.
  for (const Shape& shape : {Shape{3, 13, 2, 4, 2}, Shape{3, 12, 2, 4, 2}, Shape{3, 11, 2, 4, 2},
                             Shape{4, 1, 3, 5, 2}, Shape{2, 20, 1, 3, 3}}) {
    SCOPED_TRACE(describe(shape));
    const Inputs x(shape, 900);
    testing::expect_gradients(
        [&](const std::vector<at::Tensor>& all) {
          return linear_cross_entropy(all[0], all[1], all[2], x.targets, x.rows);
        },
        x.floating());
  }
}

TEST(LinearCrossEntropy, OnlySomeInputsMayRequireGradients) {
  for (const Shape& shape : {Shape{6, 40, 3, 9, 4}, Shape{6, 10, 3, 9, 4}}) {
    const Inputs values(shape, 1000);
    const at::Tensor g = normal({shape.pairs}, 1001);
    const Inputs all = values.leaves();
    const auto expected = gradients(all, all.fused(), g);
    for (int with = 0; with < 8; ++with) {
      SCOPED_TRACE(describe(shape) + ", " + std::to_string(with));
      const Inputs some = values.leaves(with);
      const at::Tensor nll = some.fused();
      EXPECT_EQ(nll.requires_grad(), with != 0);
      EXPECT_TRUE(nll.detach().allclose(all.fused().detach(), 1e-12, 1e-12));
      if (with == 0) continue;
      const auto got = gradients(some, nll, g);
      for (size_t i = 0; i < 3; ++i) {
        ASSERT_EQ(got[i].defined(), (with >> i & 1) == 1) << i;
        if (got[i].defined()) {
          EXPECT_LT(largest(got[i] - expected[i]), 1e-11 * (1 + largest(expected[i]))) << i;
        }
      }
    }
    const at::NoGradGuard no_grad;
    EXPECT_FALSE(values.leaves().fused().requires_grad());
  }
}

TEST(LinearCrossEntropy, TargetsOfAnyIntegerDtype) {
  for (const Shape& shape : {Shape{8, 40, 3, 100, 3}, Shape{8, 6, 3, 100, 3}}) {
    const Inputs x(shape, 1100);
    const at::Tensor g = normal({shape.pairs}, 1101);
    const Inputs wide = x.leaves();
    const at::Tensor expected = wide.fused();
    const auto by_wide = gradients(wide, expected, g);
    for (const auto dtype : {at::kByte, at::kChar, at::kShort, at::kInt}) {
      Inputs narrow = x.leaves();
      narrow.targets = x.targets.to(dtype);
      const at::Tensor nll = narrow.fused();
      EXPECT_TRUE(nll.equal(expected)) << dtype;
      const auto got = gradients(narrow, nll, g);
      for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(got[i].equal(by_wide[i])) << dtype;
    }
  }
}

TEST(LinearCrossEntropy, GreyLevelsAsBytes) {
  Inputs x(Shape{10, 30, 2, 256, 4}, 1150);
  x.targets = at::randint(0, 256, {4, 30}, seeded(1), at::kLong).to(at::kByte);
  x.targets[0][0] = 255;
  x.rows[0] = 0;
  EXPECT_TRUE(x.fused().allclose(x.unfused(), 1e-10, 1e-10));
}

TEST(LinearCrossEntropy, NoPairs) {
  for (const Shape& shape : {Shape{0, 40, 3, 9, 4}, Shape{0, 10, 3, 9, 4}, Shape{0, 10, 3, 9, 0}}) {
    SCOPED_TRACE(describe(shape));
    Inputs x = Inputs(Shape{0, shape.positions, 3, 9, 1}, 1200).leaves();
    x.targets = at::zeros({shape.examples, shape.positions}, at::kLong);
    const at::Tensor nll = x.fused();
    EXPECT_EQ(nll.sizes(), (at::IntArrayRef{0}));
    const auto got = gradients(x, nll, at::empty({0}, at::kDouble));
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_TRUE(got[i].defined());
      EXPECT_EQ(got[i].sizes(), x.floating()[i].sizes());
      EXPECT_EQ(largest(got[i]), 0) << i;
    }
  }
}

TEST(LinearCrossEntropy, NoPositions) {
  const Inputs x = Inputs(Shape{3, 0, 2, 4, 2}, 1210).leaves();
  const at::Tensor nll = x.fused();
  EXPECT_EQ(nll.sizes(), (at::IntArrayRef{3}));
  EXPECT_EQ(largest(nll), 0);
  for (const at::Tensor& grad : gradients(x, nll, at::ones({3}, at::kDouble))) {
    EXPECT_EQ(largest(grad), 0);
  }
}

TEST(LinearCrossEntropy, InputsNeedNotBeContiguous) {
  for (const Shape& shape : {Shape{6, 40, 3, 9, 4}, Shape{6, 10, 3, 9, 4}}) {
    SCOPED_TRACE(describe(shape));
    const Inputs x(shape, 1300);
    const at::Tensor g = normal({shape.pairs}, 1301);
    const Inputs dense = x.leaves();
    const at::Tensor expected = dense.fused();
    const auto by_dense = gradients(dense, expected, g);
    // The same values with other strides.
    Inputs strided = x;
    strided.features = x.features.permute({2, 0, 1}).contiguous().permute({1, 2, 0});
    strided.weight = x.weight.t().contiguous().t();
    strided.bias = at::stack({x.bias, x.bias}, 1).select(1, 0);
    strided.targets = x.targets.t().contiguous().t();
    strided.rows = at::stack({x.rows, x.rows}, 1).select(1, 1);
    for (const at::Tensor& t :
         {strided.features, strided.weight, strided.bias, strided.targets, strided.rows}) {
      ASSERT_FALSE(t.is_contiguous());
    }
    for (at::Tensor* t : {&strided.features, &strided.weight, &strided.bias}) {
      *t = t->detach().requires_grad_();
    }
    const at::Tensor nll = strided.fused();
    EXPECT_TRUE(nll.equal(expected));
    const at::Tensor strided_g = at::stack({g, g}, 1).select(1, 0);
    const auto got = gradients(strided, nll, strided_g);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(got[i].sizes(), by_dense[i].sizes());
      EXPECT_LT(largest(got[i] - by_dense[i]), 1e-12 * (1 + largest(by_dense[i]))) << i;
    }
    // A gradient of stride 0, as from a sum.
    const Inputs a = x.leaves(), b = x.leaves();
    const auto summed = gradients(a, a.fused().sum(), {});
    const auto ones = gradients(b, b.fused(), at::ones({shape.pairs}, at::kDouble));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LT(largest(summed[i] - ones[i]), 1e-12 * (1 + largest(ones[i])));
    }
  }
}

TEST(LinearCrossEntropy, HalfTypes) {
  for (const Shape& shape : {Shape{6, 40, 3, 9, 4}, Shape{6, 10, 3, 9, 4}}) {
    for (const auto dtype : {at::kHalf, at::kBFloat16}) {
      SCOPED_TRACE(describe(shape) + ", " + at::toString(dtype));
      const double close = dtype == at::kHalf ? 2e-3 : 1.6e-2;
      const Inputs low = Inputs(shape, 1400).to(dtype).leaves();
      const Inputs wide = low.to(at::kDouble).leaves();
      const at::Tensor nll = low.fused(), expected = wide.unfused();
      EXPECT_EQ(nll.scalar_type(), dtype);
      // Summed in float32: rounded once.
      EXPECT_TRUE(nll.to(at::kDouble).allclose(expected, close / 2, 1e-5));
      const at::Tensor g = normal({shape.pairs}, 1401).to(dtype);
      const auto got = gradients(low, nll, g);
      const auto right = gradients(wide, expected, g.to(at::kDouble));
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(got[i].scalar_type(), dtype);
        EXPECT_LT(largest(got[i].to(at::kDouble) - right[i]), close * (1 + largest(right[i]))) << i;
      }
    }
  }
}

TEST(LinearCrossEntropy, BackwardTwice) {
  for (const Shape& shape : {Shape{6, 40, 3, 9, 4}, Shape{6, 10, 3, 9, 4}}) {
    SCOPED_TRACE(describe(shape));
    const Inputs x = Inputs(shape, 1500).leaves();
    const at::Tensor nll = x.fused();
    const at::Tensor g = normal({shape.pairs}, 1501);
    const auto first = gradients(x, nll, g, /*retain=*/true);
    const auto other = gradients(x, nll, 2 * g, /*retain=*/true);
    const auto second = gradients(x, nll, g);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(first[i].equal(second[i])) << i;
      EXPECT_LT(largest(other[i] - 2 * first[i]), 1e-12 * (1 + largest(first[i]))) << i;
    }
    EXPECT_NE(error_of([&] { nll.backward(g); }), "");
  }
}

TEST(LinearCrossEntropy, DoubleBackwardIsRefused) {
  for (const Shape& shape : {Shape{6, 40, 3, 9, 4}, Shape{6, 10, 3, 9, 4}}) {
    for (int with = 1; with < 8; ++with) {
      SCOPED_TRACE(describe(shape) + ", " + std::to_string(with));
      const Inputs x = Inputs(shape, 1600).leaves(with);
      std::vector<at::Tensor> of;
      for (const at::Tensor& t : x.floating()) {
        if (t.requires_grad()) of.push_back(t);
      }
      const Inputs same = x.leaves(with);
      const auto plain = gradients(same, same.fused(), at::ones({6}, at::kDouble));
      const auto first = torch::autograd::grad({x.fused().sum()}, of, {}, true, true);
      at::Tensor sum = at::zeros({}, at::kDouble);
      size_t next = 0;
      for (size_t i = 0; i < 3; ++i) {
        if (!plain[i].defined()) continue;
        EXPECT_LT(largest(first[next] - plain[i]), 1e-12 * (1 + largest(plain[i])));
        sum = sum + first[next++].square().sum();
      }
      EXPECT_EQ(error_of([&] { torch::autograd::grad({sum}, of); }),
                "linear_cross_entropy: double backward is not implemented");
    }
  }
}

TEST(LinearCrossEntropy, ForwardModeIsRefused) {
  for (size_t which = 0; which < 3; ++which) {
    const Inputs x(Shape{6, 40, 3, 9, 4}, 1700);
    const auto level = torch::autograd::forward_ad::enter_dual_level();
    std::vector<at::Tensor> all = x.floating();
    all[which] = at::_make_dual(all[which], at::ones_like(all[which]), static_cast<int64_t>(level));
    const std::string error =
        error_of([&] { linear_cross_entropy(all[0], all[1], all[2], x.targets, x.rows); });
    torch::autograd::forward_ad::exit_dual_level(level);
    EXPECT_EQ(error,
              "linear_cross_entropy: forward-mode differentiation is not implemented; use reverse "
              "mode");
  }
}

TEST(LinearCrossEntropy, RefusesWhatDoesNotFit) {
  const Inputs good(Shape{6, 40, 3, 9, 4}, 1800);
  const auto error = [&](const std::function<void(Inputs&)>& spoil) {
    Inputs x = good;
    spoil(x);
    const std::string plain = error_of([&] { x.fused(); });
    // The same words where gradients are wanted.
    for (at::Tensor* t : {&x.features, &x.weight, &x.bias}) {
      if (at::isFloatingType(t->scalar_type())) *t = t->detach().requires_grad_();
    }
    EXPECT_EQ(error_of([&] { x.fused(); }), plain);
    return plain;
  };
  const std::string start = "linear_cross_entropy: expected ";
  EXPECT_EQ(error([](Inputs&) {}), "");
  EXPECT_EQ(error([](Inputs& x) { x.features = x.features.to(at::kLong); }),
            start + "features to be floating point, got Long");
  EXPECT_EQ(error([](Inputs& x) { x.features = x.features[0]; }),
            start + "features to be [n, P, F], got [40, 3]");
  EXPECT_EQ(error([](Inputs& x) { x.weight = x.weight.slice(1, 1); }),
            start + "weight to be [C, F] with F = 3 and C >= 1, got [9, 2]");
  EXPECT_EQ(error([](Inputs& x) { x.weight = x.weight.slice(0, 0, 0); }),
            start + "weight to be [C, F] with F = 3 and C >= 1, got [0, 3]");
  EXPECT_EQ(error([](Inputs& x) { x.weight = x.weight[0]; }),
            start + "weight to be [C, F] with F = 3 and C >= 1, got [3]");
  EXPECT_EQ(error([](Inputs& x) { x.bias = x.bias.slice(0, 1); }),
            start + "bias to be [C] = [9], got [8]");
  EXPECT_EQ(error([](Inputs& x) { x.bias = x.bias.unsqueeze(1); }),
            start + "bias to be [C] = [9], got [9, 1]");
  EXPECT_EQ(error([](Inputs& x) { x.weight = x.weight.to(at::kFloat); }),
            start + "weight to have the features' dtype Double, got Float");
  EXPECT_EQ(error([](Inputs& x) { x.bias = x.bias.to(at::kHalf); }),
            start + "bias to have the features' dtype Double, got Half");
  EXPECT_EQ(error([](Inputs& x) { x.targets = x.targets.to(at::kFloat); }),
            start + "targets to be integers, got Float");
  EXPECT_EQ(error([](Inputs& x) { x.targets = x.targets > 1; }),
            start + "targets to be integers, got Bool");
  EXPECT_EQ(error([](Inputs& x) { x.targets = x.targets.slice(1, 1); }),
            start + "targets to be [B, P] with P = 40, got [4, 39]");
  EXPECT_EQ(error([](Inputs& x) { x.targets = x.targets[0]; }),
            start + "targets to be [B, P] with P = 40, got [40]");
  EXPECT_EQ(error([](Inputs& x) { x.rows = x.rows.to(at::kInt); }),
            start + "rows to be int64, got Int");
  EXPECT_EQ(error([](Inputs& x) { x.rows = x.rows.slice(0, 1); }),
            start + "rows to be [n] = [6], got [5]");
  EXPECT_EQ(error([](Inputs& x) { x.rows = x.rows.unsqueeze(0); }),
            start + "rows to be [n] = [6], got [1, 6]");
  const auto with = [](const at::Tensor& t, at::IntArrayRef place, int64_t value) {
    const at::Tensor copy = t.clone();
    (place.size() == 1 ? copy[place[0]] : copy[place[0]][place[1]]).fill_(value);
    return copy;
  };
  EXPECT_EQ(error([&](Inputs& x) {
              x.targets = with(x.targets, {2, 7}, 9);
            }),
            start + "targets in 0 … 8, got 9");
  EXPECT_EQ(error([&](Inputs& x) {
              x.targets = with(x.targets, {3, 39}, -100);
            }),
            start + "targets in 0 … 8, got -100");
  EXPECT_EQ(error([&](Inputs& x) {
              x.targets = with(x.targets, {0, 0}, 255).to(at::kByte);
            }),
            start + "targets in 0 … 8, got 255");
  EXPECT_EQ(error([&](Inputs& x) { x.rows = with(x.rows, {5}, 4); }),
            start + "rows in 0 … 3, got 4");
  EXPECT_EQ(error([&](Inputs& x) { x.rows = with(x.rows, {0}, -1); }),
            start + "rows in 0 … 3, got -1");
}

TEST(LinearCrossEntropy, ForbiddenClassesAndIllegalScores) {
  for (const Shape& shape : {Shape{4, 40, 3, 9, 2}, Shape{4, 10, 3, 9, 2}}) {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      SCOPED_TRACE(describe(shape));
      Inputs x = Inputs(shape, 1900).to(dtype);
      x.bias = x.bias.clone();
      x.bias[4] = -INFINITY;
      x.targets = x.targets.masked_fill(x.targets == 4, 5);
      Inputs without = x.detached().to(at::kDouble);
      without.bias = at::cat({without.bias.slice(0, 0, 4), without.bias.slice(0, 5)});
      without.weight = at::cat({without.weight.slice(0, 0, 4), without.weight.slice(0, 5)});
      without.targets = x.targets - (x.targets > 4).to(at::kLong);
      const Inputs a = x.leaves(), b = without.leaves();
      const at::Tensor nll = a.fused(), expected = b.unfused();
      EXPECT_TRUE(nll.to(at::kDouble).allclose(expected, 1e-5, 1e-5));
      const auto got = gradients(a, nll, at::ones_like(nll));
      const auto right = gradients(b, expected, at::ones_like(expected));
      EXPECT_LT(largest(got[0].to(at::kDouble) - right[0]), 1e-4);
      EXPECT_EQ(largest(got[1][4]), 0);
      EXPECT_EQ(got[2][4].item<double>(), 0);
      EXPECT_LT(largest(got[2].slice(0, 0, 4).to(at::kDouble) - right[2].slice(0, 0, 4)), 1e-3);
      // A target of probability 0.
      Inputs bad = x;
      bad.targets = x.targets.clone();
      bad.targets[0][3] = 4;
      bad.rows = at::tensor({0, 0, 1, 1}, at::kLong);
      const at::Tensor infinite = bad.fused();
      EXPECT_EQ(infinite[0].item<double>(), INFINITY);
      EXPECT_EQ(infinite[1].item<double>(), INFINITY);
      EXPECT_TRUE(infinite.slice(0, 2).isfinite().all().item<bool>());
      const Inputs attached = bad.leaves();
      EXPECT_TRUE(attached.fused().equal(infinite));
      // NaN and +∞ among the scores.
      for (const double value : {NAN, INFINITY}) {
        Inputs illegal = x;
        illegal.features = x.features.clone();
        illegal.features[2][1][0] = NAN;
        EXPECT_TRUE(illegal.fused().isnan().equal(at::tensor({0, 0, 1, 0}).to(at::kBool)));
        illegal = x;
        illegal.bias = x.bias.clone();
        illegal.bias[0] = value;
        EXPECT_TRUE(illegal.fused().isnan().all().item<bool>());
      }
    }
  }
}

TEST(LinearCrossEntropy, LargeScoresDoNotOverflow) {
  for (const Shape& shape : {Shape{4, 40, 3, 9, 2}, Shape{4, 10, 3, 9, 2}}) {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      Inputs x(shape, 2000);
      x.weight = x.weight * 1000;
      x = x.to(dtype).leaves();
      const Inputs wide = x.to(at::kDouble).leaves();
      const at::Tensor nll = x.fused();
      EXPECT_TRUE(nll.to(at::kDouble).allclose(wide.unfused(), 1e-5, 1e-2));
      for (const at::Tensor& grad : gradients(x, nll, at::ones_like(nll))) {
        EXPECT_TRUE(grad.isfinite().all().item<bool>());
      }
    }
  }
}

TEST(LinearCrossEntropy, TheNumberOfThreadsDoesNotMatter) {
  const int before = at::get_num_threads();
  for (const Shape& shape : {Shape{301, 64, 3, 31, 17}, Shape{301, 10, 3, 31, 17},
                             Shape{37, 200, 9, 256, 17}, Shape{37, 200, 60, 256, 17}}) {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      SCOPED_TRACE(describe(shape) + (shape.eager() ? ", eager" : ", lazy"));
      const Inputs values = Inputs(shape, 2100).to(dtype);
      const at::Tensor g = normal({shape.pairs}, 2101).to(dtype);
      const auto run = [&](int threads) {
        at::set_num_threads(threads);
        const Inputs x = values.leaves();
        const at::Tensor nll = x.fused();
        auto all = gradients(x, nll, g);
        all.push_back(nll.detach());
        all.push_back(values.fused());
        return all;
      };
      const auto one = run(1), two = run(2), again = run(2);
      for (size_t i = 0; i < one.size(); ++i) {
        EXPECT_TRUE(one[i].equal(two[i])) << i;
        EXPECT_TRUE(two[i].equal(again[i])) << i;
      }
    }
  }
  at::set_num_threads(before);
}

// The path of devices without kernels, called on the CPU.
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

std::pair<at::Tensor, Gradients> generic(const Inputs& x, const at::Tensor& g) {
  constexpr auto kKeys = c10::DispatchKeySet(c10::DispatchKey::CUDA);
  auto& dispatcher = c10::Dispatcher::singleton();
  using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
  using In = const at::Tensor&;
  const auto forward = dispatcher.findSchemaOrThrow("sparsum::linear_cross_entropy_forward", "")
                           .typed<Forward(In, In, In, In, In, int64_t)>();
  const auto backward = dispatcher.findSchemaOrThrow("sparsum::linear_cross_entropy_backward", "")
                            .typed<Gradients(In, In, In, In, In, In)>();
  return {
      std::get<0>(forward.redispatch(kKeys, x.features, x.weight, x.bias, x.targets, x.rows, 0)),
      backward.redispatch(kKeys, g, x.features, x.weight, x.bias, x.targets, x.rows)};
}

TEST(LinearCrossEntropy, TheDeviceGenericPathAgrees) {
  const Inputs x(Shape{7, 30, 4, 9, 3}, 2300);
  const at::Tensor g = normal({7}, 2301);
  // In float32, to that of the float64 values; half types differ by one rounding, at the end.
  const std::vector<std::pair<at::ScalarType, double>> dtypes = {{at::kDouble, 1e-13},
                                                                 {at::kFloat, 1e-5},
                                                                 {at::kHalf, 1.0 / 1024},
                                                                 {at::kBFloat16, 1.0 / 128}};
  for (const auto& [dtype, close] : dtypes) {
    const Inputs own = x.to(dtype);
    const Inputs wide = own.to(at::kDouble);
    const auto [nll, grads] = generic(own, g.to(dtype));
    const auto [expected, by] = generic(wide, g.to(dtype).to(at::kDouble));
    const auto near = [&](const at::Tensor& got, const at::Tensor& value) {
      EXPECT_EQ(got.scalar_type(), dtype);
      EXPECT_TRUE(got.to(at::kDouble).allclose(value, close, close / 16)) << dtype;
    };
    near(nll, expected);
    near(std::get<0>(grads), std::get<0>(by));
    near(std::get<1>(grads), std::get<1>(by));
    near(std::get<2>(grads), std::get<2>(by));
    EXPECT_LT(largest(expected - wide.fused()), 1e-12);
  }
}

TEST(LinearCrossEntropy, TheBackwardOpChecksWhatItIsGiven) {
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("sparsum::linear_cross_entropy_backward", "")
                      .typed<Gradients(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                       const at::Tensor&, const at::Tensor&, const at::Tensor&)>();
  const auto error = [&](const auto& spoil) {
    Inputs x(Shape{5, 6, 3, 4, 2}, 2310);
    at::Tensor g = at::ones({5}, at::kDouble);
    spoil(x, g);
    return error_of([&] { op.call(g, x.features, x.weight, x.bias, x.targets, x.rows); });
  };
  const std::string start = "linear_cross_entropy_backward: expected ";
  EXPECT_EQ(error([](Inputs&, at::Tensor&) {}), "");
  EXPECT_EQ(error([](Inputs&, at::Tensor& g) { g = g.slice(0, 1); }),
            start + "grad to be [n] = [5], got [4]");
  EXPECT_EQ(error([](Inputs&, at::Tensor& g) { g = g.to(at::kLong); }),
            start + "grad to be floating point, got Long");
  EXPECT_EQ(error([](Inputs& x, at::Tensor&) { x.features = x.features[0]; }),
            start + "features to be [n, P, F], got [6, 3]");
  EXPECT_EQ(error([](Inputs& x, at::Tensor&) { x.weight = x.weight.slice(1, 1); }),
            start + "weight to be [C, F] with F = 3 and C >= 1, got [4, 2]");
  EXPECT_EQ(error([](Inputs& x, at::Tensor&) { x.bias = x.bias.slice(0, 1); }),
            start + "bias to be [C] = [4], got [3]");
  EXPECT_EQ(error([](Inputs& x, at::Tensor&) { x.targets = x.targets.slice(1, 1); }),
            start + "targets to be [B, P] with P = 6, got [2, 5]");
  EXPECT_EQ(error([](Inputs& x, at::Tensor&) { x.rows = x.rows.slice(0, 1); }),
            start + "rows to be [n] = [5], got [4]");
  EXPECT_EQ(error([](Inputs& x, at::Tensor&) { x.rows = x.rows.to(at::kInt); }),
            start + "rows to be int64, got Int");
  EXPECT_EQ(error([](Inputs& x, at::Tensor&) { x.targets[1][2] = 4; }),
            start + "targets in 0 … 3, got 4");
  EXPECT_EQ(error([](Inputs& x, at::Tensor&) { x.rows[0] = -1; }), start + "rows in 0 … 1, got -1");
}

TEST(LinearCrossEntropy, ShapesWithoutValues) {
  const auto meta = at::TensorOptions(at::kFloat).device(at::kMeta);
  const at::Tensor features = at::empty({6, 40, 3}, meta), weight = at::empty({9, 3}, meta),
                   bias = at::empty({9}, meta);
  const at::Tensor targets = at::empty({4, 40}, meta.dtype(at::kLong)),
                   rows = at::empty({6}, meta.dtype(at::kLong));
  const at::Tensor nll = linear_cross_entropy(features, weight, bias, targets, rows);
  EXPECT_EQ(nll.sizes(), (at::IntArrayRef{6}));
  EXPECT_TRUE(nll.is_meta());
  EXPECT_EQ(nll.scalar_type(), at::kFloat);
  features.requires_grad_();
  weight.requires_grad_();
  linear_cross_entropy(features, weight, bias, targets, rows).sum().backward();
  EXPECT_EQ(features.grad().sizes(), features.sizes());
  EXPECT_EQ(weight.grad().sizes(), weight.sizes());
}

TEST(LinearCrossEntropy, NeverHoldsTheScores) {
  for (const Shape& shape : {Shape{16, 1024, 5, 256, 4}, Shape{16, 64, 31, 1024, 4}}) {
    SCOPED_TRACE(describe(shape));
    const Inputs x = Inputs(shape, 2200).to(at::kFloat).leaves();
    const int64_t scores = shape.pairs * shape.positions * shape.classes * 4;
    EXPECT_GE(peak_bytes([&] { x.unfused(); }), scores);  // it measures
    const at::Tensor g = at::ones({shape.pairs}, at::kFloat);
    const int64_t own = peak_bytes([&] { gradients(x, x.fused(), g); });
    // Gradients, their scaled and cloned copies, one gradient of the parameters a share or pair,
    // the targets as int64.
    const int64_t parameters = shape.classes * (shape.width + 1) * 4;
    EXPECT_LE(own, 4 * x.features.numel() * 4 + (shape.pairs + 6) * parameters +
                       x.targets.numel() * 8 + (1 << 16));
    EXPECT_LT(own, scores);
  }
}

}  // namespace
}  // namespace sparsum
