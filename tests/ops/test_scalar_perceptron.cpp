// scalar_perceptron against ATen's own operations in float64.

#include "tests/ops/gradcheck.h"
#include "tests/ops/memory.h"
#include "tests/ops/tensors.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/scalar_perceptron.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
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

struct Inputs {
  at::Tensor e, u, w;

  Inputs(at::IntArrayRef shape, int64_t hidden, uint64_t seed, double size = 1)
      : e(normal(shape, seed) * size),
        u(normal({hidden}, seed + 1)),
        w(normal({hidden}, seed + 2)) {}

  std::vector<at::Tensor> all() const { return {e, u, w}; }
  Inputs to(at::ScalarType dtype) const {
    Inputs other = *this;
    for (at::Tensor* t : {&other.e, &other.u, &other.w}) *t = t->detach().to(dtype);
    return other;
  }
  /// Fresh leaves, those with gradient whose bit is set: e 1, u 2, w 4.
  Inputs leaves(int with_gradient = 7) const {
    Inputs other = *this;
    int bit = 1;
    for (at::Tensor* t : {&other.e, &other.u, &other.w}) {
      *t = t->detach().clone().requires_grad_(with_gradient & bit);
      bit *= 2;
    }
    return other;
  }

  at::Tensor fused() const { return scalar_perceptron(e, u, w); }
  at::Tensor unfused() const { return at::matmul((e.unsqueeze(-1) * u).sigmoid(), w).sigmoid(); }
};

/// The gradients that backward(upstream) leaves in the three leaves; undefined where none.
std::vector<at::Tensor> gradients(const Inputs& leaves, const at::Tensor& y,
                                  const at::Tensor& upstream, bool retain = false) {
  for (at::Tensor x : leaves.all()) x.mutable_grad().reset();
  y.backward(upstream, retain);
  std::vector<at::Tensor> grads;
  for (const at::Tensor& x : leaves.all()) {
    grads.push_back(x.grad().defined() ? x.grad().clone() : at::Tensor());
  }
  return grads;
}

/// Few numbers, many in a small range (float32 interpolates), many in a large one.
std::vector<Inputs> some_inputs(uint64_t seed) {
  return {Inputs({}, 3, seed),
          Inputs({1}, 1, seed + 10),
          Inputs({3, 4, 5}, 7, seed + 20),
          Inputs({64, 33}, 100, seed + 30),
          Inputs({20, 50}, 512, seed + 40, 0.01),
          Inputs({9, 50}, 60, seed + 50, 1000)};
}

TEST(ScalarPerceptron, IsTheUnfusedOne) {
  for (const Inputs& x : some_inputs(1)) {
    SCOPED_TRACE(::testing::Message() << x.e.sizes() << ", " << x.u.sizes());
    const at::Tensor wide = x.fused();
    EXPECT_EQ(wide.scalar_type(), at::kDouble);
    EXPECT_EQ(wide.sizes(), x.e.sizes());
    EXPECT_LT(largest(wide - x.unfused()), 1e-12);
    const Inputs narrow = x.to(at::kFloat);
    EXPECT_EQ(narrow.fused().scalar_type(), at::kFloat);
    EXPECT_LT(largest(narrow.fused().to(at::kDouble) - narrow.to(at::kDouble).unfused()), 2e-6);
  }
}

TEST(ScalarPerceptron, GradientsAreTheUnfusedOnes) {
  for (const Inputs& x : some_inputs(100)) {
    SCOPED_TRACE(::testing::Message() << x.e.sizes() << ", " << x.u.sizes());
    const at::Tensor g = normal(x.e.sizes(), 200);
    const Inputs a = x.leaves(), b = x.leaves();
    const auto got = gradients(a, a.fused(), g), expected = gradients(b, b.unfused(), g);
    const Inputs narrow = x.to(at::kFloat).leaves(), exact = narrow.to(at::kDouble).leaves();
    const auto low = gradients(narrow, narrow.fused(), g.to(at::kFloat));
    const auto high = gradients(exact, exact.unfused(), g.to(at::kFloat).to(at::kDouble));
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_EQ(got[i].sizes(), expected[i].sizes());
      EXPECT_LT(largest(got[i] - expected[i]), 1e-12 * (1 + largest(expected[i]))) << i;
      EXPECT_EQ(low[i].scalar_type(), at::kFloat);
      EXPECT_LT(largest(low[i].to(at::kDouble) - high[i]), 1e-5 * (1 + largest(high[i]))) << i;
    }
  }
}

