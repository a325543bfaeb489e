// The fused linear map and cross-entropy against a slow reference, on every SIMD target of this
// machine.

#include <gtest/gtest.h>
#include <sparsum/kernels/linear_cross_entropy.h>
#include <sparsum/kernels/targets.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace sparsum::kernels {
namespace {

using Real = long double;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Random problems. Values are those of floats, so that float and double solve the same ones.
struct Problem {
  size_t pairs, positions, features, classes;
  std::vector<double> x, weight, bias, pair_weights;
  std::vector<int64_t> targets, rows;

  Problem(size_t n, size_t p, size_t f, size_t c, double weight_size, double bias_size,
          unsigned seed)
      : pairs(n), positions(p), features(f), classes(c) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<double>& values, size_t size, double deviation) {
      values.resize(size);
      for (double& v : values) v = static_cast<float>(deviation) * normal(generator);
    };
    fill(x, n * p * f, 1);
    fill(weight, c * f, weight_size);
    fill(bias, c, bias_size);
    fill(pair_weights, n, 1);
    const size_t target_rows = n + 2;
    targets.resize(target_rows * p);
    for (int64_t& y : targets) y = static_cast<int64_t>(generator() % c);
    rows.resize(n);
    for (int64_t& row : rows) row = static_cast<int64_t>(generator() % target_rows);
  }

  LinearCrossEntropyShape shape() const {
    return {static_cast<int64_t>(positions), static_cast<int64_t>(features),
            static_cast<int64_t>(classes)};
  }
};

// What the kernel returns, or what it should.
template <typename T>
struct Result {
  std::vector<T> nll, x, weight, bias;

  Result(const Problem& p, bool per_pair)
      : nll(p.pairs, T{-7}),
        x(p.x.size(), T{-7}),
        weight(p.weight.size() * (per_pair ? p.pairs : 1), T{-7}),
        bias(p.bias.size() * (per_pair ? p.pairs : 1), T{-7}) {}
};

struct Expected {
  Result<Real> values;
  // The sums of the absolute values of the terms that each gradient adds up.
  Result<Real> sizes;
  // The largest Σ|terms| of a score.
  Real score_size = 0;
};

/// By definition, position by position; gradients per pair, times the pair's weight.
Expected solve(const Problem& p) {
  Expected e{Result<Real>(p, true), Result<Real>(p, true)};
  for (auto* values : {&e.values, &e.sizes}) {
    for (auto* v : {&values->nll, &values->x, &values->weight, &values->bias})
      std::fill(v->begin(), v->end(), Real{0});
  }
  std::vector<Real> score(p.classes);
  for (size_t i = 0; i < p.pairs; ++i) {
    const Real g = p.pair_weights[i];
    for (size_t q = 0; q < p.positions; ++q) {
      const size_t at = (i * p.positions + q) * p.features;
      const auto y =
          static_cast<size_t>(p.targets[static_cast<size_t>(p.rows[i]) * p.positions + q]);
      Real max = -kInfinity;
      for (size_t c = 0; c < p.classes; ++c) {
        Real l = p.bias[c], size = std::abs(l);
        for (size_t f = 0; f < p.features; ++f) {
          const Real term = Real{p.weight[c * p.features + f]} * p.x[at + f];
          l += term;
          size += std::abs(term);
        }
        score[c] = l;
        max = std::max(max, l);
        if (std::isfinite(size)) e.score_size = std::max(e.score_size, size);
      }
      Real sum = 0;
      for (size_t c = 0; c < p.classes; ++c) sum += std::exp(score[c] - max);
      e.values.nll[i] += std::log(sum) + (max - score[y]);
      for (size_t c = 0; c < p.classes; ++c) {
        const Real probability = std::exp(score[c] - max) / sum;
        const Real target = c == y ? 1 : 0;
        const Real d = g * (probability - target), size = std::abs(g) * (probability + target);
        e.values.bias[i * p.classes + c] += d;
        e.sizes.bias[i * p.classes + c] += size;
        for (size_t f = 0; f < p.features; ++f) {
          const size_t w = c * p.features + f;
          e.values.weight[i * p.weight.size() + w] += d * p.x[at + f];
          e.sizes.weight[i * p.weight.size() + w] += size * std::abs(p.x[at + f]);
          e.values.x[at + f] += d * p.weight[w];
          e.sizes.x[at + f] += size * std::abs(Real{p.weight[w]});
        }
      }
    }
  }
  return e;
}

