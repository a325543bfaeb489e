// Top-k sparsemax over structures against sparsemax over all of their members' scores; and the
// estimators that sum a loss over the supports of such distributions.

#include "tests/ops/tensors.h"
#include "tests/oracle/bits.h"
#include "tests/oracle/simplex.h"
#include "tests/structures/errors.h"
#include "tests/structures/plain.h"

#include <gtest/gtest.h>
#include <sparsum/bits.h>
#include <sparsum/categorical.h>
#include <sparsum/custom_structure.h>
#include <sparsum/estimator.h>
#include <sparsum/sparsemap.h>
#include <sparsum/top_k_sparsemax.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace sparsum {
namespace {

using oracle::Real;
using oracle::score;
using sparsum_test::error_of;
using sparsum_test::largest;
using sparsum_test::normal;
using sparsum_test::Plain;
using sparsum_test::seeded;
using Configuration = std::vector<int>;

std::vector<double> row_of(const at::Tensor& scores, int64_t b) {
  const at::Tensor row = scores.detach()[b].to(at::kDouble).contiguous();
  return {row.const_data_ptr<double>(), row.const_data_ptr<double>() + row.size(0)};
}

// --- sets and their members ----------------------------------------------------------------------

std::vector<std::unique_ptr<Bits>> structures(int64_t bits) {
  std::vector<std::unique_ptr<Bits>> all;
  all.push_back(std::make_unique<BitVector>(bits));
  for (int64_t size = 0; size <= bits; size += std::max<int64_t>(1, bits / 3)) {
    all.push_back(std::make_unique<Budget>(bits, size));
    all.push_back(std::make_unique<Subset>(bits, size));
  }
  return all;
}

/// The members best first, those that tie in the order that Bits::k_best documents; forbidden ones
/// left out.
std::vector<Configuration> ranked(const Bits& structure, const std::vector<double>& t) {
  std::vector<size_t> order(t.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return t[a] > t[b]; });
  std::vector<int> rank(t.size());
  for (size_t r = 0; r < t.size(); ++r) rank[order[r]] = static_cast<int>(r);
  struct Entry {
    double score;
    std::vector<int> tie;
    Configuration z;
  };
  std::vector<Entry> entries;
  for (const Configuration& z : oracle::members_of<int>(structure)) {
    Entry entry{score(z, t), {}, z};
    if (entry.score == -INFINITY) continue;
    for (size_t i = 0; i < z.size(); ++i) {
      if (structure.free() && z[i] != (t[i] > 0)) entry.tie.push_back(static_cast<int>(i));
      if (!structure.free() && z[i]) entry.tie.push_back(rank[i]);
    }
    if (!structure.free()) {
      std::sort(entry.tie.begin(), entry.tie.end());
      entry.tie.insert(entry.tie.begin(), static_cast<int>(entry.tie.size()));
    }
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.score != b.score ? a.score > b.score : a.tie < b.tie;
  });
  std::vector<Configuration> all;
  for (Entry& entry : entries) all.push_back(std::move(entry.z));
  return all;
}

/// Three kinds of rows: random, ones that tie (multiples of 1/4, whose sums are exact), and
/// forbidden bits.
at::Tensor score_rows(int64_t batch, const Bits& structure, uint64_t seed) {
  const int64_t bits = structure.parts();
  at::Tensor scores = normal({batch, bits}, seed);
  const int64_t third = batch / 3;
  scores.slice(0, 0, third).mul_(0.3);
  scores.slice(0, third, 2 * third).copy_((scores.slice(0, third, 2 * third) * 4).round() / 4);
  scores[third].zero_();
  scores[third + 1].fill_(0.25);
  scores[third + 2].fill_(-0.25);
  if (structure.least() < bits) {
    for (int64_t b = 2 * third; b < batch; b += 2) scores[b][b % bits] = -INFINITY;
  }
  return scores;
}

/// Whether row b of score_rows has scores whose sums are exact.
bool ties(int64_t b, int64_t batch) { return b >= batch / 3 && b < 2 * (batch / 3); }

struct Own {
  std::vector<Configuration> configurations;
  std::vector<double> probs;
};

std::vector<Own> examples_of(const SparseDistribution& q) {
  const at::Tensor values = q.support().values(at::kInt).contiguous();
  const at::Tensor probs = q.probs().detach().to(at::kDouble).contiguous();
  const at::Tensor rows = q.support().rows;
  std::vector<Own> all(static_cast<size_t>(q.batch_size()));
  for (int64_t i = 0; i < q.support().count(); ++i) {
    const int* row = values.const_data_ptr<int>() + i * values.size(1);
    Own& own = all[static_cast<size_t>(rows.const_data_ptr<int64_t>()[i])];
    own.configurations.emplace_back(row, row + values.size(1));
    own.probs.push_back(probs.const_data_ptr<double>()[i]);
  }
  return all;
}

// --- values --------------------------------------------------------------------------------------

/// How the certificate should come out.
enum class Verdict { kExact, kNot, kTooClose };

Verdict certificate(const std::vector<Real>& best_first, size_t k, bool exact_sums) {
  if (k >= best_first.size()) return Verdict::kExact;
  const std::vector<Real> head(best_first.begin(), best_first.begin() + static_cast<int64_t>(k));
  const auto p = oracle::sparsemax(head);
  Real sum = 0, count = 0;
  for (size_t i = 0; i < k; ++i) {
    if (p[i] <= 0) continue;
    sum += head[i];
    ++count;
  }
  // s₍ₖ₊₁₎ ≤ τ = (Σ_S s − 1)/|S|, without the division.
  const Real excess = count * best_first[k] - (sum - 1);
  if (!exact_sums && std::abs(excess) < 1e-9L) return Verdict::kTooClose;
  return excess <= 0 ? Verdict::kExact : Verdict::kNot;
}

