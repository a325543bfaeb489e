// normmax and budget_sparsemax against bisection, in plain loops.

#include "gradcheck.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/budget_sparsemax.h>
#include <sparsum/entmax.h>
#include <sparsum/normmax.h>
#include <sparsum/sparsemax.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace sparsum {
namespace {

using sparsum_test::error_of;

constexpr double kInf = std::numeric_limits<double>::infinity();

at::Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::kDouble);
}

at::Tensor number(double value) { return at::scalar_tensor(value, at::kDouble); }

/// Where a falling function crosses 0.
double root(const std::function<double(double)>& f, double low, double high) {
  for (int i = 0; i < 200; ++i) {
    const double middle = low + (high - low) / 2;
    (f(middle) > 0 ? low : high) = middle;
  }
  return low + (high - low) / 2;
}

std::vector<double> row_of(const at::Tensor& scores, int64_t row) {
  const at::Tensor t = scores[row].contiguous();
  return {t.data_ptr<double>(), t.data_ptr<double>() + t.numel()};
}

at::Tensor slow_budget(const std::vector<double>& s, double budget) {
  double low = kInf, high = -kInf;
  for (const double x : s) {
    if (x == -kInf) continue;
    low = std::min(low, x - 1);
    high = std::max(high, x);
  }
  const double tau = root(
      [&](double t) {
        double sum = -budget;
        for (const double x : s) sum += std::clamp(x - t, 0.0, 1.0);
        return sum;
      },
      low, high);
  std::vector<double> p;
  for (const double x : s) p.push_back(std::clamp(x - tau, 0.0, 1.0));
  return torch::tensor(p, at::kDouble);
}

at::Tensor slow_normmax(const std::vector<double>& s, double alpha) {
  const double best = *std::max_element(s.begin(), s.end());
  const double tau = root(
      [&](double t) {
        double sum = -1;
        for (const double x : s) sum += std::pow(std::max(x - t, 0.0), alpha / (alpha - 1));
        return sum;
      },
      best - 1, best);
  std::vector<double> p;
  double sum = 0;
  for (const double x : s) {
    p.push_back(x > tau ? std::pow(x - tau, 1 / (alpha - 1)) : 0.0);
    sum += p.back();
  }
  for (double& x : p) x /= sum;
  return torch::tensor(p, at::kDouble);
}

TEST(BudgetSparsemax, IsTheProjectionForAnyBudget) {
  for (const int64_t columns : {1, 2, 7, 40}) {
    for (const double scale : {0.1, 1.0, 5.0}) {
      const at::Tensor scores = normal({6, columns}, 1) * scale;
      scores[1].fill_(0.3);                   // ties
      if (columns > 2) scores[2][1] = -kInf;  // forbidden
      for (const double share : {0.0, 0.2, 0.5, 0.9}) {
        const double budget = share * static_cast<double>(columns - (columns > 2 ? 1 : 0));
        const at::Tensor p = budget_sparsemax(scores, number(budget));
        for (int64_t row = 0; row < 6; ++row) {
          const at::Tensor expected = slow_budget(row_of(scores, row), budget);
          EXPECT_LT((p[row] - expected).abs().max().item<double>(), 1e-12)
              << columns << " " << scale << " " << budget << " row " << row;
        }
      }
    }
  }
}

TEST(BudgetSparsemax, OneIsSparsemaxAndAllIsAll) {
  const at::Tensor scores = normal({5, 9}, 2) * 2;
  EXPECT_TRUE(budget_sparsemax(scores, number(1)).allclose(sparsemax(scores, -1), 0, 1e-12));
  EXPECT_TRUE(budget_sparsemax(scores, number(9)).allclose(at::ones({5, 9}, at::kDouble)));
  EXPECT_TRUE(budget_sparsemax(scores, number(0)).allclose(at::zeros({5, 9}, at::kDouble)));
}

TEST(BudgetSparsemax, OneBudgetARowAlongAnyDimension) {
  const at::Tensor scores = normal({4, 7}, 3),
                   budgets = torch::tensor({0.5, 1.0, 2.5, 6.0}, at::kDouble);
  const at::Tensor p = budget_sparsemax(scores, budgets.unsqueeze(1));
  for (int64_t row = 0; row < 4; ++row) {
    const at::Tensor expected = slow_budget(row_of(scores, row), budgets[row].item<double>());
    EXPECT_TRUE(p[row].allclose(expected, 0, 1e-12));
  }
  EXPECT_TRUE(budget_sparsemax(scores.t(), budgets.unsqueeze(0), 0).equal(p.t()));
}