template <typename T>
class Kernel {
 public:
  explicit Kernel(const Problem& p)
      : shape_(p.shape()),
        pairs_(static_cast<int64_t>(p.pairs)),
        x_(p.x.begin(), p.x.end()),
        weight_(p.weight.begin(), p.weight.end()),
        bias_(p.bias.begin(), p.bias.end()),
        pair_weights_(p.pair_weights.begin(), p.pair_weights.end()),
        inputs_{x_.data(), weight_.data(), bias_.data(), p.targets.data(), p.rows.data()} {}

  void forward(std::vector<T>& nll) { forward(nll, 0, pairs_); }
  void forward(std::vector<T>& nll, int64_t begin, int64_t end) {
    linear_cross_entropy_forward(shape_, inputs_, begin, end, nll.data());
  }

  void gradients(Result<T>& out, bool per_pair) { gradients(out, per_pair, 0, pairs_); }
  void gradients(Result<T>& out, bool per_pair, int64_t begin, int64_t end) {
    linear_cross_entropy_gradients(
        shape_, inputs_,
        {pair_weights_.data(), out.x.data(), out.weight.data(), out.bias.data(), per_pair}, begin,
        end, out.nll.data());
  }

  LinearCrossEntropyShape shape_;
  int64_t pairs_;
  std::vector<T> x_, weight_, bias_, pair_weights_;
  LinearCrossEntropyInputs<T> inputs_;
};

template <typename T>
void expect_near(const std::vector<T>& actual, const std::vector<Real>& expected,
                 const std::vector<Real>& sizes, Real relative, const char* what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], relative * sizes[i] + 1e-30) << what << ", element " << i;
  }
}

/// Sums over the pairs.
std::vector<Real> total(const std::vector<Real>& per_pair, size_t pairs) {
  std::vector<Real> sum(per_pair.size() / pairs);
  for (size_t i = 0; i < per_pair.size(); ++i) sum[i % sum.size()] += per_pair[i];
  return sum;
}

template <typename T>
void check(const Problem& p, const Expected& e) {
  SCOPED_TRACE(testing::Message() << p.positions << " positions, " << p.features << " features, "
                                  << p.classes << " classes, scores to " << e.score_size
                                  << (std::is_same_v<T, float> ? ", float" : ", double"));
  // Scores round in proportion to their size, and an error of a score is a relative error of its
  // exponential.
  const Real epsilon = std::numeric_limits<T>::epsilon();
  const Real relative = epsilon * (4 + 2 * e.score_size);
  std::vector<Real> nll_sizes = e.values.nll;
  for (Real& size : nll_sizes) size += static_cast<Real>(p.positions);

  Kernel<T> kernel(p);
  Result<T> out(p, true);
  kernel.gradients(out, true);
  expect_near(out.nll, e.values.nll, nll_sizes, relative, "nll");
  expect_near(out.x, e.values.x, e.sizes.x, relative, "features");
  expect_near(out.weight, e.values.weight, e.sizes.weight, relative, "weight");
  expect_near(out.bias, e.values.bias, e.sizes.bias, relative, "bias");

  std::vector<T> nll(p.pairs, T{-7});
  kernel.forward(nll);
  EXPECT_EQ(nll, out.nll);

  Result<T> sums(p, false);
  kernel.gradients(sums, false);
  EXPECT_EQ(sums.nll, out.nll);
  EXPECT_EQ(sums.x, out.x);
  expect_near(sums.weight, total(e.values.weight, p.pairs), total(e.sizes.weight, p.pairs),
              relative, "summed weight");
  expect_near(sums.bias, total(e.values.bias, p.pairs), total(e.sizes.bias, p.pairs), relative,
              "summed bias");
}

