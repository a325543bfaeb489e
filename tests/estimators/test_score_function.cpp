#include "tests/estimators/toy.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/categorical.h>
#include <sparsum/distribution.h>
#include <sparsum/estimator.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum {
namespace {

using sparsum_test::entmax_map;
using sparsum_test::error_of;
using sparsum_test::exact;
using sparsum_test::largest_difference;
using sparsum_test::seeded;
using sparsum_test::take_gradients;
using sparsum_test::Toy;

/// A categorical whose samples are those it is told: the way to enumerate what an estimator may
/// draw.
class Rigged final : public Structure {
 public:
  explicit Rigged(int64_t values) : base_(values) {}
  /// indices: of all draws to come, those of the first call first.
  void will_draw(at::Tensor indices) {
    indices_ = std::move(indices);
    next_ = 0;
  }

  std::string name() const override { return "rigged"; }
  int64_t parts() const override { return base_.parts(); }
  double log_size() const override { return base_.log_size(); }
  std::optional<int64_t> size() const override { return base_.size(); }
  Assignments map(const at::Tensor& scores) const override { return base_.map(scores); }
  Assignments sample(const at::Tensor& scores, int64_t samples, at::Generator g) const override {
    Assignments z = base_.sample(scores, samples, g);
    z.indices = indices_.slice(0, next_, next_ + samples);
    next_ += samples;
    return z;
  }
  at::Tensor score(const at::Tensor& scores, const Assignments& z) const override {
    return base_.score(scores, z);
  }
  at::Tensor log_partition(const at::Tensor& scores) const override {
    return base_.log_partition(scores);
  }
  at::Tensor marginals(const at::Tensor& scores) const override { return base_.marginals(scores); }
  at::Tensor entropy(const at::Tensor& scores) const override { return base_.entropy(scores); }

 private:
  Categorical base_;
  at::Tensor indices_;
  mutable int64_t next_ = 0;
};

/// The expected gradient and value of an estimator that draws `samples` outcomes for the only
/// example of `toy`, by going through all K^samples draws. make: a fresh estimator, in the same
/// state each time.
template <typename Make>
std::vector<at::Tensor> expected_answer(const Toy& toy, int64_t samples, int64_t chunk,
                                        double weight, const Make& make) {
  const int64_t values = toy.scores.size(1);
  Rigged structure(values);
  const at::Tensor log_probs = toy.scores.detach().log_softmax(1)[0];
  std::vector<at::Tensor> total = {at::zeros({}, at::kDouble), at::zeros({}, at::kDouble)};
  for (const at::Tensor& leaf : toy.leaves()) {
    total.push_back(at::zeros(leaf.sizes(), at::kDouble));
  }
  const auto draws = static_cast<int64_t>(std::pow(values, samples));
  for (int64_t draw = 0; draw < draws; ++draw) {
    std::vector<int64_t> outcomes;
    for (int64_t i = 0, rest = draw; i < samples; ++i, rest /= values) {
      outcomes.push_back(rest % values);
    }
    const at::Tensor indices = at::tensor(outcomes, at::kLong);
    structure.will_draw(indices);
    const double probability = log_probs.index_select(0, indices).sum().exp().item<double>();
    const Estimate got = make()->estimate(toy.problem(structure, weight, chunk), seeded(1));
    got.objective.sum().backward();
    total[0] += probability * got.value.sum();
    total[1] += probability * got.objective.detach().sum();
    const auto gradients = take_gradients(toy.leaves());
    for (size_t i = 0; i < gradients.size(); ++i) total[i + 2] += probability * gradients[i];
  }
  return total;
}

/// The same by sums written out.
std::vector<at::Tensor> exact_answer(const Toy& toy, double weight) {
  const auto sums = exact(toy, entmax_map(1), weight);
  std::vector<at::Tensor> all = {sums.loss.sum(), (sums.loss - weight * sums.entropy).sum()};
  all.insert(all.end(), sums.gradients.begin(), sums.gradients.end());
  return all;
}

std::shared_ptr<Estimator> sfe(int64_t samples, const std::string& baseline = "moving-average") {
  EstimatorOptions options;
  options.samples = samples;
  options.baseline = baseline;
  options.baseline_decay = 0.8;
  return make_estimator("sfe", options);
}

/// sfe whose moving average already has a past.
std::shared_ptr<Estimator> seasoned(int64_t samples) {
  auto estimator = sfe(samples);
  const at::NoGradGuard no_grad;
  auto buffers = estimator->named_buffers();
  buffers["baseline.average"].fill_(0.7);
  buffers["baseline.weight"].fill_(0.6);
  return estimator;
}

TEST(ScoreFunction, ExpectedGradientIsExactByEnumerationOfAllDraws) {
  for (int64_t values = 3; values <= 6; ++values) {
    const Toy toy(1, values, 10 + values);
    for (const double weight : {1.0, 0.0}) {
      const auto expected = exact_answer(toy, weight);
      for (const int64_t samples : {1, 2, 3}) {
        if (samples == 3 && values > 4) continue;  // hundreds of draws that show nothing new
        for (const int64_t chunk : {0, 2}) {
          SCOPED_TRACE("K = " + std::to_string(values) + ", samples " + std::to_string(samples) +
                       ", chunk " + std::to_string(chunk));
          const auto check = [&](const auto& make) {
            EXPECT_LT(
                largest_difference(expected_answer(toy, samples, chunk, weight, make), expected),
                1e-10);
          };
          check([&] { return sfe(samples, "none"); });
          check([&] { return seasoned(samples); });
        }
      }
    }
  }
}

TEST(ScoreFunction, OtherBaselinesAreExactByEnumerationOfAllDraws) {
  struct Case {
    std::string name;
    int64_t samples, draws;  // as an option, and all that it draws
  };
  for (int64_t values = 3; values <= 6; ++values) {
    Toy toy(1, values, 40 + values);
    toy.context = at::tensor({0.3, -0.8}, at::kDouble).unsqueeze(0);
    for (const Case& c : std::vector<Case>{{"sfe-plus", 1, 2},
                                           {"sfe-plus", 2, 4},
                                           {"sfe-loo", 2, 2},
                                           {"sfe-loo", 3, 3},
                                           {"nvil", 1, 1},
                                           {"nvil", 2, 2},
                                           {"muprop", 1, 1},
                                           {"muprop", 2, 2}}) {
      if (c.draws > 2 && values > 4) continue;
      SCOPED_TRACE(c.name + ", K = " + std::to_string(values));
      EstimatorOptions options;
      options.samples = c.samples;
      options.context = 2;
      options.baseline_hidden = 4;
      const auto make = [&] {
        auto estimator = make_estimator(c.name, options, seeded(3));
        const at::NoGradGuard no_grad;
        for (auto& buffer : estimator->named_buffers()) buffer.value().fill_(0.6);
        return estimator;
      };
      EXPECT_LT(
          largest_difference(expected_answer(toy, c.draws, 0, 0.9, make), exact_answer(toy, 0.9)),
          1e-10);
    }
  }
}

/// A wrong twin: score function with a moving average that has seen the cost it is compared with.
class SeesItsOwnSample final : public Estimator {
 public:
  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    const Gibbs q(problem.structure, problem.scores);
    const Assignments z = q.sample(1, *generator);
    const at::Tensor loss = problem.loss(z, problem.shared).value;
    const at::Tensor cost = loss.detach();
    const at::Tensor baseline = 0.8 * 0.7 + 0.2 * cost.mean();
    const at::Tensor log_prob = q.log_prob(z);
    Estimate estimate;
    estimate.objective = loss + (cost - baseline) * (log_prob - log_prob.detach()) -
                         problem.entropy_weight * q.entropy();
    estimate.value = cost;
    return estimate;
  }
  std::unique_ptr<Distribution> distribution(const Structure& structure,
                                             const at::Tensor& scores) const override {
    return std::make_unique<Gibbs>(structure, scores);
  }
  void check(const Structure&) const override {}
};

