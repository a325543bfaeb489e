#include "tests/estimators/enumerated.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/distribution.h>
#include <torch/torch.h>

#include <functional>
#include <string>
#include <vector>

// Every unbiased estimator against sums over all outcomes: the mean of many independent draws of
// its gradient, in the scores and in the loss's parameters, is within kLimit standard errors of the
// exact one. |z| < 6.5 has P > 1 − 8.1e-11; with fewer than 5,000 numbers compared in this file, a
// right estimator fails with less than 4.1e-7.

namespace sparsum {
namespace {

using sparsum_test::bits;
using sparsum_test::categorical;
using sparsum_test::draw;
using sparsum_test::Draws;
using sparsum_test::Enumerated;
using sparsum_test::error_of;
using sparsum_test::largest_z;
using sparsum_test::seeded;

constexpr double kLimit = 6.5;

using StructurePtr = std::shared_ptr<const Structure>;

/// An estimator as it would be in the middle of training: averages with a past, networks not at 0.
std::shared_ptr<Estimator> seasoned(const std::string& name, const Structure& structure,
                                    EstimatorOptions options = {}) {
  options.context = 3;
  options.parts = structure.parts();
  options.baseline_hidden = 8;
  options.baseline_layers = 1;
  auto estimator = make_estimator(name, options, seeded(5));
  const at::NoGradGuard no_grad;
  for (auto& buffer : estimator->named_buffers()) {
    if (buffer.key().ends_with("average")) buffer.value().fill_(0.7);
    if (buffer.key().ends_with("weight")) buffer.value().fill_(0.6);
  }
  estimator->eval();
  return estimator;
}

struct Variant {
  std::string name;
  std::function<void(EstimatorOptions&)> set = [](EstimatorOptions&) {};
  bool bits_only = false;
  int64_t least_outcomes = 2;

