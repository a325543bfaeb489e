// The perceptron of one number against its definition in long double, on every SIMD target of this
// machine, with the grid and without.

#include <gtest/gtest.h>
#include <sparsum/kernels/scalar_perceptron.h>
#include <sparsum/kernels/targets.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

namespace sparsum::kernels {
namespace {

using Real = long double;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// In one range, or in ranges of `size`, last first.
InRanges ranges_of(int64_t size) {
  return [size](int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& f) {
    if (count == 0) return;
    if (size == 0) return f(0, count);
    for (int64_t begin = (count - 1) / size * size; begin >= 0; begin -= size) {
      f(begin, std::min(count, begin + size));
    }
  };
}
const InRanges kAtOnce = ranges_of(0);

// Random problems. Values are those of floats, so that float and double solve the same ones.
struct Problem {
  std::vector<double> e, u, w, c;

  Problem(size_t n, size_t hidden, double e_size, double u_size, unsigned seed, double e_mean = 0) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<double>& values, size_t size, double deviation, double mean) {
      values.resize(size);
      for (double& v : values) v = static_cast<float>(deviation * normal(generator) + mean);
    };
    fill(e, n, e_size, e_mean);
    fill(u, hidden, u_size, 0);
    fill(w, hidden, 1, 0);
    fill(c, n, 1, 0);
  }
};

template <typename T>
struct Result {
  std::vector<T> y, derivatives, slopes, by_u, by_w;

  explicit Result(const Problem& p)
      : y(p.e.size(), T{-7}),
        derivatives(p.e.size(), T{-7}),
        slopes(p.e.size(), T{-7}),
        by_u(p.u.size(), T{-7}),
        by_w(p.u.size(), T{-7}) {}
  bool operator==(const Result&) const = default;
};

template <typename T>
struct Kernel {
  explicit Kernel(const Problem& p)
      : e(p.e.begin(), p.e.end()),
        u(p.u.begin(), p.u.end()),
        w(p.w.begin(), p.w.end()),
        c(p.c.begin(), p.c.end()),
        out(p) {}

  ScalarPerceptronInputs<T> inputs() const {
    return {e.data(), static_cast<int64_t>(e.size()), u.data(), w.data(),
            static_cast<int64_t>(u.size())};
  }
  Result<T> run(const InRanges& in_ranges = kAtOnce) {
    scalar_perceptron_forward(inputs(), in_ranges, out.y.data(), out.derivatives.data(),
                              out.slopes.data());
    scalar_perceptron_parameters(inputs(), c.data(), in_ranges, out.by_u.data(), out.by_w.data());
    return out;
  }
  bool interpolates() const {
    if constexpr (std::is_same_v<T, float>) return scalar_perceptron_interpolates(inputs());
    return false;
  }

  std::vector<T> e, u, w, c;
  Result<T> out;
};

Real sigmoid(Real x) { return 1 / (1 + std::exp(-x)); }

/// By definition; and what each value's roundings are in proportion to.
struct Solved {
  Problem problem;
  Result<Real> values, sizes;

