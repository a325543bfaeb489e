// Bit vectors, budgets and subsets against full enumeration.

#include "tests/ops/tensors.h"
#include "tests/oracle/bits.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/bits.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace sparsum {
namespace {

using oracle::members_of;
using oracle::score;
using sparsum_test::error_of;
using sparsum_test::normal;
using sparsum_test::seeded;
using Configuration = std::vector<int>;

std::vector<std::unique_ptr<Bits>> structures(int64_t bits) {
  std::vector<std::unique_ptr<Bits>> all;
  all.push_back(std::make_unique<BitVector>(bits));
  for (int64_t budget = 0; budget <= bits; budget += std::max<int64_t>(1, bits / 3)) {
    all.push_back(std::make_unique<Budget>(bits, budget));
    all.push_back(std::make_unique<Subset>(bits, budget));
  }
  all.push_back(std::make_unique<Budget>(bits, bits));
  return all;
}

std::vector<double> row_of(const at::Tensor& scores, int64_t b) {
  const at::Tensor row = scores[b].to(at::kDouble).contiguous();
  return {row.const_data_ptr<double>(), row.const_data_ptr<double>() + row.size(0)};
}

/// The documented order: best score first, then the rule on ties.
std::vector<Configuration> sorted(const Bits& structure, const std::vector<double>& t) {
  std::vector<Configuration> all = members_of<int>(structure);
  std::erase_if(all, [&](const Configuration& z) { return score(z, t) == -INFINITY; });
  std::vector<size_t> ranked(t.size());
  for (size_t i = 0; i < t.size(); ++i) ranked[i] = i;
  std::stable_sort(ranked.begin(), ranked.end(), [&](size_t a, size_t b) { return t[a] > t[b]; });
  std::vector<int> rank(t.size());
  for (size_t r = 0; r < t.size(); ++r) rank[ranked[r]] = static_cast<int>(r);
  const auto tie_key = [&](const Configuration& z) {
    std::vector<int> key;
    if (structure.free()) {
      for (size_t i = 0; i < z.size(); ++i) {
        if (z[i] != (t[i] > 0)) key.push_back(static_cast<int>(i));
      }
      return key;
    }
    for (size_t i = 0; i < z.size(); ++i) {
      if (z[i]) key.push_back(rank[i]);
    }
    std::sort(key.begin(), key.end());
    key.insert(key.begin(), static_cast<int>(key.size()));
    return key;
  };
  std::vector<std::tuple<double, std::vector<int>, Configuration>> keyed;
  for (const Configuration& z : all) keyed.emplace_back(-score(z, t), tie_key(z), z);
  std::sort(keyed.begin(), keyed.end());
  for (size_t i = 0; i < all.size(); ++i) all[i] = std::get<2>(keyed[i]);
  return all;
}

std::vector<Configuration> configurations(const Assignments& z, int64_t example) {
  const at::Tensor values = z.values(at::kInt).contiguous();
  std::vector<Configuration> result;
  const auto begin = z.row_splits[example].item<int64_t>();
  const auto end = z.row_splits[example + 1].item<int64_t>();
  for (int64_t i = begin; i < end; ++i) {
    const int* row = values.const_data_ptr<int>() + i * z.parts;
    result.emplace_back(row, row + z.parts);
  }
  return result;
}

/// Scores with and without ties, zeros and forbidden bits. Multiples of 1/4: sums are exact.
at::Tensor rounded_scores(int64_t batch, int64_t bits, uint64_t seed) {
  at::Tensor scores = (normal({batch, bits}, seed) * 4).round() / 4;
  scores[0] = scores[0].round();
  scores[1].zero_();
  scores[2].fill_(0.5);
  scores[3] = normal({bits}, seed + 1);
  return scores;
}

TEST(Bits, Describes) {
  EXPECT_EQ(BitVector(32).name(), "bit-vector(32)");
  EXPECT_EQ(Budget(32, 16).name(), "budget(32, 16)");
  EXPECT_EQ(Subset(32, 16).name(), "subset(32, 16)");
  EXPECT_EQ(BitVector(4).size(), 16);
  EXPECT_EQ(Budget(4, 2).size(), 11);
  EXPECT_EQ(Subset(4, 2).size(), 6);
  EXPECT_EQ(BitVector(62).size(), int64_t{1} << 62);
  EXPECT_EQ(BitVector(63).size(), std::nullopt);
  EXPECT_NEAR(Budget(10, 3).log_size(), std::log(1 + 10 + 45 + 120), 1e-12);
  EXPECT_NEAR(BitVector(128).log_size(), 128 * std::log(2.0), 1e-12);
  for (int64_t bits : {1, 2, 5, 9}) {
    for (const auto& structure : structures(bits)) {
      EXPECT_EQ(structure->size(), members_of<int>(*structure).size()) << structure->name();
    }
  }
}

TEST(Bits, EnumeratesInOrder) {
  for (int64_t bits : {1, 3, 7}) {
    for (const auto& structure : structures(bits)) {
      const Assignments z = structure->enumerate(2, at::kCPU);
      EXPECT_EQ(configurations(z, 0), members_of<int>(*structure)) << structure->name();
      EXPECT_EQ(configurations(z, 1), members_of<int>(*structure)) << structure->name();
    }
  }
  EXPECT_EQ(error_of([] { BitVector(20).enumerate(1, at::kCPU); }),
            "bit-vector(20): enumerate: 1048576 outcomes are more than the limit of 65536");
}

TEST(Bits, EnumeratesFewOfManyBits) {
  // By Σ z_i 2^i, that is by the reversed vectors in lexicographic order.
  std::vector<std::unique_ptr<Bits>> few;
  few.push_back(std::make_unique<Subset>(100, 1));
  few.push_back(std::make_unique<Subset>(100, 99));
  few.push_back(std::make_unique<Subset>(63, 2));
  few.push_back(std::make_unique<Subset>(70, 0));
  few.push_back(std::make_unique<Subset>(70, 70));
  few.push_back(std::make_unique<Budget>(64, 2));
  few.push_back(std::make_unique<Budget>(1000, 1));
  for (const auto& structure : few) {
    const auto all = configurations(structure->enumerate(1, at::kCPU), 0);
    ASSERT_EQ(static_cast<int64_t>(all.size()), structure->size()) << structure->name();
    for (size_t i = 0; i < all.size(); ++i) {
      const auto on = std::count(all[i].begin(), all[i].end(), 1);
      ASSERT_GE(on, structure->least());
      ASSERT_LE(on, structure->most());
      if (i == 0) continue;
      ASSERT_TRUE(std::lexicographical_compare(all[i - 1].rbegin(), all[i - 1].rend(),
                                               all[i].rbegin(), all[i].rend()))
          << structure->name() << " at " << i;
    }
  }
}

TEST(Bits, KBeyondTheSetIsAllOfIt) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (int64_t bits : {1, 4}) {
    for (const auto& structure : structures(bits)) {
      const at::Tensor scores = normal({3, bits}, 50);
      const Assignments all = structure->k_best(scores, *structure->size());
      const Assignments until = structure->best_until_exact(scores, *structure->size());
      for (const int64_t k : {kMost, kMost - 1, kMost / 2 + 1, int64_t{1} << 62}) {
        const Assignments z = structure->k_best(scores, k);
        EXPECT_TRUE(z.row_splits.equal(all.row_splits)) << structure->name();
        EXPECT_TRUE(z.values().equal(all.values())) << structure->name();
        const Assignments stopped = structure->best_until_exact(scores, k);
        EXPECT_TRUE(stopped.row_splits.equal(until.row_splits)) << structure->name();
        EXPECT_TRUE(stopped.values().equal(until.values())) << structure->name();
      }
    }
  }
}

