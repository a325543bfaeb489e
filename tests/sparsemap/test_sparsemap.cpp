// SparseMAP over small sets against a slow solver that lists all of their members: pairwise
// Frank–Wolfe in long double, whose duality gap over the list is the certificate; and over large
// ones against that certificate alone, found by sorting.

#include "tests/ops/gradcheck.h"
#include "tests/ops/tensors.h"
#include "tests/oracle/bits.h"
#include "tests/structures/errors.h"
#include "tests/structures/plain.h"

#include <gtest/gtest.h>
#include <sparsum/bits.h>
#include <sparsum/categorical.h>
#include <sparsum/custom_structure.h>
#include <sparsum/sparsemap.h>
#include <sparsum/sparsemax.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace sparsum {
namespace {

using oracle::all_bits;
using sparsum_test::error_of;
using sparsum_test::largest;
using sparsum_test::normal;
using sparsum_test::Plain;
using sparsum_test::seeded;
using Real = long double;
using Bytes = std::vector<uint8_t>;
using Scores = std::vector<double>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr auto kActiveSet = SparsemapAlgorithm::kActiveSet;
constexpr auto kClosedForm = SparsemapAlgorithm::kClosedForm;

template <typename T>
std::vector<T> list(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.detach().to(c10::CppTypeToScalarType<T>::value).contiguous();
  return {dense.const_data_ptr<T>(), dense.const_data_ptr<T>() + dense.numel()};
}

// --- structures ----------------------------------------------------------------------------------

/// No two neighbouring bits on; the best by dynamic programming.
class NoNeighbours : public CustomStructure {
 public:
  explicit NoNeighbours(int64_t bits) : bits_(bits) {}
  std::string name() const override { return "no-neighbours(" + std::to_string(bits_) + ")"; }
  int64_t parts() const override { return bits_; }

  Bytes best(std::span<const double> scores) const override {
    const size_t n = scores.size();
    std::vector<double> from(n + 2, 0.0);  // the best score of bits i, i + 1, …
    for (size_t i = n; i-- > 0;) from[i] = std::max(from[i + 1], scores[i] + from[i + 2]);
    Bytes z(n);
    for (size_t i = 0; i < n;) {
      const bool on = scores[i] + from[i + 2] > from[i + 1];
      z[i] = on;
      i += on ? 2 : 1;
    }
    return z;
  }

 private:
  int64_t bits_;
};

/// Any bits; additionals say where neighbours differ. The best by Viterbi's algorithm.
class Chain : public CustomStructure {
 public:
  explicit Chain(int64_t bits) : bits_(bits) {}
  std::string name() const override { return "chain(" + std::to_string(bits_) + ")"; }
  int64_t parts() const override { return 2 * bits_ - 1; }
  int64_t variables() const override { return bits_; }

  Bytes best(std::span<const double> scores) const override {
    const auto n = static_cast<size_t>(bits_);
    // from[i][s]: the best score of the bits after i and of their changes, bit i being s.
    std::vector<std::array<double, 2>> from(n, {0, 0});
    const auto step = [&](size_t i, int s, int next) {
      return (s != next ? scores[n + i] : 0) + (next ? scores[i + 1] : 0) +
             from[i + 1][static_cast<size_t>(next)];
    };
    for (size_t i = n - 1; i-- > 0;) {
      for (int s : {0, 1}) {
        from[i][static_cast<size_t>(s)] = std::max(step(i, s, 0), step(i, s, 1));
      }
    }
    Bytes z(2 * n - 1);
    z[0] = scores[0] + from[0][1] > from[0][0];
    for (size_t i = 0; i + 1 < n; ++i) {
      z[i + 1] = step(i, z[i], 1) > step(i, z[i], 0);
      z[n + i] = z[i] != z[i + 1];
    }
    return z;
  }

 private:
  int64_t bits_;
};

/// A structure with all of its members.
struct Set {
  std::shared_ptr<const Structure> structure;
  std::vector<Bytes> members;

  const Bits* bits() const { return dynamic_cast<const Bits*>(structure.get()); }
  std::string name() const { return structure->name(); }
  size_t parts() const { return static_cast<size_t>(structure->parts()); }
  size_t variables() const { return static_cast<size_t>(structure->variables()); }
  int64_t most_forbidden() const {
    return structure->parts() - (bits() ? bits()->least() : int64_t{0});
  }
};

template <typename S, typename... Arguments>
Set bits_set(Arguments... arguments) {
  const auto structure = std::make_shared<S>(arguments...);
  return {structure, oracle::members_of(*structure)};
}

std::vector<Set> bits_sets(int64_t n) {
  std::vector<Set> all;
  all.push_back(bits_set<BitVector>(n));
  for (const int64_t size : std::set<int64_t>{0, 1, n / 2, n - 1, n}) {
    all.push_back(bits_set<Budget>(n, size));
    all.push_back(bits_set<Subset>(n, size));
  }
  return all;
}

std::vector<Set> custom_sets(int64_t n) {
  const auto free_pairs = [](const Bytes& z) {
    for (size_t i = 1; i < z.size(); ++i) {
      if (z[i] && z[i - 1]) return false;
    }
    return true;
  };
  Set chain{std::make_shared<Chain>(n),
            all_bits(static_cast<size_t>(n), [](const Bytes&) { return true; })};
  for (Bytes& z : chain.members) {
    for (int64_t i = 0; i + 1 < n; ++i) z.push_back(z[i] != z[i + 1]);
  }
  return {{std::make_shared<NoNeighbours>(n), all_bits(static_cast<size_t>(n), free_pairs)}, chain};
}

std::vector<Set> sets(int64_t n) {
  std::vector<Set> all = bits_sets(n);
  for (Set& set : custom_sets(n)) all.push_back(std::move(set));
  return all;
}

/// One row of each kind of scores.
at::Tensor kinds_of_scores(const Set& set, uint64_t seed) {
  const auto parts = static_cast<int64_t>(set.parts());
  const at::Tensor x = normal({14, parts}, seed);
  x[1].mul_(3);
  x[2].mul_(0.3);
  x[3].copy_((x[3] * 2).round() / 2);
  x[4].zero_();
  x[5].fill_(0.5);
  x[6].copy_((x[6] * 2).round());
  x[7].mul_(1e6);
  x[8].fill_(1e6);
  x[9].mul_(1e-12);
  x[10].fill_(-0.25);
  x[11].copy_((x[11] * 4).round() / 4);
  // Forbidden parts: every third, and as many as can be.
  const int64_t most = set.most_forbidden();
  for (int64_t i = 0, left = most; i < parts && left > 0; i += 3, --left) x[12][i] = -INFINITY;
  for (int64_t i = 0; i < most; ++i) x[13][parts - 1 - i] = -INFINITY;
  return x;
}

// --- the slow solver -----------------------------------------------------------------------------

/// The problem with every part that the encoding names: what is regularised first.
struct Explicit {
  std::vector<std::vector<size_t>> columns;  // the rows of A that are 1
  std::vector<size_t> members;               // which member of the set each column is
  std::vector<Real> t;
  size_t regularised;
  Real scale = 1;

  Explicit(const Set& set, const Scores& scores, Encoding encoding) {
    const size_t u = set.variables(), parts = set.parts();
    const bool both = encoding == Encoding::kBothStates;
    regularised = both ? 2 * u : u;
    t.assign(regularised + parts - u, 0);
    const auto place = [&](size_t part) { return part < u ? part : regularised + part - u; };
    for (size_t i = 0; i < parts; ++i) {
      if (scores[i] == -kInfinity) continue;
      t[place(i)] = scores[i];
      scale = std::max<Real>(scale, std::abs(scores[i]));
    }
    for (size_t m = 0; m < set.members.size(); ++m) {
      const Bytes& z = set.members[m];
      std::vector<size_t> ones;
      bool allowed = true;
      for (size_t i = 0; i < parts; ++i) {
        allowed &= !(z[i] && scores[i] == -kInfinity);
        if (z[i]) ones.push_back(place(i));
        // A forbidden bit has no part in the problem.
        if (both && i < u && !z[i] && scores[i] != -kInfinity) ones.push_back(u + i);
      }
      if (!allowed) continue;
      columns.push_back(ones);
      members.push_back(m);
    }
  }

