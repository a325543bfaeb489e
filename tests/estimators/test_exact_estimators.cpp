#include "tests/estimators/toy.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/categorical.h>
#include <sparsum/estimator.h>
#include <torch/torch.h>

#include <map>

namespace sparsum {
namespace {

/// Those for a categorical variable whose gradient is that of the objective, or has it as mean;
/// with `hard`, only those that evaluate the loss at outcomes and nowhere else.
std::vector<std::string> categorical_estimators(bool hard = false) {
  std::vector<std::string> names = estimator_names();
  std::erase_if(names, [hard](const std::string& name) {
    for (const char* other : {"sparsemap-budget", "arm", "disarm", "vimco", "gumbel", "st-gumbel",
                              "straight-through", "imle"}) {
      if (name == other) return true;
    }
    return hard && (name == "rebar" || name == "muprop");
  });
  return names;
}

/// With what learned baselines need: the context is one number an example.
std::shared_ptr<Estimator> make_for(const std::string& name, int64_t values) {
  EstimatorOptions options;
  options.context = 1;
  options.parts = values;
  options.baseline_hidden = 8;
  options.baseline_layers = 1;
  return make_estimator(name, options, sparsum_test::seeded(1));
}

using sparsum_test::entmax_map;
using sparsum_test::error_of;
using sparsum_test::exact;
using sparsum_test::Exact;
using sparsum_test::largest_difference;
using sparsum_test::Map;
using sparsum_test::seeded;
using sparsum_test::sparsemax_map;
using sparsum_test::take_gradients;
using sparsum_test::top_k_map;
using sparsum_test::Toy;

struct Case {
  std::string name;
  EstimatorOptions options;
  Map map;
};

std::vector<Case> exact_cases() {
  EstimatorOptions entmax;
  entmax.alpha = 1.3;
  EstimatorOptions top_k;
  top_k.k = 2;
  return {{"dense", {}, entmax_map(1)},    {"sparsemax", {}, sparsemax_map()},
          {"entmax", {}, entmax_map(1.5)}, {"entmax", entmax, entmax_map(1.3)},
          {"top-k", top_k, top_k_map(2)},  {"top-k", {}, sparsemax_map()}};
}

TEST(ExactEstimators, EqualTheSumsWrittenOut) {
  for (const Case& c : exact_cases()) {
    for (int64_t values = 3; values <= 6; ++values) {
      for (const double weight : {1.0, 0.0, 0.3}) {
        const Categorical structure(values);
        const Toy toy(7, values, 100 + values);
        const Exact expected = exact(toy, c.map, weight);
        const auto estimator = make_estimator(c.name, c.options);
        for (const int64_t chunk : {0, 1, 4, 1000}) {
          SCOPED_TRACE(c.name + ", K = " + std::to_string(values) + ", weight " +
                       std::to_string(weight) + ", chunk " + std::to_string(chunk));
          const Estimate got = estimator->estimate(toy.problem(structure, weight, chunk), {});
          EXPECT_TRUE(got.value.allclose(expected.loss, 1e-10, 1e-10));
          EXPECT_TRUE(got.entropy.allclose(expected.entropy, 1e-10, 1e-10));
          EXPECT_TRUE(
              got.objective.allclose(expected.loss - weight * expected.entropy, 1e-10, 1e-10));
          EXPECT_TRUE(got.evaluations.equal(expected.support));
          EXPECT_TRUE(estimator->evaluations(structure, toy.scores).equal(expected.support));
          EXPECT_FALSE(got.value.requires_grad() || got.entropy.requires_grad());
          EXPECT_FALSE(got.auxiliary.defined());
          got.objective.sum().backward();
          EXPECT_LT(largest_difference(take_gradients(toy.leaves()), expected.gradients), 1e-10);
        }
      }
    }
  }
}

TEST(ExactEstimators, DistributionsAreTheMaps) {
  for (const Case& c : exact_cases()) {
    SCOPED_TRACE(c.name);
    const Categorical structure(5);
    const Toy toy(6, 5, 3);
    const auto q = make_estimator(c.name, c.options)->distribution(structure, toy.scores);
    const at::Tensor marginals = q->marginals();
    for (int64_t b = 0; b < 6; ++b) {
      std::vector<long double> s(5);
      for (int64_t j = 0; j < 5; ++j) s[j] = toy.scores[b][j].item<double>();
      const auto p = c.map.probs(s);
      for (int64_t j = 0; j < 5; ++j) {
        EXPECT_NEAR(marginals[b][j].item<double>(), static_cast<double>(p[j]), 1e-12);
      }
    }
  }
}

TEST(ExactEstimators, SupervisedLossesPullTowardsTheirMap) {
  // Every Fenchel–Young loss has the gradient map(s) − y; top-k trains with sparsemax's own.
  const std::map<std::string, Map> maps = {
      {"sparsemax", sparsemax_map()}, {"entmax", entmax_map(1.5)},
      {"top-k", sparsemax_map()},     {"top-k-adaptive", sparsemax_map()},
      {"sparsemap", sparsemax_map()}, {"sparsemap-budget", sparsemax_map()}};
  for (const std::string& name : estimator_names()) {
    SCOPED_TRACE(name);
    const Map map = maps.contains(name) ? maps.at(name) : entmax_map(1);
    const Toy toy(6, 5, 4);
    const at::Tensor target = at::tensor({0, 4, 2, 1, 3, 3}, at::kLong);
    const at::Tensor loss = make_for(name, 5)->supervised_loss(toy.scores, target);
    ASSERT_EQ(loss.sizes(), target.sizes());
    EXPECT_TRUE((loss >= 0).all().item<bool>());
    loss.sum().backward();
    for (int64_t b = 0; b < 6; ++b) {
      std::vector<long double> s(5);
      for (int64_t j = 0; j < 5; ++j) s[j] = toy.scores[b][j].item<double>();
      const auto p = map.probs(s);
      for (int64_t j = 0; j < 5; ++j) {
        const double y = target[b].item<int64_t>() == j ? 1 : 0;
        EXPECT_NEAR(toy.scores.grad()[b][j].item<double>(), static_cast<double>(p[j]) - y, 1e-10);
      }
    }
  }
}

/// A training loop that knows nothing of the estimator but its name: the outcomes it ends with.
at::Tensor trained_outcomes(const std::string& name, const Toy& toy) {
  const Categorical structure(5);
  const auto estimator = make_for(name, 5);
  estimator->check(structure);
  at::Generator generator = seeded(6);
  for (int step = 0; step < 600; ++step) {
    const Estimate estimate = estimator->estimate(toy.problem(structure, 0.01), generator);
    estimate.objective.sum().backward();
    if (estimate.auxiliary.defined()) estimate.auxiliary.backward();
    const at::NoGradGuard no_grad;
    at::Tensor scores = toy.scores;
    scores.sub_(take_gradients({scores})[0], 0.3);
    for (at::Tensor& parameter : estimator->parameters()) {
      parameter.sub_(take_gradients({parameter})[0], 0.05);
    }
  }
  estimator->eval();
  return estimator->distribution(structure, toy.scores)->mode().indices;
}

TEST(Estimators, AModelsCodeDoesNotChangeWithThem) {
  for (const std::string& name : categorical_estimators()) {
    SCOPED_TRACE(name);
    Toy toy(8, 5, 5);
    toy.context = toy.embedding().detach();
    toy.scores = at::zeros({8, 5}, at::kDouble).set_requires_grad(true);
    const at::Tensor outcomes = trained_outcomes(name, toy);
    const at::NoGradGuard no_grad;
    const Assignments all = Categorical(5).enumerate(8, at::kCPU);
    const at::Tensor losses = toy.loss()(all, {toy.embedding()}).value.view({8, 5});
    const at::Tensor excess = losses.gather(1, outcomes.unsqueeze(1)).squeeze(1) - losses.amin(1);
    const at::Tensor range = losses.amax(1) - losses.amin(1);
    EXPECT_LT((excess / range).max().item<double>(), 0.1);  // sampling ones at a constant rate
  }
}

TEST(Estimators, NoExamples) {
  for (const std::string& name : categorical_estimators()) {
    for (const int64_t chunk : {0, 3}) {
      SCOPED_TRACE(name);
      const Categorical structure(4);
      Toy toy(0, 4, 7);
      toy.context = at::zeros({0, 1});
      const Estimate got = make_for(name, 4)->estimate(toy.problem(structure, 1, chunk), seeded(1));
      EXPECT_EQ(got.objective.size(0), 0);
      EXPECT_EQ(got.evaluations.size(0), 0);
      got.objective.sum().backward();
      EXPECT_EQ(toy.scores.grad().sizes(), toy.scores.sizes());
    }
  }
}

TEST(Estimators, HugeAndForbiddenScoresGiveFiniteGradients) {
  for (const std::string& name : categorical_estimators(/*hard=*/true)) {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      SCOPED_TRACE(name);
      const Categorical structure(4);
      const at::Tensor scores =
          at::tensor({1e4, -1e4, 0., 3., -INFINITY, 0., 1., -INFINITY, 0., 0., 0., 0.})
              .view({3, 4})
              .to(dtype)
              .set_requires_grad(true);
      // The loss of a forbidden outcome is not even finite.
      const LossFn loss = [](const Assignments& z, const std::vector<at::Tensor>&) {
        const at::Tensor forbidden = (z.rows == 1) & ((z.indices == 0) | (z.indices == 3));
        return z.indices.to(at::kDouble).masked_fill(forbidden, INFINITY);
      };
      const Estimate got =
          make_for(name, 4)->estimate({structure, scores, loss, {}, at::zeros({3, 1})}, seeded(2));
      EXPECT_TRUE(got.objective.isfinite().all().item<bool>());
      got.objective.sum().backward();
      EXPECT_TRUE(scores.grad().isfinite().all().item<bool>());
    }
  }
}

TEST(ExactEstimators, RefuseWhatTheyAreNotFor) {
  EstimatorOptions options;
  options.max_outcomes = 9;
  const auto dense = make_estimator("dense", options);
  EXPECT_EQ(error_of([&] { dense->check(Categorical(10)); }),
            "estimator 'dense' is for structures of at most 9 outcomes (max_outcomes); "
            "categorical(10) has 10");
  const Toy toy(2, 10, 8);
  EXPECT_EQ(error_of([&] { dense->estimate(toy.problem(Categorical(10), 1), {}); }),
            "estimator 'dense' is for structures of at most 9 outcomes (max_outcomes); "
            "categorical(10) has 10");
  EXPECT_EQ(
      error_of([&] { make_estimator("sparsemax")->estimate(toy.problem(Categorical(11), 1), {}); }),
      "sparsemax: expected scores to be [B, V] with V = 11 for categorical(11), got [2, 10]");
}

}  // namespace
}  // namespace sparsum
