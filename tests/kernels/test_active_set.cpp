// The active-set solver against certificates that do not come from it: the duality gap found by
// enumerating the set, closed forms of the marginals, and the QP's linear system solved by
// elimination, all in long double. On every SIMD target of this machine.

#include "tests/oracle/bits.h"

#include <gtest/gtest.h>
#include <sparsum/kernels/active_set.h>
#include <sparsum/kernels/targets.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace sparsum::kernels {
namespace {

using oracle::all_bits;
using Real = long double;
using Bytes = std::vector<uint8_t>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class ActiveSetKernel : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(force_target(GetParam())); }
  void TearDown() override { force_target(""); }
};

INSTANTIATE_TEST_SUITE_P(Targets, ActiveSetKernel, testing::ValuesIn(available_targets()),
                         [](const auto& test) { return test.param; });

// ---- Sets ------------------------------------------------------------------------------------

// A set given by all its members.
class Enumerated : public MapOracle {
 public:
  explicit Enumerated(std::vector<Bytes> members) : members_(std::move(members)) {}

  void best(const double* scores, uint8_t* configuration) override {
    const Bytes* found = nullptr;
    Real most = 0;
    for (const Bytes& z : members_) {
      const Real v = value(z, scores);
      if (found == nullptr || v > most) {
        found = &z;
        most = v;
      }
    }
    std::copy(found->begin(), found->end(), configuration);
  }

  const std::vector<Bytes>& members() const { return members_; }

  template <typename T>
  static Real value(const Bytes& z, const T* scores) {
    Real total = 0;
    for (size_t i = 0; i < z.size(); ++i)
      if (z[i]) total += scores[i];
    return total;
  }

 private:
  std::vector<Bytes> members_;
};

bool no_neighbours(const Bytes& z) {
  for (size_t i = 1; i < z.size(); ++i)
    if (z[i] && z[i - 1]) return false;
  return true;
}

// No two neighbouring bits on, by dynamic programming.
class NoNeighbours : public MapOracle {
 public:
  explicit NoNeighbours(size_t bits) : bits_(bits) {}
  void best(const double* scores, uint8_t* configuration) override {
    std::vector<double> from(bits_ + 2, 0.0);  // the best value of the bits i, i + 1, …
    for (size_t i = bits_; i-- > 0;) from[i] = std::max(from[i + 1], scores[i] + from[i + 2]);
    std::fill_n(configuration, bits_, uint8_t{0});
    for (size_t i = 0; i < bits_;) {
      if (scores[i] + from[i + 2] > from[i + 1]) {
        configuration[i] = 1;
        i += 2;
      } else {
        ++i;
      }
    }
  }

 private:
  size_t bits_;
};

// Tag sequences: length·tags variables, then (length − 1)·tags² transitions as additionals.
std::vector<Bytes> all_sequences(size_t length, size_t tags) {
  std::vector<Bytes> members;
  size_t count = 1;
  for (size_t i = 0; i < length; ++i) count *= tags;
  for (size_t code = 0; code < count; ++code) {
    Bytes z(length * tags + (length - 1) * tags * tags);
    size_t rest = code, previous = 0;
    for (size_t i = 0; i < length; ++i, rest /= tags) {
      const size_t tag = rest % tags;
      z[i * tags + tag] = 1;
      if (i > 0) z[length * tags + (i - 1) * tags * tags + previous * tags + tag] = 1;
      previous = tag;
    }
    members.push_back(z);
  }
  return members;
}

// ---- References ------------------------------------------------------------------------------

// max ⟨a, r⟩ over configurations with least … most bits on, by sorting.
Real best_value(std::vector<Real> r, size_t least, size_t most) {
  std::sort(r.begin(), r.end(), std::greater<>());
  Real total = 0;
  for (size_t i = 0; i < r.size() && i < most; ++i)
    if (i < least || r[i] > 0) total += r[i];
  return total;
}

// The marginals over least … most bits: clip(t − τ, 0, 1), τ by bisection (0 if it is not needed).
std::vector<Real> closed_form(const std::vector<double>& t, size_t least, size_t most) {
  const auto sum = [&](Real tau) {
    Real total = 0;
    for (double v : t) total += std::clamp<Real>(v - tau, 0, 1);
    return total;
  };
  Real tau = 0;
  const Real now = sum(0),
             wanted = std::clamp(now, static_cast<Real>(least), static_cast<Real>(most));
  if (now != wanted) {
    const auto [low, high] = std::minmax_element(t.begin(), t.end());
    Real a = *low - 1.0L, b = *high;
    for (int i = 0; i < 200; ++i) {
      tau = (a + b) / 2;
      (sum(tau) > wanted ? a : b) = tau;
    }
  }
  std::vector<Real> mu;
  for (double v : t) mu.push_back(std::clamp<Real>(v - tau, 0, 1));
  return mu;
}

// Solves a square system by elimination with pivoting.
std::vector<Real> solve(std::vector<std::vector<Real>> a, std::vector<Real> b) {
  const size_t n = b.size();
  for (size_t c = 0; c < n; ++c) {
    size_t p = c;
    for (size_t i = c; i < n; ++i)
      if (std::abs(a[i][c]) > std::abs(a[p][c])) p = i;
    std::swap(a[c], a[p]);
    std::swap(b[c], b[p]);
    for (size_t i = c + 1; i < n; ++i) {
      const Real factor = a[i][c] / a[c][c];
      for (size_t j = c; j < n; ++j) a[i][j] -= factor * a[c][j];
      b[i] -= factor * b[c];
    }
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t j = i + 1; j < n; ++j) b[i] -= a[i][j] * b[j];
    b[i] /= a[i][i];
  }
  return b;
}