  std::shared_ptr<Estimator> make(const Structure& structure) const {
    EstimatorOptions options;
    set(options);
    return seasoned(name, structure, options);
  }
};

std::vector<Variant> variants() {
  const auto samples = [](int64_t m) { return [m](EstimatorOptions& o) { o.samples = m; }; };
  return {
      {"dense"},
      {"sfe", [](EstimatorOptions& o) { o.baseline = "none"; }},
      {"sfe"},
      {"sfe", samples(3)},
      {"sfe-plus"},
      {"sfe-plus", samples(2)},
      {"sfe-loo"},
      {"sfe-loo", samples(3)},
      {"nvil"},
      {"nvil", samples(2)},
      {"sum-and-sample"},
      {"sum-and-sample", [](EstimatorOptions& o) { o.baseline = "none"; }},
      {"sum-and-sample",
       [](EstimatorOptions& o) {
         o.k = 2;
         o.samples = 2;
       }},
      {"unordered-set"},
      {"unordered-set", [](EstimatorOptions& o) { o.baseline = "none"; }},
      {"unordered-set",
       [](EstimatorOptions& o) {
         o.samples = 1;
         o.baseline = "none";
       }},
      {"unordered-set", samples(3)},
      {"rebar"},
      {"rebar",
       [](EstimatorOptions& o) {
         o.samples = 2;
         o.temperature = 0.4;
         o.control_scale = 0.6;
         o.adapt_temperature = true;
       }},
      {"relax"},
      {"relax",
       [](EstimatorOptions& o) {
         o.samples = 2;
         o.embed_loss = true;
         o.control_scale = 0.8;
         o.temperature = 0.7;
       }},
      {"arm", [](EstimatorOptions&) {}, true},
      {"arm", samples(2), true},
      {"disarm", [](EstimatorOptions&) {}, true},
      {"disarm", samples(2), true},
      {"muprop"},
      {"muprop",
       [](EstimatorOptions& o) {
         o.samples = 2;
         o.baseline = "none";
       }},
  };
}

void expect_unbiased(const StructurePtr& structure, bool choice, int64_t rows, uint64_t seed) {
  const Enumerated problem(structure, seed, choice);
  constexpr double kWeight = 0.7;
  const auto exact = problem.exact(kWeight);
  const at::Tensor expected = at::cat(exact.gradients);
  const bool is_bits = dynamic_cast<const Bits*>(structure.get()) != nullptr;
  int number = 0;
  for (const Variant& variant : variants()) {
    ++number;
    if (variant.bits_only && !is_bits) continue;
    SCOPED_TRACE(variant.name + " (variant " + std::to_string(number) + ") over " +
                 structure->name());
    const auto estimator = variant.make(*structure);
    const Draws draws = draw(problem, *estimator, rows, kWeight, seed + 100);
    EXPECT_LT(largest_z(draws.gradients, expected), kLimit);
    EXPECT_LT(largest_z(draws.values, exact.loss), kLimit);
    EXPECT_LT(largest_z(draws.estimate.objective.detach(), exact.loss - kWeight * exact.entropy),
              kLimit);
    EXPECT_TRUE(draws.estimate.entropy.allclose(exact.entropy.expand({rows}), 1e-10, 1e-10));
    const auto leaves = problem.rows(rows);
    EXPECT_TRUE(estimator->evaluations(*structure, leaves[0]).equal(draws.estimate.evaluations));
  }
}

TEST(Unbiased, MeanGradientIsExact) {
  expect_unbiased(categorical(4), false, 20000, 1);
  expect_unbiased(bits(3), false, 20000, 2);
}

TEST(Unbiased, MeanGradientIsExactWithAChoiceInTheLoss) {
  expect_unbiased(categorical(3), true, 20000, 3);
  expect_unbiased(bits(2), true, 20000, 4);
}

TEST(Unbiased, SlowMeanGradientIsExact) {
  for (const int64_t values : {3, 5, 6}) expect_unbiased(categorical(values), false, 100000, 5);
  for (const int64_t count : {2, 4}) expect_unbiased(bits(count), false, 100000, 6);
}

TEST(Unbiased, EntropyGradientIsExactInEveryRow) {
  for (const StructurePtr& structure : {categorical(4), bits(3)}) {
    const Enumerated problem(structure, 7);
    const auto nothing = [](const Assignments& z, const std::vector<at::Tensor>&) {
      return Loss(at::zeros({z.count()}, at::kDouble) +
                  0 * z.embed(at::ones({z.parts, 1}, at::kDouble)).squeeze(1));
    };
    const at::Tensor t = problem.scores.clone().set_requires_grad(true);
    const auto [log_probs, losses] = problem.listed(t, problem.w);
    (log_probs.exp() * log_probs).sum().backward();
    for (const Variant& variant : variants()) {
      // A network's control variate has a gradient, of expectation 0, whatever the loss.
      if (variant.name == "relax" || variant.name == "nvil") continue;
      if (variant.bits_only && structure->name().starts_with("categorical")) continue;
      SCOPED_TRACE(variant.name + " over " + structure->name());
      auto estimator = variant.make(*structure);
      const at::NoGradGuard no_grad;
      for (auto& buffer : estimator->named_buffers()) buffer.value().zero_();
      const at::AutoGradMode enable(true);
      const auto leaves = problem.rows(8);
      estimator->estimate({*structure, leaves[0], nothing, {}, leaves[1], 1, 0}, seeded(8))
          .objective.sum()
          .backward();
      EXPECT_TRUE(leaves[0].grad().allclose(t.grad().expand_as(leaves[0]), 1e-10, 1e-12));
    }
  }
}

// --- wrong twins ---------------------------------------------------------------------------------

/// What is wrong with a score-function estimator of two draws.
enum class Wrong { kNothing, kSeesItsOwnCost, kFlippedSign, kNoCorrection, kSharedNoise };

class Twin final : public Estimator {
 public:
  explicit Twin(Wrong wrong) : wrong_(wrong) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    const int64_t rows = problem.scores.size(0);
    const Gibbs q(problem.structure, problem.scores);
    Assignments z = q.sample(2, *generator);
    if (wrong_ == Wrong::kSharedNoise) {  // every row gets the first one's draws
      const at::Tensor first = at::arange(2, at::kLong).repeat({rows});
      if (z.indices.defined()) z.indices = z.indices.index_select(0, first);
      if (z.indicators.defined()) z.indicators = z.indicators.index_select(0, first);
    }
    const at::Tensor loss = problem.loss(z, problem.shared).value.view({rows, 2});
    const at::Tensor cost = loss.detach();
    at::Tensor baseline = cost.flip(1);  // leave-one-out
    if (wrong_ == Wrong::kSeesItsOwnCost) baseline = 0.3 * cost;
    if (wrong_ == Wrong::kNoCorrection) baseline = cost.mean(1, true);  // without 2/(2 − 1)
    at::Tensor advantage = cost - baseline;
    if (wrong_ == Wrong::kFlippedSign) advantage = -advantage;
    const at::Tensor log_prob = q.log_prob(z).view({rows, 2});
    Estimate estimate;
    estimate.objective = (loss + advantage * (log_prob - log_prob.detach())).mean(1) -
                         problem.entropy_weight * q.entropy();
    estimate.value = cost.mean(1);
    return estimate;
  }
  std::unique_ptr<Distribution> distribution(const Structure& structure,
                                             const at::Tensor& scores) const override {
    return std::make_unique<Gibbs>(structure, scores);
  }
  void check(const Structure&) const override {}

