// The closed form of SparseMAP over bits where rounding is at its worst: scores of any magnitude
// that tie or differ by less than 1, and marginals that no distribution has.

#include <gtest/gtest.h>
#include <sparsum/kernels/sparsemap_bits.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace sparsum::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Bounds {
  int64_t least, most;
  std::string name() const { return std::to_string(least) + " to " + std::to_string(most); }
};

struct Slope {
  double a, c;  // one state: 1, 0; both states: ½, ½
};
const std::vector<Slope> kEncodings = {{1, 0}, {0.5, 0.5}};

template <typename T>
struct Marginals {
  std::vector<T> mu;
  bool tight = false;
};

template <typename T>
Marginals<T> marginals(const std::vector<T>& t, const Bounds& bounds, const Slope& slope) {
  Marginals<T> result;
  result.mu.resize(t.size());
  EXPECT_EQ(sparsemap_marginals(t.data(), 1, static_cast<int64_t>(t.size()), bounds.least,
                                bounds.most, slope.a, slope.c, result.mu.data(), &result.tight),
            -1);
  return result;
}

template <typename T>
double sum(const std::vector<T>& values) {
  double total = 0;
  for (const T value : values) total += static_cast<double>(value);
  return total;
}

/// The configurations of one row: sizes within the bounds, weights on the simplex. Returns E[z].
template <typename T>
std::vector<double> expected_bits(const std::vector<T>& mu, bool tight, const Bounds& bounds) {
  const size_t n = mu.size();
  std::vector<uint8_t> z(n);
  BitConfigurations out;
  sparsemap_configurations(mu.data(), &tight, 1, static_cast<int64_t>(n), bounds.least, bounds.most,
                           z.data(), out);
  std::vector<double> mean(n);
  double total = 0;
  size_t flip = 0;
  for (size_t i = 0; i < out.weights.size(); ++i) {
    for (int64_t j = 0; j < out.flips.lengths[i]; ++j) {
      z[static_cast<size_t>(out.flips.parts[flip++])] ^= 1;
    }
    const auto on = std::count(z.begin(), z.end(), 1);
    EXPECT_GE(on, bounds.least) << "configuration " << i << " of " << out.weights.size();
    EXPECT_LE(on, bounds.most) << "configuration " << i << " of " << out.weights.size();
    EXPECT_GT(out.weights[i], 0);
    total += out.weights[i];
    for (size_t v = 0; v < n; ++v) mean[v] += z[v] ? out.weights[i] : 0;
  }
  EXPECT_NEAR(total, 1, 1e-12);
  return mean;
}

template <typename T>
void check_ties(double magnitude) {
  // Two above, five tied, one below, one forbidden; gaps far beyond 1 but where the scores are 0.
  const T m = static_cast<T>(magnitude), gap = std::max<T>(std::abs(m), 4);
  const std::vector<T> t = {m,       m + gap, m, m, m - gap, m, -std::numeric_limits<T>::infinity(),
                            m + gap, m};
  for (const Slope& slope : kEncodings) {
    for (int64_t size = 0; size <= 8; ++size) {
      for (const Bounds& bounds : {Bounds{size, size}, Bounds{0, size}}) {
        if (bounds.least == 0 && magnitude < 0) continue;  // nothing is on
        SCOPED_TRACE(bounds.name() + " at " + std::to_string(magnitude) + ", slope " +
                     std::to_string(slope.a));
        const auto got = marginals(t, bounds, slope);
        const double above = std::min<double>(1, static_cast<double>(size) / 2);
        const double tied = std::clamp((static_cast<double>(size) - 2) / 5, 0.0, 1.0);
        const double below = size == 8 ? 1 : 0;
        if (bounds.least == 0 && size == 8) continue;  // not tight: the scores decide
        const double close = 4 * static_cast<double>(std::numeric_limits<T>::epsilon());
        for (size_t i : {1, 7}) EXPECT_NEAR(got.mu[i], above, close);
        for (size_t i : {0, 2, 3, 5, 8}) EXPECT_NEAR(got.mu[i], tied, close);
        EXPECT_NEAR(got.mu[4], below, close);
        EXPECT_EQ(got.mu[6], 0);
        EXPECT_NEAR(sum(got.mu), static_cast<double>(size), 10 * close);
        const auto mean = expected_bits(got.mu, got.tight, bounds);
        for (size_t i = 0; i < t.size(); ++i) EXPECT_NEAR(mean[i], got.mu[i], 10 * close);
      }
    }
  }
}