// ξ with [G 1; 1ᵀ 0][ξ; τ] = [A_Sᵀ t; total].
std::vector<Real> equality_qp(const Bytes& configurations, size_t m, size_t parts, size_t variables,
                              const std::vector<Real>& right, Real total) {
  std::vector<std::vector<Real>> a(m + 1, std::vector<Real>(m + 1, 1));
  for (size_t y = 0; y < m; ++y) {
    for (size_t z = 0; z < m; ++z) {
      a[y][z] = 0;
      for (size_t i = 0; i < variables; ++i)
        a[y][z] += configurations[y * parts + i] * configurations[z * parts + i];
    }
  }
  a[m][m] = 0;
  std::vector<Real> b = right;
  b.push_back(total);
  std::vector<Real> x = solve(a, b);
  x.pop_back();
  return x;
}

template <typename T>
std::vector<Real> values(const Bytes& configurations, size_t m, size_t parts,
                         const std::vector<T>& scores) {
  std::vector<Real> b(m, 0);
  for (size_t z = 0; z < m; ++z)
    for (size_t i = 0; i < parts; ++i)
      if (configurations[z * parts + i]) b[z] += scores[i];
  return b;
}

// The number of affinely independent configurations, by the rank of [a_u; 1].
size_t affine_rank(const ActiveSetSolution& s, size_t parts, size_t variables) {
  const size_t m = static_cast<size_t>(s.support);
  std::vector<std::vector<Real>> a(m, std::vector<Real>(variables + 1, 1));
  for (size_t z = 0; z < m; ++z)
    for (size_t i = 0; i < variables; ++i) a[z][i] = s.configurations[z * parts + i];
  size_t rank = 0;
  for (size_t c = 0; c <= variables && rank < m; ++c) {
    size_t p = rank;
    for (size_t z = rank; z < m; ++z)
      if (std::abs(a[z][c]) > std::abs(a[p][c])) p = z;
    if (std::abs(a[p][c]) < 1e-9L) continue;
    std::swap(a[rank], a[p]);
    for (size_t z = rank + 1; z < m; ++z) {
      const Real factor = a[z][c] / a[rank][c];
      for (size_t j = c; j <= variables; ++j) a[z][j] -= factor * a[rank][j];
    }
    ++rank;
  }
  return rank;
}

// ---- What holds of every solution ------------------------------------------------------------

// Checks the distribution and its reports; returns the duality gap with the maximum found by
// `maximum` for r = (t_u − μ_u, t_v), forbidden parts at −∞.
Real certified_gap(const ActiveSetSolution& s, const std::vector<double>& t, size_t variables,
                   const std::function<Real(const std::vector<Real>&)>& maximum) {
  const size_t parts = t.size(), m = static_cast<size_t>(s.support);
  EXPECT_GE(m, 1u);
  EXPECT_LE(m, variables + 1);
  EXPECT_EQ(s.weights.size(), m);
  EXPECT_EQ(s.configurations.size(), m * parts);
  EXPECT_EQ(s.marginals.size(), parts);
  Real sum = 0;
  std::vector<Real> mu(parts, 0);
  std::set<std::string> distinct;
  for (size_t z = 0; z < m; ++z) {
    EXPECT_GT(s.weights[z], 0);
    sum += s.weights[z];
    const auto row = s.configurations.begin() + static_cast<std::ptrdiff_t>(z * parts);
    distinct.emplace(row, row + static_cast<std::ptrdiff_t>(parts));
    for (size_t i = 0; i < parts; ++i) {
      EXPECT_LE(row[static_cast<std::ptrdiff_t>(i)], 1);
      if (row[static_cast<std::ptrdiff_t>(i)] != 0) mu[i] += s.weights[z];
    }
  }
  EXPECT_EQ(distinct.size(), m);
  EXPECT_NEAR(static_cast<double>(sum), 1, 1e-12);
  Real objective = 0, now = 0, scale = 1;
  std::vector<Real> r(parts);
  for (size_t i = 0; i < parts; ++i) {
    EXPECT_NEAR(static_cast<double>(mu[i]), s.marginals[i], 1e-12);
    r[i] = i < variables ? t[i] - mu[i] : static_cast<Real>(t[i]);
    if (t[i] == -kInfinity) {
      EXPECT_EQ(s.marginals[i], 0);
      continue;
    }
    scale = std::max<Real>(scale, std::abs(t[i]));
    now += mu[i] * r[i];
    objective += i < variables ? r[i] * r[i] / 2 : -mu[i] * t[i];
  }
  EXPECT_EQ(s.scale, static_cast<double>(scale));
  EXPECT_NEAR(s.objective, static_cast<double>(objective),
              1e-12 * static_cast<double>(std::abs(objective) + scale));
  return maximum(r) - now;
}

// Rounding of the gap, as documented for the status.
double rounding(const ActiveSetSolution& s) {
  return 1e-12 * s.scale * static_cast<double>(s.marginals.size());
}

void expect_optimal(const ActiveSetSolution& s, const std::vector<double>& t, size_t variables,
                    const std::function<Real(const std::vector<Real>&)>& maximum,
                    double tolerance = 1e-9) {
  ASSERT_EQ(s.status, ActiveSetStatus::kConverged) << describe(s.status);
  const Real gap = certified_gap(s, t, variables, maximum);
  EXPECT_LE(gap, tolerance * s.scale + rounding(s));
  EXPECT_NEAR(static_cast<double>(gap), s.gap, rounding(s));
  EXPECT_EQ(affine_rank(s, t.size(), variables), static_cast<size_t>(s.support));
}

std::function<Real(const std::vector<Real>&)> maximum_over(const std::vector<Bytes>& members) {
  return [&members](const std::vector<Real>& r) {
    Real most = -std::numeric_limits<Real>::infinity();
    for (const Bytes& z : members) most = std::max(most, Enumerated::value(z, r.data()));
    return most;
  };
}