  std::vector<Real> mix(const std::vector<Real>& weights) const {
    std::vector<Real> mu(t.size(), 0);
    for (size_t z = 0; z < columns.size(); ++z) {
      for (const size_t i : columns[z]) mu[i] += weights[z];
    }
    return mu;
  }
  /// ⟨a_z, (t_u − μ_u, t_v)⟩ of every column.
  std::vector<Real> values(const std::vector<Real>& mu) const {
    std::vector<Real> r = t, out(columns.size(), 0);
    for (size_t i = 0; i < regularised; ++i) r[i] -= mu[i];
    for (size_t z = 0; z < columns.size(); ++z) {
      for (const size_t i : columns[z]) out[z] += r[i];
    }
    return out;
  }
  Real gap(const std::vector<Real>& mu) const {
    const auto v = values(mu);
    Real own = 0;
    for (size_t i = 0; i < t.size(); ++i) own += mu[i] * (i < regularised ? t[i] - mu[i] : t[i]);
    return *std::max_element(v.begin(), v.end()) - own;
  }
  Real objective(const std::vector<Real>& mu) const {
    Real sum = 0;
    for (size_t i = 0; i < t.size(); ++i) {
      sum += i < regularised ? (mu[i] - t[i]) * (mu[i] - t[i]) / 2 : -mu[i] * t[i];
    }
    return sum;
  }
  /// What a point of the library's is here.
  std::vector<Real> lift(const std::vector<double>& mu, const Scores& scores, size_t u) const {
    std::vector<Real> result(t.size(), 0);
    for (size_t i = 0; i < mu.size(); ++i) {
      result[i < u ? i : regularised + i - u] = mu[i];
      if (regularised > u && i < u && scores[i] != -kInfinity) result[u + i] = 1 - Real{mu[i]};
    }
    return result;
  }
};

struct Slow {
  std::vector<Real> mu;
  Real objective, gap;
};

/// Pairwise Frank–Wolfe: weight moves from the worst member that has some to the best of all.
Slow slow_sparsemap(const Explicit& problem) {
  const size_t n = problem.columns.size();
  std::vector<Real> weights(n, 0);
  weights[0] = 1;
  std::vector<Real> mu = problem.mix(weights);
  Real gap = 0;
  for (int iteration = 0; iteration < 300000; ++iteration) {
    if (iteration % 64 == 0) mu = problem.mix(weights);
    const auto v = problem.values(mu);
    const auto best = static_cast<size_t>(std::max_element(v.begin(), v.end()) - v.begin());
    size_t worst = n;
    Real mean = 0;
    for (size_t z = 0; z < n; ++z) {
      if (weights[z] == 0) continue;
      mean += weights[z] * v[z];
      if (worst == n || v[z] < v[worst]) worst = z;
    }
    gap = v[best] - mean;
    if (gap <= 1e-17L * problem.scale || best == worst) break;
    std::vector<Real> direction(problem.t.size(), 0);
    for (const size_t i : problem.columns[best]) direction[i] += 1;
    for (const size_t i : problem.columns[worst]) direction[i] -= 1;
    Real squares = 0;
    for (size_t i = 0; i < problem.regularised; ++i) squares += direction[i] * direction[i];
    Real step = weights[worst];
    if (squares > 0) step = std::min(step, (v[best] - v[worst]) / squares);
    weights[best] += step;
    weights[worst] = step == weights[worst] ? 0 : weights[worst] - step;
    for (size_t i = 0; i < mu.size(); ++i) mu[i] += step * direction[i];
  }
  mu = problem.mix(weights);
  return {mu, problem.objective(mu), std::max<Real>(problem.gap(mu), 0)};
}

// --- checks --------------------------------------------------------------------------------------

struct Way {
  Encoding encoding;
  SparsemapAlgorithm algorithm;
  std::string name() const {
    return std::string(encoding == Encoding::kBothStates ? "both states" : "one state") +
           (algorithm == kClosedForm ? ", closed form" : ", active set");
  }
  SparsemapOptions options() const {
    SparsemapOptions options;
    options.encoding = encoding;
    options.algorithm = algorithm;
    return options;
  }
};

std::vector<Way> ways(bool bits) {
  if (!bits) return {{Encoding::kOneState, kActiveSet}};
  std::vector<Way> all;
  for (const auto encoding : {Encoding::kOneState, Encoding::kBothStates}) {
    for (const auto algorithm : {kActiveSet, kClosedForm}) all.push_back({encoding, algorithm});
  }
  return all;
}

SparsemapOptions precise(Way way, double tolerance = 1e-15) {
  SparsemapOptions options = way.options();
  options.tolerance = tolerance;
  return options;
}

/// The support of example b, [m, V] uint8.
at::Tensor support_of(const SparseDistribution& q, int64_t b) {
  const auto splits = list<int64_t>(q.support().row_splits);
  return q.support().values(at::kByte).slice(0, splits[b], splits[b + 1]);
}
at::Tensor probs_of(const SparseDistribution& q, int64_t b) {
  const auto splits = list<int64_t>(q.support().row_splits);
  return q.probs().slice(0, splits[b], splits[b + 1]);
}

/// What must hold of any distribution: a few different members of the set, with positive weights.
void expect_distribution(const Set& set, const SparseDistribution& q, int64_t b, double rounding) {
  const auto word = [](const Bytes& configuration) {
    std::string text;
    for (const uint8_t on : configuration) text += on ? '1' : '0';
    return text;
  };
  std::set<std::string> members, seen;
  for (const Bytes& member : set.members) members.insert(word(member));
  const at::Tensor z = support_of(q, b), p = probs_of(q, b);
  ASSERT_GE(z.size(0), 1);
  EXPECT_LE(z.size(0), static_cast<int64_t>(set.variables()) + 1);
  for (int64_t i = 0; i < z.size(0); ++i) {
    const std::string configuration = word(list<uint8_t>(z[i]));
    EXPECT_TRUE(members.count(configuration)) << z[i];
    EXPECT_TRUE(seen.insert(configuration).second) << "listed twice: " << z[i];
  }
  EXPECT_TRUE((p > 0).all().item<bool>()) << p;
  EXPECT_NEAR(p.to(at::kDouble).sum().item<double>(), 1, rounding);
}

TEST(Sparsemap, TheSlowSolverProjectsOntoTheCube) {
  const Set set = bits_set<BitVector>(5);
  const Scores t = {0.3, -2, 0.75, 4, 0.999};
  const Slow one = slow_sparsemap(Explicit(set, t, Encoding::kOneState));
  const Slow two = slow_sparsemap(Explicit(set, t, Encoding::kBothStates));
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_NEAR(static_cast<double>(one.mu[i]), std::clamp(t[i], 0., 1.), 1e-8);
    EXPECT_NEAR(static_cast<double>(two.mu[i]), std::clamp((t[i] + 1) / 2, 0., 1.), 1e-8);
  }
  EXPECT_NEAR(static_cast<double>(one.objective), (4 + 9) / 2., 1e-12);
}

void expect_agreement(const Set& set, uint64_t seed) {
  const at::Tensor scores = kinds_of_scores(set, seed);
  const auto parts = static_cast<int64_t>(set.parts());
  const auto u = static_cast<int64_t>(set.variables());
  for (const auto encoding : {Encoding::kOneState, Encoding::kBothStates}) {
    std::vector<Explicit> problems;
    std::vector<Slow> expected;
    for (const Way& way : ways(set.bits())) {
      if (way.encoding != encoding) continue;
      SCOPED_TRACE(set.name() + ", " + way.name());
      const SparsemapResult got = solve_sparsemap(*set.structure, scores, way.options());
      const at::Tensor by_weights = got.distribution.marginals();
      EXPECT_TRUE(got.converged.all().item<bool>());
      EXPECT_TRUE(got.converged.equal(got.distribution.exact()));
      EXPECT_EQ(got.marginals.sizes(), scores.sizes());
      for (int64_t b = 0; b < scores.size(0); ++b) {
        SCOPED_TRACE("row " + std::to_string(b));
        const Scores t = list<double>(scores[b]);
        if (static_cast<int64_t>(problems.size()) == b) {
          problems.emplace_back(set, t, encoding);
          expected.push_back(slow_sparsemap(problems.back()));
        }
        const Explicit& problem = problems[b];
        const auto scale = static_cast<double>(problem.scale);
        // The reference's own certificate.
        ASSERT_LE(expected[b].gap, 1e-13L * problem.scale);
        expect_distribution(set, got.distribution, b, 1e-12 * (1 + static_cast<double>(parts)));
        // The solution's certificate over all members, and what follows from it.
        const auto mu = problem.lift(list<double>(by_weights[b]), t, set.variables());
        const auto gap = static_cast<double>(problem.gap(mu));
        const double reported = got.gap[b].item<double>();
        // The closed form joins configurations whose weight is below 1e-12 with others.
        const bool closed = way.algorithm == kClosedForm;
        const double rounding = (closed ? 2e-12 : 1e-14) * static_cast<double>(parts) * scale;
        EXPECT_LE(gap, (closed ? 0 : 1e-9 * scale) + rounding);
        EXPECT_NEAR(gap, reported, rounding);
        const double close =
            std::sqrt(std::max(gap, 0.)) + std::sqrt(static_cast<double>(expected[b].gap)) + 1e-9;
        for (int64_t i = 0; i < parts; ++i) {
          if (i < u) {
            EXPECT_NEAR(got.marginals[b][i].item<double>(),
                        static_cast<double>(expected[b].mu[static_cast<size_t>(i)]), close);
          }
          EXPECT_NEAR(got.marginals[b][i].item<double>(), by_weights[b][i].item<double>(), close);
        }
        const auto objective = static_cast<double>(expected[b].objective);
        EXPECT_NEAR(got.objective[b].item<double>(), objective,
                    gap + 1e-12 * scale + 1e-13 * std::abs(objective));
      }
    }
  }
}

TEST(Sparsemap, AgreesWithASlowSolverOverAllMembers) {
  uint64_t seed = 1;
  for (const int64_t n : {1, 2, 3, 4, 6}) {
    for (const Set& set : sets(n)) expect_agreement(set, seed++);
  }
}

TEST(Sparsemap, AgreesWithASlowSolverOverAllMembersOfTenBits) {
  expect_agreement(bits_set<BitVector>(10), 101);
  expect_agreement(bits_set<Budget>(10, 4), 102);
  expect_agreement(bits_set<Subset>(10, 6), 103);
  for (const Set& set : custom_sets(10)) expect_agreement(set, 104);
}

TEST(Sparsemap, MarginalsOfBitsAreClippedScores) {
  const at::Tensor t = normal({20, 9}, 2) * 2;
  for (const auto algorithm : {kActiveSet, kClosedForm}) {
    EXPECT_TRUE(solve_sparsemap(BitVector(9), t, Way{Encoding::kOneState, algorithm}.options())
                    .marginals.allclose(t.clamp(0, 1), 0, 1e-15));
    EXPECT_TRUE(solve_sparsemap(BitVector(9), t, Way{Encoding::kBothStates, algorithm}.options())
                    .marginals.allclose(((t + 1) / 2).clamp(0, 1), 0, 1e-15));
  }
}

