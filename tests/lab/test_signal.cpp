// The signal game on concepts that are easy to tell apart.

#include "small_run.h"

#include <gtest/gtest.h>
#include <lab/adam.h>
#include <lab/error.h>
#include <lab/experiments/signal.h>
#include <lab/random.h>
#include <sparsum/categorical.h>
#include <sparsum/sparsemax.h>
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
  const at::Tensor said = at::tensor({3, 1, 7, 0, 3}, at::kLong);
  const at::Tensor expected = table.index_select(0, said + 8 * at::arange(games));
  EXPECT_TRUE(model.log_choice(one_per_example(said, 8), embedded).allclose(expected, 1e-5, 1e-6));
  const at::Tensor relaxed = at::one_hot(said, 8).to(at::kFloat);
  EXPECT_TRUE(
      model.log_choice(one_per_example(relaxed, 8), embedded).allclose(expected, 1e-5, 1e-6));
}

// Many symbols a game, given as indices: all games, and the games that a chunk holds.
TEST(SignalModel, ManySymbolsAreScoredByOneProduct) {
  constexpr int64_t kSymbols = 40, kGames = 5;
  const SignalModel model(kWidth, kSymbols, 16, 16, make_generator(1, "model"));
  const at::NoGradGuard no_grad;
  const at::Tensor embedded = at::randn({kGames, 4, 16}, make_generator(2, "images"));
  Assignments all = Categorical(kSymbols).enumerate(kGames, at::kCPU);
  const at::Tensor table = model.log_choice(all, embedded);
  all.full_grid = false;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, kGames * kSymbols},
                                   {2 * kSymbols, 4 * kSymbols},
                                   {70, 95},  // of two games some, fewer than is worth the product
                                   {kSymbols + 3, kSymbols + 30},
                                   {199, 200}}) {
    const at::Tensor which = at::arange(begin, end);
    const at::Tensor rows = which.div(kSymbols, "floor");
    const at::Tensor splits = at::searchsorted(rows, at::arange(kGames + 1));
    const Assignments some = all.select(which, rows, splits);
    EXPECT_TRUE(model.log_choice(some, embedded).allclose(table.slice(0, begin, end), 1e-5, 1e-6))
        << begin;
  }
}

TEST(Signal, ChunksChangeNothing) {
  std::vector<at::Tensor> gradients[2];
  for (const int64_t bound : {0, 20}) {
    SignalConfig config = small("dense");
    config.symbols = 40;
    config.max_evaluations_per_chunk = bound;
    Signal game(config, data());
    game.begin_phase(game.phases().front());
    game.begin_epoch();
    game.step(game.phases().front()).backward();
    for (const auto& p : game.model().parameters()) gradients[bound > 0].push_back(p.grad());
    // Evaluation is bounded, too, game by game.
    EXPECT_NEAR(game.evaluate("test")["nll"].get<double>(), std::log(4), 0.5);
  }
  ASSERT_EQ(gradients[0].size(), gradients[1].size());
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    EXPECT_TRUE(gradients[0][i].allclose(gradients[1][i], 1e-4, 1e-6)) << i;
  }
}

/// Ranks from 0, ties at the mean of their places.
std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<double> result;
  for (const double v : values) {
    double below = 0, same = 0;
    for (const double other : values) {
      below += other < v;
      same += other == v;
    }
    result.push_back(below + (same - 1) / 2);
  }
  return result;
}

double correlation(const std::vector<double>& x, const std::vector<double>& y) {
  const at::Tensor pair = at::stack({at::tensor(x, at::kDouble), at::tensor(y, at::kDouble)});
  return at::corrcoef(pair)[0][1].item<double>();
}

double cosine_distance(const at::Tensor& x, const at::Tensor& y) {
  return 1 - (x.dot(y) / (x.norm() * y.norm())).item<double>();
}

// Mutual information and topographic similarity by their definitions, in loops.
TEST(Signal, MetricsAreWhatTheyAreCalled) {
  SignalConfig config = small("sparsemax");
  config.test_games = 40;
  const ConceptData images = data();
  Signal game(config, data());
  success_after(game, 400);
  const Json metrics = game.evaluate("test");
  const at::NoGradGuard no_grad;
  const auto* model = dynamic_cast<SignalModel*>(game.model().children().front().get());
  ASSERT_NE(model, nullptr);

  const Games games =
      test_games(GameSampler(images.test.by_concept, {.candidates = 4}, "test"), 40);
  const at::Tensor targets = images.test.features->gather(games.targets);
  const at::Tensor q = sparsemax(model->scores(targets), 1).to(at::kDouble);
  std::vector<std::vector<double>> joint(8, std::vector<double>(kConcepts, 0.0));
  for (int64_t g = 0; g < 40; ++g) {
    for (size_t z = 0; z < 8; ++z) {
      joint[z][static_cast<size_t>(games.concepts[g].item<int64_t>())] +=
          q[g][static_cast<int64_t>(z)].item<double>() / 40;
    }
  }
  double information = 0;
  for (size_t z = 0; z < 8; ++z) {
    for (size_t k = 0; k < kConcepts; ++k) {
      double of_symbol = 0, of_concept = 0;
      for (size_t i = 0; i < kConcepts; ++i) of_symbol += joint[z][i];
      for (size_t i = 0; i < 8; ++i) of_concept += joint[i][k];
      if (joint[z][k] > 0) {
        information += joint[z][k] * std::log(joint[z][k] / (of_symbol * of_concept));
      }
    }
  }
  EXPECT_NEAR(metrics["mutual_information"].get<double>(), information, 1e-5);
  EXPECT_GT(metrics["symbols"].get<int64_t>(), 2);

  std::vector<double> of_images, of_symbols;
  const at::Tensor said = q.argmax(1);
  std::vector<std::vector<double>> between(8, std::vector<double>(8, 0.0));
  for (int64_t i = 0; i < 8; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      const double distance = cosine_distance(model->symbols()[i], model->symbols()[j]);
      between[static_cast<size_t>(i)][static_cast<size_t>(j)] = distance;
      between[static_cast<size_t>(j)][static_cast<size_t>(i)] = distance;
    }
  }
  for (int64_t i = 0; i < 40; ++i) {
    for (int64_t j = i + 1; j < 40; ++j) {
      of_images.push_back(cosine_distance(targets[i], targets[j]));
      of_symbols.push_back(between[static_cast<size_t>(said[i].item<int64_t>())]
                                  [static_cast<size_t>(said[j].item<int64_t>())]);
    }
  }
  // Distances of 0 are not exact in float32, and so is the order of those ties.
  EXPECT_NEAR(metrics["topographic_similarity"].get<double>(),
              correlation(ranks(of_images), ranks(of_symbols)), 0.02);
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
