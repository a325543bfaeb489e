// What every map onto the simplex has in common: sparsemax, α-entmax and top-k sparsemax as ops.

#include "tests/ops/gradcheck.h"
#include "tests/oracle/simplex.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sparsum/entmax.h>
#include <sparsum/sparsemax.h>
#include <sparsum/top_k_sparsemax.h>
#include <torch/torch.h>

#include <functional>
#include <limits>
#include <set>
#include <string>
#include <thread>

namespace sparsum {
namespace {

using testing::expect_gradients;
using testing::expect_second_gradients;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Map {
  std::string name;
  std::function<at::Tensor(const at::Tensor&, int64_t)> apply;
  std::function<std::vector<oracle::Real>(const std::vector<oracle::Real>&)> reference;
};

Map entmax_map(const std::string& name, double alpha) {
  return {name, [=](const at::Tensor& s, int64_t dim) { return entmax(s, alpha, dim); },
          [=](const auto& row) { return oracle::entmax(row, static_cast<oracle::Real>(alpha)); }};
}

std::vector<Map> maps() {
  return {{"sparsemax", [](const at::Tensor& s, int64_t dim) { return sparsemax(s, dim); },
           [](const auto& row) { return oracle::sparsemax(row); }},
          {"top_2_sparsemax",
           [](const at::Tensor& s, int64_t dim) { return std::get<0>(top_k_sparsemax(s, 2, dim)); },
           [](const auto& row) { return oracle::top_k_sparsemax(row, 2).probs; }},
          entmax_map("softmax", 1),
          entmax_map("entmax_1_2", 1.2),
          entmax_map("entmax_1_5", 1.5),
          entmax_map("entmax_2", 2),
          entmax_map("entmax_3", 3)};
}

void PrintTo(const Map& map, std::ostream* out) { *out << map.name; }

class Maps : public ::testing::TestWithParam<Map> {
 protected:
  at::Tensor randn(at::IntArrayRef sizes, double deviation = 1) {
    return at::randn(sizes, generator_, at::kDouble) * deviation;
  }
  at::Tensor operator()(const at::Tensor& scores, int64_t dim = -1) {
    return GetParam().apply(scores, dim);
  }
  at::Generator generator_ = at::detail::createCPUGenerator(7);
};

INSTANTIATE_TEST_SUITE_P(All, Maps, ::testing::ValuesIn(maps()),
                         [](const auto& test) { return test.param.name; });

TEST_P(Maps, AgreesWithTheReference) {
  for (int64_t cols : {1, 2, 10, 24, 25, 70}) {
    const at::Tensor scores = randn({5, cols}, 1.5);
    const at::Tensor probs = (*this)(scores);
    for (int64_t i = 0; i < 5; ++i) {
      std::vector<oracle::Real> row;
      for (int64_t j = 0; j < cols; ++j) row.push_back(scores[i][j].item<double>());
      const auto expected = GetParam().reference(row);
      for (int64_t j = 0; j < cols; ++j) {
        EXPECT_NEAR(probs[i][j].item<double>(),
                    static_cast<double>(expected[static_cast<size_t>(j)]), 1e-12);
      }
    }
  }
}

TEST_P(Maps, HoldsOnTheSimplexAndKeepsTheOrder) {
  const at::Tensor scores = randn({200, 30}, 2);
  const at::Tensor probs = (*this)(scores);
  EXPECT_TRUE((probs >= 0).all().item<bool>());
  EXPECT_LT((probs.sum(-1) - 1).abs().max().item<double>(), 1e-13);
  const at::Tensor order = scores.argsort(-1, false);
  EXPECT_TRUE((probs.gather(-1, order).diff() >= 0).all().item<bool>());
}

TEST_P(Maps, IsInvariantToShiftsAndEquivariantToPermutations) {
  const at::Tensor scores = randn({50, 40});
  const at::Tensor probs = (*this)(scores);
  EXPECT_LT(((*this)(scores + 17.25) - probs).abs().max().item<double>(), 1e-12);
  const at::Tensor permutation = at::randperm(40, generator_, at::kLong);
  EXPECT_LT(((*this)(scores.index_select(-1, permutation)) - probs.index_select(-1, permutation))
                .abs()
                .max()
                .item<double>(),
            1e-13);
}

TEST_P(Maps, WorksAlongAnyDimAndStride) {
  const at::Tensor scores = randn({4, 7, 5});
  for (int64_t dim : {-3, -2, -1, 0, 1, 2}) {
    const at::Tensor expected = (*this)(scores.transpose(dim, -1).contiguous()).transpose(dim, -1);
    const at::Tensor probs = (*this)(scores, dim);
    EXPECT_TRUE(probs.equal(expected)) << "dim " << dim;
    EXPECT_TRUE(probs.is_contiguous());
  }
  const at::Tensor strided = randn({6, 20}).slice(1, 0, 20, 2);
  EXPECT_TRUE((*this)(strided).equal((*this)(strided.contiguous())));
  const at::Tensor expanded = randn({1, 12}).expand({3, 12});
  EXPECT_TRUE((*this)(expanded).equal((*this)(expanded.contiguous())));
  const at::Tensor vector = randn({9});
  EXPECT_TRUE((*this)(vector, 0).equal((*this)(vector.unsqueeze(0))[0]));
}

TEST_P(Maps, GradientsAreDerivatives) {
  for (int64_t cols : {1, 6, 30}) {
    const auto f = [this](const auto& x) { return (*this)(x[0]); };
    expect_gradients(f, {randn({3, cols})});
  }
  expect_gradients([this](const auto& x) { return (*this)(x[0], 0); }, {randn({6, 2})});
}

TEST_P(Maps, SecondGradientsAreDerivatives) {
  // Steps of 1e-6 must not move the support: rows whose smallest probability is tiny have steep
  // derivatives.
  expect_second_gradients([this](const auto& x) { return (*this)(x[0]); }, {randn({4, 5}, 0.7)},
                          2e-5);
}

TEST_P(Maps, ForbiddenScoresGetExactlyZeroAndNoGradient) {
  at::Tensor scores = randn({3, 8});
  scores.index_put_({at::indexing::TensorIndex("..."), at::indexing::TensorIndex(2)}, -kInfinity);
  scores.requires_grad_();
  const at::Tensor probs = (*this)(scores);
  EXPECT_TRUE((probs.select(1, 2) == 0).all().item<bool>());
  (probs * randn({3, 8})).sum().backward();
  EXPECT_TRUE((scores.grad().select(1, 2) == 0).all().item<bool>());
  EXPECT_TRUE(scores.grad().isfinite().all().item<bool>());
  const at::Tensor rest = torch::tensor({0, 1, 3, 4, 5, 6, 7});
  EXPECT_LT((probs.index_select(1, rest) - (*this)(scores.detach().index_select(1, rest)))
                .abs()
                .max()
                .item<double>(),
            1e-12);
}

TEST_P(Maps, EmptyBatchesStayEmpty) {
  const at::Tensor scores = at::empty({0, 4}, at::kDouble).requires_grad_();
  const at::Tensor probs = (*this)(scores);
  EXPECT_EQ(probs.sizes(), scores.sizes());
  probs.sum().backward();
  EXPECT_EQ(scores.grad().sizes(), scores.sizes());
  EXPECT_EQ((*this)(at::empty({3, 0, 4}, at::kFloat), 2).sizes(), at::IntArrayRef({3, 0, 4}));
}

TEST_P(Maps, ReducedPrecisionIsFloat32Rounded) {
  const at::Tensor scores = randn({20, 50}, 2);
  for (at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    at::Tensor low = scores.to(type).requires_grad_();
    const at::Tensor probs = (*this)(low);
    EXPECT_EQ(probs.scalar_type(), type);
    EXPECT_TRUE(probs.equal((*this)(low.detach().to(at::kFloat)).to(type)));
    probs.pow(2).sum().backward();
    EXPECT_EQ(low.grad().scalar_type(), type);
    EXPECT_TRUE(low.grad().isfinite().all().item<bool>());
  }
  EXPECT_LT(((*this)(scores.to(at::kFloat)) - (*this)(scores)).abs().max().item<double>(), 2e-6);
}

TEST_P(Maps, AcceptsUpstreamGradientsOfStrideZero) {
  const at::Tensor scores = randn({5, 12});
  at::Tensor x = scores.clone().requires_grad_();
  (*this)(x).select(1, 3).sum().backward();
  at::Tensor y = scores.clone().requires_grad_();
  (*this)(y).backward(at::zeros({5, 12}, at::kDouble).index_fill(1, torch::tensor({3}), 1));
  EXPECT_TRUE(x.grad().equal(y.grad()));
  at::Tensor z = scores.clone().requires_grad_();
  (*this)(z).sum().backward();  // the upstream gradient is one number, expanded
  EXPECT_LT(z.grad().abs().max().item<double>(), 1e-12);
}

TEST_P(Maps, TheDeviceGenericPathAgrees) {
  const std::string& name = GetParam().name;
  const auto keys =
      c10::DispatchKeySet(c10::DispatchKey::CUDA);  // runs the path of devices without kernels
  auto& dispatcher = c10::Dispatcher::singleton();
  const at::Tensor scores = randn({30, 40}, 2);
  scores[4][7] = -kInfinity;
  const at::Tensor grad = randn({30, 40});
  const at::Tensor expected = (*this)(scores);
  at::Tensor probs, backward, expected_backward;
  double alpha = 0;
  if (name == "sparsemax") {
    const auto op = dispatcher.findSchemaOrThrow("sparsum::sparsemax", "")
                        .typed<at::Tensor(const at::Tensor&, int64_t)>();
    probs = op.redispatch(keys, scores, -1);
  } else if (name == "top_2_sparsemax") {
    const auto op =
        dispatcher.findSchemaOrThrow("sparsum::top_k_sparsemax", "")
            .typed<std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, int64_t, int64_t)>();
    const auto generic = op.redispatch(keys, scores, 2, -1);
    probs = std::get<0>(generic);
    EXPECT_TRUE(std::get<1>(generic).equal(std::get<1>(top_k_sparsemax(scores, 2))));
  } else {
    alpha = name == "softmax"      ? 1
            : name == "entmax_1_2" ? 1.2
            : name == "entmax_1_5" ? 1.5
            : name == "entmax_2"   ? 2
                                   : 3;
    const auto op = dispatcher.findSchemaOrThrow("sparsum::entmax", "")
                        .typed<at::Tensor(const at::Tensor&, double, int64_t)>();
    probs = op.redispatch(keys, scores, alpha, -1);
  }
  EXPECT_LT((probs - expected).abs().max().item<double>(), 1e-10);
  if (alpha > 0) {
    const auto op = dispatcher.findSchemaOrThrow("sparsum::entmax_backward", "")
                        .typed<at::Tensor(const at::Tensor&, const at::Tensor&, double, int64_t)>();
    backward = op.redispatch(keys, grad, expected, alpha, -1);
    expected_backward = op.call(grad, expected, alpha, -1);
  } else {
    const auto op = dispatcher.findSchemaOrThrow("sparsum::sparsemax_backward", "")
                        .typed<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t)>();
    backward = op.redispatch(keys, grad, expected, -1);
    expected_backward = op.call(grad, expected, -1);
  }
  EXPECT_LT((backward - expected_backward).abs().max().item<double>(),
            1e-10 * (1 + expected_backward.abs().max().item<double>()));
}