at::Tensor of_list(const std::vector<at::Tensor>& all) {
  return scalar_perceptron(all[0], all[1], all[2]);
}

TEST(ScalarPerceptron, GradientsAreFiniteDifferences) {
  testing::expect_gradients(of_list, Inputs({3, 4}, 5, 300).all());
  testing::expect_gradients(of_list, Inputs({}, 1, 310).all());
}

TEST(ScalarPerceptron, SecondGradientsAreFiniteDifferences) {
  testing::expect_second_gradients(of_list, Inputs({2, 3}, 4, 320).all());
}

TEST(ScalarPerceptron, FirstGradientsAreTheSameWithAGraph) {
  const Inputs x = Inputs({5, 6}, 9, 330);
  const at::Tensor g = normal({5, 6}, 331);
  for (int with = 1; with < 8; ++with) {
    const Inputs plain = x.leaves(with), recorded = x.leaves(with);
    const auto expected = gradients(plain, plain.fused(), g);
    std::vector<at::Tensor> of;
    for (const at::Tensor& t : recorded.all()) {
      if (t.requires_grad()) of.push_back(t);
    }
    const auto got = torch::autograd::grad({recorded.fused()}, of, {g}, true, true);
    size_t next = 0;
    for (const at::Tensor& value : expected) {
      if (!value.defined()) continue;
      EXPECT_LT(largest(got[next] - value), 1e-13) << with;
      EXPECT_TRUE(got[next++].requires_grad());
    }
  }
}

TEST(ScalarPerceptron, OnlySomeInputsMayRequireGradients) {
  const Inputs values({4, 300}, 64, 400);
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    const Inputs x = values.to(dtype), all = x.leaves();
    const at::Tensor g = normal({4, 300}, 401).to(dtype);
    const auto expected = gradients(all, all.fused(), g);
    for (int with = 0; with < 8; ++with) {
      const Inputs some = x.leaves(with);
      const at::Tensor y = some.fused();
      EXPECT_EQ(y.requires_grad(), with != 0);
      EXPECT_TRUE(y.detach().equal(all.fused().detach()));
      if (with == 0) continue;
      const auto got = gradients(some, y, g);
      for (size_t i = 0; i < 3; ++i) {
        ASSERT_EQ(got[i].defined(), (with >> i & 1) == 1) << i;
        EXPECT_TRUE(!got[i].defined() || got[i].equal(expected[i])) << i;
      }
    }
  }
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(values.leaves().fused().requires_grad());
}

TEST(ScalarPerceptron, NoNumbers) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf}) {
    const Inputs x = Inputs({0, 4}, 5, 500).to(dtype).leaves();
    const at::Tensor y = x.fused();
    EXPECT_EQ(y.sizes(), (at::IntArrayRef{0, 4}));
    const auto got = gradients(x, y, at::empty({0, 4}, dtype));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(got[i].sizes(), x.all()[i].sizes());
      EXPECT_EQ(got[i].scalar_type(), dtype);
      EXPECT_EQ(largest(got[i]), 0);
    }
  }
}

TEST(ScalarPerceptron, InputsNeedNotBeContiguous) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    const Inputs x = Inputs({30, 40}, 50, 600).to(dtype).leaves();
    const at::Tensor g = normal({30, 40}, 601).to(dtype);
    const at::Tensor expected = x.fused();
    const auto by_dense = gradients(x, expected, g);
    Inputs strided = x;
    strided.e = x.e.detach().t().contiguous().t().requires_grad_();
    for (at::Tensor* t : {&strided.u, &strided.w}) {
      *t = at::stack({*t, *t}, 1).select(1, 0).detach().requires_grad_();
      ASSERT_FALSE(t->is_contiguous());
    }
    const at::Tensor y = strided.fused();
    EXPECT_TRUE(y.equal(expected));
    EXPECT_TRUE(y.is_contiguous());
    const auto got = gradients(strided, y, g.t().contiguous().t());
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(got[i].equal(by_dense[i])) << i;
    // A gradient of stride 0, as from a sum.
    const Inputs a = x.leaves(), b = x.leaves();
    const auto summed = gradients(a, a.fused().sum(), {});
    const auto ones = gradients(b, b.fused(), at::ones_like(g));
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(summed[i].equal(ones[i])) << i;
  }
}

