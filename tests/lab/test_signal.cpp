// The signal game on concepts that are easy to tell apart.

#include "small_run.h"

#include <gtest/gtest.h>
#include <lab/adam.h>
#include <lab/error.h>
#include <lab/experiments/signal.h>
#include <lab/random.h>
#include <sparsum/categorical.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum::lab {
namespace {

constexpr int64_t kConcepts = 6, kWidth = 12;

/// 40 images of each concept: a direction of its own and noise.
ConceptImages images(uint64_t seed) {
  at::Generator generator = make_generator(static_cast<int64_t>(seed), "images");
  ConceptImages result;
  result.labels = at::arange(kConcepts * 40, at::kLong).remainder(kConcepts);
  at::Tensor rows = 0.1 * at::rand({kConcepts * 40, kWidth}, generator);
  for (int64_t i = 0; i < rows.size(0); ++i) rows[i][2 * (i % kConcepts)] += 1;
  result.features = features_in_memory(rows, "test");
  result.by_concept = rows_by_concept(result.labels, kConcepts);
  return result;
}

ConceptData data() { return {{"a", "b", "c", "d", "e", "f"}, images(1), images(2)}; }

SignalConfig small(const std::string& estimator, const std::string& loss = "nll") {
  SignalConfig config;
  config.estimator.name = estimator;
  config.estimator.options.baseline_hidden = 8;
  config.loss = loss;
  config.symbols = 8;
  config.candidates = 4;
  config.hidden = 16;
  config.embedding = 16;
  config.epochs = 1;
  config.batch_size = 32;
  config.learning_rate = 0.02;
  config.entropy_weight = 0.01;
  config.validation_games = 100;
  config.test_games = 200;
  config.estimator.options.temperature_decay = 0;
  return config;
}

double success_after(Signal& game, int steps) {
  Adam::Parameters parameters;
  for (const auto& entry : game.model().named_parameters()) {
    parameters.emplace_back(entry.key(), entry.value());
  }
  Adam adam(parameters, {.learning_rate = 0.02});
  game.begin_phase(game.phases().front());
  game.begin_epoch();
  for (int step = 0; step < steps; ++step) {
    game.step(game.phases().front()).backward();
    adam.step();
    adam.zero_grad();
  }
  return game.evaluate("test")["success"].get<double>();
}

TEST(SignalModel, EveryWayToTheChoiceIsTheSame) {
  const SignalModel model(kWidth, 8, 16, 16, make_generator(1, "model"));
  const at::NoGradGuard no_grad;
  at::Generator generator = make_generator(2, "images");
  const int64_t games = 5, candidates = 4;
  const at::Tensor embedded = at::randn({games, candidates, 16}, generator);
  const Assignments all = Categorical(8).enumerate(games, at::kCPU);
  const at::Tensor table = model.log_choice(all, embedded);
  // By hand: ⟨symbol, image⟩, softmax over the images.
  for (const int64_t pair : {0, 13, 39}) {
    const at::Tensor logits = embedded[pair / 8].mv(model.symbols()[pair % 8]);
    EXPECT_TRUE(table[pair].allclose(logits.log_softmax(0), 1e-5, 1e-6));
  }
  EXPECT_TRUE(table.exp().sum(1).allclose(at::ones({games * 8})));
  Assignments listed = all;  // many a game, as indices
  listed.full_grid = false;
  listed = listed.select(at::arange(games * 8), listed.rows, listed.row_splits);
  EXPECT_TRUE(model.log_choice(listed, embedded).allclose(table, 1e-5, 1e-6));
  const at::Tensor said = at::tensor({3, 1, 7, 0, 3}, at::kLong);
  const at::Tensor expected = table.index_select(0, said + 8 * at::arange(games));
  EXPECT_TRUE(model.log_choice(one_per_example(said, 8), embedded).allclose(expected, 1e-5, 1e-6));
  const at::Tensor relaxed = at::one_hot(said, 8).to(at::kFloat);
  EXPECT_TRUE(
      model.log_choice(one_per_example(relaxed, 8), embedded).allclose(expected, 1e-5, 1e-6));
}

TEST(Signal, LearnsToNameConcepts) {
  Signal game(small("sparsemax"), data());
  EXPECT_LT(game.evaluate("test")["success"].get<double>(), 0.6);
  EXPECT_GT(success_after(game, 400), 0.75);
  const Json metrics = game.evaluate("test");
  EXPECT_GT(metrics["symbols"].get<int64_t>(), 2);
  EXPECT_LE(metrics["symbols"].get<int64_t>(), 8);
  EXPECT_GT(metrics["mutual_information"].get<double>(), 0.5);
  EXPECT_LE(metrics["mutual_information"].get<double>(), std::log(6.0) + 1e-9);
  EXPECT_GT(metrics["topographic_similarity"].get<double>(), 0.2);
  EXPECT_LT(metrics["evaluations"]["mean"].get<double>(), 4);
  EXPECT_EQ(game.evaluate("test"), metrics);
}

TEST(Signal, TheZeroOneLossTrainsByTheReceiversOwnChoice) {
  Signal game(small("dense", "zero-one"), data());
  EXPECT_GT(success_after(game, 500), 0.7);
  EXPECT_LE(game.epoch_metrics()["loss"].get<double>(), 1);
}

TEST(Signal, FixedProblemsDrawNothing) {
  for (const std::string loss : {"nll", "zero-one"}) {
    Signal game(small("dense", loss), data());
    const Problem problem = game.fixed_problem(10, 3);
    const Assignments all = game.fixed_problem(10, 3).structure.enumerate(10, at::kCPU);
    const at::Tensor once = problem.loss(all, problem.shared).value;
    EXPECT_TRUE(once.equal(problem.loss(all, problem.shared).value));
    EXPECT_EQ(once.size(0), 80);
  }
}

TEST(Signal, ShowsGames) {
  Signal game(small("sparsemax"), data());
  const Signal::Shown shown = game.show(3);
  ASSERT_EQ(shown.games.size(), 3u);
  for (const Json& each : shown.games) {
    ASSERT_EQ(each["candidates"].size(), 4u);
    double total = 0;
    for (const Json& candidate : each["candidates"])
      total += candidate["probability"].get<double>();
    EXPECT_NEAR(total, 1, 1e-5);
    EXPECT_EQ(each["candidates"][each["target"].get<size_t>()]["concept"], each["concept"]);
  }
  EXPECT_FALSE(shown.picture.defined());  // these images have no pictures
}

TEST(SignalConfig, IsChecked) {
  const auto error = [](const Settings& settings) {
    const auto config = make_config("signal");
    try {
      Options options = config->options();
      for (const auto& [name, value] : settings) options.set(name, value);
      config->resolve();
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(error({{"dataset", "features"}}),
            "option --features: expected a folder with --dataset features, got none");
  EXPECT_EQ(error({{"features", "x"}}),
            "option --features: only --dataset features reads it, the dataset is "
            "mnist+fashion-mnist");
  EXPECT_NE(error({{"symbols", "1"}}).find("symbols"), std::string::npos);
  EXPECT_NE(error({{"entropy-weight", "-0.5"}}).find("expected at least 0"), std::string::npos);
  EXPECT_EQ(error({}), "");
}

}  // namespace
}  // namespace sparsum::lab
