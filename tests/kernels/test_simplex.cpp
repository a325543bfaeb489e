// The kernels against slow references, on every SIMD target of this machine.

#include "tests/oracle/simplex.h"

#include <gtest/gtest.h>
#include <sparsum/kernels/entmax.h>
#include <sparsum/kernels/sparsemax.h>
#include <sparsum/kernels/targets.h>
#include <sparsum/kernels/top_k_sparsemax.h>

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace sparsum::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename T>
std::vector<oracle::Real> row_of(const std::vector<T>& matrix, size_t row, size_t cols) {
  return {matrix.begin() + static_cast<std::ptrdiff_t>(row * cols),
          matrix.begin() + static_cast<std::ptrdiff_t>((row + 1) * cols)};
}

// Rows of one shape and kind of score. Lengths surround the vector widths, and the short-row path's
// limit.
struct Case {
  size_t rows, cols;
  double deviation;
  enum { kNormal, kRounded, kForbidden, kEqual } kind;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  size_t i = 0;
  for (size_t cols : {1,  2,  3,  4,  5,  7,  8,  9,   15,  16,  17,   23,  24,
                      25, 31, 32, 33, 63, 64, 65, 127, 130, 257, 1000, 2049}) {
    for (double deviation : {1e-3, 0.1, 1.0, 5.0, 1e4}) {
      all.push_back({1 + i % 19, cols, deviation, static_cast<decltype(Case::kind)>(i % 4)});
      ++i;
    }
  }
  return all;
}

template <typename T>
std::vector<T> make_scores(const Case& c, std::mt19937& generator) {
  std::normal_distribution<double> normal(0, c.deviation);
  std::vector<T> scores(c.rows * c.cols);
  for (T& s : scores) {
    s = static_cast<T>(normal(generator));
    if (c.kind == Case::kRounded) s = std::round(s * 4) / 4;
    if (c.kind == Case::kEqual) s = static_cast<T>(c.deviation);
    if (c.kind == Case::kForbidden && generator() % 3 == 0) s = -std::numeric_limits<T>::infinity();
  }
  for (size_t r = 0; r < c.rows; ++r) {  // every row keeps a finite score
    scores[r * c.cols + generator() % c.cols] = static_cast<T>(normal(generator));
  }
  return scores;
}

// What a probability may be off by: the rounding of scores of that size, which no method can see
// through.
template <typename T>
double tolerance(const Case& c) {
  return 4 * std::numeric_limits<T>::epsilon() * (1 + 4 * c.deviation);
}

// What a sum of probabilities may be off by.
template <typename T>
double sum_tolerance(const Case& c) {
  return (40 + static_cast<double>(c.cols) / 10) * std::numeric_limits<T>::epsilon();
}

class SimplexKernels : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(force_target(GetParam())); }
  void TearDown() override { force_target(""); }
};

INSTANTIATE_TEST_SUITE_P(Targets, SimplexKernels, testing::ValuesIn(available_targets()),
                         [](const auto& test) { return test.param; });

template <typename T>
void check_sparsemax() {
  std::mt19937 generator(11);
  for (const Case& c : cases()) {
    const auto scores = make_scores<T>(c, generator);
    std::vector<T> probs(scores.size(), T{-7});
    ASSERT_EQ(sparsemax_forward(scores.data(), probs.data(), static_cast<int64_t>(c.rows),
                                static_cast<int64_t>(c.cols)),
              -1);
    for (size_t r = 0; r < c.rows; ++r) {
      const auto expected = oracle::sparsemax(row_of(scores, r, c.cols));
      oracle::Real sum = 0;
      for (size_t j = 0; j < c.cols; ++j) {
        const T p = probs[r * c.cols + j];
        ASSERT_NEAR(p, expected[j], tolerance<T>(c))
            << c.cols << " columns, deviation " << c.deviation;
        ASSERT_FALSE(std::signbit(p));
        sum += p;
      }
      ASSERT_NEAR(sum, 1, sum_tolerance<T>(c)) << c.cols << " columns, deviation " << c.deviation;
    }
  }
}

TEST_P(SimplexKernels, SparsemaxIsTheProjection) {
  check_sparsemax<float>();
  check_sparsemax<double>();
}