std::vector<double> random_scores(size_t n, std::mt19937& generator, double deviation = 1,
                                  double mean = 0) {
  std::normal_distribution<double> normal(mean, deviation);
  std::vector<double> t(n);
  for (double& v : t) v = normal(generator);
  return t;
}

// Scores of every kind: random, tied, integral, all equal, huge, tiny, of mixed size.
std::vector<std::vector<double>> kinds_of_scores(size_t n, std::mt19937& generator) {
  std::vector<std::vector<double>> all;
  all.push_back(random_scores(n, generator, 0.5, 0.5));
  all.push_back(random_scores(n, generator));
  all.push_back(random_scores(n, generator, 0.05, 0.4));
  for (double step : {0.25, 1.0}) {
    all.push_back(random_scores(n, generator, 2));
    for (double& v : all.back()) v = std::round(v / step) * step;
  }
  all.push_back(std::vector<double>(n, 0.0));
  all.push_back(std::vector<double>(n, 0.375));
  all.push_back(std::vector<double>(n, 7.0));
  all.push_back(random_scores(n, generator, 1e6));
  all.push_back(random_scores(n, generator, 1e-12));
  all.push_back(random_scores(n, generator));
  for (double& v : all.back()) v = std::copysign(std::pow(10, 4 * v), v);
  return all;
}

// ---- Built-in sets of bits -------------------------------------------------------------------

void expect_bits_optimal(const ActiveSetSolution& s, const std::vector<double>& t, size_t least,
                         size_t most, double tolerance = 1e-9) {
  expect_optimal(
      s, t, t.size(), [&](const std::vector<Real>& r) { return best_value(r, least, most); },
      tolerance);
  for (int64_t z = 0; z < s.support; ++z) {
    const auto row = s.configurations.begin() + z * static_cast<std::ptrdiff_t>(t.size());
    const auto on =
        static_cast<size_t>(std::accumulate(row, row + static_cast<std::ptrdiff_t>(t.size()), 0));
    EXPECT_GE(on, least);
    EXPECT_LE(on, most);
  }
  const std::vector<Real> expected = closed_form(t, least, most);
  // The gap bounds the squared distance of the marginals.
  const double distance = std::sqrt(s.gap + rounding(s));
  for (size_t i = 0; i < t.size(); ++i)
    EXPECT_NEAR(s.marginals[i], static_cast<double>(expected[i]), distance) << "part " << i;
}

TEST_P(ActiveSetKernel, BitsBudgetsAndSubsets) {
  std::mt19937 generator(1);
  ActiveSet solver;
  for (size_t bits : {1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 100, 128}) {
    int kind = 0;
    for (const auto& t : kinds_of_scores(bits, generator)) {
      const std::vector<std::pair<size_t, size_t>> counts{
          {0, bits},       {0, bits / 4},        {0, 1}, {bits / 2, bits / 2},
          {bits, bits},    {bits / 3, bits / 2}, {0, 0}, {bits - 1, bits},
          {bits / 4, bits}};
      for (auto [least, most] : counts) {
        SCOPED_TRACE(testing::Message()
                     << bits << " bits, kind " << kind << ", " << least << " to " << most);
        const ActiveSetSolution& s =
            solver.solve(t.data(), static_cast<int64_t>(bits),
                         {static_cast<int64_t>(least), static_cast<int64_t>(most)});
        expect_bits_optimal(s, t, least, most);
        if (HasFailure()) return;
      }
      ++kind;
    }
  }
}

TEST_P(ActiveSetKernel, MarginalsOfBitsAreExactWhereTheSupportAgrees) {
  const std::vector<double> t{3, -2, 0.25, 1.5, 0, 1e6, 0.5};
  ActiveSet solver;
  const ActiveSetSolution& s = solver.solve(t.data(), 7, BitCounts{}, {.tolerance = 1e-14});
  ASSERT_EQ(s.status, ActiveSetStatus::kConverged);
  for (size_t i : {0, 1, 3, 4, 5}) EXPECT_EQ(s.marginals[i], std::clamp(t[i], 0.0, 1.0));
  EXPECT_NEAR(s.marginals[2], 0.25, 1e-7);
  EXPECT_NEAR(s.marginals[6], 0.5, 1e-7);
}

TEST_P(ActiveSetKernel, ByHand) {
  // One fractional bit: two configurations, and their weights are its marginal.
  const std::vector<double> t{2, 0.75};
  ActiveSet solver;
  const ActiveSetSolution& s = solver.solve(t.data(), 2, BitCounts{});
  ASSERT_EQ(s.support, 2);
  EXPECT_EQ(s.configurations, (Bytes{1, 1, 1, 0}));
  EXPECT_NEAR(s.weights[0], 0.75, 1e-15);
  EXPECT_NEAR(s.weights[1], 0.25, 1e-15);
  EXPECT_NEAR(s.objective, 0.5, 1e-15);
  EXPECT_EQ(s.iterations, 1);
  EXPECT_EQ(s.oracle_calls, 3);  // the start, the second configuration, none better
}