TEST(Bits, KBestIsTheHeadOfTheSortedSet) {
  uint64_t seed = 1;
  for (int64_t bits : {1, 2, 3, 5, 8, 12}) {
    for (const auto& structure : structures(bits)) {
      at::Tensor scores = rounded_scores(6, bits, seed++);
      if (structure->least() < bits) scores[4][bits - 1] = -INFINITY;
      std::vector<std::vector<Configuration>> all;
      for (int64_t b = 0; b < scores.size(0); ++b) {
        all.push_back(sorted(*structure, row_of(scores, b)));
      }
      for (int64_t k : {1, 2, 3, 10, 57, 5000}) {
        const Assignments z = structure->k_best(scores, k);
        for (int64_t b = 0; b < scores.size(0); ++b) {
          auto expected = all[static_cast<size_t>(b)];
          expected.resize(std::min(expected.size(), static_cast<size_t>(k)));
          ASSERT_TRUE(configurations(z, b) == expected)
              << structure->name() << ", k = " << k << ", " << scores[b];
        }
      }
      const Assignments best = structure->map(scores);
      for (int64_t b = 0; b < scores.size(0); ++b) {
        EXPECT_EQ(configurations(best, b)[0], all[static_cast<size_t>(b)][0]);
      }
    }
  }
}