class LinearCrossEntropyKernel : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(force_target(GetParam())); }
  void TearDown() override { force_target(""); }
};

INSTANTIATE_TEST_SUITE_P(Targets, LinearCrossEntropyKernel, testing::ValuesIn(available_targets()),
                         [](const auto& test) { return test.param; });

struct Solved {
  Problem problem;
  Expected expected;
  explicit Solved(Problem p) : problem(std::move(p)), expected(solve(problem)) {}
};

// Sizes around the vector widths, blocks and tiles; solved once for all targets.
const std::vector<Solved>& problems_of_all_sizes() {
  static const auto* const all = [] {
    auto* const problems = new std::vector<Solved>;
    unsigned seed = 1;
    for (size_t classes : {1, 2, 3, 10, 256, 257}) {
      for (size_t positions : {1, 2, 15, 16, 17, 49, 784}) {
        for (size_t features : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13}) {
          // The largest are slow to solve: two numbers of features for each.
          if (positions * classes > 100000 && features != 5 && features != 9) continue;
          const size_t pairs = positions > 100 ? 2 : 3;
          problems->emplace_back(Problem(pairs, positions, features, classes, 0.7, 1, ++seed));
        }
      }
    }
    problems->emplace_back(Problem(2, 40, 2, 5000, 1, 1, ++seed));
    problems->emplace_back(Problem(2, 20, 0, 7, 1, 1, ++seed));
    return problems;
  }();
  return *all;
}

TEST_P(LinearCrossEntropyKernel, AgreesWithTheDefinition) {
  for (const Solved& s : problems_of_all_sizes()) {
    check<float>(s.problem, s.expected);
    check<double>(s.problem, s.expected);
    if (HasFatalFailure()) return;
  }
}

TEST_P(LinearCrossEntropyKernel, ScoresOfAnySizeAreFine) {
  static const auto* const problems = [] {
    auto* const all = new std::vector<Solved>;
    unsigned seed = 1000;
    // From uniform to one-hot; the bound of the short cut, 62, and the largest exponent of a
    // float, 88, lie inside.
    for (double size : {0.0, 1e-30, 1e-3, 5.0, 12.0, 20.0, 25.0, 30.0, 60.0, 200.0, 1e4, 1e12}) {
      for (size_t features : {1, 5, 9}) {
        all->emplace_back(Problem(2, 37, features, 21, size, 0, ++seed));
        all->emplace_back(Problem(2, 37, features, 21, 0.1, size, ++seed));
      }
    }
    for (double shift : {-1e4, -100.0, -80.0, -50.0, 50.0, 80.0, 100.0, 1e4}) {
      Problem p(2, 37, 5, 10, 0.5, 1, ++seed);
      for (double& b : p.bias) b = static_cast<float>(b + shift);
      all->emplace_back(std::move(p));
    }
    {  // Some vectors take the short cut, some do not.
      Problem p(2, 200, 3, 10, 1, 1, ++seed);
      for (size_t i = 0; i < p.x.size(); i += 150) p.x[i] *= 100;
      all->emplace_back(std::move(p));
    }
    for (double tiny : {1e-20, 1e-38}) {
      Problem p(2, 37, 5, 10, 1, 40, ++seed);
      for (double& x : p.x) x = static_cast<float>(x * tiny);
      all->emplace_back(std::move(p));
    }
    {  // Huge weights that meet tiny features.
      Problem p(2, 37, 5, 10, 1e30, 30, ++seed);
      for (double& x : p.x) x = static_cast<float>(x * 1e-30);
      all->emplace_back(std::move(p));
    }
    return all;
  }();
  for (const Solved& s : *problems) {
    check<float>(s.problem, s.expected);
    check<double>(s.problem, s.expected);
    if (HasFatalFailure()) return;
  }
}