TEST(ScalarPerceptron, HalfTypes) {
  for (const int64_t n : {40, 2000}) {
    for (const auto dtype : {at::kHalf, at::kBFloat16}) {
      const double close = dtype == at::kHalf ? 1.0 / 1024 : 1.0 / 128;
      const Inputs low = Inputs({n}, 50, 700).to(dtype).leaves();
      const Inputs wide = low.to(at::kDouble).leaves();
      const at::Tensor y = low.fused(), expected = wide.unfused();
      EXPECT_EQ(y.scalar_type(), dtype);
      // Computed in float32: rounded once.
      EXPECT_TRUE(y.to(at::kDouble).allclose(expected, close, 1e-5));
      const at::Tensor g = normal({n}, 701).to(dtype);
      const auto got = gradients(low, y, g);
      const auto right = gradients(wide, expected, g.to(at::kDouble));
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(got[i].scalar_type(), dtype);
        EXPECT_TRUE(got[i].to(at::kDouble).allclose(right[i], close, 1e-5)) << i;
      }
    }
  }
}

TEST(ScalarPerceptron, LargeNumbersSaturate) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    Inputs x = Inputs({2000}, 50, 800).to(dtype);
    for (const double size : {1e3, 1e6, 1e30}) {
      Inputs large = x;
      large.e = x.e * size;
      const Inputs leaves = large.leaves(), wide = large.to(at::kDouble);
      const at::Tensor y = leaves.fused();
      EXPECT_LT(largest(y.to(at::kDouble) - wide.unfused()), 1e-5) << size;
      for (const at::Tensor& grad : gradients(leaves, y, at::ones_like(y))) {
        EXPECT_TRUE(grad.isfinite().all().item<bool>()) << size;
      }
    }
    // Outputs that are 0 or 1 to all their digits.
    Inputs saturated = x;
    saturated.w = x.w.abs() * 1e4;
    EXPECT_TRUE((saturated.fused() == 1).all().item<bool>());
    saturated.w = -saturated.w;
    EXPECT_TRUE((saturated.fused() == 0).all().item<bool>());
    // A NaN stays where it is; in u it is everywhere.
    Inputs bad = x;
    bad.e = x.e.clone();
    bad.e[7] = NAN;
    EXPECT_TRUE(bad.fused().isnan().equal(bad.e.isnan()));
    const Inputs leaves = bad.leaves();
    const auto grads = gradients(leaves, leaves.fused(), at::ones_like(x.e));
    EXPECT_TRUE(grads[0].isnan().equal(bad.e.isnan()));
    EXPECT_TRUE(grads[1].isnan().all().item<bool>());
    EXPECT_TRUE(grads[2].isnan().all().item<bool>());
    bad.u = x.u.clone();
    bad.u[3] = NAN;
    EXPECT_TRUE(bad.fused().isnan().all().item<bool>());
  }
}

TEST(ScalarPerceptron, BackwardTwice) {
  const Inputs x = Inputs({40, 50}, 60, 900).to(at::kFloat).leaves();
  const at::Tensor y = x.fused(), g = normal({40, 50}, 901).to(at::kFloat);
  const auto first = gradients(x, y, g, /*retain=*/true), second = gradients(x, y, g);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(first[i].equal(second[i])) << i;
  EXPECT_NE(error_of([&] { y.backward(g); }), "");
}

TEST(ScalarPerceptron, ForwardModeIsRefused) {
  for (size_t which = 0; which < 3; ++which) {
    std::vector<at::Tensor> all = Inputs({4}, 5, 1000).all();
    const auto level = torch::autograd::forward_ad::enter_dual_level();
    all[which] = at::_make_dual(all[which], at::ones_like(all[which]), static_cast<int64_t>(level));
    const std::string error = error_of([&] { of_list(all); });
    torch::autograd::forward_ad::exit_dual_level(level);
    EXPECT_EQ(error,
              "scalar_perceptron: forward-mode differentiation is not implemented; use reverse "
              "mode");
  }
}