TEST(Bits, KBestOfManyBitsIsAPrefixOfMore) {
  const int64_t bits = 10000;
  for (const auto& structure :
       {std::unique_ptr<Bits>(new BitVector(bits)), std::unique_ptr<Bits>(new Budget(bits, 700)),
        std::unique_ptr<Bits>(new Subset(bits, 7000))}) {
    const at::Tensor scores = normal({2, bits}, 7).to(at::kFloat);
    const Assignments many = structure->k_best(scores, 300);
    ASSERT_EQ(many.count(), 600);
    const at::Tensor on = many.values(at::kDouble);
    const at::Tensor by_score = (on * many.gather(scores.to(at::kDouble))).sum(1).view({2, 300});
    EXPECT_TRUE((by_score.slice(1, 1) <= by_score.slice(1, 0, -1) + 1e-9).all().item<bool>());
    const at::Tensor sizes = on.sum(1);
    EXPECT_GE(sizes.min().item<double>(), structure->least());
    EXPECT_LE(sizes.max().item<double>(), structure->most());
    // All different: no two of one example agree everywhere.
    for (int64_t b = 0; b < 2; ++b) {
      const at::Tensor own = on.slice(0, b * 300, (b + 1) * 300);
      const at::Tensor differences = at::cdist(own, own, 1) + 2 * at::eye(300, at::kDouble);
      EXPECT_GE(differences.min().item<double>(), 1);
    }
    for (int64_t k : {1, 2, 50, 299}) {
      const Assignments few = structure->k_best(scores, k);
      for (int64_t b = 0; b < 2; ++b) {
        EXPECT_TRUE(few.values(at::kByte)
                        .slice(0, b * k, (b + 1) * k)
                        .equal(many.values(at::kByte).slice(0, b * 300, b * 300 + k)));
      }
    }
  }
}

TEST(Bits, FlipListsAreShort) {
  const Assignments z = BitVector(1000).k_best(normal({3, 1000}, 8), 1000);
  const at::Tensor lengths = z.flip_splits.slice(0, 1) - z.flip_splits.slice(0, 0, -1);
  EXPECT_LE(lengths.max().item<int64_t>(), 10);  // log2(1000) + 1, rounded down
}

TEST(Bits, ScoresOfFlipsAreThoseOfTheirValues) {
  for (const auto& structure : structures(6)) {
    at::Tensor scores = normal({4, 6}, 9);
    scores[1][2] = structure->least() < 6 ? -INFINITY : 1;
    const Assignments z = structure->k_best(scores, 9);
    Assignments dense = z;
    dense.base.reset();
    dense.indicators = z.values(at::kDouble);
    EXPECT_TRUE(structure->score(scores, z).allclose(structure->score(scores, dense)));
  }
}