 private:
  Wrong wrong_;
};

TEST(Unbiased, TheSameTestRejectsWrongTwins) {
  for (const StructurePtr& structure : {categorical(4), bits(3)}) {
    const Enumerated problem(structure, 9);
    const at::Tensor expected = at::cat(problem.exact(1).gradients);
    const auto z = [&](Wrong wrong) {
      Twin twin(wrong);
      return largest_z(draw(problem, twin, 20000, 1, 10).gradients, expected);
    };
    EXPECT_LT(z(Wrong::kNothing), kLimit);
    EXPECT_GT(z(Wrong::kSeesItsOwnCost), 2 * kLimit);
    EXPECT_GT(z(Wrong::kFlippedSign), 2 * kLimit);
    EXPECT_GT(z(Wrong::kNoCorrection), 2 * kLimit);
    EXPECT_GT(z(Wrong::kSharedNoise), 2 * kLimit);
  }
}

// --- variance ------------------------------------------------------------------------------------

double variance(const Enumerated& problem, const std::string& name, EstimatorOptions options = {}) {
  const auto estimator = seasoned(name, *problem.structure, options);
  const Draws draws = draw(problem, *estimator, 20000, 1, 12);
  return draws.gradients.slice(1, 0, problem.scores.size(0)).var(0).sum().item<double>();
}

TEST(Unbiased, LowVarianceIsLower) {
  for (const StructurePtr& structure : {categorical(5), bits(3)}) {
    SCOPED_TRACE(structure->name());
    Enumerated problem(structure, 13);
    problem.offset = 3;
    EstimatorOptions plain, two, summed;
    plain.baseline = two.baseline = summed.baseline = "none";
    two.samples = 2;
    // Each pair costs the same number of evaluations.
    EXPECT_LT(variance(problem, "sfe-loo", two), variance(problem, "sfe", two));
    EXPECT_LT(variance(problem, "sum-and-sample", summed), variance(problem, "sfe", two));
    EXPECT_LT(variance(problem, "unordered-set"), variance(problem, "sfe", two));
    EXPECT_LT(variance(problem, "rebar"), variance(problem, "sfe", plain));
    EXPECT_EQ(variance(problem, "dense"), 0);
  }
  Enumerated problem(bits(3), 14);
  problem.offset = 3;
  EstimatorOptions two;
  two.samples = 2;
  two.baseline = "none";
  EXPECT_LT(variance(problem, "disarm"), variance(problem, "arm"));
  EXPECT_LT(variance(problem, "arm"), variance(problem, "sfe", two));
}

TEST(UnorderedSet, IsExactWhereAllOutcomesAreDrawn) {
  for (const StructurePtr& structure : {categorical(4), bits(2)}) {
    const Enumerated problem(structure, 15);
    const at::Tensor expected = at::cat(problem.exact(1).gradients);
    for (const int64_t samples : {4, 9}) {
      EstimatorOptions options;
      options.samples = samples;
      const auto estimator = seasoned("unordered-set", *structure, options);
      const Draws draws = draw(problem, *estimator, 16, 1, 16);
      EXPECT_TRUE(draws.gradients.allclose(expected.expand_as(draws.gradients), 1e-9, 1e-9));
      EXPECT_TRUE(draws.estimate.evaluations.equal(at::full({16}, 4, at::kLong)));
      const auto leaves = problem.rows(16);
      EXPECT_TRUE(estimator->evaluations(*structure, leaves[0]).equal(draws.estimate.evaluations));
    }
  }
}

TEST(UnorderedSet, DrawsAreDifferent) {
  const auto structure = bits(6);
  const Enumerated problem(structure, 17);
  const auto leaves = problem.rows(500);
  EstimatorOptions options;
  options.samples = 5;
  int64_t pairs = 0;
  const LossFn loss = [&](const Assignments& z, const std::vector<at::Tensor>&) {
    const at::Tensor place = at::pow(2, at::arange(6, at::kLong));
    const at::Tensor codes = (z.values(at::kLong) * place).sum(1).view({500, 5});
    for (int64_t b = 0; b < 500; ++b) {
      EXPECT_EQ(std::get<0>(at::_unique2(codes[b])).size(0), 5);
    }
    pairs += z.count();
    return Loss(at::zeros({z.count()}, at::kDouble));
  };
  make_estimator("unordered-set", options)
      ->estimate({*structure, leaves[0], loss, {}, {}, 1, 0}, seeded(18));
  EXPECT_EQ(pairs, 2500);
}

// --- VIMCO: the gradient of its own bound
// ---------------------------------------------------------

/// All outcomes of a problem with those of the loss's own choice: log-probabilities of both
/// together, log π of the outcome alone, and losses.
struct Listed {
  at::Tensor joint, outcome, losses;
};
Listed list_with_choice(const Enumerated& problem, const at::Tensor& t, const at::Tensor& own) {
  const auto [log_probs, mean_losses] = problem.listed(t, own);
  if (!problem.choice) return {log_probs, log_probs, mean_losses};
  const at::Tensor h = problem.outcomes.matmul(problem.table);
  const at::Tensor logit = h.select(1, 0) * own[2];
  const at::Tensor losses = Enumerated::formula(h, own.unsqueeze(0));
  return {at::cat({log_probs + at::log_sigmoid(-logit), log_probs + at::log_sigmoid(logit)}),
          at::cat({log_probs, log_probs}), at::cat({losses, 2 * losses})};
}

TEST(Vimco, MeanGradientIsThatOfTheBound) {
  for (const bool choice : {false, true}) {
    for (const StructurePtr& structure : {categorical(4), bits(2)}) {
      for (const int64_t samples : {2, 3}) {
        for (const double weight : {1.0, 0.5}) {
          const Enumerated problem(structure, 19, choice);
          const at::Tensor t = problem.scores.clone().set_requires_grad(true);
          const at::Tensor own = problem.w.clone().set_requires_grad(true);
          const Listed all = list_with_choice(problem, t, own);
          const at::Tensor f = -(all.losses + weight * all.outcome);
          // All m-tuples of outcomes, by broadcasting.
          at::Tensor joint = at::zeros({1}, at::kDouble), sum = at::zeros({1}, at::kDouble);
          for (int64_t i = 0; i < samples; ++i) {
            joint = (joint.unsqueeze(1) + all.joint).flatten();
            sum = (sum.unsqueeze(1) + f.exp()).flatten();
          }
          const at::Tensor bound =
              -(joint.exp() * (sum / static_cast<double>(samples)).log()).sum();
          bound.backward();
          EstimatorOptions options;
          options.samples = samples;
          const auto estimator = seasoned("vimco", *structure, options);
          const Draws draws = draw(problem, *estimator, 30000, weight, 20);
          EXPECT_LT(largest_z(draws.gradients, at::cat({t.grad(), own.grad()})), kLimit);
          EXPECT_LT(largest_z(draws.estimate.objective.detach(), bound.detach()), kLimit);
          EXPECT_LT(largest_z(draws.values, problem.exact(1).loss), kLimit);
          // A tighter bound than the evidence lower bound's.
          if (weight == 1) {
            const auto exact = problem.exact(1);
            EXPECT_LT(bound.item<double>(), (exact.loss - exact.entropy).item<double>());
          }
        }
      }
    }
  }
}

// --- the estimators' own parameters --------------------------------------------------------------

TEST(Nvil, TheBaselineLearnsFromItsErrorAlone) {
  const Enumerated problem(categorical(3), 21);
  const auto estimator = seasoned("nvil", *problem.structure);
  const auto leaves = problem.rows(50);
  const Estimate got = estimator->estimate(problem.problem(leaves, 1, seeded(22)), seeded(23));
  got.objective.sum().backward();
  for (const at::Tensor& p : estimator->parameters()) EXPECT_FALSE(p.grad().defined());
  const at::Tensor before = leaves[0].grad().clone();
  got.auxiliary.backward();
  EXPECT_TRUE(leaves[0].grad().equal(before));
  for (const at::Tensor& p : estimator->parameters()) EXPECT_TRUE(p.grad().defined());
}

TEST(ControlVariates, AuxiliaryIsTheSecondMomentOfTheGradient) {
  // ∂/∂η of the mean squared norm, by differences of the estimator's own gradients.
  const Enumerated problem(bits(3), 24);
  for (const std::string name : {"rebar", "relax"}) {
    SCOPED_TRACE(name);
    const auto moment = [&](double scale, at::Tensor* slope) {
      EstimatorOptions options;
      options.embed_loss = true;
      options.control_scale = scale;
      const auto estimator = seasoned(name, *problem.structure, options);
      const auto leaves = problem.rows(40);
      const Estimate got = estimator->estimate(problem.problem(leaves, 0, seeded(25)), seeded(26));
      got.objective.sum().backward();
      if (slope) {
        got.auxiliary.backward();
        *slope = estimator->named_parameters()["scale"].grad();
      }
      return leaves[0].grad().square().sum(1).mean().item<double>();
    };
    at::Tensor slope;
    moment(0.5, &slope);
    const double difference = (moment(0.501, nullptr) - moment(0.499, nullptr)) / 0.002;
    EXPECT_NEAR(slope.item<double>(), difference, 1e-3 * std::abs(difference) + 1e-6);
  }
}

TEST(Relax, TheAverageIsUpdatedInTrainingAfterItsUse) {
  const Enumerated problem(bits(3), 30);
  const auto answer = [&](bool training, int calls, double* average) {
    const auto estimator = seasoned("relax", *problem.structure);
    estimator->train(training);
    at::Tensor gradients;
    for (int i = 0; i < calls; ++i) {
      const auto leaves = problem.rows(40);
      const Estimate got = estimator->estimate(problem.problem(leaves, 0, seeded(31)), seeded(32));
      got.objective.sum().backward();
      gradients = leaves[0].grad();
    }
    *average = estimator->named_buffers()["baseline.average"].item<double>();
    return gradients;
  };
  double evaluated = 0, trained = 0, twice = 0;
  const at::Tensor expected = answer(false, 1, &evaluated);
  EXPECT_EQ(evaluated, 0.7);
  EXPECT_TRUE(answer(true, 1, &trained).equal(expected));
  EXPECT_NE(trained, 0.7);
  // The second call uses what the first one left, and gives another gradient for the same draws.
  EXPECT_FALSE(answer(true, 2, &twice).equal(expected));
  EXPECT_NE(twice, trained);
}

TEST(Rebar, AdaptingTheTemperatureFollowsTheSecondMoment) {
  const Enumerated problem(categorical(4), 27);
  const auto moment = [&](double temperature, at::Tensor* slope) {
    EstimatorOptions options;
    options.temperature = temperature;
    options.adapt_temperature = true;
    const auto estimator = seasoned("rebar", *problem.structure, options);
    const auto leaves = problem.rows(40);
    const Estimate got = estimator->estimate(problem.problem(leaves, 0, seeded(28)), seeded(29));
    got.objective.sum().backward();
    if (slope) {
      got.auxiliary.backward();
      *slope = estimator->named_parameters()["log_temperature"].grad();
    }
    return leaves[0].grad().square().sum(1).mean().item<double>();
  };
  at::Tensor slope;
  moment(0.8, &slope);
  const double h = 0.01;
  const double difference =
      (moment(0.8 * std::exp(h), nullptr) - moment(0.8 * std::exp(-h), nullptr)) / (2 * h);
  EXPECT_NEAR(slope.item<double>(), difference, 0.05 * std::abs(difference) + 1e-4);
}

// --- edges, for every estimator ------------------------------------------------------------------

std::vector<std::string> defined_for(const StructurePtr& structure) {
  std::vector<std::string> names;
  for (const std::string& name : estimator_names()) {
    EstimatorOptions options;
    options.context = 3;
    options.parts = structure->parts();
    if (error_of([&] { make_estimator(name, options, seeded(1))->check(*structure); }).empty()) {
      names.push_back(name);
    }
  }
  return names;
}

TEST(Estimators, WhatIsDefinedForWhat) {
  const auto all = estimator_names();
  EXPECT_EQ(all.size(), 23u);
  EXPECT_EQ(defined_for(categorical(4)).size(), 20u);  // not arm, disarm, sparsemap-budget
  EXPECT_EQ(defined_for(bits(3)).size(), 21u);         // not sparsemax, entmax
}

TEST(Estimators, HugeScoresGiveFiniteGradients) {
  for (const StructurePtr& structure : {categorical(4), bits(4)}) {
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
      for (const std::string& name : defined_for(structure)) {
        SCOPED_TRACE(name + " over " + structure->name());
        const auto estimator = seasoned(name, *structure);
        const at::Tensor scores =
            at::tensor({1e4, -1e4, 1e4, 0.0, -1e4, -1e4, 1e4, -1e4, 0.0, 0.0, 0.0, 0.0}, dtype)
                .view({3, 4})
                .set_requires_grad(true);
        const at::Tensor table = at::tensor({0.3, -1.0, 0.7, 0.1}, dtype).unsqueeze(1);
        const LossFn loss = [table](const Assignments& z, const std::vector<at::Tensor>&) {
          return Loss(z.embed(table).squeeze(1).square());
        };
        for (uint64_t seed = 0; seed < 5; ++seed) {
          const Estimate got = estimator->estimate(
              {*structure, scores, loss, {}, at::zeros({3, 3}), 1, 0}, seeded(seed));
          EXPECT_TRUE(got.objective.isfinite().all().item<bool>());
          got.objective.sum().backward();
          EXPECT_TRUE(scores.grad().isfinite().all().item<bool>());
        }
      }
    }
  }
}