TEST_P(Maps, MetaTensorsGetTheShape) {
  const at::Tensor scores =
      at::empty({3, 5}, at::TensorOptions().device(at::kMeta).dtype(at::kBFloat16));
  const at::Tensor probs = (*this)(scores, 0);
  EXPECT_EQ(probs.sizes(), scores.sizes());
  EXPECT_TRUE(probs.is_meta());
  EXPECT_EQ(probs.scalar_type(), at::kBFloat16);
}

TEST_P(Maps, ForwardModeRaises) {
  const at::Tensor scores = randn({2, 3});
  auto level = torch::autograd::forward_ad::enter_dual_level();
  const at::Tensor dual =
      at::_make_dual(scores, at::ones_like(scores), static_cast<int64_t>(level));
  try {
    (*this)(dual);
    ADD_FAILURE() << "no error";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what_without_backtrace())
                  .find("forward-mode differentiation is not implemented"),
              std::string::npos)
        << error.what_without_backtrace();
  }
  torch::autograd::forward_ad::exit_dual_level(level);
}

TEST_P(Maps, SeveralThreadsMayCallAtOnce) {
  const at::Tensor scores = randn({300, 200});
  const at::Tensor expected = (*this)(scores);
  std::vector<at::Tensor> results(4);
  std::vector<std::thread> threads;
  for (at::Tensor& result : results) threads.emplace_back([&] { result = (*this)(scores); });
  for (std::thread& thread : threads) thread.join();
  for (const at::Tensor& result : results) EXPECT_TRUE(result.equal(expected));
}