TEST(Sparsemap, IntegralSolutionsHaveOneConfiguration) {
  const at::Tensor t = (normal({30, 7}, 3) * 3).round();
  for (const Way& way : ways(true)) {
    if (way.encoding == Encoding::kBothStates) continue;
    const auto q = sparsemap(BitVector(7), t, way.options());
    EXPECT_TRUE((q.evaluations() == 1).all().item<bool>()) << way.name();
    EXPECT_TRUE(q.support().values(at::kDouble).equal((t > 0).to(at::kDouble)));
  }
}

TEST(Sparsemap, TheClosedFormSpansTheFace) {
  const at::Tensor t = normal({40, 12}, 4);
  for (const auto encoding : {Encoding::kOneState, Encoding::kBothStates}) {
    const auto free = solve_sparsemap(BitVector(12), t, Way{encoding, kClosedForm}.options());
    const at::Tensor inside = (free.marginals > 0).logical_and(free.marginals < 1).sum(1);
    EXPECT_TRUE(free.distribution.evaluations().equal(inside + 1));
    const auto tight = solve_sparsemap(Subset(12, 5), t, Way{encoding, kClosedForm}.options());
    const at::Tensor within = (tight.marginals > 0).logical_and(tight.marginals < 1).sum(1);
    // Whose sum is a whole number, so that one cut less remains.
    EXPECT_TRUE(tight.distribution.evaluations().equal(within.clamp_min(1)));
  }
}

/// The duality gap of bits at marginals, the best configuration being found by sorting.
at::Tensor gap_by_sorting(const Bits& bits, const at::Tensor& scores, const at::Tensor& marginals,
                          Encoding encoding) {
  // Regularising both states: ⟨(z, 1 − z), (t − μ, −(1 − μ))⟩ and the same for μ.
  at::Tensor r = scores - marginals;
  if (encoding == Encoding::kBothStates) r = r + 1 - marginals;
  const at::Tensor sorted = std::get<0>(r.sort(1, /*descending=*/true));
  const at::Tensor sums = at::constant_pad_nd(sorted.cumsum(1), {1, 0});
  return sums.slice(1, bits.least(), bits.most() + 1).amax(1) - (marginals * r).sum(1);
}

TEST(Sparsemap, GapsOfManyBitsAreSmall) {
  const int64_t n = 128;
  at::Tensor scores = normal({24, n}, 5);
  scores.slice(0, 8, 16).mul_(10);
  scores.slice(0, 16, 20).mul_(0.05);
  scores.slice(0, 20, 24).copy_((scores.slice(0, 20, 24) * 4).round() / 4);
  std::vector<std::unique_ptr<Bits>> structures;
  structures.push_back(std::make_unique<BitVector>(n));
  structures.push_back(std::make_unique<Budget>(n, 13));
  structures.push_back(std::make_unique<Budget>(n, 64));
  structures.push_back(std::make_unique<Subset>(n, 40));
  structures.push_back(std::make_unique<Subset>(n, 100));
  for (const auto& structure : structures) {
    for (const Way& way : ways(true)) {
      SCOPED_TRACE(structure->name() + ", " + way.name());
      const SparsemapResult got = solve_sparsemap(*structure, scores, way.options());
      const at::Tensor by_weights = got.distribution.marginals();
      EXPECT_LE(largest(gap_by_sorting(*structure, scores, by_weights, way.encoding)), 1e-6);
      EXPECT_LE(largest(gap_by_sorting(*structure, scores, got.marginals, way.encoding)), 1e-6);
      EXPECT_LT(largest(by_weights - got.marginals), 1e-3);
      EXPECT_LE(got.distribution.evaluations().max().item<int64_t>(), n + 1);
      EXPECT_TRUE((got.distribution.probs() > 0).all().item<bool>());
      const at::Tensor sums = got.distribution.support().sum_per_example(got.distribution.probs());
      EXPECT_LT(largest(sums - 1), 1e-12);
      EXPECT_TRUE(got.converged.all().item<bool>());
    }
    for (const auto encoding : {Encoding::kOneState, Encoding::kBothStates}) {
      const auto a = solve_sparsemap(*structure, scores, Way{encoding, kActiveSet}.options());
      const auto c = solve_sparsemap(*structure, scores, Way{encoding, kClosedForm}.options());
      EXPECT_TRUE(a.objective.allclose(c.objective, 0, 1e-7)) << structure->name();
      EXPECT_TRUE(a.marginals.equal(c.marginals)) << structure->name();
    }
  }
}

TEST(Sparsemap, TheActiveSetHasFewerConfigurations) {
  const at::Tensor scores = normal({16, 128}, 6);
  const auto few =
      sparsemap(BitVector(128), scores, Way{Encoding::kBothStates, kActiveSet}.options());
  const auto many =
      sparsemap(BitVector(128), scores, Way{Encoding::kBothStates, kClosedForm}.options());
  const auto mean = [](const SparseDistribution& q) {
    return q.evaluations().to(at::kDouble).mean().item<double>();
  };
  EXPECT_LT(mean(few), 0.7 * mean(many));
}

TEST(Sparsemap, NoConfigurationExceedsItsBudget) {
  uint64_t seed = 50;
  for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    for (const int64_t n : {5, 17, 40, 128}) {
      for (const double spread : {0.05, 1.0, 20.0}) {
        at::Tensor scores = normal({n > 100 ? 12 : 60, n}, seed++) * spread;
        scores.slice(0, scores.size(0) / 2)
            .copy_((scores.slice(0, scores.size(0) / 2) * 8).round() / 8);
        scores = scores.to(dtype);
        for (const int64_t size : {int64_t{1}, n / 3, n - 1}) {
          for (const Way& way : ways(true)) {
            SCOPED_TRACE(std::to_string(n) + " bits, " + std::to_string(size) + " on, spread " +
                         std::to_string(spread) + ", " + way.name() + ", " + at::toString(dtype));
            const auto most = [](const SparseDistribution& q) {
              return q.support().values(at::kLong).sum(1).max().item<int64_t>();
            };
            const auto least = [](const SparseDistribution& q) {
              return q.support().values(at::kLong).sum(1).min().item<int64_t>();
            };
            EXPECT_LE(most(sparsemap(Budget(n, size), scores, way.options())), size);
            const auto q = sparsemap(Subset(n, size), scores, way.options());
            EXPECT_EQ(most(q), size);
            EXPECT_EQ(least(q), size);
          }
        }
      }
    }
  }
}

TEST(Sparsemap, NoConfigurationExceedsItsBudgetWhereMarginalsRoundUp) {
  // In float64 the marginals sum to B and the bound is not active; rounded to the scores' dtype
  // they sum to more.
  const SparsemapOptions closed = Way{Encoding::kBothStates, kClosedForm}.options();
  const double x = 1.2 * std::pow(2.0, -24);
  const at::Tensor pair = at::tensor({x, -x}).view({1, 2}).to(at::kFloat);
  const auto q = sparsemap(Budget(2, 1), pair, closed);
  EXPECT_LE(q.support().values(at::kLong).sum(1).max().item<int64_t>(), 1) << q.probs();
  // Random pairs that cancel, at a budget of half of the bits.
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const at::Tensor half = normal({200, 6}, 60).mul_(0.3).to(dtype);
    const at::Tensor scores = at::cat({half, -half}, 1);
    const auto many = sparsemap(Budget(12, 6), scores, closed);
    EXPECT_LE(many.support().values(at::kLong).sum(1).max().item<int64_t>(), 6) << dtype;
  }
}

TEST(Sparsemap, NoConfigurationExceedsItsBudgetInHalfPrecision) {
  // A thousand marginals of 1/3, each of which rounds up by 1/1500 in bfloat16.
  for (const auto dtype : {at::kHalf, at::kBFloat16}) {
    for (const auto algorithm : {kActiveSet, kClosedForm}) {
      const SparsemapOptions options = Way{Encoding::kOneState, algorithm}.options();
      const at::Tensor scores = at::ones({1, 999}, dtype);
      for (const int64_t size : {333, 500, 777}) {
        const auto q = sparsemap(Subset(999, size), scores, options);
        const at::Tensor on = q.support().values(at::kLong).sum(1);
        EXPECT_EQ(on.min().item<int64_t>(), size) << dtype;
        EXPECT_EQ(on.max().item<int64_t>(), size) << dtype;
      }
    }
  }
}

TEST(Sparsemap, NoConfigurationExceedsItsBudgetOfManyBits) {
  // Sums of as many marginals as these round by more than a weight that is dropped.
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const at::Tensor half = normal({1, 15000}, 70 + seed) * 0.7;
    const at::Tensor scores = at::cat({half, -half}, 1);
    const auto q =
        sparsemap(Budget(30000, 15000), scores, Way{Encoding::kBothStates, kClosedForm}.options());
    // Of 15000 configurations a few suffice: the first ones are those of the smallest cuts.
    const Assignments first = q.support().slice(0, 50);
    EXPECT_LE(first.values(at::kByte).sum(1).max().item<int64_t>(), 15000);
  }
}

TEST(Sparsemap, WeightsArePositiveInHalfPrecision) {
  for (const auto dtype : {at::kHalf, at::kBFloat16, at::kFloat}) {
    for (const int64_t n : {17, 128}) {
      const at::Tensor scores = normal({50, n}, 80).to(dtype);
      for (const Way& way : ways(true)) {
        SCOPED_TRACE(std::to_string(n) + " bits, " + way.name() + ", " + at::toString(dtype));
        const auto free = sparsemap(BitVector(n), scores, way.options());
        EXPECT_GT(free.probs().min().item<double>(), 0);
        const auto subset = sparsemap(Subset(n, n / 3), scores, way.options());
        EXPECT_GT(subset.probs().min().item<double>(), 0);
      }
    }
  }
}