TEST(Estimators, ForbiddenOutcomesAreNeverEvaluated) {
  for (const StructurePtr& structure : {categorical(4), bits(4)}) {
    for (const std::string& name : defined_for(structure)) {
      SCOPED_TRACE(name + " over " + structure->name());
      const auto estimator = seasoned(name, *structure);
      at::Tensor scores = at::zeros({50, 4}, at::kDouble);
      scores.select(1, 2).fill_(-INFINITY);
      scores.set_requires_grad(true);
      const LossFn loss = [](const Assignments& z, const std::vector<at::Tensor>&) {
        const at::Tensor values = z.values(at::kDouble);
        EXPECT_EQ(values.select(1, 2).abs().max().item<double>(), 0);
        return Loss(values.select(1, 0) * values.select(1, 3) + values.select(1, 1));
      };
      const Estimate got =
          estimator->estimate({*structure, scores, loss, {}, at::zeros({50, 3}), 1, 0}, seeded(3));
      got.objective.sum().backward();
      EXPECT_TRUE(got.objective.isfinite().all().item<bool>());
      EXPECT_TRUE(scores.grad().isfinite().all().item<bool>());
    }
  }
}

TEST(Estimators, ManyBitsInFloat) {
  for (const int64_t bits_count : {32, 128, 512}) {
    const auto structure = bits(bits_count);
    const at::Tensor table =
        at::randn({bits_count, 1}, seeded(40), at::TensorOptions(at::kFloat)) / 10;
    const LossFn loss = [table](const Assignments& z, const std::vector<at::Tensor>&) {
      const at::Tensor h = z.embed(table).squeeze(1);
      return Loss(100 + h.square() + h.sin());
    };
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const std::string& name : defined_for(structure)) {
        if (name == "dense") continue;
        SCOPED_TRACE(name + ", D = " + std::to_string(bits_count));
        EstimatorOptions options;
        if (name == "unordered-set") options.samples = 9;
        const auto estimator = seasoned(name, *structure, options);
        const at::Tensor scores =
            (0.1 * at::randn({3, bits_count}, seeded(41), at::TensorOptions(at::kFloat)))
                .to(dtype)
                .set_requires_grad(true);
        const Estimate got = estimator->estimate(
            {*structure, scores, loss, {}, at::zeros({3, 3}), 1, 0}, seeded(42));
        EXPECT_TRUE(got.objective.isfinite().all().item<bool>());
        got.objective.sum().backward();
        EXPECT_TRUE(scores.grad().isfinite().all().item<bool>());
        EXPECT_LT((got.value - 100).abs().max().item<double>(), 30);
      }
    }
  }
}

