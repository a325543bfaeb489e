#include "tests/lab/folder.h"
#include "tests/ops/tensors.h"

#include <gtest/gtest.h>
#include <lab/data/games.h>
#include <torch/torch.h>

#include <cmath>
#include <map>
#include <set>

namespace sparsum::lab {
namespace {

using sparsum_test::input_error_of;
using sparsum_test::seeded;

/// Concept of row i: i % concepts.
at::Tensor cyclic(int64_t rows, int64_t concepts) { return at::arange(rows).remainder(concepts); }

GameSampler sampler(int64_t rows, int64_t concepts, int64_t candidates, bool same = false) {
  return GameSampler(rows_by_concept(cyclic(rows, concepts), concepts), {candidates, same}, "test");
}

void expect_equal(const Games& a, const Games& b) {
  EXPECT_TRUE(at::equal(a.targets, b.targets));
  EXPECT_TRUE(at::equal(a.candidates, b.candidates));
  EXPECT_TRUE(at::equal(a.positions, b.positions));
  EXPECT_TRUE(at::equal(a.concepts, b.concepts));
}

/// Whether counts are what a uniform draw gives: chi-square below its mean by no more, and above it
/// by no more, than five standard deviations (confidence above 0.9999; the seeds are fixed).
void expect_uniform(const at::Tensor& counts) {
  const at::Tensor observed = counts.to(at::kDouble).flatten();
  const double expected = observed.mean().item<double>();
  const double chi = ((observed - expected).square().sum() / expected).item<double>();
  const double freedom = static_cast<double>(observed.numel() - 1);
  EXPECT_LT(std::abs(chi - freedom), 5 * std::sqrt(2 * freedom)) << counts;
}

TEST(Games, HaveCandidatesOfDifferentConcepts) {
  // The second: every concept is in every game.
  for (const auto& [concepts, candidates] : {std::pair{20, 16}, {16, 16}, {7, 2}}) {
    const Games games = sampler(333, concepts, candidates).draw(500, seeded(1));
    ASSERT_EQ(games.size(), 500);
    EXPECT_EQ(games.candidates.sizes(), (std::vector<int64_t>{500, candidates}));
    const auto rows = games.candidates.accessor<int64_t, 2>();
    for (int64_t b = 0; b < 500; ++b) {
      std::set<int64_t> seen;
      for (int64_t c = 0; c < candidates; ++c) {
        ASSERT_TRUE(rows[b][c] >= 0 && rows[b][c] < 333);
        ASSERT_TRUE(seen.insert(rows[b][c] % concepts).second) << b;
      }
    }
    EXPECT_TRUE(at::equal(games.candidates.gather(1, games.positions.unsqueeze(1)).squeeze(1),
                          games.targets));
    EXPECT_TRUE(at::equal(games.targets.remainder(concepts), games.concepts));
  }
}

TEST(Games, HaveDifferentCandidatesOfOneConcept) {
  // The second: concepts of exactly as many images as candidates.
  for (const auto& [rows, candidates] : {std::pair{200, 16}, {64, 16}, {30, 2}}) {
    const Games games = sampler(rows, 4, candidates, true).draw(500, seeded(1));
    const auto list = games.candidates.accessor<int64_t, 2>();
    for (int64_t b = 0; b < 500; ++b) {
      std::set<int64_t> seen;
      for (int64_t c = 0; c < candidates; ++c) {
        ASSERT_TRUE(list[b][c] >= 0 && list[b][c] < rows);
        ASSERT_TRUE(seen.insert(list[b][c]).second) << b;
      }
    }
    EXPECT_TRUE(at::equal(games.candidates.remainder(4),
                          games.concepts.unsqueeze(1).expand_as(games.candidates)));
    EXPECT_TRUE(at::equal(games.candidates.gather(1, games.positions.unsqueeze(1)).squeeze(1),
                          games.targets));
  }
}

TEST(Games, AreUniform) {
  // Concepts of different sizes are drawn alike: 1, 2, … 8 images.
  const at::Tensor labels = at::repeat_interleave(at::arange(8), at::arange(1, 9));
  const GameSampler unequal(rows_by_concept(labels, 8), {3, false}, "test");
  const Games games = unequal.draw(40000, seeded(5));
  expect_uniform(at::bincount(games.positions, {}, 3));
  expect_uniform(at::bincount(games.concepts, {}, 8));
  // Every ordered choice of two concepts in the first two places.
  const at::Tensor concepts = labels.index({games.candidates});
  const at::Tensor pairs = at::bincount(concepts.select(1, 0) * 8 + concepts.select(1, 1), {}, 64);
  EXPECT_EQ(pairs.view({8, 8}).diagonal().sum().item<int64_t>(), 0);
  expect_uniform(pairs.index({pairs > 0}));
  // Where the target is says nothing of its concept.
  expect_uniform(at::bincount(games.concepts * 3 + games.positions, {}, 24));
  // Images within a concept.
  const at::Tensor images = at::bincount(games.candidates.flatten(), {}, 36);
  for (int64_t k = 1; k < 8; ++k) {
    expect_uniform(images.index({labels == k}));
  }
}

TEST(Games, OfOneConceptAreUniform) {
  const at::Tensor labels = at::repeat_interleave(at::arange(4), torch::tensor({3, 4, 5, 6}));
  const GameSampler same(rows_by_concept(labels, 4), {3, true}, "test");
  const Games games = same.draw(40000, seeded(6));
  expect_uniform(at::bincount(games.positions, {}, 3));
  expect_uniform(at::bincount(games.concepts, {}, 4));
  for (int64_t k = 0; k < 4; ++k) {
    const at::Tensor of_k = games.candidates.index({games.concepts == k});
    const int64_t first = k == 0 ? 0 : k == 1 ? 3 : k == 2 ? 7 : 12;
    for (int64_t place = 0; place < 3; ++place) {
      expect_uniform(at::bincount(of_k.select(1, place) - first, {}, 3 + k));
    }
  }
}

TEST(Games, FollowTheGeneratorAlone) {
  const GameSampler one = sampler(333, 20, 16), same = sampler(400, 20, 16, true);
  for (const GameSampler* each : {&one, &same}) {
    const Games games = each->draw(96, seeded(1));
    expect_equal(each->draw(96, seeded(1)), games);
    EXPECT_FALSE(at::equal(each->draw(96, seeded(2)).candidates, games.candidates));
    // Draws one after the other are one longer draw.
    auto generator = seeded(1);
    expect_equal(each->draw(32, generator), games.slice(0, 32));
    EXPECT_EQ(each->draw(0, generator).size(), 0);
    expect_equal(each->draw(64, generator), games.slice(32, 96));
  }
}

TEST(Games, ForValidationAndTestAreFixed) {
  const GameSampler games = sampler(333, 20, 16);
  const Games validation = validation_games(games), test = test_games(games);
  EXPECT_EQ(validation.size(), 1024);
  EXPECT_EQ(test.size(), 10000);
  expect_equal(validation_games(games), validation);
  expect_equal(test_games(games), test);
  expect_equal(validation_games(games, 10), validation.slice(0, 10));
  expect_equal(test_games(games, 2000), test.slice(0, 2000));
  EXPECT_FALSE(at::equal(test.candidates.slice(0, 0, 1024), validation.candidates));
}

TEST(Games, NameWhatCannotBePlayed) {
  EXPECT_EQ(
      input_error_of([] { sampler(100, 10, 16); }),
      "test games: expected at least 16 concepts for 16 candidates of different concepts, got "
      "10");
  const ConceptRows uneven = rows_by_concept(torch::tensor({0, 0, 0, 2, 2}), 3);
  EXPECT_EQ(input_error_of([&] {
              GameSampler(uneven, {3, false}, "validation");
            }),
            "validation games: expected at least 1 image of each concept, got 0 of concept 1");
  EXPECT_EQ(input_error_of([&] {
              GameSampler(uneven, {3, true}, "training", {"cat", "dog", "ant"});
            }),
            "training games: expected at least 3 images of each concept, got 0 of 'dog'");
  EXPECT_EQ(input_error_of([] {
              GameSampler(ConceptRows(), {2, true}, "test");
            }),
            "test games: expected at least one concept, got none");
  EXPECT_THROW(sampler(100, 10, 1), c10::Error);
  EXPECT_THROW(sampler(100, 10, 2).draw(-1, seeded(1)), c10::Error);
}

}  // namespace
}  // namespace sparsum::lab