  explicit Solved(const Problem& p) : problem(p), values(p), sizes(p) {
    for (auto* result : {&values, &sizes}) {
      std::fill(result->by_u.begin(), result->by_u.end(), Real{0});
      std::fill(result->by_w.begin(), result->by_w.end(), Real{0});
    }
    for (size_t i = 0; i < p.e.size(); ++i) {
      Real a = 0, a_size = 0, slope = 0, slope_size = 0;
      for (size_t j = 0; j < p.u.size(); ++j) {
        const Real z = Real{p.u[j]} * p.e[i], w = p.w[j];
        const Real s = sigmoid(z), derivative = s * sigmoid(-z);
        // z rounds in proportion to its size, and an error of z is a relative one far out.
        const Real spread = 1 + std::abs(z);
        a += w * s;
        a_size += std::abs(w) * (s + spread * derivative);
        slope += w * p.u[j] * derivative;
        slope_size += std::abs(w * p.u[j]) * derivative * spread;
        const Real by_w = p.c[i] * s, by_u = p.c[i] * w * p.e[i] * derivative;
        values.by_w[j] += by_w;
        sizes.by_w[j] += std::abs(p.c[i]) * (s + spread * derivative);
        values.by_u[j] += by_u;
        sizes.by_u[j] += std::abs(by_u) * spread;
      }
      values.y[i] = sigmoid(a);
      values.derivatives[i] = sigmoid(a) * sigmoid(-a);
      values.slopes[i] = slope;
      sizes.derivatives[i] = values.derivatives[i] * (1 + a_size);
      sizes.y[i] = values.y[i] + sizes.derivatives[i];
      sizes.slopes[i] = slope_size;
    }
  }
};

template <typename T>
void expect_near(const std::vector<T>& actual, const std::vector<Real>& expected,
                 const std::vector<Real>& sizes, Real relative, const char* what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], relative * sizes[i] + 1e-34) << what << ", element " << i;
  }
}

template <typename T>
void check(const Solved& s) {
  Kernel<T> kernel(s.problem);
  SCOPED_TRACE(testing::Message() << s.problem.e.size() << " numbers, " << s.problem.u.size()
                                  << " hidden"
                                  << (std::is_same_v<T, float> ? ", float" : ", double")
                                  << (kernel.interpolates() ? ", grid" : ""));
  const Result<T> out = kernel.run();
  const Real relative = 4 * std::numeric_limits<T>::epsilon();
  expect_near(out.y, s.values.y, s.sizes.y, relative, "y");
  expect_near(out.derivatives, s.values.derivatives, s.sizes.derivatives, relative, "derivatives");
  expect_near(out.slopes, s.values.slopes, s.sizes.slopes, relative, "slopes");
  expect_near(out.by_u, s.values.by_u, s.sizes.by_u, relative, "u");
  expect_near(out.by_w, s.values.by_w, s.sizes.by_w, relative, "w");

  std::vector<T> y(s.problem.e.size(), T{-7});
  scalar_perceptron_forward(kernel.inputs(), kAtOnce, y.data(), static_cast<T*>(nullptr),
                            static_cast<T*>(nullptr));
  EXPECT_EQ(y, out.y);
}

class ScalarPerceptronKernel : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(force_target(GetParam())); }
  void TearDown() override { force_target(""); }
};

INSTANTIATE_TEST_SUITE_P(Targets, ScalarPerceptronKernel, testing::ValuesIn(available_targets()),
                         [](const auto& test) { return test.param; });