TEST(SparsemapBitsKernel, TiesOfAnyMagnitude) {
  for (const double magnitude : {8.0, 1e6, 1e14, 1e17, 1e30, -8.0, -1e14, -1e17, -1e30}) {
    check_ties<double>(magnitude);
    check_ties<float>(magnitude);
  }
}

TEST(SparsemapBitsKernel, ATightBoundDoesNotSeeAShift) {
  // Multiples of 1/8: the sums with the shifts are exact.
  std::mt19937_64 random(1);
  std::uniform_int_distribution<int> eighths(-16, 16);
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<double> t(12);
    for (double& x : t) x = eighths(random) / 8.0;
    t[3] = -kInfinity;
    for (const Slope& slope : kEncodings) {
      for (int64_t size = 1; size < 11; ++size) {
        const auto expected = marginals(t, {size, size}, slope);
        EXPECT_NEAR(sum(expected.mu), static_cast<double>(size), 1e-12);
        for (const double shift : {1e6, 1e14, -1e14}) {
          std::vector<double> moved = t;
          for (double& x : moved) x += shift;
          for (const Bounds& bounds : {Bounds{size, size}, Bounds{0, size}, Bounds{size, 12}}) {
            if (bounds.least != bounds.most && (shift > 0) != (bounds.least == 0)) continue;
            SCOPED_TRACE(bounds.name() + " at " + std::to_string(shift));
            const auto got = marginals(moved, bounds, slope);
            EXPECT_TRUE(got.tight);
            for (size_t i = 0; i < t.size(); ++i) EXPECT_NEAR(got.mu[i], expected.mu[i], 1e-12);
            expected_bits(got.mu, got.tight, bounds);
          }
        }
      }
    }
  }
}

TEST(SparsemapBitsKernel, NoBitAtAll) {
  for (const double t : {0.25, 1.0, 1e17, -1e17}) {
    const auto got = marginals<double>({t, t, -kInfinity}, {0, 0}, {1, 0});
    EXPECT_EQ(got.mu, (std::vector<double>{0, 0, 0}));
    EXPECT_EQ(sum(expected_bits(got.mu, got.tight, {0, 0})), 0);
  }
}

TEST(SparsemapBitsKernel, EveryConfigurationIsWithinTheBounds) {
  const std::vector<std::vector<double>> whole = {
      {0, 0, 0, 0, 0},   {1, 1, 1, 1, 1},   {1, 0, 1, 0, 1},         {0, 0, 0, 0, 1},
      {0.5, 0, 0, 0, 0}, {0.5, 1, 1, 1, 1}, {1e-300, 0, 0, 0, 1e-17}};
  for (const auto& mu : whole) {
    for (int64_t least = 0; least <= 5; ++least) {
      for (int64_t most = least; most <= 5; ++most) {
        if (least == 0 && most == 5) continue;
        for (const bool tight : {false, true}) expected_bits(mu, tight, {least, most});
      }
    }
  }
  // Marginals that have the right sum or none, of ones, zeros, rounding's own and anything.
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < 2000; ++trial) {
    const auto n = 2 + static_cast<size_t>(trial % 97);
    std::vector<double> mu(n);
    for (double& m : mu) {
      const double kind = uniform(random);
      m = kind < 0.1    ? 0
          : kind < 0.2  ? 1
          : kind < 0.3  ? 1 - 0x1p-53
          : kind < 0.35 ? 1e-16
          : kind < 0.5  ? 1.0 / 3
                        : uniform(random);
    }
    const auto size = static_cast<int64_t>(sum(mu));
    for (const Bounds& bounds :
         {Bounds{size, size}, Bounds{0, size}, Bounds{size, size + 1},
          Bounds{static_cast<int64_t>(n) / 2, static_cast<int64_t>(n) / 2}}) {
      if (bounds.most >= static_cast<int64_t>(n)) continue;
      for (const bool tight : {false, true}) {
        SCOPED_TRACE(bounds.name() + ", trial " + std::to_string(trial));
        const auto mean = expected_bits(mu, tight, bounds);
        if (bounds.least == size && bounds.most > size && !tight) {
          for (size_t i = 0; i < n; ++i) EXPECT_NEAR(mean[i], mu[i], 1e-10);
        }
      }
    }
  }
}

}  // namespace
}  // namespace sparsum::kernels