// --- gradients -----------------------------------------------------------------------------------

/// The weights of a support [m, V] that solve the equality-constrained problem, by the system as
/// written: [G 1; 1ᵀ 0][ξ; τ] = [A_Sᵀ t; 1]. Differentiable in t [V].
at::Tensor equality_qp(const at::Tensor& t, const at::Tensor& support, int64_t variables,
                       Encoding encoding) {
  const at::Tensor z = support.to(at::kDouble), zu = z.slice(1, 0, variables);
  at::Tensor gram = zu.matmul(zu.t());
  if (encoding == Encoding::kBothStates) gram = gram + (1 - zu).matmul((1 - zu).t());
  const int64_t m = z.size(0);
  const at::Tensor ones = at::ones({m, 1}, z.options());
  const at::Tensor system =
      at::cat({at::cat({gram, ones}, 1), at::cat({ones.t(), at::zeros({1, 1}, z.options())}, 1)});
  const at::Tensor finite = t.masked_fill(t == -kInfinity, 0);
  const at::Tensor right = at::cat({z.matmul(finite), at::ones({1}, z.options())});
  return at::linalg_solve(system, right).slice(0, 0, m);
}

TEST(SparsemapGradient, ThroughWeightsIsThatOfTheFixedSupport) {
  uint64_t seed = 200;
  for (const int64_t n : {1, 3, 7}) {
    for (const Set& set : sets(n)) {
      for (const Way& way : ways(set.bits())) {
        if (way.algorithm == kClosedForm) continue;
        SCOPED_TRACE(set.name() + ", " + way.name());
        const auto parts = static_cast<int64_t>(set.parts());
        const auto u = static_cast<int64_t>(set.variables());
        const at::Tensor values = normal({6, parts}, seed++);
        if (set.most_forbidden() > 0) values[0][0] = -INFINITY;
        const at::Tensor scores = values.clone().requires_grad_();
        const SparsemapResult got = solve_sparsemap(*set.structure, scores, precise(way));
        const at::Tensor p = got.distribution.probs();
        const at::Tensor c = normal(p.sizes(), seed++), e = normal(p.sizes(), seed++);
        const at::Tensor h = normal(scores.sizes(), seed++);
        // Not linear in the weights, so that there are second derivatives.
        const at::Tensor loss = (c * p + e * p.square()).sum();
        const auto grad = torch::autograd::grad({loss}, {scores}, {}, true, true)[0];
        ASSERT_TRUE(grad.defined());
        at::Tensor second = at::zeros_like(scores);
        if (grad.requires_grad()) {
          second = torch::autograd::grad({(grad * h).sum()}, {scores}, {}, true, false, true)[0];
        }
        const auto splits = list<int64_t>(got.distribution.support().row_splits);
        for (int64_t b = 0; b < 6; ++b) {
          const at::Tensor z = support_of(got.distribution, b);
          const at::Tensor own_c = c.slice(0, splits[b], splits[b + 1]);
          const at::Tensor own_e = e.slice(0, splits[b], splits[b + 1]);
          const auto value = [&](const at::Tensor& t) {
            const at::Tensor q = equality_qp(t, z, u, way.encoding);
            return (own_c * q + own_e * q.square()).sum();
          };
          const at::Tensor t = values[b].clone().requires_grad_();
          EXPECT_LT(largest(equality_qp(t, z, u, way.encoding) - probs_of(got.distribution, b)),
                    1e-7);
          const auto first = torch::autograd::grad({value(t)}, {t}, {}, true, true)[0];
          EXPECT_LT(largest(grad[b] - first), 1e-6 * (1 + largest(first)));
          // And by finite differences, exact for a quadratic function.
          for (int64_t i = 0; i < parts; ++i) {
            if (values[b][i].item<double>() == -kInfinity) {
              EXPECT_EQ(grad[b][i].item<double>(), 0);
              continue;
            }
            at::Tensor up = values[b].clone(), down = values[b].clone();
            up[i] += 1e-3;
            down[i] -= 1e-3;
            EXPECT_NEAR(grad[b][i].item<double>(), (value(up) - value(down)).item<double>() / 2e-3,
                        1e-6 * (1 + largest(first)));
          }
          if (first.requires_grad()) {
            const auto expected = torch::autograd::grad({(first * h[b].detach()).sum()}, {t}, {},
                                                        false, false, true)[0];
            if (expected.defined()) {
              EXPECT_LT(largest(second[b] - expected), 1e-6 * (1 + largest(expected)));
            }
          }
        }
      }
    }
  }
}

TEST(SparsemapGradient, ThroughMarginalsOfBitsIsFiniteDifferences) {
  uint64_t seed = 300;
  for (const int64_t n : {1, 4}) {
    for (const Set& set : bits_sets(n)) {
      for (const Way& way : ways(true)) {
        SCOPED_TRACE(set.name() + ", " + way.name());
        const at::Tensor t = normal({5, n}, seed++);
        const auto marginals = [&](const std::vector<at::Tensor>& x) {
          return solve_sparsemap(*set.structure, x[0], way.options()).marginals;
        };
        testing::expect_gradients(marginals, {t});
        testing::expect_second_gradients(
            [&](const std::vector<at::Tensor>& x) { return marginals(x).square(); }, {t});
      }
    }
  }
}

TEST(SparsemapGradient, ThroughWeightsOfTheClosedFormIsFiniteDifferences) {
  uint64_t seed = 400;
  for (const int64_t n : {1, 2, 6}) {
    for (const Set& set : bits_sets(n)) {
      for (const auto encoding : {Encoding::kOneState, Encoding::kBothStates}) {
        SCOPED_TRACE(set.name());
        const at::Tensor t = normal({4, n}, seed++);
        const auto weights = [&](const std::vector<at::Tensor>& x) {
          return sparsemap(*set.structure, x[0], Way{encoding, kClosedForm}.options()).probs();
        };
        testing::expect_gradients(weights, {t});
        testing::expect_second_gradients(
            [&](const std::vector<at::Tensor>& x) { return weights(x).square(); }, {t});
      }
    }
  }
}

/// Whether small changes of the scores change neither the face that the solution lies in nor the
/// support, and the support spans that face: then finite differences of μ say what a gradient by
/// way of the support is.
bool regular(const Set& set, const Scores& t, const SparsemapResult& got, int64_t b) {
  const Explicit problem(set, t, Encoding::kOneState);
  const at::Tensor own = got.distribution.marginals();
  const auto mu = problem.lift(list<double>(own[b]), t, set.variables());
  const auto values = problem.values(mu);
  const Real best = *std::max_element(values.begin(), values.end());
  std::vector<at::Tensor> face;
  for (size_t z = 0; z < values.size(); ++z) {
    const Real missing = best - values[z];
    if (missing > 1e-7L && missing < 1e-2L) return false;
    if (missing > 1e-7L) continue;
    const Bytes& member = set.members[problem.members[z]];
    at::Tensor row = at::ones({static_cast<int64_t>(set.variables()) + 1}, at::kDouble);
    for (size_t i = 0; i < set.variables(); ++i) row[static_cast<int64_t>(i)] = member[i];
    face.push_back(row);
  }
  const auto rank = at::linalg_matrix_rank(at::stack(face), 1e-9).item<int64_t>();
  const at::Tensor p = probs_of(got.distribution, b);
  return p.size(0) == rank && p.min().item<double>() > 1e-3;
}

TEST(SparsemapGradient, ThroughMarginalsOfACustomStructureIsFiniteDifferences) {
  for (const int64_t n : {3, 5}) {
    for (const Set& set : custom_sets(n)) {
      SCOPED_TRACE(set.name());
      const auto u = static_cast<int64_t>(set.variables());
      const SparsemapOptions options = precise({Encoding::kOneState, kActiveSet});
      const at::Tensor all = normal({40, static_cast<int64_t>(set.parts())}, 500);
      const auto solved = solve_sparsemap(*set.structure, all, options);
      std::vector<at::Tensor> kept;
      for (int64_t b = 0; b < 40; ++b) {
        if (regular(set, list<double>(all[b]), solved, b)) kept.push_back(all[b]);
      }
      ASSERT_GE(kept.size(), 12u);
      kept.resize(12);
      const auto marginals = [&](const std::vector<at::Tensor>& x) {
        return solve_sparsemap(*set.structure, x[0], options).marginals.slice(1, 0, u);
      };
      testing::expect_gradients(marginals, {at::stack(kept)}, 1e-5, 1e-6);
      testing::expect_second_gradients(
          [&](const std::vector<at::Tensor>& x) { return marginals(x).square(); },
          {at::stack(kept).slice(0, 0, 4)}, 1e-4);
    }
  }
}

TEST(SparsemapGradient, LossesLinearInTheOutcomeSeeTheMarginalsAlone) {
  for (const Set& set : bits_sets(5)) {
    for (const auto encoding : {Encoding::kOneState, Encoding::kBothStates}) {
      SCOPED_TRACE(set.name());
      const at::Tensor scores = normal({40, 5}, 600).requires_grad_();
      const at::Tensor g = normal({40, 5}, 601);
      const auto grad = [&](const at::Tensor& marginals) {
        return torch::autograd::grad({(marginals * g).sum()}, {scores}, {}, true)[0];
      };
      const auto closed = solve_sparsemap(*set.structure, scores, precise({encoding, kClosedForm}));
      const auto active = solve_sparsemap(*set.structure, scores, precise({encoding, kActiveSet}));
      const at::Tensor expected = grad(closed.marginals);
      EXPECT_TRUE(grad(active.marginals).equal(expected));
      EXPECT_LT(largest(grad(closed.distribution.marginals()) - expected), 1e-12);
      // The active set's wherever it spans the face, as nearly always on few bits.
      const at::Tensor by_weights = grad(active.distribution.marginals());
      int64_t spanning = 0;
      for (int64_t b = 0; b < 40; ++b) {
        if (active.distribution.evaluations()[b].equal(closed.distribution.evaluations()[b])) {
          ++spanning;
          EXPECT_LT(largest(by_weights[b] - expected[b]), 1e-7);
        }
      }
      EXPECT_GE(spanning, 30);
    }
  }
}