std::vector<Real> scores_of(const std::vector<Configuration>& members,
                            const std::vector<double>& t) {
  std::vector<Real> s;
  for (const Configuration& z : members) s.push_back(score(z, t));
  return s;
}

void expect_same(const Own& got, const std::vector<Configuration>& members,
                 const std::vector<Real>& probs, bool tied) {
  std::map<Configuration, double> expected;
  for (size_t j = 0; j < members.size(); ++j) {
    if (probs[j] > 1e-13L) expected[members[j]] = static_cast<double>(probs[j]);
  }
  double missing = 0;
  for (const auto& entry : expected) missing += entry.second;
  for (size_t i = 0; i < got.configurations.size(); ++i) {
    EXPECT_GT(got.probs[i], 0);
    const auto found = expected.find(got.configurations[i]);
    // Rounding may give what has nothing a little.
    if (found == expected.end()) {
      EXPECT_TRUE(!tied && got.probs[i] < 1e-12) << got.probs[i];
      continue;
    }
    EXPECT_NEAR(got.probs[i], found->second, 1e-12);
    missing -= found->second;
    expected.erase(found);
  }
  EXPECT_NEAR(missing, 0, 1e-12);
}

void expect_top_k(int64_t bits, int64_t batch, const std::vector<int64_t>& ks, uint64_t seed,
                  int64_t (&verdicts)[3]) {
  for (const auto& structure : structures(bits)) {
    const at::Tensor scores = score_rows(batch, *structure, seed++);
    std::vector<std::vector<Configuration>> members;
    std::vector<std::vector<Real>> values;
    for (int64_t b = 0; b < batch; ++b) {
      const auto t = row_of(scores, b);
      members.push_back(ranked(*structure, t));
      values.push_back(scores_of(members.back(), t));
    }
    for (const int64_t k : ks) {
      const SparseDistribution q = top_k_sparsemax(*structure, scores, k);
      const auto examples = examples_of(q);
      ASSERT_EQ(q.exact().sizes(), (at::IntArrayRef{batch}));
      EXPECT_LE(q.evaluations().max().item<int64_t>(), k);
      for (int64_t b = 0; b < batch; ++b) {
        SCOPED_TRACE(structure->name() + ", k = " + std::to_string(k) + ", row " +
                     std::to_string(b));
        const auto i = static_cast<size_t>(b);
        const size_t kept = std::min(static_cast<size_t>(k), members[i].size());
        const std::vector<Real> head(values[i].begin(),
                                     values[i].begin() + static_cast<int64_t>(kept));
        expect_same(examples[i],
                    {members[i].begin(), members[i].begin() + static_cast<int64_t>(kept)},
                    oracle::sparsemax(head), ties(b, batch));
        const Verdict verdict = certificate(values[i], static_cast<size_t>(k), ties(b, batch));
        ++verdicts[static_cast<int>(verdict)];
        if (verdict != Verdict::kTooClose) {
          EXPECT_EQ(q.exact()[b].item<bool>(), verdict == Verdict::kExact);
        }
      }
    }
  }
}

TEST(StructuredTopK, IsSparsemaxOfTheBestMembers) {
  int64_t verdicts[3] = {0, 0, 0};
  uint64_t seed = 1;
  for (const int64_t bits : {1, 2, 3, 5, 6}) {
    expect_top_k(bits, 24, {1, 2, 3, 5, 8, 17, 40, 64, 1000}, seed, verdicts);
    seed += 100;
  }
  expect_top_k(10, 12, {1, 4, 30, 200, 1023, 1024}, seed, verdicts);
  EXPECT_GT(verdicts[0], 1000);
  EXPECT_GT(verdicts[1], 1000);
  EXPECT_LT(verdicts[2], 10);
}

TEST(StructuredTopK, ExactMeansTheSparsemaxOfAllMembers) {
  uint64_t seed = 1000;
  for (const int64_t bits : {2, 4, 7}) {
    for (const auto& structure : structures(bits)) {
      const int64_t batch = 15;
      const at::Tensor scores = score_rows(batch, *structure, seed++);
      for (const int64_t k : {1, 3, 9, 33}) {
        const SparseDistribution q = top_k_sparsemax(*structure, scores, k);
        const auto examples = examples_of(q);
        for (int64_t b = 0; b < batch; ++b) {
          const auto t = row_of(scores, b);
          const auto members = ranked(*structure, t);
          const auto full = oracle::sparsemax(scores_of(members, t));
          const auto support =
              std::count_if(full.begin(), full.end(), [](Real p) { return p > 1e-13L; });
          SCOPED_TRACE(structure->name() + ", k = " + std::to_string(k) + ", row " +
                       std::to_string(b));
          if (q.exact()[b].item<bool>()) {
            EXPECT_LE(support, k);
            expect_same(examples[static_cast<size_t>(b)], members, full, ties(b, batch));
          } else {
            EXPECT_GT(std::count_if(full.begin(), full.end(), [](Real p) { return p > 0; }), k);
          }
        }
      }
    }
  }
}

