#include "lab/data/games.h"

#include "lab/error.h"
#include "lab/random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

namespace sparsum::lab {

namespace {

// The published seeds.
constexpr int64_t kValidationSeed = 20200724;
constexpr int64_t kTestSeed = 20200725;

// Uniform in 0 … n − 1, without the bias of a remainder: what is left of 2⁶⁴ beyond a multiple of n
// is drawn again.
int64_t below(int64_t n, at::CPUGeneratorImpl& generator) {
  const auto range = static_cast<uint64_t>(n);
  const uint64_t excess = (std::numeric_limits<uint64_t>::max() % range + 1) % range;
  uint64_t bits = generator.random64();
  while (bits > std::numeric_limits<uint64_t>::max() - excess) bits = generator.random64();
  return static_cast<int64_t>(bits % range);
}

// Ordered samples without replacement.
class Urn {
 public:
  explicit Urn(int64_t most) : items_(static_cast<size_t>(most)) {
    std::iota(items_.begin(), items_.end(), int64_t{0});
  }

  // count of 0 … n − 1, in random order: the beginning of a Fisher–Yates shuffle, which is undone
  // for the next draw.
  void draw(int64_t n, int64_t count, at::CPUGeneratorImpl& generator, int64_t* out) {
    swaps_.clear();
    for (int64_t i = 0; i < count; ++i) {
      const auto j = static_cast<size_t>(i + below(n - i, generator));
      std::swap(items_[static_cast<size_t>(i)], items_[j]);
      swaps_.push_back(j);
      out[i] = items_[static_cast<size_t>(i)];
    }
    for (size_t i = swaps_.size(); i-- > 0;) std::swap(items_[i], items_[swaps_[i]]);
  }

 private:
  std::vector<int64_t> items_;
  std::vector<size_t> swaps_;
};

}  // namespace

Games Games::slice(int64_t begin, int64_t end) const {
  return {targets.slice(0, begin, end), candidates.slice(0, begin, end),
          positions.slice(0, begin, end), concepts.slice(0, begin, end)};
}

GameSampler::GameSampler(ConceptRows by_concept, GameRules rules, const std::string& what,
                         const std::vector<std::string>& names)
    : by_concept_(std::move(by_concept)), rules_(rules) {
  TORCH_CHECK(rules.candidates >= 2, "GameSampler: expected at least 2 candidates, got ",
              rules.candidates);
  const int64_t n = by_concept_.concepts();
  const std::string candidates = std::to_string(rules.candidates);
  if (!rules.same_concept && n < rules.candidates) {
    throw InputError(what + " games: expected at least " + candidates + " concepts for " +
                     candidates + " candidates of different concepts, got " + std::to_string(n));
  }
  if (n < 1) throw InputError(what + " games: expected at least one concept, got none");
  const int64_t least = rules.same_concept ? rules.candidates : 1;
  for (int64_t k = 0; k < n; ++k) {
    const auto images = static_cast<int64_t>(by_concept_.of(k).size());
    if (images >= least) continue;
    const auto i = static_cast<size_t>(k);
    throw InputError(what + " games: expected at least " + std::to_string(least) +
                     (least == 1 ? " image" : " images") + " of each concept, got " +
                     std::to_string(images) + " of " +
                     (i < names.size() ? "'" + names[i] + "'" : "concept " + std::to_string(k)));
  }
}

Games GameSampler::draw(int64_t games, at::Generator generator) const {
  TORCH_CHECK(games >= 0, "GameSampler::draw: expected games >= 0, got ", games);
  auto* random = at::check_generator<at::CPUGeneratorImpl>(generator);
  const std::lock_guard<std::mutex> lock(random->mutex_);

  const int64_t c = rules_.candidates, n = by_concept_.concepts();
  int64_t most = n;
  for (int64_t k = 0; rules_.same_concept && k < n; ++k) {
    most = std::max(most, static_cast<int64_t>(by_concept_.of(k).size()));
  }
  Urn urn(most);
  std::vector<int64_t> drawn(static_cast<size_t>(c));

  Games result;
  for (at::Tensor* list : {&result.targets, &result.positions, &result.concepts}) {
    *list = at::empty({games}, at::kLong);
  }
  result.candidates = at::empty({games, c}, at::kLong);
  int64_t* candidates = result.candidates.mutable_data_ptr<int64_t>();
  int64_t* targets = result.targets.mutable_data_ptr<int64_t>();
  int64_t* positions = result.positions.mutable_data_ptr<int64_t>();
  int64_t* concepts = result.concepts.mutable_data_ptr<int64_t>();
  for (int64_t b = 0; b < games; ++b, candidates += c) {
    const int64_t position = below(c, *random);
    if (rules_.same_concept) {
      concepts[b] = below(n, *random);
      const std::span<const int64_t> rows = by_concept_.of(concepts[b]);
      urn.draw(static_cast<int64_t>(rows.size()), c, *random, drawn.data());
      for (int64_t i = 0; i < c; ++i) {
        candidates[i] = rows[static_cast<size_t>(drawn[static_cast<size_t>(i)])];
      }
    } else {
      urn.draw(n, c, *random, drawn.data());
      concepts[b] = drawn[static_cast<size_t>(position)];
      for (int64_t i = 0; i < c; ++i) {
        const std::span<const int64_t> rows = by_concept_.of(drawn[static_cast<size_t>(i)]);
        candidates[i] =
            rows[static_cast<size_t>(below(static_cast<int64_t>(rows.size()), *random))];
      }
    }
    positions[b] = position;
    targets[b] = candidates[position];
  }
  return result;
}

Games validation_games(const GameSampler& sampler, int64_t count) {
  return sampler.draw(count, make_generator(kValidationSeed, "games/validation"));
}

Games test_games(const GameSampler& sampler, int64_t count) {
  return sampler.draw(count, make_generator(kTestSeed, "games/test"));
}

}  // namespace sparsum::lab