TEST(Bits, OraclesAreThoseOfTheEnumeratedSet) {
  uint64_t seed = 20;
  for (int64_t bits : {1, 2, 4, 7}) {
    for (const auto& structure : structures(bits)) {
      at::Tensor scores = normal({5, bits}, seed++) * 3;
      scores[1] = scores[1] * 20;  // where sums of exponentials would overflow or vanish
      scores[2].fill_(50);
      scores[3].fill_(-50);
      scores.set_requires_grad(true);
      const Assignments z = structure->enumerate(5, at::kCPU);
      const at::Tensor all = structure->score(scores, z).view({5, -1});
      const at::Tensor probs = all.softmax(1);
      const at::Tensor log_z = all.logsumexp(1);
      const at::Tensor marginals =
          at::einsum("bz,bzi->bi", {probs, z.values(at::kDouble).view({5, -1, bits})});
      const at::Tensor entropy = -(probs * all.log_softmax(1)).sum(1);
      const auto same = [&](const at::Tensor& got, const at::Tensor& expected, const char* what) {
        EXPECT_TRUE(got.allclose(expected, 1e-9, 1e-9)) << structure->name() << " " << what << "\n"
                                                        << got << expected;
        const at::Tensor g = normal(got.sizes(), 3);
        const auto of = [&](const at::Tensor& t) {
          return torch::autograd::grad({t}, {scores}, {g}, true, false, true)[0];
        };
        const at::Tensor a = of(got), b = of(expected);
        if (a.defined() && b.defined()) {
          EXPECT_TRUE(a.allclose(b, 1e-7, 1e-7)) << structure->name() << " d " << what << a << b;
        } else if (b.defined()) {
          EXPECT_LT(b.abs().max().item<double>(), 1e-9) << structure->name();
        }
      };
      same(structure->log_partition(scores), log_z, "log Z");
      same(structure->marginals(scores), marginals, "marginals");
      same(structure->entropy(scores), entropy, "entropy");
    }
  }
}

TEST(Bits, OraclesOfScoresOfAnySize) {
  // Huge scores that decide, and among them 6 that nearly tie, of which 2 remain to be on.
  for (const double size : {1e6, 1e9, 1e13, 1e17, 1e30}) {
    const at::Tensor tied = normal({6}, 61);
    const at::Tensor huge = at::tensor({size, size, -size, -2 * size, 3 * size});
    const at::Tensor scores = at::cat({huge, tied}).unsqueeze(0).requires_grad_();
    const auto expected = [&](const at::Tensor& own) { return Subset(6, 2).marginals(own)[0]; };
    const at::Tensor marginals = Subset(11, 5).marginals(scores)[0];
    EXPECT_TRUE(marginals.slice(0, 0, 5).equal(at::tensor({1., 1., 0., 0., 1.}))) << size;
    EXPECT_TRUE(marginals.slice(0, 5).allclose(expected(tied.unsqueeze(0)), 1e-10, 1e-10)) << size;
    const at::Tensor own = tied.unsqueeze(0).requires_grad_();
    const at::Tensor g = normal({6}, 62);
    const auto got = torch::autograd::grad({(marginals.slice(0, 5) * g).sum()}, {scores})[0];
    const auto by_own = torch::autograd::grad({(expected(own) * g).sum()}, {own})[0];
    EXPECT_TRUE(got[0].slice(0, 5).allclose(by_own[0], 1e-9, 1e-9)) << size;
    const Assignments drawn = Subset(11, 5).sample(scores.detach(), 100, seeded(1));
    EXPECT_EQ(drawn.values().sum(1).min().item<float>(), 5);
    EXPECT_EQ(drawn.values().sum(1).max().item<float>(), 5);
    EXPECT_TRUE(drawn.values().slice(1, 0, 5).eq(at::tensor({1, 1, 0, 0, 1})).all().item<bool>());
  }
  // Ties: every bit is on as often as any other, and log Z is that of the tied set.
  for (const double size : {1e6, 1e14, 1e17, -1e6, -1e14, -1e17}) {
    for (const auto& structure : structures(9)) {
      const double bound = size > 0 ? static_cast<double>(structure->most())
                                    : static_cast<double>(structure->least());
      const at::Tensor scores = at::full({1, 9}, size, at::kDouble);
      EXPECT_TRUE(structure->marginals(scores).allclose(at::full({1, 9}, bound / 9, at::kDouble),
                                                        1e-10, 1e-10))
          << structure->name() << " at " << size;
      const double log_z = structure->log_partition(scores).item<double>();
      const double log_ties = std::lgamma(10) - std::lgamma(bound + 1) - std::lgamma(10 - bound);
      EXPECT_NEAR(log_z, bound * size + log_ties, 1e-12 * std::abs(bound * size) + 1e-10)
          << structure->name() << " at " << size;
    }
  }
}