TEST(SparsemapGradient, SecondDerivativesOfLinearLossesAreZero) {
  for (const Set& set : {bits_set<BitVector>(5), bits_set<Budget>(5, 2), bits_set<Subset>(5, 2),
                         custom_sets(5)[0], custom_sets(5)[1]}) {
    for (const Way& way : ways(set.bits())) {
      SCOPED_TRACE(set.name() + ", " + way.name());
      const at::Tensor scores =
          normal({6, static_cast<int64_t>(set.parts())}, 605).requires_grad_();
      const auto got = solve_sparsemap(*set.structure, scores, way.options());
      for (const at::Tensor& output : {got.marginals, got.distribution.probs()}) {
        const at::Tensor g = normal(output.sizes(), 606).requires_grad_();
        const at::Tensor h = normal(scores.sizes(), 607).requires_grad_();
        const auto first = torch::autograd::grad({output}, {scores}, {g}, true, true)[0];
        const auto second =
            torch::autograd::grad({(first * h).sum()}, {scores, g}, {}, true, true, true);
        if (second[0].defined()) {
          EXPECT_EQ(largest(second[0]), 0);
        }
        // With respect to the upstream gradient: the Jacobian-vector product, ⟨J'g, h⟩ = ⟨g, Jh⟩.
        ASSERT_TRUE(second[1].defined());
        EXPECT_NEAR((second[1] * g).sum().item<double>(), (first * h).sum().item<double>(), 1e-9);
        // Which has derivatives in turn: J' again.
        const auto third = torch::autograd::grad({second[1]}, {h}, {g.detach()}, true)[0];
        EXPECT_LT(largest(third - first), 1e-12);
      }
    }
  }
}

TEST(SparsemapGradient, WhatIsReportedIsDetached) {
  for (const Set& set : {bits_set<Budget>(4, 2), custom_sets(4)[0], custom_sets(4)[1]}) {
    for (const Way& way : ways(set.bits())) {
      const at::Tensor scores =
          normal({3, static_cast<int64_t>(set.parts())}, 610).requires_grad_();
      const auto got = solve_sparsemap(*set.structure, scores, way.options());
      for (const at::Tensor& t :
           {got.objective, got.gap, got.iterations, got.oracle_calls, got.converged}) {
        EXPECT_FALSE(t.requires_grad());
        EXPECT_EQ(t.sizes(), (at::IntArrayRef{3}));
      }
      EXPECT_EQ(got.objective.scalar_type(), at::kDouble);
      EXPECT_EQ(got.gap.scalar_type(), at::kDouble);
      EXPECT_TRUE(got.marginals.requires_grad());
      EXPECT_TRUE(got.distribution.probs().requires_grad());
      const at::NoGradGuard no_grad;
      const auto without = solve_sparsemap(*set.structure, scores, way.options());
      EXPECT_FALSE(without.marginals.requires_grad());
      EXPECT_FALSE(without.distribution.probs().requires_grad());
    }
  }
}

TEST(SparsemapGradient, ForwardModeIsRefused) {
  const auto level = torch::autograd::forward_ad::enter_dual_level();
  const at::Tensor scores = normal({2, 3}, 611);
  const at::Tensor dual =
      at::_make_dual(scores, at::ones_like(scores), static_cast<int64_t>(level));
  std::vector<std::string> errors;
  for (const Way& way : ways(true)) {
    errors.push_back(error_of([&] { solve_sparsemap(BitVector(3), dual, way.options()); }));
  }
  errors.push_back(error_of([&] { solve_sparsemap(NoNeighbours(3), dual); }));
  torch::autograd::forward_ad::exit_dual_level(level);
  for (const std::string& error : errors) {
    EXPECT_NE(error.find("forward-mode differentiation is not implemented"), std::string::npos)
        << error;
  }
}

// --- the loss ------------------------------------------------------------------------------------

TEST(SparsemapLoss, IsThatOfTheSlowSolver) {
  uint64_t seed = 700;
  for (const int64_t n : {2, 5}) {
    for (const Set& set : sets(n)) {
      for (const Way& way : ways(set.bits())) {
        SCOPED_TRACE(set.name() + ", " + way.name());
        const at::Tensor scores = kinds_of_scores(set, seed++);
        // An outcome in the even rows, a mixture of all in the others.
        at::Tensor target = at::zeros_like(scores);
        const auto count = static_cast<int64_t>(set.members.size());
        const at::Tensor mix = (normal({scores.size(0), count}, seed++) * 2).softmax(1);
        for (int64_t b = 0; b < scores.size(0); ++b) {
          for (int64_t m = 0; m < count; ++m) {
            const Bytes& z = set.members[static_cast<size_t>(m)];
            const double weight =
                b % 2 ? mix[b][m].item<double>() : static_cast<double>(m == (3 * b) % count);
            for (size_t i = 0; i < z.size(); ++i) {
              if (z[i]) target[b][static_cast<int64_t>(i)] += weight;
            }
          }
        }
        const at::Tensor loss = sparsemap_loss(*set.structure, scores, target, way.options());
        ASSERT_EQ(loss.sizes(), (at::IntArrayRef{scores.size(0)}));
        for (int64_t b = 0; b < scores.size(0); ++b) {
          SCOPED_TRACE("row " + std::to_string(b));
          const Scores t = list<double>(scores[b]), y = list<double>(target[b]);
          bool illegal = false;
          for (size_t i = 0; i < t.size(); ++i) illegal |= t[i] == -kInfinity && y[i] > 0;
          const double got = loss[b].item<double>();
          if (illegal) {
            EXPECT_EQ(got, kInfinity);
            continue;
          }
          // Ω*(t) = ½‖t‖² − objective.
          const Explicit problem(set, t, way.encoding);
          const auto point = problem.lift(y, t, set.variables());
          Real expected = -slow_sparsemap(problem).objective + problem.objective(point);
          const auto scale = static_cast<double>(problem.scale);
          EXPECT_NEAR(got, static_cast<double>(expected),
                      2e-9 * scale + 1e-12 * scale * static_cast<double>(n));
          EXPECT_GE(got, -1e-9 * scale);
        }
      }
    }
  }
}

TEST(SparsemapLoss, IsZeroAtTheSolution) {
  uint64_t seed = 750;
  for (const Set& set : sets(5)) {
    for (const Way& way : ways(set.bits())) {
      SCOPED_TRACE(set.name() + ", " + way.name());
      const at::Tensor scores =
          normal({20, static_cast<int64_t>(set.parts())}, seed++).requires_grad_();
      const at::Tensor y = sparsemap_marginals(*set.structure, scores, precise(way)).detach();
      const at::Tensor loss = sparsemap_loss(*set.structure, scores, y, precise(way));
      EXPECT_LT(largest(loss), 1e-12);
      const at::Tensor grad = torch::autograd::grad({loss.sum()}, {scores})[0];
      EXPECT_LT(largest(grad), 1e-6);
    }
  }
}

TEST(SparsemapLoss, TheGradientIsMarginalsMinusTarget) {
  uint64_t seed = 800;
  for (const Set& set : sets(4)) {
    for (const Way& way : ways(set.bits())) {
      SCOPED_TRACE(set.name() + ", " + way.name());
      const auto parts = static_cast<int64_t>(set.parts());
      at::Tensor scores = normal({8, parts}, seed++);
      at::Tensor target = at::empty_like(scores);
      for (int64_t b = 0; b < 8; ++b) {
        const Bytes& z = set.members[static_cast<size_t>(b) % set.members.size()];
        for (int64_t i = 0; i < parts; ++i) target[b][i] = z[static_cast<size_t>(i)];
      }
      const auto loss = [&](const std::vector<at::Tensor>& x) {
        return sparsemap_loss(*set.structure, x[0], target, precise(way));
      };
      testing::expect_gradients(loss, {scores}, 1e-5, 1e-7);
      if (set.bits()) testing::expect_second_gradients(loss, {scores});
      scores.requires_grad_();
      const at::Tensor grad = torch::autograd::grad({loss({scores}).sum()}, {scores})[0];
      const at::Tensor mu = sparsemap_marginals(*set.structure, scores, precise(way));
      EXPECT_LT(largest(grad - (mu - target)), 1e-6);
    }
  }
}

TEST(SparsemapLoss, ForbiddenPartsCostNothingUnlessTheTargetHasThem) {
  at::Tensor scores = normal({2, 4}, 810);
  scores.select(1, 2).fill_(-INFINITY);
  scores.requires_grad_();
  at::Tensor target = at::zeros({2, 4}, at::kDouble);
  target[0][0] = 1;
  target[1][2] = 1;
  for (const Set& set : {bits_set<BitVector>(4), bits_set<Budget>(4, 2), custom_sets(4)[0]}) {
    for (const Way& way : ways(set.bits())) {
      SCOPED_TRACE(set.name() + ", " + way.name());
      const at::Tensor loss = sparsemap_loss(*set.structure, scores, target, way.options());
      EXPECT_TRUE(std::isfinite(loss[0].item<double>()));
      EXPECT_EQ(loss[1].item<double>(), kInfinity);
      const at::Tensor grad = torch::autograd::grad({loss.sum()}, {scores})[0];
      EXPECT_TRUE(grad.isfinite().all().item<bool>()) << grad;
      EXPECT_EQ(grad[0][2].item<double>(), 0);
    }
  }
}