TEST_P(ActiveSetKernel, ConfigurationsOfNoWeightAreNotListed) {
  // Scores on a grid: solutions lie on faces of the simplex again and again, where weights end at 0
  // but for rounding.
  const std::vector<double> grid{-1, -0.5, -0.25, 0, 0.1, 0.5, 1};
  ActiveSet solver;
  for (size_t code = 0; code < grid.size() * grid.size() * grid.size() * grid.size(); ++code) {
    std::vector<double> t;
    for (size_t rest = code; t.size() < 4; rest /= grid.size())
      t.push_back(grid[rest % grid.size()]);
    for (const BitCounts counts : {BitCounts{}, BitCounts{0, 2}, BitCounts{2, 2}}) {
      SCOPED_TRACE(testing::Message() << "scores number " << code << ", at most " << counts.most);
      const ActiveSetSolution& s = solver.solve(t.data(), 4, counts);
      ASSERT_EQ(s.status, ActiveSetStatus::kConverged);
      ASSERT_EQ(s.weights.size(), static_cast<size_t>(s.support));
      ASSERT_EQ(s.configurations.size(), static_cast<size_t>(s.support) * 4);
      ASSERT_GT(*std::min_element(s.weights.begin(), s.weights.end()), 1e-9);
      ASSERT_NEAR(std::accumulate(s.weights.begin(), s.weights.end(), 0.0), 1, 1e-12);
    }
  }
}

TEST_P(ActiveSetKernel, TiesGoToTheLowerIndexAndZeroIsOff) {
  // A tolerance this large stops at the start, the MAP.
  const ActiveSetOptions options{.tolerance = 1e9};
  ActiveSet solver;
  for (size_t bits : {5, 9, 40, 70}) {
    std::vector<double> t(bits, 1.0);
    t[bits - 1] = 2;
    Bytes expected(bits, 0);
    expected[0] = expected[1] = expected[bits - 1] = 1;
    EXPECT_EQ(solver.solve(t.data(), static_cast<int64_t>(bits), {0, 3}, options).configurations,
              expected);
    for (double& v : t) v -= 3;
    EXPECT_EQ(solver.solve(t.data(), static_cast<int64_t>(bits), {3, 4}, options).configurations,
              expected);
    std::fill(t.begin(), t.end(), 0.0);
    EXPECT_EQ(
        solver.solve(t.data(), static_cast<int64_t>(bits), BitCounts{}, options).configurations,
        Bytes(bits, 0));
  }
}

TEST_P(ActiveSetKernel, Many) {
  std::mt19937 generator(2);
  ActiveSet solver;
  for (int64_t bits : {127, 128, 129, 300, 1000}) {
    for (int example = 0; example < 4; ++example) {
      SCOPED_TRACE(testing::Message() << bits << " bits, example " << example);
      const auto t = random_scores(static_cast<size_t>(bits), generator, 0.5, 0.5);
      const ActiveSetSolution& s = solver.solve(t.data(), bits, BitCounts{});
      ASSERT_EQ(s.status, ActiveSetStatus::kConverged);
      EXPECT_LE(
          certified_gap(s, t, t.size(), [&](const auto& r) { return best_value(r, 0, r.size()); }),
          1e-6);
      EXPECT_LE(s.support, bits / 2);  // few configurations
      EXPECT_LE(s.iterations, bits);
    }
  }
}

TEST_P(ActiveSetKernel, TinyTolerance) {
  std::mt19937 generator(3);
  ActiveSet solver;
  for (size_t bits : {4, 20, 64, 128}) {
    for (const auto& t : kinds_of_scores(bits, generator)) {
      for (size_t most : {bits, bits / 4}) {
        for (double tolerance : {1e-14, 0.0}) {
          const ActiveSetSolution& s =
              solver.solve(t.data(), static_cast<int64_t>(bits), {0, static_cast<int64_t>(most)},
                           {.tolerance = tolerance});
          expect_bits_optimal(s, t, 0, most, tolerance);
          EXPECT_LE(s.iterations, 1000);
        }
      }
    }
  }
}

// ---- Other sets ------------------------------------------------------------------------------

TEST_P(ActiveSetKernel, NoTwoNeighbours) {
  std::mt19937 generator(4);
  ActiveSet solver;
  for (size_t bits : {1, 2, 5, 8, 11}) {
    const auto members = all_bits(bits, no_neighbours);
    NoNeighbours oracle(bits);
    for (const auto& t : kinds_of_scores(bits, generator)) {
      const auto n = static_cast<int64_t>(bits);
      expect_optimal(solver.solve(t.data(), n, n, oracle), t, bits, maximum_over(members));
    }
  }
  for (size_t bits : {64, 100, 150}) {
    NoNeighbours oracle(bits);
    for (const auto& t : kinds_of_scores(bits, generator)) {
      const auto n = static_cast<int64_t>(bits);
      expect_optimal(solver.solve(t.data(), n, n, oracle), t, bits,
                     [bits](const std::vector<Real>& r) {
                       std::vector<Real> from(bits + 2, 0);
                       for (size_t i = bits; i-- > 0;)
                         from[i] = std::max(from[i + 1], r[i] + from[i + 2]);
                       return from[0];
                     });
    }
  }
}