TEST(Bits, HalfSamplesAreAsRareAsTheyShouldBe) {
  // σ(−10) is 4.5e-5, a tenth of the smallest step of a uniform number in half precision.
  const int64_t draws = 2000000;
  for (const auto dtype : {at::kHalf, at::kBFloat16}) {
    const at::Tensor scores = at::full({1, 1}, -10.0, at::kDouble).to(dtype);
    const Assignments z = BitVector(1).sample(scores, draws, seeded(5));
    const auto on = static_cast<double>(z.indicators.sum().item<int64_t>());
    const double expected = static_cast<double>(draws) / (1 + std::exp(10.0));
    // Six standard errors: one false alarm in 500 million.
    EXPECT_NEAR(on, expected, 6 * std::sqrt(expected));
  }
}

TEST(Bits, SamplesFollowTheDistribution) {
  for (const auto& structure : structures(3)) {
    const at::Tensor scores = normal({2, 3}, 31);
    const int64_t draws = 20000;
    const Assignments z = structure->sample(scores, draws, seeded(4));
    const at::Tensor on = z.values(at::kDouble).sum(1);
    EXPECT_GE(on.min().item<double>(), structure->least());
    EXPECT_LE(on.max().item<double>(), structure->most());
    const at::Tensor weights = at::tensor({1., 2., 4.});
    const at::Tensor codes = z.values(at::kDouble).matmul(weights).to(at::kLong).view({2, draws});
    const Assignments all = structure->enumerate(2, at::kCPU);
    const at::Tensor probs = structure->score(scores, all).view({2, -1}).softmax(1);
    const at::Tensor all_codes =
        all.values(at::kDouble).matmul(weights).to(at::kLong).view({2, -1});
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t j = 0; j < probs.size(1); ++j) {
        const double p = probs[b][j].item<double>();
        const double share = (codes[b] == all_codes[b][j]).to(at::kDouble).mean().item<double>();
        // Five standard errors: one false alarm in some two million.
        EXPECT_NEAR(share, p, 5 * std::sqrt(p * (1 - p) / draws) + 1e-12) << structure->name();
      }
    }
    EXPECT_TRUE(z.values().equal(structure->sample(scores, draws, seeded(4)).values()));
  }
}

TEST(Bits, RefusesWhatIsNone) {
  EXPECT_EQ(error_of([] { BitVector(0); }), "BitVector: expected at least 1 bit, got 0");
  EXPECT_EQ(error_of([] { Budget(4, 5); }), "Budget: expected 0 <= B <= D = 4 bits on, got B = 5");
  EXPECT_EQ(error_of([] { Subset(4, -1); }),
            "Subset: expected 0 <= B <= D = 4 bits on, got B = -1");
  EXPECT_EQ(error_of([] {
              BitVector(4).k_best(at::zeros({2, 4}), 0);
            }),
            "bit-vector(4): k_best: expected k >= 1, got 0");
  EXPECT_EQ(error_of([] {
              BitVector(4).k_best(at::zeros({2, 5}), 1);
            }),
            "k_best: expected scores to be [B, V] with V = 4 for bit-vector(4), got [2, 5]");
  at::Tensor scores = at::zeros({2, 4});
  scores[1][2] = NAN;
  EXPECT_EQ(error_of([&] { BitVector(4).map(scores); }),
            "k_best_bits: expected scores to be finite or -inf, got nan in row 1, column 2");
  scores[1].fill_(-INFINITY);
  scores[1][3] = 0;
  EXPECT_EQ(error_of([&] { Subset(4, 2).map(scores); }),
            "k_best_bits: expected at least 2 finite scores in every row, one for each bit that "
            "must be on, got 1 in row 1");
}