TEST(StructuredTopK, AdaptiveIsTheSparsemaxOfAllMembersWhereTheLimitSuffices) {
  uint64_t seed = 2000;
  int64_t whole = 0, cut = 0;
  for (const int64_t bits : {1, 3, 5, 7, 9}) {
    for (const auto& structure : structures(bits)) {
      const int64_t batch = 18;
      const at::Tensor scores = score_rows(batch, *structure, seed++);
      for (const auto& [k, max_k] : std::vector<std::pair<int64_t, int64_t>>{
               {1, 1}, {1, 4}, {3, 12}, {1, 50}, {50, 50}, {2, 2000}}) {
        const SparseDistribution q = adaptive_top_k_sparsemax(*structure, scores, k, max_k);
        const SparseDistribution fixed = top_k_sparsemax(*structure, scores, max_k);
        const auto examples = examples_of(q), cut_off = examples_of(fixed);
        EXPECT_TRUE(q.exact().equal(fixed.exact())) << structure->name() << " " << max_k;
        for (int64_t b = 0; b < batch; ++b) {
          SCOPED_TRACE(structure->name() + ", max_k = " + std::to_string(max_k) + ", row " +
                       std::to_string(b));
          const auto i = static_cast<size_t>(b);
          const auto t = row_of(scores, b);
          const auto members = ranked(*structure, t);
          const auto values = scores_of(members, t);
          const auto full = oracle::sparsemax(values);
          const auto support =
              std::count_if(full.begin(), full.end(), [](Real p) { return p > 1e-13L; });
          const Verdict verdict = certificate(values, static_cast<size_t>(max_k), ties(b, batch));
          if (support < max_k) {
            EXPECT_TRUE(q.exact()[b].item<bool>());
          }
          if (verdict != Verdict::kTooClose) {
            EXPECT_EQ(q.exact()[b].item<bool>(), verdict == Verdict::kExact);
          }
          if (q.exact()[b].item<bool>()) {
            ++whole;
            expect_same(examples[i], members, full, ties(b, batch));
          } else {
            ++cut;
            ASSERT_EQ(examples[i].configurations, cut_off[i].configurations);
            for (size_t j = 0; j < examples[i].probs.size(); ++j) {
              EXPECT_NEAR(examples[i].probs[j], cut_off[i].probs[j], 1e-14);
            }
          }
        }
      }
    }
  }
  EXPECT_GT(whole, 1000);
  EXPECT_GT(cut, 500);
}

TEST(StructuredTopK, AdaptiveOfSureBitsListsFewOfVeryMany) {
  const at::Tensor scores = normal({4, 2000}, 3000).sign() * 0.7;
  for (const bool adaptive : {false, true}) {
    const auto q = adaptive ? adaptive_top_k_sparsemax(BitVector(2000), scores, 1, 5000)
                            : top_k_sparsemax(BitVector(2000), scores, 5000);
    EXPECT_TRUE(q.exact().all().item<bool>());
    // Flipping one bit costs 0.7, below the 1 + … that sparsemax forgives: all 2000 neighbours.
    EXPECT_TRUE((q.evaluations() == 2001).all().item<bool>());
  }
  const auto sure = adaptive_top_k_sparsemax(BitVector(2000), scores * 2, 1, 5000);
  EXPECT_TRUE((sure.evaluations() == 1).all().item<bool>());
}

TEST(StructuredTopK, MoreThanAllMembersIsAllOfThem) {
  const at::Tensor scores = at::full({2, 3}, 1e-3, at::kDouble);
  for (const auto& structure : structures(3)) {
    const int64_t size = structure->size().value();
    for (const int64_t k : {size, size + 1, int64_t{1} << 40}) {
      const auto q = top_k_sparsemax(*structure, scores, k);
      EXPECT_TRUE((q.evaluations() == size).all().item<bool>()) << structure->name() << " " << k;
      EXPECT_TRUE(q.exact().all().item<bool>());
      const auto a = adaptive_top_k_sparsemax(*structure, scores, 1, k);
      EXPECT_TRUE((a.evaluations() == size).all().item<bool>()) << structure->name() << " " << k;
      EXPECT_TRUE(a.exact().all().item<bool>());
    }
  }
}

TEST(StructuredTopK, OfACategoricalIsTheDenseOne) {
  const at::Tensor scores = normal({7, 9}, 3100);
  for (const int64_t k : {1, 3, 9, 20}) {
    const auto [probs, exact] = top_k_sparsemax(scores, k);
    const auto q = top_k_sparsemax(Categorical(9), scores, k);
    EXPECT_TRUE(q.to_dense().equal(probs));
    EXPECT_TRUE(q.exact().equal(exact));
    EXPECT_TRUE(adaptive_top_k_sparsemax(Categorical(9), scores, 1, k).to_dense().equal(probs));
  }
}

TEST(StructuredTopK, FloatsAndNoExamples) {
  const at::Tensor scores = normal({20, 8}, 3200);
  for (const auto& structure : structures(8)) {
    for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
      const at::Tensor low = scores.to(dtype).requires_grad_();
      const auto q = top_k_sparsemax(*structure, low, 6);
      EXPECT_EQ(q.probs().scalar_type(), dtype);
      const double close = dtype == at::kFloat ? 1e-5 : dtype == at::kHalf ? 1e-2 : 6e-2;
      const at::Tensor wide =
          top_k_sparsemax(*structure, low.detach().to(at::kDouble), 6).marginals();
      EXPECT_LT(largest(q.marginals().to(at::kDouble) - wide), close) << structure->name();
      q.marginals().square().sum().backward();
      EXPECT_EQ(low.grad().scalar_type(), dtype);
      EXPECT_TRUE(low.grad().isfinite().all().item<bool>());
    }
    const at::Tensor none = at::empty({0, 8}, at::kDouble).requires_grad_();
    for (const auto& q :
         {top_k_sparsemax(*structure, none, 3), adaptive_top_k_sparsemax(*structure, none, 3, 5)}) {
      EXPECT_EQ(q.batch_size(), 0);
      EXPECT_EQ(q.support().count(), 0);
      EXPECT_EQ(q.exact().sizes(), (at::IntArrayRef{0}));
      q.probs().sum().backward();
      EXPECT_EQ(none.grad().sizes(), none.sizes());
    }
  }
}

// --- gradients -----------------------------------------------------------------------------------