// The message of the error that `call` raises.
template <class F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST_P(Maps, ErrorsNameTheOpTheRequirementAndTheValue) {
  const std::string name = GetParam().name;
  const std::string op = name == "sparsemax"         ? "sparsemax"
                         : name == "top_2_sparsemax" ? "top_k_sparsemax"
                                                     : "entmax";
  const at::Tensor good = randn({3, 30});
  EXPECT_EQ(error_of([&] {
              (*this)(at::ones({2, 2}, at::kLong));
            }),
            op + ": expected scores to be floating point, got Long");
  EXPECT_EQ(error_of([&] { (*this)(good, 2); }), op + ": expected dim in [-2, 1], got 2");
  EXPECT_EQ(error_of([&] {
              (*this)(at::empty({2, 0}));
            }),
            op + ": expected at least one score along dim -1, got shape [2, 0]");
  EXPECT_EQ(error_of([&] { (*this)(at::scalar_tensor(1.0)); }),
            op + ": expected scores to have at least one dimension, got a scalar");
  for (int64_t cols : {30, 5}) {
    at::Tensor bad = good.narrow(1, 0, cols).clone();
    bad[1][4] = std::numeric_limits<double>::quiet_NaN();
    EXPECT_EQ(error_of([&] { (*this)(bad); }),
              op + ": expected scores to be finite or -inf, got nan in row 1, column 4");
    bad[1][4] = kInfinity;
    EXPECT_EQ(error_of([&] { (*this)(bad); }),
              op + ": expected scores to be finite or -inf, got inf in row 1, column 4");
    bad[1].fill_(-kInfinity);
    EXPECT_EQ(error_of([&] { (*this)(bad); }),
              op + ": expected at least one finite score in every row, got only -inf in row 1");
  }
}