template <typename T>
void check_top_k() {
  std::mt19937 generator(12);
  for (const Case& c : cases()) {
    const auto scores = make_scores<T>(c, generator);
    for (size_t k : {size_t{1}, size_t{2}, size_t{5}, c.cols, c.cols + 3}) {
      std::vector<T> probs(scores.size(), T{-7});
      const std::unique_ptr<bool[]> exact(new bool[c.rows]);
      ASSERT_EQ(top_k_sparsemax_forward(scores.data(), probs.data(), exact.get(),
                                        static_cast<int64_t>(c.rows), static_cast<int64_t>(c.cols),
                                        static_cast<int64_t>(k)),
                -1);
      for (size_t r = 0; r < c.rows; ++r) {
        const auto row = row_of(scores, r, c.cols);
        const auto expected = oracle::top_k_sparsemax(row, k);
        for (size_t j = 0; j < c.cols; ++j) {
          ASSERT_NEAR(probs[r * c.cols + j], expected.probs[j], tolerance<T>(c))
              << k << " of " << c.cols;
        }
        ASSERT_EQ(exact[r], expected.exact)
            << k << " of " << c.cols << ", deviation " << c.deviation;
      }
    }
  }
}

TEST_P(SimplexKernels, TopKSparsemaxIsSparsemaxOfTheBest) {
  check_top_k<float>();
  check_top_k<double>();
}

/// The slow reference, once for all targets.
const std::vector<oracle::Real>& reference_entmax(const std::vector<oracle::Real>& scores,
                                                  double alpha) {
  static std::map<std::pair<std::vector<oracle::Real>, double>, std::vector<oracle::Real>> known;
  auto& probs = known[{scores, alpha}];
  if (probs.empty()) probs = oracle::entmax(scores, static_cast<oracle::Real>(alpha));
  return probs;
}

template <typename T>
void check_entmax() {
  std::mt19937 generator(13);
  for (const Case& c : cases()) {
    if (c.cols > 24 && c.deviation != 1.0) continue;  // the reference is slow
    const auto scores = make_scores<T>(c, generator);
    for (double alpha : {1.0, 1.0001, 1.3, 1.5, 2.0, 3.0}) {
      std::vector<T> probs(scores.size(), T{-7});
      ASSERT_EQ(entmax_forward(scores.data(), probs.data(), static_cast<int64_t>(c.rows),
                               static_cast<int64_t>(c.cols), &alpha, 0),
                -1);
      for (size_t r = 0; r < c.rows; ++r) {
        const auto& expected = reference_entmax(row_of(scores, r, c.cols), alpha);
        oracle::Real sum = 0;
        // For α > 2 the slope of p = x^{1/(α−1)} is infinite at 0: rounding a score by ε moves p by
        // ε^{1/(α−1)}.
        const double bound =
            alpha <= 2 ? 4 * tolerance<T>(c) : 2 * std::pow(tolerance<T>(c), 1 / (alpha - 1));
        for (size_t j = 0; j < c.cols; ++j) {
          const T p = probs[r * c.cols + j];
          ASSERT_NEAR(p, expected[j], bound)
              << "alpha " << alpha << ", " << c.cols << " columns, deviation " << c.deviation;
          sum += p;
        }
        ASSERT_NEAR(sum, 1, sum_tolerance<T>(c))
            << "alpha " << alpha << ", " << c.cols << " columns, deviation " << c.deviation;
      }
    }
  }
}

TEST_P(SimplexKernels, EntmaxSolvesItsEquation) {
  check_entmax<float>();
  check_entmax<double>();
}

TEST_P(SimplexKernels, EntmaxUsesEachRowsAlpha) {
  std::mt19937 generator(14);
  const Case c{6, 40, 1.0, Case::kNormal};
  const auto scores = make_scores<double>(c, generator);
  const std::vector<double> alphas = {1.0, 1.5, 1.5, 2.0, 1.3, 3.0};
  std::vector<double> together(scores.size()), alone(scores.size());
  ASSERT_EQ(entmax_forward(scores.data(), together.data(), 6, 40, alphas.data(), 1), -1);
  for (int64_t r = 0; r < 6; ++r) {
    ASSERT_EQ(
        entmax_forward(&scores[static_cast<size_t>(r) * 40], &alone[static_cast<size_t>(r) * 40], 1,
                       40, &alphas[static_cast<size_t>(r)], 0),
        -1);
  }
  EXPECT_EQ(together, alone);
}