TEST_P(LinearCrossEntropyKernel, FloatIsWithinAMillionthForOrdinaryValues) {
  static const Solved s(Problem(2, 784, 5, 256, 0.5, 1, 77));
  Result<float> out(s.problem, true);
  Kernel<float>(s.problem).gradients(out, true);
  for (size_t i = 0; i < s.problem.pairs; ++i) {
    EXPECT_NEAR(out.nll[i] / s.expected.values.nll[i], 1, 3e-7);
  }
  const auto distance = [](const std::vector<float>& a, const std::vector<Real>& b) {
    Real difference = 0, norm = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      difference += (a[i] - b[i]) * (a[i] - b[i]);
      norm += b[i] * b[i];
    }
    return static_cast<double>(std::sqrt(difference / norm));
  };
  const double x = distance(out.x, s.expected.values.x);
  const double weight = distance(out.weight, s.expected.values.weight);
  const double bias = distance(out.bias, s.expected.values.bias);
  EXPECT_LT(x, 1e-6);
  EXPECT_LT(weight, 1e-6);
  EXPECT_LT(bias, 1e-6);
}

TEST_P(LinearCrossEntropyKernel, ConfidentPredictionsKeepTheirDigits) {
  // The target's score is 16 above the others': nll is 3e-7, far below the rounding of a score.
  for (double shift : {0.0, 30.0, 1000.0}) {
    Problem p(1, 20, 2, 4, 0, shift, 1);
    std::fill(p.bias.begin(), p.bias.end(), shift);
    p.bias[1] += 16;
    std::fill(p.targets.begin(), p.targets.end(), 1);
    std::vector<float> nll(1);
    Kernel<float>(p).forward(nll);
    // 1 + 3e-7 is a float or the next one.
    EXPECT_NEAR(nll[0], 20 * std::log1p(3 * std::exp(-16.0)), 20 * 2.4e-7) << shift;
  }
}

TEST_P(LinearCrossEntropyKernel, GradientsAreFiniteDifferences) {
  Problem p(3, 19, 4, 6, 1, 1, 5);
  Result<double> out(p, false);
  Kernel<double>(p).gradients(out, false);
  const auto loss = [&] {
    std::vector<double> nll(p.pairs);
    Kernel<double>(p).forward(nll);
    double sum = 0;
    for (size_t i = 0; i < p.pairs; ++i) sum += p.pair_weights[i] * nll[i];
    return sum;
  };
  const auto compare = [&](std::vector<double>& input, const std::vector<double>& gradient) {
    const double h = 1e-5;
    for (size_t i = 0; i < input.size(); ++i) {
      const double before = input[i];
      input[i] = before + h;
      const double above = loss();
      input[i] = before - h;
      const double below = loss();
      input[i] = before;
      ASSERT_NEAR(gradient[i], (above - below) / (2 * h), 1e-7) << i;
    }
  };
  compare(p.x, out.x);
  compare(p.weight, out.weight);
  compare(p.bias, out.bias);
}

template <typename T>
void check_ranges() {
  for (size_t features : {5, 9}) {
    const Problem p(5, 53, features, 11, 1, 1, 6);
    Kernel<T> kernel(p);
    Result<T> together(p, true), apart(p, true);
    std::vector<T> nll(p.pairs, T{-7});
    kernel.gradients(together, true);
    for (int64_t i = 0; i < 5; ++i) {
      Result<T> alone(p, true);
      kernel.gradients(alone, true, i, i + 1);
      kernel.gradients(apart, true, i, i + 1);
      // Nothing beside the pair is written.
      for (size_t j = 0; j < 5; ++j) {
        if (static_cast<int64_t>(j) == i) continue;
        EXPECT_EQ(alone.nll[j], -7);
        EXPECT_EQ(alone.x[j * 53 * features], -7);
        EXPECT_EQ(alone.x[(j + 1) * 53 * features - 1], -7);
        EXPECT_EQ(alone.weight[j * 11 * features], -7);
        EXPECT_EQ(alone.weight[(j + 1) * 11 * features - 1], -7);
        EXPECT_EQ(alone.bias[j * 11], -7);
        EXPECT_EQ(alone.bias[(j + 1) * 11 - 1], -7);
      }
    }
    kernel.forward(nll, 0, 2);
    kernel.forward(nll, 2, 5);
    EXPECT_EQ(nll, together.nll);
    EXPECT_EQ(apart.nll, together.nll);
    EXPECT_EQ(apart.x, together.x);
    EXPECT_EQ(apart.weight, together.weight);
    EXPECT_EQ(apart.bias, together.bias);
  }
}