// --- options -------------------------------------------------------------------------------------

TEST(SparsemapOptions, AWarmStartReachesTheSameMarginals) {
  uint64_t seed = 900;
  for (const Set& set : sets(6)) {
    for (const Way& way : ways(set.bits())) {
      if (way.algorithm == kClosedForm) continue;
      SCOPED_TRACE(set.name() + ", " + way.name());
      const at::Tensor scores = normal({10, static_cast<int64_t>(set.parts())}, seed++);
      const at::Tensor moved = scores + 0.05 * normal(scores.sizes(), seed++);
      const auto u = static_cast<int64_t>(set.variables());
      SparsemapOptions options = precise(way, 1e-13);
      std::vector<SparseDistribution> starts;
      starts.push_back(sparsemap(*set.structure, scores.clone().requires_grad_(), options));
      starts.push_back(sparsemap(*set.structure, scores.to(at::kFloat), options));
      if (set.bits()) {
        starts.push_back(
            sparsemap(*set.structure, scores, Way{way.encoding, kClosedForm}.options()));
      }
      const auto cold = solve_sparsemap(*set.structure, moved, options);
      for (const SparseDistribution& earlier : starts) {
        options.warm_start = &earlier;
        const auto warm = solve_sparsemap(*set.structure, moved, options);
        EXPECT_LT(largest(warm.distribution.marginals().slice(1, 0, u) -
                          cold.distribution.marginals().slice(1, 0, u)),
                  2e-6);
        EXPECT_TRUE(warm.objective.allclose(cold.objective, 0, 1e-12));
        EXPECT_TRUE(warm.converged.all().item<bool>());
        EXPECT_FALSE(warm.distribution.probs().requires_grad());
        for (int64_t b = 0; b < 10; ++b) expect_distribution(set, warm.distribution, b, 1e-12);
      }
      // From its own solution there is nothing left to do.
      options.warm_start = &cold.distribution;
      const auto again = solve_sparsemap(*set.structure, moved, options);
      EXPECT_LE(again.oracle_calls.sum().item<int64_t>(), cold.oracle_calls.sum().item<int64_t>());
      EXPECT_TRUE(again.objective.allclose(cold.objective, 0, 1e-12));
    }
  }
}

TEST(SparsemapOptions, AWarmStartMustFit) {
  const at::Tensor scores = normal({2, 4}, 950);
  const auto q = sparsemap(BitVector(4), normal({3, 4}, 951));
  const auto full = sparsemap(BitVector(4), at::full({2, 4}, 3.0));
  SparsemapOptions options;
  options.warm_start = &q;
  EXPECT_EQ(error_of([&] { sparsemap(BitVector(4), scores, options); }),
            "sparsemap: expected a warm start of 2 examples and 4 parts, got 3 and 4");
  EXPECT_EQ(error_of([&] {
              sparsemap(NoNeighbours(5), normal({3, 5}, 1), options);
            }),
            "sparsemap: expected a warm start of 3 examples and 5 parts, got 3 and 4");
  options.warm_start = &full;
  EXPECT_EQ(error_of([&] { sparsemap(Budget(4, 2), scores, options); }),
            "sparsemap_active_set: row 0: the starting configurations are not in the set");
  // Parts that are forbidden now were not then.
  at::Tensor forbidden = scores.clone();
  forbidden[0][1] = -INFINITY;
  const auto got = solve_sparsemap(BitVector(4), forbidden, options);
  EXPECT_TRUE(got.converged.all().item<bool>());
  EXPECT_EQ(got.distribution.marginals()[0][1].item<double>(), 0);
}

TEST(SparsemapOptions, ARandomStartIsTheGenerators) {
  uint64_t seed = 1000;
  for (const Set& set : sets(6)) {
    for (const Way& way : ways(set.bits())) {
      if (way.algorithm == kClosedForm) continue;
      SCOPED_TRACE(set.name() + ", " + way.name());
      const at::Tensor scores = normal({12, static_cast<int64_t>(set.parts())}, seed++);
      if (set.most_forbidden() > 0) scores[0][0] = -INFINITY;
      SparsemapOptions options = precise(way, 1e-12);
      const auto map = solve_sparsemap(*set.structure, scores, options);
      options.init = SparsemapInit::kRandom;
      for (const auto dtype : {at::kDouble, at::kFloat}) {
        options.generator = seeded(7);
        const auto one = solve_sparsemap(*set.structure, scores.to(dtype), options);
        const at::Tensor next = at::rand({1}, *options.generator);
        options.generator = seeded(7);
        const auto two = solve_sparsemap(*set.structure, scores.to(dtype), options);
        EXPECT_TRUE(next.equal(at::rand({1}, *options.generator)));
        EXPECT_FALSE(next.equal(at::rand({1}, seeded(7))));  // something was drawn
        EXPECT_TRUE(one.distribution.probs().equal(two.distribution.probs()));
        EXPECT_TRUE(one.distribution.support().values().equal(two.distribution.support().values()));
        EXPECT_TRUE(one.iterations.equal(two.iterations));
        const double close = dtype == at::kDouble ? 1e-11 : 1e-5;
        EXPECT_TRUE(one.objective.allclose(map.objective, 0, close));
        EXPECT_TRUE(one.converged.all().item<bool>());
      }
    }
  }
  SparsemapOptions options;
  options.init = SparsemapInit::kRandom;
  for (const Set& set : {bits_set<BitVector>(4), custom_sets(4)[0]}) {
    EXPECT_EQ(error_of([&] {
                sparsemap(*set.structure, normal({2, 4}, 3), options);
              }),
              "sparsemap: expected a generator for SparsemapInit::kRandom");
  }
}

TEST(SparsemapOptions, StoppingEarlyIsSaidAndStillADistribution) {
  for (const Set& set : {bits_set<BitVector>(12), bits_set<Budget>(12, 5), bits_set<Subset>(12, 5),
                         custom_sets(12)[0], custom_sets(12)[1]}) {
    for (const Way& way : ways(set.bits())) {
      if (way.algorithm == kClosedForm) continue;
      SCOPED_TRACE(set.name() + ", " + way.name());
      const at::Tensor scores =
          normal({5, static_cast<int64_t>(set.parts())}, 1100).mul_(0.3).add_(0.2);
      SparsemapOptions options = way.options();
      const auto best = solve_sparsemap(*set.structure, scores, options);
      options.max_iterations = 1;
      const auto got = solve_sparsemap(*set.structure, scores, options);
      EXPECT_FALSE(got.converged.any().item<bool>());
      EXPECT_TRUE(got.converged.equal(got.distribution.exact()));
      EXPECT_TRUE(got.gap.isfinite().all().item<bool>());
      EXPECT_TRUE((got.gap > 1e-9).all().item<bool>());
      EXPECT_LE(got.iterations.max().item<int64_t>(), 1);
      EXPECT_LE(got.oracle_calls.max().item<int64_t>(), 3);
      EXPECT_TRUE((got.objective >= best.objective - 1e-9).all().item<bool>());
      EXPECT_TRUE((got.objective - got.gap <= best.objective + 1e-12).all().item<bool>());
      for (int64_t b = 0; b < 5; ++b) expect_distribution(set, got.distribution, b, 1e-12);
      options.max_iterations = 3;
      const auto more = solve_sparsemap(*set.structure, scores, options);
      EXPECT_TRUE((more.objective <= got.objective + 1e-12).all().item<bool>());
    }
  }
}

// --- oracles that are wrong ----------------------------------------------------------------------

/// Answers with whatever it is told, call by call; the last answer for ever.
class Told : public CustomStructure {
 public:
  explicit Told(std::vector<Bytes> answers) : answers_(std::move(answers)) {}
  std::string name() const override { return "told"; }
  int64_t parts() const override { return 4; }
  Bytes best(std::span<const double>) const override {
    const size_t call = calls_++;
    if (call > 10000) throw std::logic_error("asked for ever");
    return answers_[std::min(call, answers_.size() - 1)];
  }
  size_t calls() const { return calls_; }

 private:
  std::vector<Bytes> answers_;
  mutable std::atomic<size_t> calls_{0};
};

TEST(SparsemapOracle, WrongOnesAreNamed) {
  const at::Tensor scores = at::tensor({0.9, 0.6, 0.3, -3.0}).view({1, 4});
  const auto error = [&](const std::vector<Bytes>& answers, const at::Tensor& t) {
    const Told told(answers);
    const std::string message = error_of([&] { sparsemap(told, t); });
    EXPECT_LT(told.calls(), 2000u);
    return message;
  };
  EXPECT_EQ(error({{1, 1, 0}}, scores),
            "told: best: expected an outcome of V = 4 indicators, got 3");
  EXPECT_EQ(error({{1, 1, 1, 0}, {}}, scores),
            "told: best: expected an outcome of V = 4 indicators, got 0");
  EXPECT_EQ(error({{1, 2, 0, 0}}, scores),
            "told: best: expected indicators 0 or 1, got 2 for part 1");
  EXPECT_EQ(error({{1, 1, 1, 0}, {0, 0, 0, 255}}, scores),
            "told: best: expected indicators 0 or 1, got 255 for part 3");
  // A worse one than before, again and again.
  EXPECT_EQ(error({{1, 1, 1, 0}, {0, 0, 0, 1}}, scores),
            "sparsemap: told: row 0: the MAP oracle returned a configuration worse than an earlier "
            "one");
  EXPECT_EQ(error({{1, 1, 1, 0}, {0, 0, 0, 0}, {0, 0, 0, 1}}, scores),
            "sparsemap: told: row 0: the MAP oracle returned a configuration worse than an earlier "
            "one");
  at::Tensor forbidden = scores.clone();
  forbidden[0][1] = -INFINITY;
  EXPECT_EQ(error({{1, 1, 0, 0}}, forbidden),
            "sparsemap: told: row 0: the MAP oracle used a part whose score is -inf");
  EXPECT_EQ(error({{1, 0, 0, 0}, {0, 1, 0, 0}}, forbidden),
            "sparsemap: told: row 0: the MAP oracle used a part whose score is -inf");
}