TEST_P(SimplexKernels, BackwardIsTheJacobianOfTheSupport) {
  std::mt19937 generator(15);
  std::normal_distribution<double> normal;
  for (const Case& c : cases()) {
    if (c.cols > 300) continue;
    const auto scores = make_scores<double>(c, generator);
    for (double alpha : {1.0, 1.3, 1.5, 2.0, 3.0}) {
      std::vector<double> probs(scores.size()), grad(scores.size()), out(scores.size(), -7);
      const auto rows = static_cast<int64_t>(c.rows), cols = static_cast<int64_t>(c.cols);
      ASSERT_EQ(entmax_forward(scores.data(), probs.data(), rows, cols, &alpha, 0), -1);
      for (size_t i = 0; i < grad.size(); ++i)
        grad[i] = probs[i] > 0 ? normal(generator) : kInfinity;
      entmax_backward(grad.data(), probs.data(), out.data(), rows, cols, &alpha, 0);
      for (size_t r = 0; r < c.rows; ++r) {
        oracle::Real u_sum = 0, ug_sum = 0;
        oracle::Real least = 1;
        for (size_t i = r * c.cols; i < (r + 1) * c.cols; ++i) {
          if (probs[i] > 0) least = std::min<oracle::Real>(least, probs[i]);
        }
        for (size_t i = r * c.cols; i < (r + 1) * c.cols; ++i) {
          if (probs[i] == 0) continue;
          const auto u = std::pow(probs[i] / least, oracle::Real{2} - alpha);
          u_sum += u;
          ug_sum += u * grad[i];
        }
        for (size_t i = r * c.cols; i < (r + 1) * c.cols; ++i) {
          if (probs[i] == 0) {
            ASSERT_EQ(out[i], 0);
            continue;
          }
          const auto u = std::pow(static_cast<oracle::Real>(probs[i]), oracle::Real{2} - alpha);
          const auto expected = static_cast<double>(u * (grad[i] - ug_sum / u_sum));
          ASSERT_NEAR(out[i], expected, 1e-11 * (1 + std::abs(static_cast<double>(u))))
              << "alpha " << alpha;
        }
      }
    }
  }
}

TEST_P(SimplexKernels, IllegalRowsAreNamed) {
  for (int64_t cols : {5, 40}) {
    for (double bad : {kInfinity, std::numeric_limits<double>::quiet_NaN(), -kInfinity}) {
      const size_t n = static_cast<size_t>(cols);
      std::vector<double> scores(7 * n, 0.5), probs(scores.size());
      if (bad == -kInfinity) {
        std::fill(scores.begin() + static_cast<std::ptrdiff_t>(4 * n),
                  scores.begin() + static_cast<std::ptrdiff_t>(5 * n), bad);
      } else {
        scores[4 * n + n - 1] = bad;
      }
      const std::unique_ptr<bool[]> exact(new bool[7]);
      EXPECT_EQ(sparsemax_forward(scores.data(), probs.data(), 7, cols), 4);
      EXPECT_EQ(top_k_sparsemax_forward(scores.data(), probs.data(), exact.get(), 7, cols, 3), 4);
      for (double alpha : {1.0, 1.2, 1.5, 2.0}) {
        EXPECT_EQ(entmax_forward(scores.data(), probs.data(), 7, cols, &alpha, 0), 4)
            << "alpha " << alpha;
      }
    }
  }
}

TEST_P(SimplexKernels, ARowsResultDoesNotDependOnItsNeighbours) {
  std::mt19937 generator(16);
  for (size_t cols : {6, 24, 100}) {
    const Case c{37, cols, 1.0, Case::kNormal};
    const auto scores = make_scores<float>(c, generator);
    for (double alpha : {1.5, 2.0}) {
      std::vector<float> together(scores.size()), alone(scores.size());
      const auto n = static_cast<int64_t>(cols);
      entmax_forward(scores.data(), together.data(), 37, n, &alpha, 0);
      for (size_t r = 0; r < 37; ++r)
        entmax_forward(&scores[r * cols], &alone[r * cols], 1, n, &alpha, 0);
      EXPECT_EQ(together, alone) << cols << " columns, alpha " << alpha;
    }
  }
}

TEST_P(SimplexKernels, ExtremeScoresStayOnTheSimplex) {
  const float huge = std::numeric_limits<float>::max();
  const std::vector<float> scores = {huge, -huge, huge, 0, -std::numeric_limits<float>::infinity(),
                                     1};
  for (size_t cols : {size_t{6}, size_t{48}}) {
    std::vector<float> row(cols, -huge), probs(cols);
    std::copy(scores.begin(), scores.end(), row.begin());
    for (double alpha : {1.0, 1.2, 1.5, 2.0, 3.0}) {
      ASSERT_EQ(entmax_forward(row.data(), probs.data(), 1, static_cast<int64_t>(cols), &alpha, 0),
                -1);
      EXPECT_NEAR(probs[0], 0.5, 1e-6) << "alpha " << alpha;
      EXPECT_NEAR(probs[2], 0.5, 1e-6) << "alpha " << alpha;
      EXPECT_EQ(probs[1], 0);
    }
  }
}

}  // namespace
}  // namespace sparsum::kernels