// ---- one map at a time ----

TEST(Sparsemax, ByHand) {
  EXPECT_TRUE(sparsemax(torch::tensor({0.5, 0.25, -1.0}, at::kDouble))
                  .equal(torch::tensor({0.625, 0.375, 0.0}, at::kDouble)));
  EXPECT_TRUE(sparsemax(torch::tensor({1.0, 1.0, 0.0}, at::kDouble))
                  .equal(torch::tensor({0.5, 0.5, 0.0}, at::kDouble)));
  EXPECT_TRUE(sparsemax(torch::tensor({3.0, 1.0}, at::kDouble))
                  .equal(torch::tensor({1.0, 0.0}, at::kDouble)));
}

TEST(Sparsemax, AtAKinkTheGradientIsThatOfTheSupport) {
  // The second score lies exactly at τ: probability 0, so it belongs to no support.
  at::Tensor scores = torch::tensor({1.0, 0.0}, at::kDouble).requires_grad_();
  const at::Tensor probs = sparsemax(scores);
  EXPECT_TRUE(probs.equal(torch::tensor({1.0, 0.0}, at::kDouble)));
  (probs * torch::tensor({2.0, 5.0}, at::kDouble)).sum().backward();
  EXPECT_TRUE(scores.grad().equal(at::zeros({2}, at::kDouble)));
}

TEST(Entmax, ByHandAtOneAndAHalf) {
  // s = (0, −1): x = (0, −1/2), (x₁ − τ)² + (x₂ − τ)² = 1 gives τ = −1/4 − √7/4.
  const at::Tensor probs = entmax(torch::tensor({0.0, -1.0}, at::kDouble), 1.5);
  const double tau = -0.25 - std::sqrt(7.0) / 4;
  EXPECT_NEAR(probs[0].item<double>(), tau * tau, 1e-15);
  EXPECT_NEAR(probs[1].item<double>(), (-0.5 - tau) * (-0.5 - tau), 1e-15);
}