TEST(SparsemapOracle, OneThatKnowsASingleOutcomeEnds) {
  // By its own word nothing is better.
  const at::Tensor scores = at::tensor({0.9, 0.6, 0.3, -0.2}).view({1, 4});
  const Told told({{0, 0, 0, 1}});
  const auto got = solve_sparsemap(told, scores);
  EXPECT_EQ(got.distribution.evaluations().item<int64_t>(), 1);
  EXPECT_LE(told.calls(), 4u);
}

TEST(SparsemapOracle, RandomAnswersEnd) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::vector<Bytes> answers;
    const auto values = list<double>(normal({50, 4}, seed));
    for (size_t i = 0; i < 50; ++i) {
      Bytes z(4);
      for (size_t j = 0; j < 4; ++j) z[j] = values[4 * i + j] > 0;
      answers.push_back(z);
    }
    const Told told(answers);
    const std::string message = error_of([&] {
      const auto got = solve_sparsemap(told, normal({1, 4}, 1000 + seed));
      EXPECT_TRUE(got.gap.isfinite().all().item<bool>());
      EXPECT_TRUE((got.distribution.probs() > 0).all().item<bool>());
    });
    EXPECT_TRUE(message.empty() || message.find("told: row 0: the MAP oracle") != std::string::npos)
        << message;
  }
}

class Throwing : public Told {
 public:
  Throwing() : Told({{0, 0, 0, 0}}) {}
  Bytes best(std::span<const double> scores) const override {
    if (scores[0] > 3) throw std::runtime_error("my own trouble");
    return {scores[0] > 0, scores[1] > 0, scores[2] > 0, scores[3] > 0};
  }
};

TEST(SparsemapOracle, WhatItThrowsPassesThrough) {
  at::Tensor scores = normal({300, 4}, 1200).clamp_max(2);
  EXPECT_NO_THROW(sparsemap(Throwing(), scores));
  scores[77][0] = 5;
  EXPECT_THROW(sparsemap(Throwing(), scores), std::runtime_error);
}

// --- shapes, dtypes, devices ---------------------------------------------------------------------

TEST(Sparsemap, OfACategoricalIsSparsemax) {
  const at::Tensor scores = normal({9, 6}, 1300).requires_grad_();
  const at::Tensor g = normal({9, 6}, 1301);
  const auto grad = [&](const at::Tensor& p) {
    return torch::autograd::grad({(p * g).sum()}, {scores})[0];
  };
  for (const auto algorithm : {kActiveSet, kClosedForm}) {
    const auto got =
        solve_sparsemap(Categorical(6), scores, Way{Encoding::kOneState, algorithm}.options());
    EXPECT_TRUE(got.marginals.equal(sparsemax(scores)));
    EXPECT_TRUE(got.distribution.to_dense().equal(sparsemax(scores)));
    EXPECT_LT(largest(got.objective - (sparsemax(scores) - scores).square().sum(1) / 2), 1e-14);
    EXPECT_TRUE(grad(got.distribution.to_dense()).equal(grad(sparsemax(scores))));
    EXPECT_TRUE(got.converged.all().item<bool>());
  }
}

TEST(Sparsemap, ShorterNamesAreTheSame) {
  const at::Tensor scores = normal({5, 6}, 1310);
  for (const Set& set : {bits_set<BitVector>(6), bits_set<Subset>(6, 2), custom_sets(6)[0]}) {
    for (const Way& way : ways(set.bits())) {
      const auto all = solve_sparsemap(*set.structure, scores, way.options());
      const auto q = sparsemap(*set.structure, scores, way.options());
      EXPECT_TRUE(q.probs().equal(all.distribution.probs()));
      EXPECT_TRUE(q.support().values().equal(all.distribution.support().values()));
      EXPECT_TRUE(sparsemap_marginals(*set.structure, scores, way.options()).equal(all.marginals));
    }
  }
}

TEST(Sparsemap, Dtypes) {
  const std::vector<std::pair<at::ScalarType, double>> dtypes = {
      {at::kDouble, 1e-12}, {at::kFloat, 1e-6}, {at::kHalf, 2e-3}, {at::kBFloat16, 2e-2}};
  for (const Set& set : {bits_set<BitVector>(8), bits_set<Budget>(8, 3), bits_set<Subset>(8, 5),
                         custom_sets(8)[0]}) {
    for (const Way& way : ways(set.bits())) {
      for (const auto& [dtype, close] : dtypes) {
        SCOPED_TRACE(set.name() + ", " + way.name() + ", " + at::toString(dtype));
        const at::Tensor scores = normal({10, 8}, 1320).to(dtype).requires_grad_();
        const auto wide = scores.detach().to(at::kDouble);
        const auto got = solve_sparsemap(*set.structure, scores, way.options());
        const auto expected = solve_sparsemap(*set.structure, wide, way.options());
        EXPECT_EQ(got.marginals.scalar_type(), dtype);
        EXPECT_EQ(got.distribution.probs().scalar_type(), dtype);
        EXPECT_EQ(got.objective.scalar_type(), at::kDouble);
        EXPECT_LT(largest(got.marginals.to(at::kDouble) - expected.marginals), close);
        EXPECT_LT(largest(got.objective - expected.objective), 10 * close);
        EXPECT_LT(largest(got.distribution.marginals().to(at::kDouble) - expected.marginals),
                  10 * close + 1e-4);
        for (int64_t b = 0; b < 10; ++b) {
          expect_distribution(set, got.distribution, b, 10 * close);
        }
        const at::Tensor own = got.distribution.probs();
        const at::Tensor grad =
            torch::autograd::grad({(own * own).sum() + got.marginals.square().sum()}, {scores})[0];
        EXPECT_EQ(grad.scalar_type(), dtype);
        EXPECT_TRUE(grad.isfinite().all().item<bool>());
        const at::Tensor loss = sparsemap_loss(
            *set.structure, scores, set.structure->map(scores).values(dtype), way.options());
        EXPECT_EQ(loss.scalar_type(), dtype);
        EXPECT_GE(loss.min().item<double>(), -10 * close);
      }
    }
  }
}

TEST(Sparsemap, NoExamples) {
  for (const Set& set : {bits_set<BitVector>(4), bits_set<Budget>(4, 3), bits_set<Subset>(4, 1),
                         custom_sets(4)[0], custom_sets(4)[1]}) {
    for (const Way& way : ways(set.bits())) {
      SCOPED_TRACE(set.name() + ", " + way.name());
      const auto parts = static_cast<int64_t>(set.parts());
      const at::Tensor scores = at::empty({0, parts}, at::kDouble).requires_grad_();
      const auto got = solve_sparsemap(*set.structure, scores, way.options());
      EXPECT_EQ(got.distribution.batch_size(), 0);
      EXPECT_EQ(got.distribution.support().count(), 0);
      EXPECT_EQ(got.distribution.support().values().sizes(), (at::IntArrayRef{0, parts}));
      EXPECT_EQ(got.marginals.sizes(), (at::IntArrayRef{0, parts}));
      for (const at::Tensor& t :
           {got.objective, got.gap, got.iterations, got.oracle_calls, got.converged}) {
        EXPECT_EQ(t.sizes(), (at::IntArrayRef{0}));
      }
      const at::Tensor loss =
          sparsemap_loss(*set.structure, scores, at::empty({0, parts}, at::kDouble), way.options());
      EXPECT_EQ(loss.sizes(), (at::IntArrayRef{0}));
      (got.distribution.probs().sum() + got.marginals.sum() + loss.sum()).backward();
      EXPECT_EQ(scores.grad().sizes(), scores.sizes());
    }
  }
  EXPECT_EQ(sparsemap(Categorical(3), at::empty({0, 3})).batch_size(), 0);
}

TEST(Sparsemap, ScoresNeedNotBeContiguous) {
  const at::Tensor wide = normal({6, 10}, 1340);
  const at::Tensor strided = wide.t().slice(0, 0, 10, 2).t();
  for (const Set& set : {bits_set<BitVector>(5), bits_set<Budget>(5, 2), custom_sets(5)[0]}) {
    for (const Way& way : ways(set.bits())) {
      const auto a = solve_sparsemap(*set.structure, strided, way.options());
      const auto b = solve_sparsemap(*set.structure, strided.contiguous(), way.options());
      EXPECT_TRUE(a.marginals.equal(b.marginals));
      EXPECT_TRUE(a.distribution.probs().equal(b.distribution.probs()));
    }
  }
}

TEST(Sparsemap, AWarmStartNeedNotBeContiguous) {
  const at::Tensor scores = normal({4, 5}, 1345);
  for (const Set& set : {bits_set<Budget>(5, 3), custom_sets(5)[0], custom_sets(5)[1]}) {
    const auto parts = static_cast<int64_t>(set.parts());
    const at::Tensor t = normal({4, parts}, 1345);
    const auto cold = solve_sparsemap(*set.structure, t);
    Assignments z = cold.distribution.support();
    const auto strided = [](const at::Tensor& dense) {
      return at::stack({dense, at::zeros_like(dense)}, -1).select(-1, 0);
    };
    z.indicators = strided(z.values(at::kByte).t()).t();
    z.row_splits = strided(z.row_splits);
    ASSERT_FALSE(z.indicators.is_contiguous());
    ASSERT_FALSE(z.row_splits.is_contiguous());
    const SparseDistribution earlier(z, strided(cold.distribution.probs()));
    SparsemapOptions options;
    options.warm_start = &earlier;
    const auto warm = solve_sparsemap(*set.structure, t, options);
    options.warm_start = &cold.distribution;
    const auto dense = solve_sparsemap(*set.structure, t, options);
    EXPECT_TRUE(warm.distribution.probs().equal(dense.distribution.probs())) << set.name();
    EXPECT_TRUE(warm.distribution.support().values().equal(dense.distribution.support().values()));
    EXPECT_TRUE(warm.oracle_calls.equal(dense.oracle_calls)) << set.name();
  }
}

