// What a user's own structure returns is checked before it is used.

#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/custom_structure.h>
#include <sparsum/sparsemap.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace sparsum {
namespace {

using sparsum_test::error_of;
using Outcomes = std::vector<std::vector<uint8_t>>;

/// Gives what it is told, over three parts.
class Told : public CustomStructure {
 public:
  explicit Told(Outcomes answer, std::optional<int64_t> size = {})
      : answer_(std::move(answer)), size_(size) {}
  std::string name() const override { return "told"; }
  int64_t parts() const override { return 3; }
  std::optional<int64_t> size() const override { return size_; }
  std::vector<uint8_t> best(std::span<const double>) const override { return answer_[0]; }
  Outcomes k_best_one(std::span<const double>, int64_t k) const override {
    asked_ = k;
    return answer_;
  }
  int64_t asked() const { return asked_; }

 private:
  Outcomes answer_;
  std::optional<int64_t> size_;
  mutable int64_t asked_ = 0;
};

at::Tensor scores(double a = 3, double b = 2, double c = 1) {
  return at::tensor({a, b, c}).view({1, 3});
}

std::string k_best_error(const Outcomes& answer, int64_t k, std::optional<int64_t> size = {},
                         const at::Tensor& t = scores()) {
  return error_of([&] { Told(answer, size).k_best(t, k); });
}

TEST(CustomStructure, KBestRefusesDuplicates) {
  EXPECT_EQ(k_best_error({{1, 1, 1}, {1, 1, 0}, {1, 0, 1}}, 3), "");
  EXPECT_EQ(k_best_error({{1, 1, 1}, {1, 1, 0}, {1, 1, 0}}, 3),
            "told: k_best_one: expected different outcomes, got number 1 again as number 2 in row "
            "0");
  // Of equal scores, with another one between.
  EXPECT_EQ(k_best_error({{1, 0, 0}, {0, 1, 0}, {1, 0, 0}}, 3, {}, scores(1, 1, 0)),
            "told: k_best_one: expected different outcomes, got number 0 again as number 2 in row "
            "0");
}

TEST(CustomStructure, KBestRefusesListsOfAWrongLength) {
  const Outcomes two = {{1, 1, 1}, {1, 1, 0}};
  EXPECT_EQ(k_best_error(two, 2), "");
  EXPECT_EQ(k_best_error(two, 5), "");  // it may be all there is
  EXPECT_EQ(k_best_error(two, 1), "told: k_best_one: expected 1 to k = 1 outcomes, got 2");
  EXPECT_EQ(k_best_error({}, 1), "told: k_best_one: expected 1 to k = 1 outcomes, got 0");
  EXPECT_EQ(k_best_error(two, 5, 2), "");
  EXPECT_EQ(k_best_error(two, 5, 4),
            "told: k_best_one: expected min(k, |Z|) = 4 outcomes, got 2 in row 0");
  EXPECT_EQ(k_best_error(two, 3, 4),
            "told: k_best_one: expected min(k, |Z|) = 3 outcomes, got 2 in row 0");
  EXPECT_EQ(k_best_error(two, 5, 1), "told: k_best_one: expected 1 to k = 1 outcomes, got 2");
  // Where parts are forbidden, how many outcomes remain is the structure's to know.
  EXPECT_EQ(k_best_error({{1, 1, 0}, {1, 0, 0}}, 5, 4, scores(3, 2, -INFINITY)), "");
}

TEST(CustomStructure, ForbiddenPartsAreRefused) {
  const at::Tensor two_rows = at::cat({scores(), scores(3, -INFINITY, 1)});
  EXPECT_EQ(error_of([&] { Told({{1, 0, 1}}).map(two_rows); }), "");
  EXPECT_EQ(error_of([&] {
              Told({{1, 1, 1}}).map(two_rows);
            }),
            "told: best: expected an outcome without parts whose score is -inf, got one with part "
            "1 in row 1");
  EXPECT_EQ(k_best_error({{1, 0, 1}, {1, 1, 1}}, 2, {}, scores(3, -INFINITY, 1)),
            "told: k_best_one: expected an outcome without parts whose score is -inf, got one with "
            "part 1 in row 0");
}

TEST(CustomStructure, KIsNoLargerThanTheSet) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const Outcomes two = {{1, 1, 1}, {1, 1, 0}};
  const Told unknown(two), known(two, 2);
  unknown.k_best(scores(), kMost);
  EXPECT_EQ(unknown.asked(), 8);
  known.k_best(scores(), kMost);
  EXPECT_EQ(known.asked(), 2);
}

/// Says what it is told of its parts.
class Sized : public CustomStructure {
 public:
  Sized(int64_t parts, int64_t variables) : parts_(parts), variables_(variables) {}
  std::string name() const override { return "sized"; }
  int64_t parts() const override { return parts_; }
  int64_t variables() const override { return variables_; }
  std::vector<uint8_t> best(std::span<const double> t) const override {
    return std::vector<uint8_t>(t.size());
  }
  Outcomes k_best_one(std::span<const double> t, int64_t) const override { return {best(t)}; }

 private:
  int64_t parts_, variables_;
};

TEST(CustomStructure, PartsAndVariablesAreChecked) {
  const auto errors = [](int64_t parts, int64_t variables) {
    const Sized structure(parts, variables);
    const at::Tensor t = at::zeros({2, std::max<int64_t>(parts, 0)});
    return std::vector<std::string>{error_of([&] { structure.map(t); }),
                                    error_of([&] { structure.k_best(t, 1); }),
                                    error_of([&] { sparsemap(structure, t); }),
                                    error_of([&] { sparsemap_marginals(structure, t); }),
                                    error_of([&] { sparsemap_loss(structure, t, t); })};
  };
  const std::vector<std::string> callers = {"map", "k_best", "sparsemap", "sparsemap_marginals",
                                            "sparsemap_loss"};
  const std::vector<std::pair<int64_t, int64_t>> fine = {{1, 0}, {1, 1}, {3, 2}};
  for (const auto& [parts, variables] : fine) {
    EXPECT_EQ(errors(parts, variables), std::vector<std::string>(5)) << parts << variables;
  }
  for (const int64_t parts : {0, -2}) {
    const auto got = errors(parts, parts);
    for (size_t i = 0; i < callers.size(); ++i) {
      EXPECT_EQ(got[i],
                "sized: " + callers[i] + ": expected parts() >= 1, got " + std::to_string(parts));
    }
  }
  for (const int64_t variables : {-1, 4}) {
    const auto got = errors(3, variables);
    for (size_t i = 0; i < callers.size(); ++i) {
      EXPECT_EQ(got[i], "sized: " + callers[i] +
                            ": expected 0 <= variables() <= parts() = 3, got " +
                            std::to_string(variables));
    }
  }
}

}  // namespace
}  // namespace sparsum