TEST(Entmax, IsSoftmaxAtOneAndSparsemaxAtTwo) {
  auto generator = at::detail::createCPUGenerator(8);
  const at::Tensor scores = at::randn({20, 60}, generator, at::kDouble);
  EXPECT_LT((entmax(scores, 1.0) - scores.softmax(-1)).abs().max().item<double>(), 1e-15);
  EXPECT_TRUE(entmax(scores, 2.0).equal(sparsemax(scores)));
  // The general path joins both without a step.
  EXPECT_LT((entmax(scores, 1 + 1e-7) - scores.softmax(-1)).abs().max().item<double>(), 1e-6);
  EXPECT_LT((entmax(scores, 2 - 1e-7) - sparsemax(scores)).abs().max().item<double>(), 1e-6);
  EXPECT_LT((entmax(scores, 1.5 + 1e-9) - entmax(scores, 1.5)).abs().max().item<double>(), 1e-8);
}

TEST(Entmax, TensorAlphaIsBroadcastAndDifferentiated) {
  auto generator = at::detail::createCPUGenerator(9);
  const at::Tensor scores = at::randn({2, 3, 6}, generator, at::kDouble);
  const auto f = [](const auto& x) { return entmax(x[0], x[1]); };
  for (const at::Tensor& alpha :
       {torch::tensor(1.3, at::kDouble), torch::tensor({1.2, 1.5, 2.0}, at::kDouble).view({3, 1}),
        torch::tensor({1.1, 1.7}, at::kDouble).view({2, 1, 1}),
        at::full({2, 3, 1}, 2.5, at::kDouble)}) {
    expect_gradients(f, {scores, alpha}, 1e-6, 1e-6);
  }
  const at::Tensor along_first = torch::tensor({1.2, 1.6, 2.0}, at::kDouble).view({1, 3, 1});
  expect_gradients([](const auto& x) { return entmax(x[0], x[1], 0); }, {scores, along_first}, 1e-6,
                   1e-6);
  const at::Tensor each = entmax(scores, torch::tensor({1.0, 1.5, 2.0}, at::kDouble).view({3, 1}));
  EXPECT_TRUE(each.select(1, 0).equal(entmax(scores.select(1, 0).contiguous(), 1.0)));
  EXPECT_TRUE(each.select(1, 1).equal(entmax(scores.select(1, 1).contiguous(), 1.5)));
  EXPECT_TRUE(each.select(1, 2).equal(sparsemax(scores.select(1, 2).contiguous())));
}

TEST(Entmax, DerivativeInAlphaIsAccurateNearOne) {
  auto generator = at::detail::createCPUGenerator(10);
  const at::Tensor scores = at::randn({4, 12}, generator, at::kDouble);
  const at::Tensor weights = at::randn({4, 12}, generator, at::kDouble);
  const auto derivative = [&](double value, at::ScalarType type) {
    at::Tensor alpha = torch::tensor(value, at::kDouble).requires_grad_();
    (entmax(scores.to(type), alpha) * weights).sum().backward();
    return alpha.grad().item<double>();
  };
  // At 1 it is −½ p (log² p − Σ p log² p).
  const at::Tensor p = scores.softmax(-1), l2 = p.log().pow(2);
  const double limit = (weights * -0.5 * p * (l2 - (p * l2).sum(-1, true))).sum().item<double>();
  EXPECT_NEAR(derivative(1.0, at::kDouble), limit, 1e-12);
  EXPECT_NEAR(derivative(1.0 + 1e-9, at::kDouble), limit, 1e-7);
  EXPECT_NEAR(derivative(1.0001, at::kDouble), limit, 2e-3);
  EXPECT_NEAR(derivative(1.0001, at::kFloat), derivative(1.0001, at::kDouble), 1e-5);
  EXPECT_NEAR(derivative(1.001, at::kFloat), derivative(1.001, at::kDouble), 1e-5);
  // On both sides of where the formula changes.
  EXPECT_NEAR(derivative(2.0, at::kDouble), derivative(2.0 + 1e-7, at::kDouble), 1e-5);
}

TEST(Entmax, TheDeviceGenericDerivativeInAlphaAgrees) {
  auto generator = at::detail::createCPUGenerator(11);
  const at::Tensor probs = entmax(at::randn({6, 9}, generator, at::kDouble), 1.5);
  const at::Tensor grad = at::randn({6, 9}, generator, at::kDouble);
  const at::Tensor alpha =
      torch::tensor({1.0, 1.0001, 1.5, 2.0, 2.5, 4.0}, at::kDouble).view({6, 1});
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t);
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("sparsum::entmax_backward_alpha", "")
                      .typed<Signature>();
  const at::Tensor expected = op.call(grad, probs, alpha, -1);
  const at::Tensor generic =
      op.redispatch(c10::DispatchKeySet(c10::DispatchKey::CUDA), grad, probs, alpha, -1);
  EXPECT_LT((generic - expected).abs().max().item<double>(), 1e-10);
}