/// Another: the sign of the score-function term is wrong.
class FlippedSign final : public Estimator {
 public:
  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    const Gibbs q(problem.structure, problem.scores);
    const Assignments z = q.sample(1, *generator);
    const at::Tensor loss = problem.loss(z, problem.shared).value;
    const at::Tensor log_prob = q.log_prob(z);
    Estimate estimate;
    estimate.objective = loss - loss.detach() * (log_prob - log_prob.detach()) -
                         problem.entropy_weight * q.entropy();
    estimate.value = loss.detach();
    return estimate;
  }
  std::unique_ptr<Distribution> distribution(const Structure& structure,
                                             const at::Tensor& scores) const override {
    return std::make_unique<Gibbs>(structure, scores);
  }
  void check(const Structure&) const override {}
};

TEST(ScoreFunction, TheSameCheckRejectsWrongTwins) {
  const Toy toy(1, 4, 14);
  const auto expected = exact_answer(toy, 1);
  const auto difference = [&](const auto& make) {
    return largest_difference(expected_answer(toy, 1, 0, 1, make), expected);
  };
  EXPECT_LT(difference([] { return seasoned(1); }), 1e-10);
  EXPECT_GT(difference([] { return std::make_shared<SeesItsOwnSample>(); }), 1e-3);
  EXPECT_GT(difference([] { return std::make_shared<FlippedSign>(); }), 1e-3);
}