TEST(Estimators, RowsWithoutADistributionAreNamed) {
  for (const StructurePtr& structure : {categorical(3), bits(3)}) {
    const bool values = structure->name().starts_with("categorical");
    const LossFn loss = [](const Assignments& z, const std::vector<at::Tensor>&) {
      return Loss(z.embed(at::ones({3, 1}, at::kDouble)).squeeze(1));
    };
    for (const double bad : {NAN, INFINITY}) {
      const at::Tensor scores = at::zeros({3, 3}, at::kDouble);
      scores[1][2] = bad;
      for (const std::string& name : defined_for(structure)) {
        SCOPED_TRACE(name + " over " + structure->name());
        const auto estimator = seasoned(name, *structure);
        const std::string error = error_of([&] {
          estimator->estimate({*structure,
                               scores.clone().set_requires_grad(true),
                               loss,
                               {},
                               at::zeros({3, 3}),
                               0,
                               0},
                              seeded(1));
        });
        EXPECT_NE(error.find("row 1"), std::string::npos) << error;
      }
    }
    if (!values) continue;
    const at::Tensor nothing = at::full({2, 3}, -INFINITY, at::kDouble);
    const std::string error = error_of([&] {
      seasoned("unordered-set", *structure)
          ->estimate({*structure, nothing, loss, {}, {}, 0, 0}, seeded(1));
    });
    EXPECT_EQ(error,
              "estimator 'unordered-set': expected row 0 of the scores to be finite or -inf, "
              "with a finite one, its largest is -inf");
  }
}