TEST(ScalarPerceptron, RefusesWhatDoesNotFit) {
  const auto error = [&](const auto& spoil) {
    Inputs x({6, 4}, 5, 1100);
    spoil(x);
    const std::string plain = error_of([&] { x.fused(); });
    // The same words where gradients are wanted.
    for (at::Tensor* t : {&x.e, &x.u, &x.w}) {
      if (at::isFloatingType(t->scalar_type())) *t = t->detach().requires_grad_();
    }
    EXPECT_EQ(error_of([&] { x.fused(); }), plain);
    return plain;
  };
  const std::string start = "scalar_perceptron: expected ";
  EXPECT_EQ(error([](Inputs&) {}), "");
  EXPECT_EQ(error([](Inputs& x) { x.e = x.e.to(at::kLong); }),
            start + "e to be floating point, got Long");
  EXPECT_EQ(error([](Inputs& x) { x.u = x.u.unsqueeze(0); }),
            start + "u to be [H] with H >= 1, got [1, 5]");
  EXPECT_EQ(error([](Inputs& x) { x.u = x.u.slice(0, 0, 0); }),
            start + "u to be [H] with H >= 1, got [0]");
  EXPECT_EQ(error([](Inputs& x) { x.w = x.w.slice(0, 1); }), start + "w to be [H] = [5], got [4]");
  EXPECT_EQ(error([](Inputs& x) { x.w = x.w.unsqueeze(1); }),
            start + "w to be [H] = [5], got [5, 1]");
  EXPECT_EQ(error([](Inputs& x) { x.u = x.u.to(at::kFloat); }),
            start + "u to have the dtype of e, Double, got Float");
  EXPECT_EQ(error([](Inputs& x) { x.w = x.w.to(at::kHalf); }),
            start + "w to have the dtype of e, Double, got Half");
}

TEST(ScalarPerceptron, TheNumberOfThreadsDoesNotMatter) {
  const int before = at::get_num_threads();
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    for (const double size : {0.01, 1.0, 1e4}) {
      for (const int64_t n : {100, 16384}) {
        const Inputs values = Inputs({n}, 100, 1200, size).to(dtype);
        const at::Tensor g = normal({n}, 1201).to(dtype);
        const auto run = [&](int threads) {
          at::set_num_threads(threads);
          const Inputs x = values.leaves();
          const at::Tensor y = x.fused();
          auto all = gradients(x, y, g);
          all.push_back(y.detach());
          all.push_back(values.fused());
          return all;
        };
        const auto one = run(1), two = run(2), three = run(3);
        for (size_t i = 0; i < one.size(); ++i) {
          EXPECT_TRUE(one[i].equal(two[i])) << i << ", " << size << ", " << n;
          EXPECT_TRUE(one[i].equal(three[i])) << i << ", " << size << ", " << n;
        }
      }
    }
  }
  at::set_num_threads(before);
}

using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using In = const at::Tensor&;

auto forward_op() {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow("sparsum::scalar_perceptron_forward", "")
      .typed<Three(In, In, In, bool)>();
}
auto backward_op() {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow("sparsum::scalar_perceptron_backward", "")
      .typed<Three(In, In, In, In, In, In, bool)>();
}

TEST(ScalarPerceptron, TheDeviceGenericPathAgrees) {
  constexpr auto kKeys = c10::DispatchKeySet(c10::DispatchKey::CUDA);
  const auto run = [&](const Inputs& x, const at::Tensor& g) {
    const auto [y, outer, slopes] = forward_op().redispatch(kKeys, x.e, x.u, x.w, true);
    EXPECT_TRUE(std::get<0>(forward_op().redispatch(kKeys, x.e, x.u, x.w, false)).equal(y));
    const auto [by_e, by_u, by_w] =
        backward_op().redispatch(kKeys, g, x.e, x.u, x.w, outer, slopes, true);
    const auto less = backward_op().redispatch(kKeys, g, x.e, x.u, x.w, outer, slopes, false);
    EXPECT_TRUE(std::get<0>(less).equal(by_e));
    EXPECT_EQ(std::get<1>(less).numel() + std::get<2>(less).numel(), 0);
    return std::vector<at::Tensor>{y, by_e, by_u, by_w};
  };
  // The last one takes several chunks.
  for (const auto& [shape, hidden] : {std::pair<std::vector<int64_t>, int64_t>{{7, 30}, 9},
                                      {{}, 3},
                                      {{0}, 3},
                                      {{5, 7}, int64_t{1} << 20}}) {
    const Inputs x(shape, hidden, 1300);
    const at::Tensor g = normal(shape, 1301);
    const Inputs leaves = x.leaves();
    const at::Tensor y = leaves.fused();
    auto expected = gradients(leaves, y, g);
    expected.insert(expected.begin(), y.detach());
    const auto got = run(x, g);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(got[i].sizes(), expected[i].sizes());
      EXPECT_LT(largest(got[i] - expected[i]), 1e-10 * (1 + largest(expected[i]))) << i;
    }
    if (hidden > 100) continue;
    for (const auto& [dtype, close] : {std::pair<at::ScalarType, double>{at::kFloat, 1e-5},
                                       {at::kHalf, 1.0 / 1024},
                                       {at::kBFloat16, 1.0 / 128}}) {
      const Inputs own = x.to(dtype);
      const auto low = run(own, g.to(dtype));
      const auto high = run(own.to(at::kDouble), g.to(dtype).to(at::kDouble));
      for (size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(low[i].scalar_type(), dtype);
        EXPECT_TRUE(low[i].to(at::kDouble).allclose(high[i], close, close / 16)) << i << dtype;
      }
    }
  }
}