TEST(ScoreFunction, MeanOfManyDrawsIsExact) {
  // 200,000 rows of the same example, each with draws of its own: their gradients are independent
  // samples. |z| < 7 has P > 1 − 3e-12 for each of the 20 numbers compared.
  const int64_t rows = 200000;
  for (const int64_t samples : {1, 3}) {
    Toy one(1, 5, 15);
    const auto expected = exact(one, entmax_map(1), 1);
    Toy many = one;
    many.scores = one.scores.detach().expand({rows, 5}).contiguous().set_requires_grad(true);
    many.u = one.u.detach().expand({rows}).contiguous().set_requires_grad(true);
    auto estimator = seasoned(samples);
    estimator->eval();
    const Categorical structure(5);
    const Estimate got = estimator->estimate(many.problem(structure, 1), seeded(16));
    got.objective.sum().backward();
    const auto compare = [&](const at::Tensor& draws, const at::Tensor& mean) {
      const at::Tensor error = draws.std(0) / std::sqrt(static_cast<double>(rows));
      EXPECT_LT(((draws.mean(0) - mean) / error).abs().max().item<double>(), 7);
    };
    compare(many.scores.grad(), expected.gradients[0][0]);
    compare(many.u.grad(), expected.gradients[3][0]);
    compare(got.value, expected.loss[0]);
    EXPECT_TRUE(got.evaluations.equal(at::full({rows}, samples, at::kLong)));
    EXPECT_TRUE(estimator->evaluations(structure, many.scores).equal(got.evaluations));
    EXPECT_TRUE(got.entropy.allclose(expected.entropy.expand({rows}), 1e-12, 1e-12));
  }
}

TEST(ScoreFunction, BaselineIsTheUnbiasedAverageOfPastCostsOnly) {
  auto estimator = sfe(1);
  const Categorical structure(3);
  at::Generator generator = seeded(17);
  std::vector<double> costs;
  for (int step = 0; step < 5; ++step) {
    double weighted = 0, weight = 0;
    for (const double cost : costs) {
      weighted = 0.8 * weighted + 0.2 * cost;
      weight = 0.8 * weight + 0.2;
    }
    const double baseline = costs.empty() ? 0 : weighted / weight;
    EXPECT_NEAR(estimator->named_buffers()["baseline.average"].item<double>(), baseline, 1e-12);

    // What was used is read off the gradient: ∇ = Σ_z (cost − b) ∇log π(z), cost known.
    const at::Tensor scores = at::zeros({4, 3}, at::kDouble).set_requires_grad(true);
    const double cost = 1.0 + step;
    const LossFn loss = [cost](const Assignments& z, const std::vector<at::Tensor>&) {
      return at::full({z.count()}, cost, at::kDouble);
    };
    const Estimate got = estimator->estimate({structure, scores, loss, {}, {}, 0}, generator);
    got.objective.sum().backward();
    EXPECT_NEAR(scores.grad().max().item<double>(), (cost - baseline) * 2 / 3, 1e-12);
    costs.push_back(cost);
  }
}

TEST(ScoreFunction, BaselineRestsInEvaluation) {
  auto estimator = seasoned(1);
  const Toy toy(4, 3, 18);
  const Categorical structure(3);
  estimator->eval();
  estimator->estimate(toy.problem(structure, 1), seeded(1));
  EXPECT_EQ(estimator->named_buffers()["baseline.average"].item<double>(), 0.7);
  estimator->train();
  estimator->estimate(toy.problem(structure, 1), seeded(1));
  EXPECT_NE(estimator->named_buffers()["baseline.average"].item<double>(), 0.7);
  EXPECT_TRUE(sfe(1, "none")->buffers().empty());
}

TEST(ScoreFunction, SameGeneratorSameBytes) {
  const Toy toy(16, 6, 19);
  const Categorical structure(6);
  const auto run = [&] {
    sfe(3)->estimate(toy.problem(structure, 1), seeded(3)).objective.sum().backward();
    return take_gradients(toy.leaves());
  };
  const auto first = run();
  const auto second = run();
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(first[i].equal(second[i]));
}

/// A structure that can only be maximised.
class MapOnly final : public Structure {
 public:
  std::string name() const override { return "map-only"; }
  int64_t parts() const override { return 3; }
  double log_size() const override { return 0; }
  std::optional<int64_t> size() const override { return std::nullopt; }
  Assignments map(const at::Tensor&) const override { return {}; }
};

TEST(Estimators, StructuresThatLackWhatTheyNeedAreNamed) {
  EXPECT_EQ(error_of([] { sfe(1)->check(MapOnly()); }),
            "estimator 'sfe' is for structures with exact samples, partition function and entropy; "
            "map-only: sample is not available");
  EXPECT_EQ(error_of([] { sfe(1)->check(Categorical(3)); }), "");
  EXPECT_EQ(error_of([] { make_estimator("dense")->check(MapOnly()); }),
            "estimator 'dense' is for structures of at most 65536 outcomes (max_outcomes); "
            "map-only has more than 2^63");
  for (const std::string name : {"sparsemax", "entmax"}) {
    EXPECT_EQ(error_of([&] { make_estimator(name)->check(MapOnly()); }),
              "estimator '" + name + "' is for categorical structures; got map-only");
  }
  EXPECT_EQ(error_of([] { make_estimator("top-k")->check(MapOnly()); }),
            "estimator 'top-k' is for structures with k_best; map-only: k_best is not available");
}

TEST(ScoreFunction, NeedsAGenerator) {
  const Toy toy(2, 3, 20);
  EXPECT_EQ(error_of([&] { sfe(1)->estimate(toy.problem(Categorical(3), 1), {}); }),
            "estimator 'sfe': expected a generator to draw from");
}

}  // namespace
}  // namespace sparsum