TEST(Estimators, EvaluationsCountWhatIsAllowed) {
  const auto structure = categorical(4);
  at::Tensor scores = at::zeros({2, 4}, at::kDouble);
  scores[1].slice(0, 2).fill_(-INFINITY);
  const LossFn loss = [](const Assignments& z, const std::vector<at::Tensor>&) {
    return Loss(z.embed(at::ones({4, 1}, at::kDouble)).squeeze(1));
  };
  for (const std::string name : {"unordered-set", "sum-and-sample"}) {
    EstimatorOptions options;
    options.k = 3;
    if (name == "unordered-set") options.samples = 3;
    const auto estimator = seasoned(name, *structure, options);
    const Estimate got = estimator->estimate({*structure, scores, loss, {}, {}, 1, 0}, seeded(2));
    EXPECT_TRUE(got.evaluations.equal(estimator->evaluations(*structure, scores))) << name;
    EXPECT_LT(got.evaluations[1].item<int64_t>(), got.evaluations[0].item<int64_t>());
  }
}

TEST(Estimators, AnEmptyBatchIsNoCase) {
  for (const StructurePtr& structure : {categorical(4), bits(3)}) {
    for (const std::string& name : defined_for(structure)) {
      SCOPED_TRACE(name + " over " + structure->name());
      const Enumerated problem(structure, 30);
      const auto leaves = problem.rows(0);
      const auto estimator = seasoned(name, *structure);
      estimator->train();
      const Estimate got = estimator->estimate(problem.problem(leaves, 1, seeded(31)), seeded(32));
      EXPECT_EQ(got.objective.sizes(), (std::vector<int64_t>{0}));
      EXPECT_EQ(got.evaluations.sizes(), (std::vector<int64_t>{0}));
      EXPECT_FALSE(got.auxiliary.defined());
    }
  }
}