void check_all(const std::vector<Solved>& problems) {
  for (const Solved& s : problems) {
    check<float>(s);
    check<double>(s);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST_P(ScalarPerceptronKernel, AgreesWithTheDefinition) {
  // Sizes around the vector widths and blocks; solved once for all targets.
  static const std::vector<Solved> problems = [] {
    std::vector<Solved> all;
    unsigned seed = 0;
    for (size_t n : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129, 1000}) {
      for (size_t hidden : {1, 2, 17, 32, 33, 100}) {
        all.emplace_back(Problem(n, hidden, 1, 1, ++seed));
      }
    }
    all.emplace_back(Problem(10000, 20, 1, 1, ++seed));
    all.emplace_back(Problem(10000, 512, 0.1, 1, ++seed));
    return all;
  }();
  check_all(problems);
}

TEST_P(ScalarPerceptronKernel, AnyRangeOfNumbers) {
  static const std::vector<Solved> problems = [] {
    std::vector<Solved> all;
    unsigned seed = 1000;
    for (double size : {0.0, 1e-30, 1e-3, 0.1, 1.0, 5.0, 30.0, 200.0, 1e4, 1e12, 1e30}) {
      all.emplace_back(Problem(1200, 40, size, 1, ++seed));
      all.emplace_back(Problem(1200, 40, 1, size, ++seed));
      all.emplace_back(Problem(1200, 40, size, size == 0 ? 0 : 1 / size, ++seed));
      all.emplace_back(Problem(20, 40, size, 1, ++seed));
    }
    // Far from zero, on one side and the other; σ is all but saturated, or all but 0.
    for (double mean : {-90.0, -60.0, -20.0, -5.0, 5.0, 20.0, 60.0, 90.0}) {
      for (double w : {0.0, 1.0}) {
        Problem p(1200, 40, 0.5, 0.1, ++seed, mean);
        for (double& u : p.u) u = static_cast<float>(1 + w * u);
        all.emplace_back(p);
      }
    }
    // One large factor makes the cells narrow for all.
    Problem p(2000, 40, 1, 0.01, ++seed);
    p.u[7] = 30;
    all.emplace_back(p);
    return all;
  }();
  check_all(problems);
}

TEST_P(ScalarPerceptronKernel, TheGridIsUsedWhereItPays) {
  const auto interpolates = [](const Problem& p) { return Kernel<float>(p).interpolates(); };
  EXPECT_TRUE(interpolates(Problem(16384, 512, 1, 1, 1)));
  EXPECT_TRUE(interpolates(Problem(64, 512, 0.1, 1, 1)));
  EXPECT_TRUE(interpolates(Problem(1200, 40, 1e-30, 1, 1)));
  EXPECT_TRUE(interpolates(Problem(1200, 40, 1e12, 1e-12, 1)));
  EXPECT_TRUE(interpolates(Problem(1200, 40, 1, 0, 1)));
  EXPECT_FALSE(interpolates(Problem(16384, 512, 1e4, 1, 1)));
  EXPECT_FALSE(interpolates(Problem(8, 512, 0.1, 1, 1)));
  EXPECT_FALSE(interpolates(Problem(16384, 8, 0.1, 1, 1)));
}

TEST_P(ScalarPerceptronKernel, EdgesOfCells) {
  // Between cells, at and beside the middle and the ends.
  Problem p(0, 64, 1, 1, 5);
  p.u[0] = 1;
  for (double& u : p.u) u = std::clamp(u, -1.0, 1.0);
  for (int i = -40; i <= 40; ++i) {
    for (int j = 0; j < 4; ++j) {
      const auto e = static_cast<float>(i) / 8;
      for (const float each : {std::nextafter(e, -100.0f), e, std::nextafter(e, 100.0f)}) {
        p.e.push_back(each);
        p.c.push_back(j - 1.5 + i / 64.0);
      }
    }
  }
  ASSERT_TRUE(Kernel<float>(p).interpolates());
  const Solved solved(p);
  check<float>(solved);
}

TEST_P(ScalarPerceptronKernel, ANumbersResultDoesNotDependOnTheOthers) {
  // As long as there is a grid: its cells have fixed places.
  const Problem p(3000, 64, 2, 1, 6);
  Kernel<float> all(p);
  all.run();
  Problem half = p;
  half.e.resize(1500);
  half.c.resize(1500);
  half.e[3] = 0;
  Kernel<float> some(half);
  some.run();
  ASSERT_TRUE(all.interpolates() && some.interpolates());
  for (size_t i = 0; i < 1500; ++i) {
    if (i == 3) continue;
    ASSERT_EQ(some.out.y[i], all.out.y[i]);
    ASSERT_EQ(some.out.slopes[i], all.out.slopes[i]);
  }
}

template <typename T>
void check_ranges() {
  for (const auto& p : {Problem(5001, 70, 1, 1, 7), Problem(5001, 70, 1e4, 1, 8),
                        Problem(300, 70, 0.1, 1, 9), Problem(5, 70, 1, 1, 10)}) {
    Kernel<T> kernel(p);
    const Result<T> whole = kernel.run();
    for (int64_t size : {1, 3, 64, 1000}) {
      EXPECT_TRUE(Kernel<T>(p).run(ranges_of(size)) == whole) << size;
    }
  }
}

TEST_P(ScalarPerceptronKernel, RangesDoNotMatter) {
  check_ranges<float>();
  check_ranges<double>();
}

TEST_P(ScalarPerceptronKernel, ManyNumbersSumToTheirDigits) {
  // All of one sign: what sums of floats lose would show.
  Problem p(200000, 20, 0.2, 1, 11);
  for (double& c : p.c) c = 1 + std::abs(c);
  ASSERT_TRUE(Kernel<float>(p).interpolates());
  const Result<float> out = Kernel<float>(p).run();
  const Result<double> wide = Kernel<double>(p).run();
  for (size_t j = 0; j < 20; ++j) {
    EXPECT_NEAR(out.by_w[j] / wide.by_w[j], 1, 1e-6);
  }
}

TEST_P(ScalarPerceptronKernel, GradientsAreFiniteDifferences) {
  Problem p(7, 5, 1, 1, 12);
  const Result<double> out = Kernel<double>(p).run();
  const auto a = [&](const Problem& at) {
    std::vector<double> all(at.e.size());
    Kernel<double> kernel(at);
    kernel.run();
    for (size_t i = 0; i < all.size(); ++i) {
      all[i] = std::log(kernel.out.y[i] / (1 - kernel.out.y[i]));
    }
    return all;
  };
  const double h = 1e-5;
  const auto difference = [&](std::vector<double> Problem::*of, size_t at) {
    Problem above = p, below = p;
    (above.*of)[at] += h;
    (below.*of)[at] -= h;
    std::vector<double> high = a(above);
    const std::vector<double> low = a(below);
    for (size_t i = 0; i < high.size(); ++i) high[i] = (high[i] - low[i]) / (2 * h);
    return high;
  };
  for (size_t i = 0; i < 7; ++i) EXPECT_NEAR(out.slopes[i], difference(&Problem::e, i)[i], 1e-8);
  for (size_t j = 0; j < 5; ++j) {
    double by_u = 0, by_w = 0;
    for (size_t i = 0; i < 7; ++i) {
      by_u += p.c[i] * difference(&Problem::u, j)[i];
      by_w += p.c[i] * difference(&Problem::w, j)[i];
    }
    EXPECT_NEAR(out.by_u[j], by_u, 1e-7);
    EXPECT_NEAR(out.by_w[j], by_w, 1e-7);
  }
}

template <typename T>
void check_illegal() {
  for (size_t n : {40, 2000}) {
    const Problem good(n, 50, 1, 1, 13);
    {
      Problem p = good;
      p.e[21] = kNan;
      const Result<T> out = Kernel<T>(p).run();
      for (size_t i = 0; i < n; ++i) {
        ASSERT_EQ(std::isnan(out.y[i]), i == 21);
        ASSERT_EQ(std::isnan(out.derivatives[i]), i == 21);
        ASSERT_EQ(std::isnan(out.slopes[i]), i == 21);
      }
      for (size_t j = 0; j < 50; ++j)
        ASSERT_TRUE(std::isnan(out.by_u[j]) && std::isnan(out.by_w[j]));
    }
    for (auto of : {&Problem::u, &Problem::w}) {
      Problem p = good;
      (p.*of)[3] = kNan;
      const Result<T> out = Kernel<T>(p).run();
      for (size_t i = 0; i < n; ++i) {
        ASSERT_TRUE(std::isnan(out.y[i]) && std::isnan(out.slopes[i]));
      }
      ASSERT_TRUE(std::isnan(out.by_u[3]));
      ASSERT_FALSE(std::isnan(out.by_u[4]) || std::isnan(out.by_w[4]));
    }
    {
      Problem p = good;
      p.c[5] = kNan;
      const Result<T> out = Kernel<T>(p).run();
      for (size_t j = 0; j < 50; ++j)
        ASSERT_TRUE(std::isnan(out.by_u[j]) && std::isnan(out.by_w[j]));
    }
    // σ is 0 or 1 there, and flat.
    for (const double infinite : {kInfinity, -kInfinity}) {
      Problem p = good;
      p.e[21] = infinite;
      const Result<T> out = Kernel<T>(p).run();
      Real a = 0;
      for (size_t j = 0; j < 50; ++j) a += p.u[j] * infinite > 0 ? p.w[j] : 0;
      EXPECT_NEAR(out.y[21], sigmoid(a), 1e-6);
      EXPECT_EQ(out.slopes[21], 0);
      EXPECT_FALSE(std::isnan(out.y[20]));
      p.u[3] = 0;  // 0·∞
      EXPECT_TRUE(std::isnan(Kernel<T>(p).run().y[21]));
    }
    {
      Problem p = good;
      p.w[3] = kInfinity;
      for (const T y : Kernel<T>(p).run().y) ASSERT_EQ(y, 1);
      p.w[4] = -kInfinity;
      for (const T y : Kernel<T>(p).run().y) ASSERT_TRUE(std::isnan(y));
    }
    {  // Sums that overflow.
      Problem p = good;
      for (double& w : p.w) w = std::numeric_limits<T>::max();
      for (const T y : Kernel<T>(p).run().y) ASSERT_EQ(y, 1);
    }
  }
}

TEST_P(ScalarPerceptronKernel, WhatIsNotFinite) {
  check_illegal<float>();
  check_illegal<double>();
}

template <typename T>
void check_empty() {
  Kernel<T> kernel(Problem(0, 5, 1, 1, 14));
  kernel.run();
  EXPECT_EQ(kernel.out.by_u, std::vector<T>(5));
  EXPECT_EQ(kernel.out.by_w, std::vector<T>(5));
}

TEST_P(ScalarPerceptronKernel, NothingSumsToZero) {
  check_empty<float>();
  check_empty<double>();
}

TEST_P(ScalarPerceptronKernel, SigmoidsInFloatAreWithinAMillionth) {
  // Of one number, 1, the sums are σ(u) and σ'(u).
  Problem p(1, 20001, 0, 0, 16, 1);
  p.c[0] = 1;
  for (size_t j = 0; j < p.u.size(); ++j) {
    p.u[j] = static_cast<float>((static_cast<double>(j) - 10000) * 0.0086);
    p.w[j] = 1;
  }
  const Result<float> out = Kernel<float>(p).run();
  double worst = 0;
  for (size_t j = 0; j < p.u.size(); ++j) {
    const Real value = sigmoid(p.u[j]), derivative = value * sigmoid(-p.u[j]);
    worst = std::max(worst, static_cast<double>(std::abs(out.by_w[j] / value - 1)));
    worst = std::max(worst, static_cast<double>(std::abs(out.by_u[j] / derivative - 1)));
  }
  EXPECT_LT(worst, 5e-7);
}

TEST_P(ScalarPerceptronKernel, SaturatedOutputsKeepTheDigitsOfTheirDerivatives) {
  for (double weight : {-80.0, -20.0, 20.0, 80.0}) {
    Problem p(40, 1, 0, 1, 15);
    p.w[0] = 2 * weight;  // a = weight
    const Result<float> out = Kernel<float>(p).run();
    const Real expected = sigmoid(weight) * sigmoid(-weight);
    const Real close = 2e-7 * (1 + std::abs(weight));  // of the size of a
    for (const float d : out.derivatives) EXPECT_NEAR(d / expected, 1, close) << weight;
    if (weight < 0) {
      for (const float y : out.y) EXPECT_NEAR(y / sigmoid(weight), 1, close) << weight;
    }
  }
}

}  // namespace
}  // namespace sparsum::kernels