/// Top-k sparsemax by listing, in operations that autograd knows: for each example the
/// probabilities of members[b] [m, V], the best first.
at::Tensor listed_probs(const at::Tensor& t, const std::vector<Configuration>& members, size_t k) {
  const size_t kept = std::min(k, members.size());
  at::Tensor z = at::zeros({static_cast<int64_t>(kept), t.size(0)}, at::kDouble);
  for (size_t j = 0; j < kept; ++j) {
    for (size_t i = 0; i < members[j].size(); ++i) {
      z[static_cast<int64_t>(j)][static_cast<int64_t>(i)] = members[j][i];
    }
  }
  const at::Tensor s = z.matmul(t.masked_fill(t == -INFINITY, 0));
  const auto p = oracle::sparsemax([&] {
    std::vector<Real> head;
    for (size_t j = 0; j < kept; ++j) head.push_back(s[static_cast<int64_t>(j)].item<double>());
    return head;
  }());
  const auto support =
      static_cast<int64_t>(std::count_if(p.begin(), p.end(), [](Real x) { return x > 0; }));
  const at::Tensor head = s.slice(0, 0, support);
  return head - (head.sum() - 1) / static_cast<double>(support);
}

TEST(StructuredTopK, GradientsAreThoseOfTheListing) {
  uint64_t seed = 4000;
  for (const int64_t bits : {2, 5}) {
    for (const auto& structure : structures(bits)) {
      for (const int64_t k : {1, 2, 7, 40}) {
        for (const bool adaptive : {false, true}) {
          const int64_t batch = 6;
          at::Tensor values = normal({batch, bits}, seed++) * 0.5;
          if (structure->least() < bits) values[1][0] = -INFINITY;
          const at::Tensor scores = values.clone().requires_grad_();
          const auto q = adaptive ? adaptive_top_k_sparsemax(*structure, scores, 1, k)
                                  : top_k_sparsemax(*structure, scores, k);
          const at::Tensor weights = normal({1000}, seed), h = normal({batch, bits}, seed + 1);
          // Not linear in the probabilities: there are second derivatives.
          const auto loss = [&](const at::Tensor& p, const at::Tensor& own) {
            return (own * p + own.square() * p.square() + p.pow(3)).sum();
          };
          const auto examples = examples_of(q);
          const auto derivatives = [&](const at::Tensor& value, const at::Tensor& x,
                                       const at::Tensor& along) {
            std::vector<at::Tensor> both = {
                torch::autograd::grad({value}, {x}, {}, true, true, true)[0], at::zeros_like(x)};
            if (!both[0].defined()) both[0] = at::zeros_like(x);
            if (both[0].requires_grad()) {
              const auto second =
                  torch::autograd::grad({(both[0] * along).sum()}, {x}, {}, true, false, true)[0];
              if (second.defined()) both[1] = second;
            }
            return both;
          };
          const at::Tensor own_weights = weights.slice(0, 0, q.support().count());
          const auto got = derivatives(loss(q.probs(), own_weights), scores, h);
          int64_t first = 0;
          for (int64_t b = 0; b < batch; ++b) {
            SCOPED_TRACE(structure->name() + ", k = " + std::to_string(k) + ", row " +
                         std::to_string(b));
            const at::Tensor t = values[b].clone().requires_grad_();
            const auto members = ranked(*structure, row_of(values, b));
            const at::Tensor p = listed_probs(t, members, static_cast<size_t>(k));
            const Own& own = examples[static_cast<size_t>(b)];
            ASSERT_EQ(own.configurations,
                      std::vector<Configuration>(members.begin(), members.begin() + p.size(0)));
            const auto expected =
                derivatives(loss(p, weights.slice(0, first, first + p.size(0))), t, h[b]);
            EXPECT_LT(largest(got[0][b] - expected[0]), 1e-10);
            EXPECT_LT(largest(got[1][b] - expected[1]), 1e-10);
            first += p.size(0);
          }
        }
      }
    }
  }
}

// --- a structure of one's own --------------------------------------------------------------------

/// Bit vectors without two neighbouring bits on, listed.
class NoNeighbours : public CustomStructure {
 public:
  explicit NoNeighbours(int64_t bits) : bits_(bits) {
    for (int64_t code = 0; code < int64_t{1} << bits; ++code) {
      if (code & code >> 1) continue;
      std::vector<uint8_t> z;
      for (int64_t i = 0; i < bits; ++i) z.push_back(code >> i & 1);
      members_.push_back(z);
    }
  }
  std::string name() const override { return "no-neighbours(" + std::to_string(bits_) + ")"; }
  int64_t parts() const override { return bits_; }
  std::vector<uint8_t> best(std::span<const double> scores) const override {
    return k_best_one(scores, 1)[0];
  }
  std::vector<std::vector<uint8_t>> k_best_one(std::span<const double> scores,
                                               int64_t k) const override {
    std::vector<std::pair<double, size_t>> order;
    for (size_t m = 0; m < members_.size(); ++m) {
      double sum = 0;
      for (size_t i = 0; i < scores.size(); ++i) sum += members_[m][i] ? scores[i] : 0;
      if (sum > -INFINITY) order.emplace_back(-sum, m);
    }
    std::sort(order.begin(), order.end());
    std::vector<std::vector<uint8_t>> list;
    for (size_t j = 0; j < order.size() && static_cast<int64_t>(j) < k; ++j) {
      list.push_back(members_[order[j].second]);
    }
    return list;
  }
  const std::vector<std::vector<uint8_t>>& members() const { return members_; }

 private:
  int64_t bits_;
  std::vector<std::vector<uint8_t>> members_;
};