TEST(ScalarPerceptron, TheBackwardOpChecksWhatItIsGiven) {
  const auto error = [&](const auto& spoil) {
    Inputs x({6, 4}, 5, 1400);
    at::Tensor g = at::ones({6, 4}, at::kDouble);
    auto [y, outer, slopes] = forward_op().call(x.e, x.u, x.w, true);
    spoil(x, g, outer, slopes);
    return error_of(
        [&, o = outer, s = slopes] { backward_op().call(g, x.e, x.u, x.w, o, s, true); });
  };
  using T = at::Tensor;
  const std::string start = "scalar_perceptron_backward: expected ";
  EXPECT_EQ(error([](Inputs&, T&, T&, T&) {}), "");
  EXPECT_EQ(error([](Inputs&, T& g, T&, T&) { g = g.slice(0, 1); }),
            start + "grad to be of e's shape = [6, 4], got [5, 4]");
  EXPECT_EQ(error([](Inputs&, T& g, T&, T&) { g = g.to(at::kLong); }),
            start + "grad to be floating point, got Long");
  EXPECT_EQ(error([](Inputs&, T&, T& o, T&) { o = o[0]; }),
            start + "outer to be of e's shape = [6, 4], got [4]");
  EXPECT_EQ(error([](Inputs&, T&, T&, T& s) { s = s.to(at::kFloat); }),
            start + "slopes to be Double, got Float");
  EXPECT_EQ(error([](Inputs& x, T&, T&, T&) { x.w = x.w[0]; }),
            start + "w to be [H] = [5], got []");
}

TEST(ScalarPerceptron, ShapesWithoutValues) {
  const auto meta = at::TensorOptions(at::kHalf).device(at::kMeta);
  const at::Tensor e = at::empty({6, 40}, meta).requires_grad_(),
                   u = at::empty({9}, meta).requires_grad_(),
                   w = at::empty({9}, meta).requires_grad_();
  const at::Tensor y = scalar_perceptron(e, u, w);
  EXPECT_EQ(y.sizes(), e.sizes());
  EXPECT_TRUE(y.is_meta());
  EXPECT_EQ(y.scalar_type(), at::kHalf);
  y.sum().backward();
  for (const at::Tensor& t : {e, u, w}) {
    EXPECT_EQ(t.grad().sizes(), t.sizes());
    EXPECT_EQ(t.grad().scalar_type(), at::kHalf);
  }
  EXPECT_NE(error_of([&] { scalar_perceptron(e, u, w.slice(0, 1)); }), "");
}

TEST(ScalarPerceptron, NeverHoldsTheHiddenUnits) {
  for (const double size : {1.0, 1e4}) {
    const Inputs x = Inputs({4096}, 128, 1500, size).to(at::kFloat).leaves();
    EXPECT_GE(peak_bytes([&] { x.unfused(); }), 4096 * 128 * 4);  // it measures
    EXPECT_LE(peak_bytes([&] { gradients(x, x.fused(), at::ones_like(x.e)); }), 10 * 4096 * 4);
  }
}

}  // namespace
}  // namespace sparsum