TEST(Bits, BoundedOraclesRefuseRowsByName) {
  const auto every = [](const Bits& structure, const at::Tensor& scores) {
    return std::vector<std::string>{
        error_of([&] { structure.log_partition(scores); }),
        error_of([&] { structure.marginals(scores); }),
        error_of([&] { structure.sample(scores, 3, seeded(1)); }),
    };
  };
  const std::vector<std::string> oracles = {"log_partition", "marginals", "sample"};
  const std::vector<std::pair<double, std::string>> illegal = {{NAN, "nan"}, {INFINITY, "inf"}};
  for (const auto& [value, word] : illegal) {
    at::Tensor scores = at::zeros({3, 4});
    scores[1][2] = value;
    const auto messages = every(Budget(4, 2), scores);
    for (size_t i = 0; i < oracles.size(); ++i) {
      EXPECT_EQ(messages[i], "budget(4, 2): " + oracles[i] +
                                 ": expected scores to be finite or -inf, got " + word +
                                 " in row 1, column 2");
    }
    EXPECT_NE(error_of([&] { Budget(4, 2).entropy(scores); }), "");
    // Without bounds what is differentiable passes it on; a sample could not.
    EXPECT_EQ(error_of([&] { BitVector(4).sample(scores, 3, seeded(1)); }),
              "bit-vector(4): sample: expected scores to be finite or -inf, got " + word +
                  " in row 1, column 2");
    EXPECT_FALSE(BitVector(4).entropy(scores).isfinite()[1].item<bool>());
  }
  at::Tensor scores = at::zeros({3, 4});
  scores[2].slice(0, 1).fill_(-INFINITY);
  const auto messages = every(Subset(4, 2), scores);
  for (size_t i = 0; i < oracles.size(); ++i) {
    EXPECT_EQ(messages[i], "subset(4, 2): " + oracles[i] +
                               ": expected at least 2 finite scores in every row, one for each bit "
                               "that must be on, got 1 in row 2");
  }
  EXPECT_EQ(every(Budget(4, 2), scores), (std::vector<std::string>{"", "", ""}));
  EXPECT_EQ(every(Subset(4, 2), at::empty({0, 4})), (std::vector<std::string>{"", "", ""}));
}

TEST(Flips, SlicesAndSelectionsAreThoseOfTheValues) {
  Assignments z = BitVector(5).k_best(normal({3, 5}, 40), 4);
  Assignments chained = z;
  chained.chained = true;  // other configurations, by the same lists
  for (const Assignments& each : {z, chained}) {
    const at::Tensor values = each.values();
    for (int64_t begin = 0; begin <= 12; ++begin) {
      for (int64_t end = begin; end <= 12; ++end) {
        const Assignments part = each.slice(begin, end);
        EXPECT_TRUE(part.values().equal(values.slice(0, begin, end))) << begin << " " << end;
      }
    }
    const at::Tensor pairs = at::tensor({1, 1, 5, 11}, at::kLong);
    const at::Tensor splits = at::tensor({0, 2, 3, 4}, at::kLong);
    const Assignments chosen = each.select(pairs, z.rows.index_select(0, pairs), splits);
    EXPECT_TRUE(chosen.values().equal(values.index_select(0, pairs)));
    const at::Tensor table = normal({5, 2}, 41);
    EXPECT_TRUE(each.embed(table).allclose(values.to(at::kDouble).matmul(table)));
  }
}

}  // namespace
}  // namespace sparsum