TEST(StructuredTopK, OfAStructureOfOnesOwn) {
  const NoNeighbours structure(7);  // 34 members
  at::Tensor scores = normal({40, 7}, 5000) * 0.4;
  for (int64_t b = 30; b < 40; ++b) scores[b][b % 7] = -INFINITY;
  scores.requires_grad_();
  int64_t exact = 0;
  for (const int64_t k : {1, 2, 5, 11, 33, 34, 1000}) {
    for (const bool adaptive : {false, true}) {
      const auto q = adaptive
                         ? adaptive_top_k_sparsemax(structure, scores, 2, std::max<int64_t>(k, 2))
                         : top_k_sparsemax(structure, scores, k);
      const int64_t limit = adaptive ? std::max<int64_t>(k, 2) : k;
      const auto examples = examples_of(q);
      for (int64_t b = 0; b < 40; ++b) {
        SCOPED_TRACE("k = " + std::to_string(k) + ", row " + std::to_string(b));
        const auto t = row_of(scores, b);
        std::vector<std::pair<double, Configuration>> all;
        for (const auto& member : structure.members()) {
          const Configuration z(member.begin(), member.end());
          if (score(z, t) > -INFINITY) all.emplace_back(-score(z, t), z);
        }
        std::sort(all.begin(), all.end());
        std::vector<Configuration> members;
        for (const auto& entry : all) members.push_back(entry.second);
        const auto values = scores_of(members, t);
        const Verdict verdict = certificate(values, static_cast<size_t>(limit), false);
        ASSERT_NE(verdict, Verdict::kTooClose);
        EXPECT_EQ(q.exact()[b].item<bool>(), verdict == Verdict::kExact);
        exact += verdict == Verdict::kExact;
        const auto kept = std::min(static_cast<int64_t>(members.size()), limit);
        expect_same(examples[static_cast<size_t>(b)], {members.begin(), members.begin() + kept},
                    oracle::sparsemax({values.begin(), values.begin() + kept}), false);
        if (verdict == Verdict::kExact) {
          expect_same(examples[static_cast<size_t>(b)], members, oracle::sparsemax(values), false);
        }
        // And the gradient.
        const at::Tensor own = scores.detach()[b].clone().requires_grad_();
        const at::Tensor p = listed_probs(own, members, static_cast<size_t>(limit));
        const auto expected =
            torch::autograd::grad({p.square().sum()}, {own}, {}, false, false, true)[0];
        const at::Tensor mine = q.support().sum_per_example(q.probs().square())[b];
        const auto got = torch::autograd::grad({mine}, {scores}, {}, true)[0][b];
        EXPECT_LT(largest(got - expected), 1e-10);
      }
    }
  }
  EXPECT_GT(exact, 100);
}

/// Gives what it is told.
class Told : public NoNeighbours {
 public:
  explicit Told(std::vector<std::vector<uint8_t>> answer)
      : NoNeighbours(3), answer_(std::move(answer)) {}
  std::string name() const override { return "told"; }
  std::vector<std::vector<uint8_t>> k_best_one(std::span<const double>, int64_t) const override {
    return answer_;
  }

 private:
  std::vector<std::vector<uint8_t>> answer_;
};

/// Has the best outcome only.
class BestOnly : public CustomStructure {
 public:
  std::string name() const override { return "best-only"; }
  int64_t parts() const override { return 3; }
  std::vector<uint8_t> best(std::span<const double> t) const override {
    return {t[0] > 0, t[1] > 0, t[2] > 0};
  }
};

TEST(StructuredTopK, Refuses) {
  const at::Tensor scores = at::tensor({1.0, 0.5, 0.25}).view({1, 3});
  EXPECT_EQ(error_of([&] { top_k_sparsemax(BitVector(3), scores, 0); }),
            "top_k_sparsemax: expected k >= 1, got 0");
  EXPECT_EQ(error_of([&] { adaptive_top_k_sparsemax(BitVector(3), scores, 0, 5); }),
            "adaptive_top_k_sparsemax: expected k >= 1, got 0");
  EXPECT_EQ(error_of([&] { adaptive_top_k_sparsemax(BitVector(3), scores, 6, 5); }),
            "adaptive_top_k_sparsemax: expected max_k >= k = 6, got 5");
  EXPECT_EQ(error_of([&] { top_k_sparsemax(BitVector(4), scores, 1); }),
            "top_k_sparsemax: expected scores to be [B, V] with V = 4 for bit-vector(4), got [1, "
            "3]");
  EXPECT_EQ(error_of([&] { top_k_sparsemax(BitVector(3), scores.to(at::kLong), 1); }),
            "top_k_sparsemax: expected scores to be floating point, got Long");
  EXPECT_EQ(error_of([&] { top_k_sparsemax(BestOnly(), scores, 2); }),
            "best-only: k_best is not available");
  EXPECT_EQ(error_of([&] { adaptive_top_k_sparsemax(BestOnly(), scores, 2, 3); }),
            "best-only: k_best is not available");
  EXPECT_EQ(error_of([&] { top_k_sparsemax(Plain(), scores, 2); }),
            "plain: k_best is not available");
  const at::Tensor illegal = at::tensor({1.0, NAN, 0.25}).view({1, 3});
  EXPECT_NE(error_of([&] {
              top_k_sparsemax(BitVector(3), illegal, 2);
            }).find("expected scores to be finite or -inf, got nan in row 0, column 1"),
            std::string::npos);
  EXPECT_EQ(error_of([&] { top_k_sparsemax(NoNeighbours(3), illegal, 2); }),
            "no-neighbours(3): k_best: row 0 of the scores holds NaN or +inf");
  const auto told = [&](const std::vector<std::vector<uint8_t>>& answer) {
    return error_of([&] { top_k_sparsemax(Told(answer), scores, 2); });
  };
  EXPECT_EQ(told({}), "told: k_best_one: expected 1 to k = 3 outcomes, got 0");
  EXPECT_EQ(told({{1, 0, 1}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}}),
            "told: k_best_one: expected 1 to k = 3 outcomes, got 4");
  EXPECT_EQ(told({{1, 0}}), "told: k_best_one: expected an outcome of V = 3 indicators, got 2");
  EXPECT_EQ(told({{1, 0, 3}}), "told: k_best_one: expected indicators 0 or 1, got 3 for part 2");
  EXPECT_EQ(told({{0, 1, 0}, {1, 0, 0}}),
            "told: k_best_one: expected outcomes best first, got score 1 after 0.5");
}

