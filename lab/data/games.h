#pragma once

#include "lab/data/concepts.h"

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace sparsum::lab {

/// B signal games of C candidate images, as rows of a data set's features.
struct Games {
  at::Tensor targets;     ///< [B] int64: candidates[b, positions[b]]
  at::Tensor candidates;  ///< [B, C] int64: distinct rows
  at::Tensor positions;   ///< [B] int64, 0 … C − 1: where the target is
  at::Tensor concepts;    ///< [B] int64: the target's concept

  int64_t size() const { return targets.size(0); }
  /// Games begin … end − 1, as views.
  Games slice(int64_t begin, int64_t end) const;
};

/// What a game looks like.
struct GameRules {
  int64_t candidates = 16;    ///< C ≥ 2
  bool same_concept = false;  ///< all candidates are of one concept
};

/// Draws games (Lazaridou et al., 2017; with C > 2 as Havrylov and Titov, 2017): C concepts
/// uniformly without replacement, an image of each uniformly, the target uniformly among them. With
/// `same_concept`: one concept uniformly, C of its images uniformly without replacement.
class GameSampler {
 public:
  /// `what` stands in messages: "training". Throws InputError: fewer concepts than candidates; a
  /// concept without an image, or with `same_concept` of fewer than C images. names: of the
  /// concepts, for messages.
  GameSampler(ConceptRows by_concept, GameRules rules, const std::string& what,
              const std::vector<std::string>& names = {});

  /// `games` games from `generator`, on the CPU. Two draws give the games that one of their joint
  /// size gives. Cost: O(games · C + the largest number to choose among).
  Games draw(int64_t games, at::Generator generator) const;

  const GameRules& rules() const { return rules_; }

 private:
  ConceptRows by_concept_;
  GameRules rules_;
};

constexpr int64_t kValidationGames = 1024;
constexpr int64_t kTestGames = 10000;

/// The validation games: the first `count` of a seed of their own, the same in every run.
/// The sampler should have the training images that hold_out() set aside. (The published code draws
/// its validation and test games from the training images, by fixed seeds too; choosing
/// hyperparameters by games with images that were trained on would favour what memorises them.)
Games validation_games(const GameSampler& sampler, int64_t count = kValidationGames);

/// The test games: the same, from another seed; the sampler should have the test images.
Games test_games(const GameSampler& sampler, int64_t count = kTestGames);

}  // namespace sparsum::lab