TEST_P(LinearCrossEntropyKernel, APairsResultDoesNotDependOnTheRange) {
  check_ranges<float>();
  check_ranges<double>();
}

template <typename T>
void check_optional() {
  Problem p(3, 20, 5, 7, 1, 1, 8);
  std::fill(p.pair_weights.begin(), p.pair_weights.end(), 1);
  for (size_t i = 0; i < 3; ++i) p.rows[i] = static_cast<int64_t>(i);
  Kernel<T> kernel(p);
  Result<T> all(p, true), some(p, true);
  kernel.gradients(all, true);
  kernel.inputs_.rows = nullptr;
  linear_cross_entropy_gradients(kernel.shape_, kernel.inputs_,
                                 {nullptr, some.x.data(), nullptr, nullptr, true}, 0, 3,
                                 static_cast<T*>(nullptr));
  linear_cross_entropy_gradients(kernel.shape_, kernel.inputs_,
                                 {nullptr, nullptr, some.weight.data(), some.bias.data(), true}, 0,
                                 3, some.nll.data());
  EXPECT_EQ(some.nll, all.nll);
  EXPECT_EQ(some.x, all.x);
  EXPECT_EQ(some.weight, all.weight);
  EXPECT_EQ(some.bias, all.bias);
}

TEST_P(LinearCrossEntropyKernel, OutputsRowsAndPairWeightsAreOptional) {
  check_optional<float>();
  check_optional<double>();
}

template <typename T>
void check_empty() {
  const Problem p(2, 20, 3, 7, 1, 1, 9);
  Kernel<T> kernel(p);
  Result<T> none(p, false);
  kernel.gradients(none, false, 1, 1);
  EXPECT_EQ(none.nll, std::vector<T>(2, T{-7}));
  EXPECT_EQ(none.weight, std::vector<T>(21));
  EXPECT_EQ(none.bias, std::vector<T>(7));

  kernel.shape_.positions = 0;
  for (bool per_pair : {false, true}) {
    Result<T> out(p, per_pair);
    kernel.gradients(out, per_pair);
    EXPECT_EQ(out.nll, std::vector<T>(2));
    EXPECT_EQ(out.weight, std::vector<T>(per_pair ? 42 : 21));
    EXPECT_EQ(out.bias, std::vector<T>(per_pair ? 14 : 7));
  }
}

TEST_P(LinearCrossEntropyKernel, NothingSumsToZero) {
  check_empty<float>();
  check_empty<double>();
}