// --- estimators ----------------------------------------------------------------------------------

/// A loss over configurations that is linear in nothing, with a parameter and a shared tensor.
struct Model {
  Model(int64_t batch, int64_t bits, uint64_t seed)
      : scores((normal({batch, bits}, seed) * 0.7).requires_grad_()),
        a(normal({bits, 2}, seed + 1).requires_grad_()),
        x(normal({batch, 2}, seed + 2).requires_grad_()) {}

  LossFn loss() const {
    return [this](const Assignments& z, const std::vector<at::Tensor>& shared) {
      return Loss((z.embed(a) + z.gather(shared[0])).sin().prod(1) + z.embed(a).square().sum(1));
    };
  }
  Problem problem(const Structure& structure, double weight, int64_t chunk) const {
    return {structure, scores, loss(), {x.tanh()}, {}, weight, chunk};
  }
  std::vector<at::Tensor> leaves() const { return {scores, a, x}; }

  at::Tensor scores, a, x;
};

std::vector<at::Tensor> gradients(const at::Tensor& objective, const std::vector<at::Tensor>& of) {
  for (at::Tensor leaf : of) leaf.mutable_grad().reset();
  objective.sum().backward();
  std::vector<at::Tensor> all;
  for (const at::Tensor& leaf : of) {
    all.push_back(leaf.grad().defined() ? leaf.grad().clone() : at::zeros_like(leaf));
  }
  return all;
}

struct Case {
  std::string name;
  EstimatorOptions options;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int64_t k : {1, 4, 100}) {
    EstimatorOptions options;
    options.k = k;
    all.push_back({"top-k", options});
  }
  for (const int64_t max_k : {3, 160}) {
    EstimatorOptions options;
    options.k = 2;
    options.max_k = max_k;
    all.push_back({"top-k-adaptive", options});
  }
  for (const std::string name : {"sparsemap", "sparsemap-budget"}) {
    for (const std::string encoding : {"one-state", "both-states"}) {
      for (const std::string algorithm : {"active-set", "closed-form"}) {
        EstimatorOptions options;
        options.encoding = encoding;
        options.algorithm = algorithm;
        all.push_back({name, options});
        options.budget = 2;
        if (name == "sparsemap-budget") all.push_back({name, options});
      }
    }
  }
  return all;
}

TEST(StructuredEstimators, SumTheLossOverTheirOwnSupport) {
  for (const Case& c : cases()) {
    for (const int64_t bits : {3, 6}) {
      const BitVector structure(bits);
      const Model model(5, bits, 6000);
      const auto estimator = make_estimator(c.name, c.options);
      estimator->check(structure);
      for (const double weight : {0.0, 0.4}) {
        for (const int64_t chunk : {0, 1, 7}) {
          SCOPED_TRACE(c.name + ", " + c.options.encoding + ", " + c.options.algorithm + ", k " +
                       std::to_string(c.options.k) + ", chunk " + std::to_string(chunk));
          const Estimate got = estimator->estimate(model.problem(structure, weight, chunk), {});
          // Σ_z ξ(z) ℓ(z) − w H(ξ), written out over the support.
          const auto q = estimator->distribution(structure, model.scores);
          const auto* sparse = dynamic_cast<const SparseDistribution*>(q.get());
          ASSERT_NE(sparse, nullptr);
          const at::Tensor p = sparse->probs(), z = sparse->support().values(at::kDouble);
          const at::Tensor rows = sparse->support().rows;
          const at::Tensor own =
              (z.matmul(model.a) + model.x.tanh().index_select(0, rows)).sin().prod(1) +
              z.matmul(model.a).square().sum(1);
          const auto sum = [&](const at::Tensor& pairs) {
            return at::zeros({5}, at::kDouble).index_add(0, rows, pairs);
          };
          const at::Tensor value = sum(p * own), entropy = -sum(p * p.log());
          EXPECT_LT(largest(got.value - value), 1e-12);
          EXPECT_LT(largest(got.entropy - entropy), 1e-12);
          EXPECT_LT(largest(got.objective - (value - weight * entropy)), 1e-12);
          EXPECT_TRUE(got.evaluations.equal(sparse->evaluations()));
          EXPECT_TRUE(estimator->evaluations(structure, model.scores).equal(got.evaluations));
          EXPECT_FALSE(got.value.requires_grad() || got.entropy.requires_grad());
          EXPECT_FALSE(got.auxiliary.defined());
          const auto mine = gradients(got.objective, model.leaves());
          const auto expected = gradients(value - weight * entropy, model.leaves());
          for (size_t i = 0; i < mine.size(); ++i) {
            EXPECT_LT(largest(mine[i] - expected[i]), 1e-8 * (1 + largest(expected[i]))) << i;
          }
        }
      }
    }
  }
}