TEST(Entmax, SecondDerivativesInAlphaAreRefused) {
  at::Tensor scores = torch::tensor({0.3, 0.1, -0.2}, at::kDouble).requires_grad_();
  at::Tensor alpha = torch::tensor(1.4, at::kDouble).requires_grad_();
  const at::Tensor value =
      (entmax(scores, alpha) * torch::tensor({1.0, 2.0, 3.0}, at::kDouble)).sum();
  const auto first = torch::autograd::grad({value}, {scores, alpha}, {}, true, true);
  EXPECT_NE(error_of([&] {
              first[0].pow(2).sum().backward({}, true);
            }).find("second derivatives in alpha are not implemented"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              first[1].backward({}, true);
            }).find("second derivatives in alpha are not implemented"),
            std::string::npos);
}

TEST(Entmax, RefusesAlphaBelowOne) {
  const at::Tensor scores = at::zeros({2, 3});
  EXPECT_EQ(error_of([&] { entmax(scores, 0.5); }),
            "entmax: expected alpha to be finite and >= 1, got 0.5");
  EXPECT_EQ(error_of([&] { entmax(scores, kInfinity); }),
            "entmax: expected alpha to be finite and >= 1, got inf");
  EXPECT_EQ(error_of([&] {
              entmax(scores, torch::tensor({1.5, 0.9}, at::kDouble).view({2, 1}));
            }),
            "entmax: expected alpha to be finite and >= 1, got 0.9 for row 1");
  EXPECT_EQ(error_of([&] { entmax(scores, at::ones({3})); }),
            "entmax: expected alpha to broadcast to [2, 1] (scores with size 1 along dim), got "
            "shape [3]");
}

TEST(TopKSparsemax, TiesGoToTheLowerIndex) {
  const auto [probs, exact] =
      top_k_sparsemax(torch::tensor({0.0, 1.0, 1.0, 1.0, 0.9}, at::kDouble), 2);
  EXPECT_TRUE(probs.equal(torch::tensor({0.0, 0.5, 0.5, 0.0, 0.0}, at::kDouble)));
  EXPECT_FALSE(exact.item<bool>());
}

TEST(TopKSparsemax, TheCertificateIsRightInBothDirections) {
  auto generator = at::detail::createCPUGenerator(12);
  int64_t certified = 0;
  for (int64_t trial = 0; trial < 200; ++trial) {
    at::Tensor scores = at::randn({40, 8}, generator, at::kDouble);
    if (trial % 2 == 0) scores = (scores * 4).round() / 4;  // ties, also exactly at τ
    const at::Tensor full = sparsemax(scores);
    for (int64_t k : {1, 2, 3, 8, 20}) {
      const auto [probs, exact] = top_k_sparsemax(scores, k);
      const at::Tensor same = (probs - full).abs().amax(-1) < 1e-12;
      ASSERT_TRUE(exact.equal(same)) << "k = " << k;
      certified += exact.sum().item<int64_t>();
      ASSERT_LE((probs > 0).sum(-1).max().item<int64_t>(), k);
    }
  }
  EXPECT_GT(certified, 0);
}

TEST(TopKSparsemax, RefusesKBelowOne) {
  EXPECT_EQ(error_of([] {
              top_k_sparsemax(at::zeros({2, 3}), 0);
            }),
            "top_k_sparsemax: expected k >= 1, got 0");
}

TEST(Threads, TwoThreadsRunTheLargeCases) {
  ASSERT_GE(at::get_num_threads(), 2) << "set OMP_NUM_THREADS=2";
  std::mutex mutex;
  std::set<std::thread::id> ids;
  // The same inline at::parallel_for that the ops use, compiled with the same flags.
  at::parallel_for(0, 64, 1, [&](int64_t, int64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const std::lock_guard<std::mutex> lock(mutex);
    ids.insert(std::this_thread::get_id());
  });
  EXPECT_GE(ids.size(), 2U);
}

}  // namespace
}  // namespace sparsum