template <typename T>
void check_illegal() {
  for (size_t features : {2, 9}) {
    for (double bad : {kNan, kInfinity, -kInfinity}) {
      // In a whole vector of positions and in the last, partial one.
      for (size_t position : {3, 34}) {
        Problem p(3, 35, features, 6, 1, 1, 10);
        Result<T> fine(p, true), out(p, true);
        Kernel<T>(p).gradients(fine, true);
        p.x[(35 + position) * features + 1] = bad;
        Kernel<T>(p).gradients(out, true);
        std::vector<T> nll(3);
        Kernel<T>(p).forward(nll);
        for (size_t i = 0; i < 3; ++i) {
          EXPECT_EQ(std::isnan(out.nll[i]), i == 1) << bad;
          EXPECT_EQ(std::isnan(nll[i]), i == 1) << bad;
          for (size_t j = 0; j < 6 * features; ++j) {
            ASSERT_EQ(std::isnan(out.weight[i * 6 * features + j]), i == 1) << bad;
          }
          for (size_t j = 0; j < 6; ++j) ASSERT_EQ(std::isnan(out.bias[i * 6 + j]), i == 1);
        }
        for (size_t j = 0; j < out.x.size(); ++j) {
          const bool here = j / features == 35 + position;
          ASSERT_EQ(std::isnan(out.x[j]), here) << bad << ", position " << j / features;
          // The neighbours may have left the short cut.
          if (!here) {
            ASSERT_NEAR(out.x[j], fine.x[j], 1e-5 * (1 + std::abs(fine.x[j])));
          }
        }
      }
    }
  }
  for (double bad : {kNan, kInfinity}) {
    Problem p(1, 5, 2, 6, 1, 1, 11);
    p.bias[4] = bad;
    std::vector<T> nll(1);
    Kernel<T>(p).forward(nll);
    EXPECT_TRUE(std::isnan(nll[0])) << bad;
    p.bias[4] = 0;
    p.weight[4] = bad;
    Kernel<T>(p).forward(nll);
    EXPECT_TRUE(std::isnan(nll[0])) << bad;
  }
  Problem p(1, 5, 2, 6, 1, 1, 11);
  std::fill(p.bias.begin(), p.bias.end(), -kInfinity);
  std::vector<T> nll(1);
  Kernel<T>(p).forward(nll);
  EXPECT_TRUE(std::isnan(nll[0]));
}

TEST_P(LinearCrossEntropyKernel, IllegalScoresGiveNan) {
  check_illegal<float>();
  check_illegal<double>();
}

template <typename T>
void check_forbidden() {
  // Class 2 of 5 is forbidden: as if there were 4 classes.
  Problem p(2, 21, 3, 5, 1, 1, 12);
  p.bias[2] = -kInfinity;
  for (int64_t& y : p.targets) y = y == 2 ? 0 : y;
  Problem less(2, 21, 3, 4, 1, 1, 12);
  less.x = p.x;
  less.weight = p.weight;
  less.weight.erase(less.weight.begin() + 6, less.weight.begin() + 9);
  less.bias = p.bias;
  less.bias.erase(less.bias.begin() + 2);
  less.pair_weights = p.pair_weights;
  less.rows = p.rows;
  less.targets = p.targets;
  for (int64_t& y : less.targets) y -= y > 2 ? 1 : 0;
  Result<T> out(p, true), expected(less, true);
  Kernel<T>(p).gradients(out, true);
  Kernel<T>(less).gradients(expected, true);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(out.nll[i], expected.nll[i], 1e-5 * expected.nll[i]);
    EXPECT_EQ(out.bias[i * 5 + 2], 0);
    EXPECT_NEAR(out.bias[i * 5 + 3], expected.bias[i * 4 + 2], 1e-5);
    for (size_t f = 0; f < 3; ++f) {
      EXPECT_EQ(out.weight[(i * 5 + 2) * 3 + f], 0);
      EXPECT_NEAR(out.weight[(i * 5 + 3) * 3 + f], expected.weight[(i * 4 + 2) * 3 + f], 1e-5);
    }
  }
  for (size_t j = 0; j < out.x.size(); ++j) EXPECT_NEAR(out.x[j], expected.x[j], 1e-5);

  std::fill(p.targets.begin(), p.targets.end(), 2);
  std::vector<T> nll(2);
  Kernel<T>(p).forward(nll);
  EXPECT_EQ(nll, std::vector<T>(2, std::numeric_limits<T>::infinity()));
}

TEST_P(LinearCrossEntropyKernel, AnInfinitelyNegativeBiasForbidsAClass) {
  check_forbidden<float>();
  check_forbidden<double>();
}

}  // namespace
}  // namespace sparsum::kernels