TEST(StructuredEstimators, DistributionsAreTheMaps) {
  const Model model(6, 8, 6100);
  const BitVector structure(8);
  const auto q = [&](const Case& c) {
    return make_estimator(c.name, c.options)->distribution(structure, model.scores);
  };
  EstimatorOptions options;
  options.k = 5;
  EXPECT_TRUE(q({"top-k", options})
                  ->marginals()
                  .equal(top_k_sparsemax(structure, model.scores, 5).marginals()));
  options.max_k = 40;
  EXPECT_TRUE(q({"top-k-adaptive", options})
                  ->marginals()
                  .equal(adaptive_top_k_sparsemax(structure, model.scores, 5, 40).marginals()));
  for (const Encoding encoding : {Encoding::kOneState, Encoding::kBothStates}) {
    for (const auto algorithm : {SparsemapAlgorithm::kActiveSet, SparsemapAlgorithm::kClosedForm}) {
      SparsemapOptions solver;
      solver.encoding = encoding;
      solver.algorithm = algorithm;
      options.encoding = encoding == Encoding::kOneState ? "one-state" : "both-states";
      options.algorithm =
          algorithm == SparsemapAlgorithm::kActiveSet ? "active-set" : "closed-form";
      options.budget = -1;
      EXPECT_TRUE(q({"sparsemap", options})
                      ->marginals()
                      .equal(sparsemap(structure, model.scores, solver).marginals()));
      // Half of the bits, or as many as is said.
      for (const int64_t budget : {-1, 0, 1, 3, 8}) {
        options.budget = budget;
        const Budget set(8, budget < 0 ? 4 : budget);
        const auto by_budget = q({"sparsemap-budget", options});
        EXPECT_TRUE(by_budget->marginals().equal(sparsemap(set, model.scores, solver).marginals()));
        EXPECT_LE(by_budget->enumerate().support().values(at::kLong).sum(1).max().item<int64_t>(),
                  set.most());
      }
    }
  }
  options = {};
  options.budget = -1;
  const at::Tensor odd = at::full({1, 7}, 5.0, at::kDouble);
  EXPECT_LT(std::abs(make_estimator("sparsemap-budget", options)
                         ->distribution(BitVector(7), odd)
                         ->marginals()
                         .sum()
                         .item<double>() -
                     3),
            1e-9);
}

TEST(StructuredEstimators, SolverOptionsArrive) {
  const Model model(4, 40, 6200);
  const BitVector structure(40);
  EstimatorOptions options;
  const auto exact = [&] {
    const auto q = make_estimator("sparsemap", options)->distribution(structure, model.scores);
    return dynamic_cast<const SparseDistribution&>(*q).exact();
  };
  EXPECT_TRUE(exact().all().item<bool>());
  options.max_iterations = 1;
  EXPECT_FALSE(exact().any().item<bool>());
  options.tolerance = 1e3;
  EXPECT_TRUE(exact().all().item<bool>());
}

TEST(StructuredEstimators, ARandomStartDrawsFromTheGenerator) {
  const Model model(4, 24, 6300);
  const BitVector structure(24);
  EstimatorOptions options;
  options.init = "random";
  for (const std::string name : {"sparsemap", "sparsemap-budget"}) {
    SCOPED_TRACE(name);
    const auto estimator = make_estimator(name, options);
    at::Generator generator = seeded(5);
    const Estimate one = estimator->estimate(model.problem(structure, 0.1, 0), generator);
    EXPECT_FALSE(at::rand({1}, generator).equal(at::rand({1}, seeded(5))));
    const Estimate two = estimator->estimate(model.problem(structure, 0.1, 0), seeded(5));
    EXPECT_TRUE(one.objective.equal(two.objective));
    EXPECT_TRUE(one.evaluations.equal(two.evaluations));
    const Estimate other = estimator->estimate(model.problem(structure, 0.1, 0), seeded(6));
    EXPECT_FALSE(one.objective.equal(other.objective));
    // For evaluation the start is the best configuration.
    const auto q = estimator->distribution(structure, model.scores);
    const auto plain = make_estimator(name)->distribution(structure, model.scores);
    EXPECT_TRUE(q->entropy().equal(plain->entropy()));
    EXPECT_EQ(error_of([&] { estimator->estimate(model.problem(structure, 0.1, 0), {}); }),
              "estimator '" + name + "': expected a generator to draw init = 'random' from");
  }
}

TEST(StructuredEstimators, OptionsOutOfRangeAreNamed) {
  const auto refusal = [](const std::string& name,
                          const std::function<void(EstimatorOptions&)>& set) {
    EstimatorOptions options;
    set(options);
    return error_of([&] { make_estimator(name, options); });
  };
  EXPECT_EQ(refusal("top-k", [](auto& o) { o.k = -1; }),
            "estimator 'top-k': expected k >= 1, or 0 for 10, got -1");
  EXPECT_EQ(refusal("top-k-adaptive", [](auto& o) { o.k = -1; }),
            "estimator 'top-k-adaptive': expected k >= 1, or 0 for 10, got -1");
  EXPECT_EQ(refusal("top-k-adaptive", [](auto& o) { o.max_k = 9; }),
            "estimator 'top-k-adaptive': expected max_k >= k = 10, got 9");
  for (const std::string name : {"sparsemap", "sparsemap-budget"}) {
    const std::string start = "estimator '" + name + "': expected ";
    EXPECT_EQ(refusal(name, [](auto& o) { o.encoding = "all"; }),
              start + "encoding to be 'one-state' or 'both-states', got 'all'");
    EXPECT_EQ(refusal(name, [](auto& o) { o.algorithm = "qp"; }),
              start + "algorithm to be 'active-set' or 'closed-form', got 'qp'");
    EXPECT_EQ(refusal(name, [](auto& o) { o.init = "zero"; }),
              start + "init to be 'map' or 'random', got 'zero'");
    EXPECT_EQ(refusal(name, [](auto& o) { o.tolerance = 0; }),
              start + "a finite tolerance > 0, got 0");
    EXPECT_EQ(refusal(name, [](auto& o) { o.tolerance = NAN; }),
              start + "a finite tolerance > 0, got nan");
    EXPECT_NE(refusal(name, [](auto& o) { o.tolerance = INFINITY; }), "");
    EXPECT_EQ(refusal(name, [](auto& o) { o.max_iterations = -1; }),
              start + "max_iterations >= 0, got -1");
    EXPECT_EQ(refusal(name, [](auto& o) { o.k = o.max_k = 0; }), "");
  }
  EXPECT_EQ(refusal("top-k", [](auto& o) { o.encoding = o.init = "none"; }), "");
}