TEST(Estimators, ChunksChangeNothing) {
  for (const StructurePtr& structure : {categorical(4), bits(3)}) {
    const Enumerated problem(structure, 33);
    for (const std::string& name : defined_for(structure)) {
      SCOPED_TRACE(name + " over " + structure->name());
      EstimatorOptions options;
      options.embed_loss = true;
      const auto run = [&](int64_t chunk) {
        const auto estimator = seasoned(name, *structure, options);
        const auto leaves = problem.rows(7);
        const Estimate got =
            estimator->estimate(problem.problem(leaves, 1, seeded(34), chunk), seeded(35));
        got.objective.sum().backward();
        if (got.auxiliary.defined()) got.auxiliary.backward();
        auto gradients = sparsum_test::take_gradients(leaves);
        for (const at::Tensor& p : estimator->parameters()) gradients.push_back(p.grad());
        return gradients;
      };
      const auto whole = run(0), parts = run(3);
      ASSERT_EQ(whole.size(), parts.size());
      for (size_t i = 0; i < whole.size(); ++i) {
        if (!whole[i].defined()) continue;
        EXPECT_TRUE(whole[i].allclose(parts[i], 1e-6, 1e-9));
      }
    }
  }
}

TEST(Estimators, SameSeedSameBytes) {
  for (const StructurePtr& structure : {categorical(4), bits(3)}) {
    const Enumerated problem(structure, 36);
    for (const std::string& name : defined_for(structure)) {
      SCOPED_TRACE(name + " over " + structure->name());
      const auto run = [&](uint64_t seed) {
        return draw(problem, *seasoned(name, *structure), 9, 1, seed).gradients;
      };
      EXPECT_TRUE(run(1).equal(run(1)));
    }
  }
}