TEST(BudgetSparsemax, HasGradientsInScoresAndBudget) {
  const auto f = [](const std::vector<at::Tensor>& x) { return budget_sparsemax(x[0], x[1]); };
  testing::expect_gradients(f,
                            {normal({3, 6}, 4), torch::tensor({{1.2}, {2.0}, {3.7}}, at::kDouble)});
  // The map's own gradient does not depend on the scores; that of a composition does.
  const auto of_scores = [](const std::vector<at::Tensor>& x) {
    return budget_sparsemax(x[0].square(), number(2.3));
  };
  testing::expect_second_gradients(of_scores, {normal({3, 6}, 5).requires_grad_()});
}

TEST(BudgetSparsemax, RefusesByName) {
  const at::Tensor scores = normal({2, 3}, 6);
  EXPECT_EQ(error_of([&] {
              budget_sparsemax(scores, torch::tensor({{1.0}, {3.5}}, at::kDouble));
            }),
            "budget_sparsemax: expected budget in 0 … 3, the number of finite scores, got 3.5 for "
            "row 1");
  EXPECT_EQ(error_of([&] { budget_sparsemax(scores, number(-1)); }),
            "budget_sparsemax: expected budget in 0 … 3, the number of finite scores, got -1 for "
            "row 0");
  EXPECT_EQ(error_of([&] {
              budget_sparsemax(scores, normal({2, 2}, 7));
            }),
            "budget_sparsemax: expected budget to broadcast to [2, 1] (scores with size 1 along "
            "dim), got shape [2, 2]");
  scores[1][2] = NAN;
  EXPECT_NE(error_of([&] { budget_sparsemax(scores, number(1)); }).find("row 1"),
            std::string::npos);
}

TEST(Normmax, SolvesItsEquation) {
  for (const int64_t columns : {1, 2, 7, 40}) {
    for (const double scale : {0.1, 1.0, 5.0}) {
      const at::Tensor scores = normal({5, columns}, 8) * scale;
      scores[1].fill_(-2);                    // ties
      if (columns > 2) scores[2][1] = -kInf;  // forbidden
      for (const double alpha : {1.1, 1.5, 2.0, 4.0}) {
        const at::Tensor p = normmax(scores, number(alpha));
        for (int64_t row = 0; row < 5; ++row) {
          const at::Tensor expected = slow_normmax(row_of(scores, row), alpha);
          EXPECT_LT((p[row] - expected).abs().max().item<double>(), 1e-10)
              << columns << " " << scale << " " << alpha << " row " << row;
        }
      }
    }
  }
}

TEST(Normmax, HasGradientsOfFirstAndSecondOrder) {
  const at::Tensor alphas = torch::tensor({{1.3}, {2.0}, {3.0}}, at::kDouble);
  const auto f = [&](const std::vector<at::Tensor>& x) { return normmax(x[0], alphas); };
  const at::Tensor scores = normal({3, 5}, 9) * 0.5;
  testing::expect_gradients(f, {scores}, 1e-6, 1e-6);
  testing::expect_second_gradients(f, {scores.clone().requires_grad_()}, 1e-5);
}

TEST(Normmax, RefusesByName) {
  const at::Tensor scores = normal({2, 3}, 10);
  EXPECT_EQ(error_of([&] { normmax(scores, number(1)); }),
            "normmax: expected alpha to be finite and > 1, got 1");
  EXPECT_EQ(error_of([&] { normmax(scores, number(2).requires_grad_()); }),
            "normmax: there is no derivative in alpha; detach it");
  EXPECT_EQ(error_of([&] { normmax(scores, normal({3}, 11)); }),
            "normmax: expected alpha to broadcast to [2, 1] (scores with size 1 along dim), got "
            "shape [3]");
}

TEST(NormmaxAndBudget, TakeHalfTypesAndEmptyBatches) {
  const at::Tensor scores = normal({4, 6}, 12);
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const at::Tensor narrow = scores.to(type);
    for (const auto& [p, exact] :
         {std::pair(budget_sparsemax(narrow, number(2)),
                    budget_sparsemax(narrow.to(at::kDouble), number(2))),
          std::pair(normmax(narrow, number(2)), normmax(narrow.to(at::kDouble), number(2)))}) {
      EXPECT_EQ(p.scalar_type(), type);
      EXPECT_TRUE(p.equal(exact.to(type)));
    }
  }
  EXPECT_EQ(budget_sparsemax(at::empty({0, 3}), number(1)).sizes(), (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(normmax(at::empty({0, 3}), number(2)).sizes(), (std::vector<int64_t>{0, 3}));
}

}  // namespace
}  // namespace sparsum