TEST(StructuredEstimators, CheckRefusesStructuresTheyAreNotFor) {
  const auto refusal = [](const std::string& name, const Structure& structure,
                          const EstimatorOptions& options = {}) {
    return error_of([&] { make_estimator(name, options)->check(structure); });
  };
  for (const std::string name : {"top-k", "top-k-adaptive"}) {
    EXPECT_EQ(refusal(name, BitVector(5)), "");
    EXPECT_EQ(refusal(name, Subset(5, 2)), "");
    EXPECT_EQ(refusal(name, NoNeighbours(5)), "");
    EXPECT_EQ(refusal(name, Categorical(5)), "");
    EXPECT_EQ(refusal(name, BestOnly()), "estimator '" + name +
                                             "' is for structures with k_best; best-only: k_best "
                                             "is not available");
    EXPECT_EQ(refusal(name, Plain()), "estimator '" + name +
                                          "' is for structures with k_best; plain: k_best is not "
                                          "available");
  }
  EXPECT_EQ(refusal("sparsemap", BitVector(5)), "");
  EXPECT_EQ(refusal("sparsemap", Budget(5, 2)), "");
  EXPECT_EQ(refusal("sparsemap", Categorical(5)), "");
  EXPECT_EQ(refusal("sparsemap", BestOnly()), "");
  EXPECT_EQ(refusal("sparsemap", Plain()),
            "estimator 'sparsemap' is for structures that SparseMAP is solved over; sparsemap: "
            "expected Bits, a Categorical or a CustomStructure, whose best outcome is all the "
            "solver needs, got plain");
  EstimatorOptions both;
  both.encoding = "both-states";
  EXPECT_EQ(refusal("sparsemap", Budget(5, 2), both), "");
  EXPECT_EQ(refusal("sparsemap", BestOnly(), both),
            "estimator 'sparsemap': the encoding 'both-states' is for bits; got best-only");
  EXPECT_EQ(refusal("sparsemap", Categorical(3), both),
            "estimator 'sparsemap': the encoding 'both-states' is for bits; got categorical(3)");
  EXPECT_EQ(refusal("sparsemap-budget", BitVector(5)), "");
  EXPECT_EQ(refusal("sparsemap-budget", Categorical(5)),
            "estimator 'sparsemap-budget' is for bit vectors without a bound of their own; got "
            "categorical(5)");
  EXPECT_EQ(refusal("sparsemap-budget", NoNeighbours(5)),
            "estimator 'sparsemap-budget' is for bit vectors without a bound of their own; got "
            "no-neighbours(5)");
  EstimatorOptions large;
  large.budget = 6;
  EXPECT_EQ(refusal("sparsemap-budget", BitVector(5), large),
            "Budget: expected 0 <= B <= D = 5 bits on, got B = 6");
}

TEST(StructuredEstimators, WhatCheckAcceptsCanBeEstimated) {
  // check() says before training what estimate() would say in the first step.
  std::vector<std::unique_ptr<Structure>> all;
  all.push_back(std::make_unique<BitVector>(3));
  all.push_back(std::make_unique<Budget>(3, 1));
  all.push_back(std::make_unique<Subset>(3, 2));
  all.push_back(std::make_unique<Subset>(3, 3));
  all.push_back(std::make_unique<Categorical>(3));
  all.push_back(std::make_unique<NoNeighbours>(3));
  all.push_back(std::make_unique<BestOnly>());
  all.push_back(std::make_unique<Plain>());
  const Model model(4, 3, 6400);
  for (const Case& c : cases()) {
    for (const auto& structure : all) {
      SCOPED_TRACE(c.name + ", " + c.options.encoding + ", " + c.options.algorithm + ", " +
                   structure->name());
      const auto estimator = make_estimator(c.name, c.options);
      if (!error_of([&] { estimator->check(*structure); }).empty()) continue;
      EXPECT_EQ(error_of([&] { estimator->estimate(model.problem(*structure, 1, 0), {}); }), "");
    }
  }
}

TEST(StructuredEstimators, MassIsOnTheStructuresOwnOutcomes) {
  std::vector<std::unique_ptr<Bits>> all;
  all.push_back(std::make_unique<BitVector>(6));
  all.push_back(std::make_unique<Budget>(6, 1));
  all.push_back(std::make_unique<Subset>(6, 2));
  all.push_back(std::make_unique<Subset>(6, 5));
  const Model model(20, 6, 6500);
  for (const Case& c : cases()) {
    for (const auto& structure : all) {
      SCOPED_TRACE(c.name + ", budget " + std::to_string(c.options.budget) + ", " +
                   structure->name());
      const auto estimator = make_estimator(c.name, c.options);
      if (!error_of([&] { estimator->check(*structure); }).empty()) continue;
      const at::Tensor on = estimator->distribution(*structure, model.scores)
                                ->enumerate()
                                .support()
                                .values(at::kLong)
                                .sum(1);
      EXPECT_GE(on.min().item<int64_t>(), structure->least());
      EXPECT_LE(on.max().item<int64_t>(), structure->most());
    }
  }
}

}  // namespace
}  // namespace sparsum