TEST(Estimators, WhatIsMissingIsNamed) {
  const auto made = [](const std::string& name, auto set) {
    EstimatorOptions options;
    options.context = 3;
    options.parts = 4;
    set(options);
    return error_of([&] { make_estimator(name, options, seeded(1)); });
  };
  EXPECT_EQ(made("sfe-loo", [](auto& o) { o.samples = 1; }),
            "estimator 'sfe-loo': expected samples >= 2, got 1");
  EXPECT_EQ(made("vimco", [](auto& o) { o.samples = 1; }),
            "estimator 'vimco': expected samples >= 2, got 1");
  EXPECT_EQ(made("arm", [](auto& o) { o.samples = -1; }),
            "estimator 'arm': expected samples >= 1, got -1");
  EXPECT_EQ(made("unordered-set", [](auto& o) { o.samples = 1; }),
            "estimator 'unordered-set': expected samples >= 2, got 1");
  EXPECT_EQ(made("unordered-set", [](auto& o) { o.samples = 17; }),
            "estimator 'unordered-set': expected samples <= 16, got 17");
  EXPECT_EQ(made("gumbel", [](auto& o) { o.temperature = 0; }),
            "estimator 'gumbel': expected a finite temperature > 0, got 0");
  EXPECT_EQ(
      made("st-gumbel",
           [](auto& o) {
             o.temperature = 0.3;
             o.temperature_decay = 1e-4;
           }),
      "estimator 'st-gumbel': expected temperature_min > 0 and at most the temperature = 0.3, "
      "got 0.5");
  EXPECT_EQ(made("rebar", [](auto& o) { o.temperature = -1; }),
            "estimator 'rebar': expected a finite temperature > 0, got -1");
  EXPECT_EQ(
      made("sfe", [](auto& o) { o.baseline = "summed"; }),
      "estimator 'sfe': expected baseline to be 'auto' or one of 'moving-average', 'none', got "
      "'summed'");
  EXPECT_EQ(made("nvil", [](auto& o) { o.context = 0; }),
            "estimator 'nvil': expected context >= 1, got 0");
  EXPECT_EQ(made("relax", [](auto& o) { o.parts = 0; }),
            "estimator 'relax': expected parts >= 1, got 0");
  EXPECT_EQ(made("imle", [](auto& o) { o.noise = "normal"; }),
            "estimator 'imle': expected noise to be 'gumbel' or 'sum-of-gamma', got 'normal'");
  EXPECT_EQ(made("imle", [](auto& o) { o.target_step = 0; }),
            "estimator 'imle': expected a finite target_step > 0, got 0");
  EstimatorOptions with_context;
  with_context.context = 3;
  EXPECT_EQ(error_of([&] { make_estimator("nvil", with_context); }),
            "estimator 'nvil': expected a generator to draw the network's initial parameters from");

  const auto checked = [&](const std::string& name, const StructurePtr& structure, int64_t k = 0) {
    EstimatorOptions options;
    options.k = k;
    return error_of([&] { make_estimator(name, options)->check(*structure); });
  };
  EXPECT_EQ(checked("arm", categorical(4)),
            "estimator 'arm' is for bit vectors without a bound; got categorical(4)");
  EXPECT_EQ(checked("gumbel", std::make_shared<Budget>(4, 2)),
            "estimator 'gumbel' is for categorical structures and bit vectors without a bound; got "
            "budget(4, 2)");
  EXPECT_EQ(checked("sum-and-sample", categorical(4), 4),
            "estimator 'sum-and-sample': expected k < 4, the number of outcomes of categorical(4), "
            "got 4");

  const Enumerated problem(categorical(4), 37);
  const auto leaves = problem.rows(2);
  for (const std::string& name : defined_for(problem.structure)) {
    const auto estimator = seasoned(name, *problem.structure);
    const std::string error =
        error_of([&] { estimator->estimate(problem.problem(leaves, 1, seeded(1)), {}); });
    bool exact = false;
    for (const char* one :
         {"dense", "sparsemax", "entmax", "top-k", "top-k-adaptive", "sparsemap"}) {
      exact = exact || name == one;
    }
    EXPECT_EQ(error, exact ? "" : "estimator '" + name + "': expected a generator to draw from");
  }
  // A loss that is blind to relaxed values.
  const LossFn blind = [](const Assignments& z, const std::vector<at::Tensor>&) {
    return Loss(z.values(at::kDouble).detach().select(1, 0));
  };
  for (const std::string name : {"rebar", "muprop", "imle"}) {
    const auto estimator = seasoned(name, *problem.structure);
    const std::string error = error_of([&] {
      estimator->estimate({*problem.structure, leaves[0], blind, {}, {}, 1, 0}, seeded(1));
    });
    EXPECT_EQ(error, "estimator '" + name +
                         "' needs a loss with a gradient in relaxed indicators; this one has none");
  }
}

}  // namespace
}  // namespace sparsum