TEST(Sparsemap, TightBoundsOfScoresOfAnySize) {
  for (const double size : {1e14, 1e17, 1e30, -1e14, -1e17, -1e30}) {
    // Ties, and scores that differ by far more than 1.
    at::Tensor scores = at::full({3, 8}, size, at::kDouble);
    scores[1].slice(0, 0, 3).mul_(2);
    scores[2].mul_(at::arange(1, 9, at::kDouble) / 4);
    const bool budget_is_tight = size > 0;
    for (const Set& set :
         {bits_set<Subset>(8, 4), bits_set<Subset>(8, 5), bits_set<Budget>(8, 4)}) {
      const int64_t bound = static_cast<const Bits&>(*set.structure).most();
      if (!budget_is_tight && set.structure->name().rfind("budget", 0) == 0) continue;
      for (const auto encoding : {Encoding::kOneState, Encoding::kBothStates}) {
        SCOPED_TRACE(set.name() + " at " + std::to_string(size));
        const auto got =
            solve_sparsemap(*set.structure, scores, Way{encoding, kClosedForm}.options());
        EXPECT_LT(largest(got.marginals.sum(1) - static_cast<double>(bound)), 1e-12);
        const at::Tensor on = got.distribution.support().values().sum(1);
        EXPECT_TRUE(on.eq(bound).all().item<bool>());
        EXPECT_LT(largest(got.distribution.marginals() - got.marginals), 1e-11);
        EXPECT_LT(largest(got.marginals[0] - static_cast<double>(bound) / 8), 1e-12);
      }
    }
  }
}

TEST(SparsemapLoss, IsNeverNegative) {
  for (const Set& set : {bits_set<BitVector>(20), bits_set<Budget>(20, 7), custom_sets(8)[0]}) {
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      const auto parts = static_cast<int64_t>(set.parts());
      const at::Tensor scores = (30 * normal({400, parts}, 1360)).to(dtype).requires_grad_();
      const at::Tensor y = sparsemap_marginals(*set.structure, scores).detach();
      const at::Tensor loss = sparsemap_loss(*set.structure, scores, y);
      EXPECT_GE(loss.min().item<double>(), 0) << set.name();
      // And its gradient is μ − y there too, though that be small.
      const double step = dtype == at::kFloat ? 1e-3 : 1e-7;
      const at::Tensor moved = y + step * normal({400, parts}, 1361).to(dtype);
      const at::Tensor near = sparsemap_loss(*set.structure, scores, moved);
      EXPECT_GE(near.min().item<double>(), 0) << set.name();
      const at::Tensor grad = torch::autograd::grad({near.sum()}, {scores})[0];
      EXPECT_LT(largest(grad - (y - moved)), step / 100) << set.name();
    }
  }
}

TEST(Sparsemap, TheNumberOfThreadsDoesNotMatter) {
  const int before = at::get_num_threads();
  for (const Set& set : {bits_set<BitVector>(10), bits_set<Budget>(10, 4), bits_set<Subset>(10, 4),
                         custom_sets(10)[0], custom_sets(10)[1]}) {
    for (const Way& way : ways(set.bits())) {
      for (const auto dtype : {at::kDouble, at::kFloat}) {
        SCOPED_TRACE(set.name() + ", " + way.name());
        const at::Tensor scores =
            normal({700, static_cast<int64_t>(set.parts())}, 1350).to(dtype).requires_grad_();
        const at::Tensor g = normal({1 << 14}, 1351).to(dtype);
        const auto run = [&](int threads) {
          at::set_num_threads(threads);
          const auto got = solve_sparsemap(*set.structure, scores, way.options());
          const at::Tensor p = got.distribution.probs();
          const auto grad = [&](const at::Tensor& x) {
            const at::Tensor flat = x.reshape(-1);
            return torch::autograd::grad({(flat * g.slice(0, 0, flat.size(0))).sum()}, {scores}, {},
                                         true)[0];
          };
          return std::vector<at::Tensor>{p,
                                         got.distribution.support().values(),
                                         got.distribution.support().rows,
                                         got.objective,
                                         got.gap,
                                         got.iterations,
                                         got.oracle_calls,
                                         got.converged,
                                         got.marginals,
                                         grad(p),
                                         grad(got.marginals)};
        };
        const auto one = run(1), two = run(2);
        for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(one[i].equal(two[i])) << i;
      }
    }
  }
  at::set_num_threads(before);
}

// --- errors --------------------------------------------------------------------------------------

TEST(Sparsemap, RefusesWhatItCannotSolve) {
  const at::Tensor scores = normal({2, 3}, 1400);
  for (const bool closed : {false, true}) {
    SparsemapOptions options;
    options.algorithm = closed ? kClosedForm : kActiveSet;
    for (const double tolerance : {0.0, -1.0}) {
      options.tolerance = tolerance;
      EXPECT_EQ(error_of([&] { sparsemap(BitVector(3), scores, options); }),
                "sparsemap: expected a finite tolerance > 0, got " +
                    std::string(tolerance == 0 ? "0" : "-1"));
    }
    options.tolerance = INFINITY;
    EXPECT_EQ(error_of([&] { sparsemap(BitVector(3), scores, options); }),
              "sparsemap: expected a finite tolerance > 0, got inf");
    options.tolerance = NAN;
    EXPECT_EQ(error_of([&] { sparsemap_marginals(BitVector(3), scores, options); }),
              "sparsemap_marginals: expected a finite tolerance > 0, got nan");
    options.tolerance = 1e-9;
    options.max_iterations = -1;
    EXPECT_EQ(error_of([&] { sparsemap_loss(BitVector(3), scores, scores, options); }),
              "sparsemap_loss: expected max_iterations >= 0, got -1");
  }
  SparsemapOptions closed;
  closed.algorithm = kClosedForm;
  EXPECT_EQ(error_of([&] { sparsemap(NoNeighbours(3), scores, closed); }),
            "sparsemap: the closed form is for bits, got no-neighbours(3)");
  SparsemapOptions both;
  both.encoding = Encoding::kBothStates;
  EXPECT_EQ(error_of([&] { sparsemap(NoNeighbours(3), scores, both); }),
            "sparsemap: Encoding::kBothStates is for bits, got no-neighbours(3)");
  EXPECT_EQ(error_of([&] { sparsemap(Categorical(3), scores, both); }),
            "sparsemap: Encoding::kBothStates is for bits, got categorical(3)");
  EXPECT_EQ(error_of([&] { sparsemap(Plain(), scores); }),
            "sparsemap: expected Bits, a Categorical or a CustomStructure, whose best outcome is "
            "all the solver needs, got plain");
  EXPECT_NE(error_of([&] { sparsemap_marginals(Plain(), scores); }).find("got plain"),
            std::string::npos);
  EXPECT_NE(error_of([&] { sparsemap_loss(Plain(), scores, scores); }).find("got plain"),
            std::string::npos);
}

TEST(Sparsemap, RefusesScoresThatAreNone) {
  EXPECT_EQ(error_of([] {
              sparsemap(BitVector(3), at::zeros({2, 4}));
            }),
            "sparsemap: expected scores to be [B, V] with V = 3 for bit-vector(3), got [2, 4]");
  EXPECT_EQ(error_of([] { sparsemap(NoNeighbours(3), at::zeros({3})); }),
            "sparsemap: expected scores to be [B, V] with V = 3 for no-neighbours(3), got [3]");
  EXPECT_EQ(error_of([] {
              sparsemap(BitVector(3), at::zeros({2, 3}, at::kLong));
            }),
            "sparsemap: expected scores to be floating point, got Long");
  EXPECT_EQ(error_of([] {
              sparsemap_loss(BitVector(3), at::zeros({2, 3}), at::zeros({2, 4}));
            }),
            "sparsemap_loss: expected target to be [B, V] = [2, 3], got [2, 4]");
  const std::vector<std::pair<double, std::string>> illegal = {{NAN, "nan"}, {INFINITY, "inf"}};
  for (const auto& [value, word] : illegal) {
    at::Tensor scores = normal({3, 4}, 1500);
    scores[1][2] = value;
    const std::string expected =
        ": expected scores to be finite or -inf, got " + word + " in row 1, column 2";
    for (const Set& set : {bits_set<BitVector>(4), bits_set<Subset>(4, 2), custom_sets(4)[0]}) {
      for (const Way& way : ways(set.bits())) {
        SCOPED_TRACE(set.name() + ", " + way.name());
        const std::string error =
            error_of([&] { sparsemap(*set.structure, scores, way.options()); });
        EXPECT_NE(error.find(expected), std::string::npos) << error;
      }
    }
  }
  at::Tensor scores = normal({3, 4}, 1501);
  scores[2].slice(0, 1).fill_(-INFINITY);
  for (const Way& way : ways(true)) {
    const std::string error = error_of([&] { sparsemap(Subset(4, 2), scores, way.options()); });
    EXPECT_NE(error.find(": expected at least 2 finite scores in every row, one for each bit that "
                         "must be on, got 1 in row 2"),
              std::string::npos)
        << error;
  }
}

}  // namespace
}  // namespace sparsum