TEST_P(ActiveSetKernel, SequencesWithTransitions) {
  std::mt19937 generator(5);
  ActiveSet solver;
  for (auto [length, tags] : {std::pair<size_t, size_t>{2, 2}, {3, 3}, {5, 2}, {4, 4}, {1, 5}}) {
    const size_t variables = length * tags;
    Enumerated oracle(all_sequences(length, tags));
    const size_t parts = oracle.members()[0].size();
    for (int repeat = 0; repeat < 3; ++repeat) {
      int kind = 0;
      for (const auto& t : kinds_of_scores(parts, generator)) {
        SCOPED_TRACE(testing::Message() << length << " × " << tags << ", kind " << kind++);
        const ActiveSetSolution& s = solver.solve(t.data(), static_cast<int64_t>(parts),
                                                  static_cast<int64_t>(variables), oracle);
        expect_optimal(s, t, variables, maximum_over(oracle.members()));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(ActiveSetKernel, DependentConfigurationsTakeOver) {
  // All configurations of a set agree in few variables, so that new ones are mostly dependent.
  std::mt19937 generator(6);
  ActiveSet solver;
  for (size_t variables : {0, 1, 2, 3, 5}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      const size_t parts = variables + 20;
      std::vector<Bytes> members(60, Bytes(parts));
      for (Bytes& z : members)
        for (uint8_t& a : z) a = generator() % 2;
      Enumerated oracle(members);
      auto t = random_scores(parts, generator, repeat % 2 == 0 ? 1 : 0.01);
      if (repeat % 3 == 0)
        for (double& v : t) v = std::round(4 * v) / 4;
      const ActiveSetSolution& s = solver.solve(t.data(), static_cast<int64_t>(parts),
                                                static_cast<int64_t>(variables), oracle);
      expect_optimal(s, t, variables, maximum_over(members));
    }
  }
}

TEST_P(ActiveSetKernel, OneConfiguration) {
  Enumerated oracle({Bytes{1, 0, 1}});
  const std::vector<double> t{-5, 2, 0.5};
  ActiveSet solver;
  const ActiveSetSolution& s = solver.solve(t.data(), 3, 2, oracle);
  expect_optimal(s, t, 2, maximum_over(oracle.members()));
  EXPECT_EQ(s.weights, (std::vector<double>{1}));
  EXPECT_EQ(s.marginals, (std::vector<double>{1, 0, 1}));
  EXPECT_EQ(s.objective, 0.5 * (36 + 4) - 0.5);
}

// ---- Forbidden parts, illegal arguments ------------------------------------------------------

TEST_P(ActiveSetKernel, ForbiddenParts) {
  std::mt19937 generator(7);
  ActiveSet solver;
  for (size_t bits : {2, 6, 9}) {
    for (size_t least : {size_t{0}, bits / 2}) {
      for (const auto& scores : kinds_of_scores(bits, generator)) {
        auto t = scores;
        for (size_t i = 0; i < bits; i += 2) t[i] = -kInfinity;
        const auto members = all_bits(bits, [&](const Bytes& z) {
          size_t on = 0;
          for (size_t i = 0; i < bits; ++i) {
            if (z[i] && t[i] == -kInfinity) return false;
            on += z[i];
          }
          return on >= least;
        });
        const ActiveSetSolution& s =
            solver.solve(t.data(), static_cast<int64_t>(bits),
                         {static_cast<int64_t>(least), static_cast<int64_t>(bits)});
        if (members.empty()) {
          EXPECT_EQ(s.status, ActiveSetStatus::kNoConfiguration);
        } else {
          expect_optimal(s, t, bits, maximum_over(members));
        }
      }
    }
  }
  NoNeighbours oracle(6);
  std::vector<double> t{0.6, -kInfinity, 0.7, 0.2, -kInfinity, 0.4};
  const auto members =
      all_bits(6, [](const Bytes& z) { return no_neighbours(z) && !z[1] && !z[4]; });
  expect_optimal(solver.solve(t.data(), 6, 6, oracle), t, 6, maximum_over(members));
  expect_optimal(solver.solve(t.data(), 6, 3, oracle), t, 3, maximum_over(members));

  std::fill(t.begin(), t.end(), -kInfinity);
  const ActiveSetSolution& none = solver.solve(t.data(), 6, BitCounts{});
  EXPECT_EQ(none.status, ActiveSetStatus::kConverged);
  EXPECT_EQ(none.configurations, Bytes(6, 0));
  EXPECT_EQ(none.objective, 0);
  EXPECT_EQ(solver.solve(t.data(), 6, {1, 6}).status, ActiveSetStatus::kNoConfiguration);
}

TEST_P(ActiveSetKernel, IllegalArguments) {
  ActiveSet solver;
  NoNeighbours oracle(3);
  for (double bad : {kInfinity, std::numeric_limits<double>::quiet_NaN()}) {
    const std::vector<double> t{0, bad, 1};
    EXPECT_EQ(solver.solve(t.data(), 3, BitCounts{}).status, ActiveSetStatus::kIllegalScores);
    EXPECT_EQ(solver.solve(t.data(), 3, 2, oracle).status, ActiveSetStatus::kIllegalScores);
  }
  const std::vector<double> t{0.5, -kInfinity, 1};
  EXPECT_EQ(solver.solve(t.data(), 3, {2, 1}).status, ActiveSetStatus::kNoConfiguration);
  EXPECT_EQ(solver.solve(t.data(), 3, {3, 3}).status, ActiveSetStatus::kNoConfiguration);
  EXPECT_EQ(solver.solve(t.data(), 3, {4, 9}).status, ActiveSetStatus::kNoConfiguration);
  const Bytes two{0, 0, 2}, forbidden{0, 1, 0}, full{1, 0, 1};
  const double one = 1;
  for (const Bytes* start : {&two, &forbidden, &full}) {
    EXPECT_EQ(solver.solve(t.data(), 3, {0, 1}, {.initial = start->data()}).status,
              ActiveSetStatus::kIllegalStart);
  }
  for (const Bytes* start : {&two, &full}) {
    const ActiveSetOptions options{
        .warm_configurations = start->data(), .warm_weights = &one, .warm_count = 1};
    EXPECT_EQ(solver.solve(t.data(), 3, {0, 1}, options).status, ActiveSetStatus::kIllegalStart);
  }
  for (int status = 0; status <= static_cast<int>(ActiveSetStatus::kNoConfiguration); ++status)
    EXPECT_GT(std::string(describe(static_cast<ActiveSetStatus>(status))).size(), 8u);
}

// ---- Oracles that are wrong ------------------------------------------------------------------

class Wrong : public MapOracle {
 public:
  explicit Wrong(std::function<void(const double*, uint8_t*)> f) : f_(std::move(f)) {}
  void best(const double* scores, uint8_t* configuration) override {
    ++calls;
    f_(scores, configuration);
  }
  int64_t calls = 0;

 private:
  std::function<void(const double*, uint8_t*)> f_;
};

TEST_P(ActiveSetKernel, WrongOraclesEndInANamedStatus) {
  constexpr size_t kBits = 12;
  ActiveSet solver;
  std::mt19937 generator(8);
  const auto t = random_scores(kBits, generator, 0.5, 0.5);
  const auto status_of = [&](std::function<void(const double*, uint8_t*)> f,
                             const std::vector<double>& scores) {
    Wrong oracle(std::move(f));
    const ActiveSetSolution& s = solver.solve(scores.data(), kBits, kBits, oracle);
    EXPECT_LE(oracle.calls, 1000 + 20 * static_cast<int64_t>(kBits) + 2);
    EXPECT_EQ(s.oracle_calls, oracle.calls);
    return s.status;
  };
  const auto maximise = [](const double* scores, uint8_t* z) {
    for (size_t i = 0; i < kBits; ++i) z[i] = scores[i] > 0;
  };
  EXPECT_EQ(status_of(maximise, t), ActiveSetStatus::kConverged);
  EXPECT_EQ(status_of([](const double*, uint8_t*) {}, t), ActiveSetStatus::kOracleNotBinary);
  EXPECT_EQ(status_of(
                [&](const double* r, uint8_t* z) {
                  maximise(r, z);
                  z[kBits - 1] = 2;
                },
                t),
            ActiveSetStatus::kOracleNotBinary);
  for (int right : {1, 3, 6}) {  // calls, after which it minimises
    int calls = 0;
    EXPECT_EQ(status_of(
                  [&](const double* r, uint8_t* z) {
                    const double sign = ++calls <= right ? 1 : -1;
                    for (size_t i = 0; i < kBits; ++i) z[i] = sign * r[i] > 0;
                  },
                  t),
              ActiveSetStatus::kOracleSuboptimal);
  }
  auto forbidden = t;
  forbidden[3] = -kInfinity;
  EXPECT_EQ(status_of(
                [&](const double* r, uint8_t* z) {
                  maximise(r, z);
                  z[3] = 1;
                },
                forbidden),
            ActiveSetStatus::kOracleForbidden);
  for (int repeat = 0; repeat < 50; ++repeat) {
    // At random: worse than the current value sooner or later.
    EXPECT_EQ(status_of(
                  [&](const double*, uint8_t* z) {
                    for (size_t i = 0; i < kBits; ++i) z[i] = generator() % 2;
                  },
                  t),
              ActiveSetStatus::kOracleSuboptimal);
    // Right, but for a part at a time: any status, but an end.
    status_of(
        [&](const double* r, uint8_t* z) {
          maximise(r, z);
          z[generator() % kBits] ^= 1;
        },
        t);
  }
  // Always the same: as good a set as any, of one member.
  EXPECT_EQ(status_of([](const double*, uint8_t* z) { std::fill_n(z, kBits, uint8_t{1}); }, t),
            ActiveSetStatus::kConverged);
}

TEST_P(ActiveSetKernel, WhatAnOracleThrowsPassesThrough) {
  std::mt19937 generator(9);
  const auto t = random_scores(40, generator, 0.5, 0.5);
  ActiveSet solver;
  int calls = 0;
  Wrong oracle([&](const double* r, uint8_t* z) {
    if (++calls == 7) throw std::runtime_error("seven");
    for (size_t i = 0; i < 40; ++i) z[i] = r[i] > 0;
  });
  EXPECT_THROW(solver.solve(t.data(), 40, 40, oracle), std::runtime_error);
  expect_bits_optimal(solver.solve(t.data(), 40, BitCounts{}), t, 0, 40);
}

TEST_P(ActiveSetKernel, CallbackAndBuiltInAgree) {
  std::mt19937 generator(10);
  const auto t = random_scores(90, generator, 0.5, 0.5);
  Wrong oracle([](const double* r, uint8_t* z) {
    for (size_t i = 0; i < 90; ++i) z[i] = r[i] > 0;
  });
  ActiveSet a, b;
  const ActiveSetSolution& x = a.solve(t.data(), 90, 90, oracle);
  const ActiveSetSolution& y = b.solve(t.data(), 90, BitCounts{});
  EXPECT_EQ(x.configurations, y.configurations);
  EXPECT_EQ(x.weights, y.weights);
  EXPECT_EQ(x.oracle_calls, y.oracle_calls);
}

// ---- Where it starts and stops ---------------------------------------------------------------

TEST_P(ActiveSetKernel, MaxIterations) {
  std::mt19937 generator(11);
  const auto t = random_scores(50, generator, 0.5, 0.5);
  ActiveSet solver;
  double last = kInfinity;
  for (int64_t limit = 1; limit < 12; ++limit) {
    const ActiveSetSolution& s = solver.solve(t.data(), 50, BitCounts{}, {.max_iterations = limit});
    ASSERT_EQ(s.status, ActiveSetStatus::kMaxIterations);
    EXPECT_EQ(s.iterations, limit);
    EXPECT_EQ(s.oracle_calls, limit + 2);
    const Real gap = certified_gap(
        s, t, 50, [](const std::vector<Real>& r) { return best_value(r, 0, r.size()); });
    EXPECT_NEAR(static_cast<double>(gap), s.gap, 1e-12);
    EXPECT_LT(s.objective, last);  // strictly decreasing
    last = s.objective;
  }
}

TEST_P(ActiveSetKernel, AnyStartGivesTheSameMarginals) {
  std::mt19937 generator(12);
  ActiveSet solver;
  for (size_t bits : {3, 17, 64, 128}) {
    for (const auto& t : kinds_of_scores(bits, generator)) {
      Bytes initial(bits);
      for (uint8_t& a : initial) a = generator() % 2;
      expect_bits_optimal(solver.solve(t.data(), static_cast<int64_t>(bits), BitCounts{},
                                       {.initial = initial.data()}),
                          t, 0, bits);
    }
  }
}

TEST_P(ActiveSetKernel, WarmStart) {
  std::mt19937 generator(13);
  ActiveSet solver;
  for (size_t bits : {1, 10, 32, 128}) {
    for (size_t most : {bits, (bits + 3) / 4}) {
      const BitCounts counts{0, static_cast<int64_t>(most)};
      const auto n = static_cast<int64_t>(bits);
      for (double change : {0.0, 1e-7, 1e-3, 0.01, 1.0, 100.0}) {
        SCOPED_TRACE(testing::Message() << bits << " bits, change " << change);
        auto t = random_scores(bits, generator, 0.5, 0.5);
        const ActiveSetSolution earlier = solver.solve(t.data(), n, counts);
        const auto noise = random_scores(bits, generator, change);
        for (size_t i = 0; i < bits; ++i) t[i] += noise[i];
        const ActiveSetSolution cold = solver.solve(t.data(), n, counts);
        const ActiveSetOptions options{.warm_configurations = earlier.configurations.data(),
                                       .warm_weights = earlier.weights.data(),
                                       .warm_count = earlier.support};
        const ActiveSetSolution& warm = solver.solve(t.data(), n, counts, options);
        expect_bits_optimal(warm, t, 0, most);
        EXPECT_NEAR(warm.objective, cold.objective, 2e-9 * cold.scale);
        if (change == 0) {
          EXPECT_EQ(warm.oracle_calls, 1);
          EXPECT_LE(warm.support, earlier.support);
        }
      }
    }
  }
}

TEST_P(ActiveSetKernel, WarmStartFromUntidySupports) {
  std::mt19937 generator(14);
  ActiveSet solver;
  const size_t bits = 6;
  auto t = random_scores(bits, generator, 0.5, 0.5);
  t[2] = -kInfinity;
  const auto everything = all_bits(bits, [](const Bytes&) { return true; });
  const auto allowed = all_bits(bits, [](const Bytes& z) { return !z[2]; });
  // All configurations, most of them dependent, a quarter twice, some without weight.
  Bytes rows;
  std::vector<double> weights;
  for (int repeat = 0; repeat < 2; ++repeat) {
    for (size_t z = 0; z < everything.size(); z += 1 + 3 * static_cast<size_t>(repeat)) {
      rows.insert(rows.end(), everything[z].begin(), everything[z].end());
      const double unusable[] = {0, -1, std::numeric_limits<double>::quiet_NaN(), kInfinity};
      weights.push_back(z % 5 == 0 ? unusable[z % 4] : 1 + static_cast<double>(z));
    }
  }
  ActiveSetOptions options{.warm_configurations = rows.data(),
                           .warm_weights = weights.data(),
                           .warm_count = static_cast<int64_t>(weights.size())};
  expect_optimal(solver.solve(t.data(), 6, BitCounts{}, options), t, bits, maximum_over(allowed));
  // Nothing to use: a cold start.
  std::fill(weights.begin(), weights.end(), 0.0);
  expect_optimal(solver.solve(t.data(), 6, BitCounts{}, options), t, bits, maximum_over(allowed));
  options.warm_count = 0;
  expect_optimal(solver.solve(t.data(), 6, BitCounts{}, options), t, bits, maximum_over(allowed));
}

TEST_P(ActiveSetKernel, WarmStartOfSequences) {
  std::mt19937 generator(15);
  ActiveSet solver;
  Enumerated oracle(all_sequences(4, 3));
  const size_t parts = oracle.members()[0].size();
  for (int repeat = 0; repeat < 20; ++repeat) {
    auto t = random_scores(parts, generator, 0.7);
    const ActiveSetSolution earlier =
        solver.solve(t.data(), static_cast<int64_t>(parts), 12, oracle);
    for (double& v : t) v += 0.05 * std::normal_distribution<double>()(generator);
    const ActiveSetOptions options{.warm_configurations = earlier.configurations.data(),
                                   .warm_weights = earlier.weights.data(),
                                   .warm_count = earlier.support};
    expect_optimal(solver.solve(t.data(), static_cast<int64_t>(parts), 12, oracle, options), t, 12,
                   maximum_over(oracle.members()));
  }
}

TEST_P(ActiveSetKernel, EarlierExamplesLeaveNoTrace) {
  std::mt19937 generator(16);
  ActiveSet reused;
  Enumerated sequences(all_sequences(3, 3));
  for (int repeat = 0; repeat < 40; ++repeat) {
    const auto bits = static_cast<int64_t>(1 + generator() % 200);
    const auto t = random_scores(static_cast<size_t>(bits), generator, 0.5, 0.5);
    ActiveSet fresh;
    const ActiveSetSolution& a = reused.solve(t.data(), bits, {0, 1 + bits / 2});
    const ActiveSetSolution& b = fresh.solve(t.data(), bits, {0, 1 + bits / 2});
    ASSERT_EQ(a.configurations, b.configurations);
    ASSERT_EQ(a.weights, b.weights);
    ASSERT_EQ(a.marginals, b.marginals);
    if (repeat % 4 == 0) {
      const auto u = random_scores(27, generator);
      reused.solve(u.data(), 27, 9, sequences);
    }
    if (repeat % 5 == 0) {
      ActiveSet moved = std::move(reused);
      reused = std::move(moved);
    }
  }
}

// ---- Gradients -------------------------------------------------------------------------------

struct Support {
  Bytes configurations;
  size_t m, parts, variables;
};

std::vector<Support> supports(std::mt19937& generator) {
  std::vector<Support> all;
  ActiveSet solver;
  for (size_t bits : {1, 6, 33, 70}) {
    const auto t = random_scores(bits, generator, 0.5, 0.5);
    const ActiveSetSolution& s = solver.solve(t.data(), static_cast<int64_t>(bits), BitCounts{});
    all.push_back({s.configurations, static_cast<size_t>(s.support), bits, bits});
  }
  Enumerated oracle(all_sequences(4, 3));
  const size_t parts = oracle.members()[0].size();
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto t = random_scores(parts, generator, 0.5);
    const ActiveSetSolution& s = solver.solve(t.data(), static_cast<int64_t>(parts), 12, oracle);
    all.push_back({s.configurations, static_cast<size_t>(s.support), parts, 12});
  }
  return all;
}

TEST_P(ActiveSetKernel, VjpIsThatOfTheEqualityQp) {
  std::mt19937 generator(17);
  ActiveSet solver;
  for (const Support& s : supports(generator)) {
    const auto t = random_scores(s.parts, generator);
    const auto g = random_scores(s.m, generator);
    std::vector<double> grad(s.parts);
    solver.vjp(s.configurations.data(), static_cast<int64_t>(s.m), static_cast<int64_t>(s.parts),
               static_cast<int64_t>(s.variables), g.data(), grad.data());
    // ξ is linear in t on a fixed support, so differences are exact at any distance.
    for (size_t i = 0; i < s.parts; ++i) {
      Real difference = 0;
      for (Real sign : {1, -1}) {
        std::vector<Real> moved(t.begin(), t.end());
        moved[i] += sign / 2;
        const auto xi = equality_qp(s.configurations, s.m, s.parts, s.variables,
                                    values(s.configurations, s.m, s.parts, moved), 1);
        for (size_t z = 0; z < s.m; ++z) difference += sign * g[z] * xi[z];
      }
      EXPECT_NEAR(grad[i], static_cast<double>(difference), 1e-9) << "part " << i;
    }
  }
}

TEST_P(ActiveSetKernel, VjpTransposeIsTheTranspose) {
  std::mt19937 generator(18);
  ActiveSet solver;
  for (const Support& s : supports(generator)) {
    const auto m = static_cast<int64_t>(s.m), parts = static_cast<int64_t>(s.parts);
    const auto variables = static_cast<int64_t>(s.variables);
    const auto g = random_scores(s.m, generator), h = random_scores(s.parts, generator);
    std::vector<double> grad(s.parts), out(s.m);
    solver.vjp(s.configurations.data(), m, parts, variables, g.data(), grad.data());
    solver.vjp_transpose(s.configurations.data(), m, parts, variables, h.data(), out.data());
    const auto expected = equality_qp(s.configurations, s.m, s.parts, s.variables,
                                      values(s.configurations, s.m, s.parts, h), 0);
    for (size_t z = 0; z < s.m; ++z) EXPECT_NEAR(out[z], static_cast<double>(expected[z]), 1e-9);
    EXPECT_NEAR(std::inner_product(grad.begin(), grad.end(), h.begin(), 0.0),
                std::inner_product(g.begin(), g.end(), out.begin(), 0.0), 1e-9);
    EXPECT_NEAR(std::accumulate(out.begin(), out.end(), 0.0), 0, 1e-11);
  }
}

TEST_P(ActiveSetKernel, VjpThroughTheMarginalsAgreesWithFiniteDifferences) {
  std::mt19937 generator(19);
  ActiveSet solver;
  const size_t bits = 10;
  const BitCounts counts{0, 3};
  const auto t = random_scores(bits, generator, 0.5, 0.5);
  const auto h = random_scores(bits, generator);
  const ActiveSetSolution s = solver.solve(t.data(), 10, counts, {.tolerance = 1e-14});
  const auto g = values(s.configurations, static_cast<size_t>(s.support), bits, h);
  const std::vector<double> upstream(g.begin(), g.end());
  std::vector<double> grad(bits);
  solver.vjp(s.configurations.data(), s.support, 10, 10, upstream.data(), grad.data());
  for (size_t i = 0; i < bits; ++i) {
    double difference = 0;
    for (double step : {1e-5, -1e-5}) {
      auto moved = t;
      moved[i] += step;
      const auto mu = closed_form(moved, 0, 3);
      for (size_t j = 0; j < bits; ++j)
        difference += h[j] * static_cast<double>(mu[j]) / (2 * step);
    }
    EXPECT_NEAR(grad[i], difference, 1e-6);
  }
}

TEST_P(ActiveSetKernel, VjpOfDependentConfigurations) {
  // The four corners of a square: the last depends on the others, and changes nothing. Upstream
  // gradients that come from the marginals give the same whichever is left out.
  const Bytes square{0, 0, 1, 0, 0, 1, 1, 1}, triangle{0, 0, 1, 0, 0, 1};
  const std::vector<double> g{0.5, -1, 2, 0.5};
  std::vector<double> a(2), b(2), out(4);
  ActiveSet solver;
  solver.vjp(square.data(), 4, 2, 2, g.data(), a.data());
  solver.vjp(triangle.data(), 3, 2, 2, g.data(), b.data());
  for (size_t i : {0, 1}) EXPECT_NEAR(a[i], b[i], 1e-15);
  EXPECT_NEAR(a[0], -1.5, 1e-14);
  EXPECT_NEAR(a[1], 1.5, 1e-14);
  solver.vjp_transpose(square.data(), 4, 2, 2, g.data(), out.data());
  EXPECT_EQ(out[3], 0);
  EXPECT_NEAR(out[1], 0.5, 1e-14);
  EXPECT_NEAR(out[2], -1, 1e-14);
  // A single configuration has no freedom.
  solver.vjp(square.data() + 2, 1, 2, 2, g.data(), a.data());
  EXPECT_EQ(a, (std::vector<double>{0, 0}));
}

}  // namespace
}  // namespace sparsum::kernels
