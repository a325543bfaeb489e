#include "small_run.h"

#include <gtest/gtest.h>
#include <lab/files.h>
#include <lab/safetensors.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::run_small;
using sparsum_test::slurp;
using sparsum_test::small_request;
using sparsum_test::write_small_data;

std::vector<Json> rows(const std::filesystem::path& path) {
  std::vector<Json> result;
  std::istringstream lines(slurp(path));
  for (std::string line; std::getline(lines, line);) result.push_back(Json::parse(line));
  return result;
}

/// Two runs ended in the same state: curves byte for byte, checkpoints bit for bit.
void expect_same_run(const std::filesystem::path& one, const std::filesystem::path& other) {
  EXPECT_EQ(slurp(one / "metrics.jsonl"), slurp(other / "metrics.jsonl"));
  for (const char* name : {"last", "best", "warmup"}) {
    const std::string file = std::string(name) + ".safetensors";
    const auto a = read_safetensors(one / "checkpoints" / file).tensors;
    const auto b = read_safetensors(other / "checkpoints" / file).tensors;
    ASSERT_EQ(a.size(), b.size()) << name;
    for (const auto& [key, tensor] : a) {
      EXPECT_TRUE(tensor.equal(b.at(key))) << name << ": " << key;
    }
  }
  EXPECT_EQ(Json::parse(slurp(one / "summary.json"))["test"].dump(),
            Json::parse(slurp(other / "summary.json"))["test"].dump());
}

TEST(TrainSlow, WritesARunFolderInItsSchema) {
  const Folder folder;
  write_small_data(folder / "data");
  const auto out = folder / "run";
  const auto result = run_small(small_request(folder / "data", out));
  ASSERT_TRUE(result.summary.has_value());
  const auto metrics = rows(out / "metrics.jsonl"), timing = rows(out / "timing.jsonl");
  ASSERT_EQ(metrics.size(), 5u);
  ASSERT_EQ(timing.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    const Json& row = metrics[i];
    EXPECT_EQ(row["schema"], 1);
    EXPECT_EQ(row["epoch"], i + 1);
    EXPECT_EQ(row["phase"], i < 2 ? "warmup" : "train");
    EXPECT_EQ(row["steps"], i < 2 ? 3 : 6);
    EXPECT_EQ(row["train"]["unlabelled"].is_null(), i < 2);
    EXPECT_EQ(row["train"]["evaluations"].is_null(), i < 2);
    for (const char* key : {"objective", "labelled", "accuracy"}) {
      EXPECT_TRUE(row["train"][key].is_number()) << key;
    }
    for (const char* key : {"mean", "median", "q25", "q75"}) {
      EXPECT_GE(row["validation"]["evaluations"][key].get<double>(), 1) << key;
    }
    EXPECT_LT(row["validation"]["elbo"].get<double>(), 0);
    EXPECT_EQ(timing[i]["epoch"], i + 1);
    for (const char* key : {"seconds", "steps_per_second", "evaluate_seconds"}) {
      EXPECT_GE(timing[i][key].get<double>(), 0) << key;
    }
  }
  // It learns: on these images a few steps go a long way.
  EXPECT_GT(metrics[4]["validation"]["elbo"].get<double>(),
            metrics[0]["validation"]["elbo"].get<double>() + 20);

  const Json summary = Json::parse(slurp(out / "summary.json"));
  EXPECT_EQ(summary.dump(), result.summary->dump());
  std::vector<std::string> keys;
  for (const auto& [key, value] : summary.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"schema", "experiment", "estimator", "dataset", "seed",
                                            "epochs", "warmup_epochs", "seconds", "parameters",
                                            "warmup", "best", "test", "versions", "threads"}));
  EXPECT_EQ(summary["parameters"], 784 * 256 + 256 + 2 * (256 * 256 + 256) + 256 * 10 + 10 +
                                       794 * 128 + 128 + 128 * 128 + 128 + 128 * 16 + 16 +
                                       18 * 128 + 128 + 128 * 128 + 128 + 128 * 784 + 784);
  const int64_t best = summary["best"]["epoch"];
  ASSERT_GE(best, 3);
  ASSERT_LE(best, 5);
  EXPECT_EQ(summary["best"]["validation"].dump(), metrics[best - 1]["validation"].dump());
  for (size_t i = 2; i < 5; ++i) {
    EXPECT_LE(metrics[i]["validation"]["accuracy"].get<double>(),
              summary["best"]["validation"]["accuracy"].get<double>());
  }
  for (const char* name : {"samples", "reconstructions"}) {
    EXPECT_TRUE(slurp(out / "images" / (std::string(name) + ".png")).starts_with("\x89PNG"));
  }

  // What the summary says of the test images, an evaluation of the best checkpoint says again.
  const Json again = evaluate_run(out, "", {{"data", (folder / "data").string()}});
  EXPECT_EQ(again["test"].dump(), summary["test"].dump());
  EXPECT_EQ(evaluate_run(out, "warmup", {})["test"].dump(), summary["warmup"]["test"].dump());
}

TEST(TrainSlow, TheSameSeedGivesTheSameBytes) {
  const Folder folder;
  write_small_data(folder / "data");
  run_small(small_request(folder / "data", folder / "one"));
  run_small(small_request(folder / "data", folder / "two"));
  run_small(small_request(folder / "data", folder / "other", {{"seed", "1"}}));
  expect_same_run(folder / "one", folder / "two");
  EXPECT_NE(slurp(folder / "one" / "metrics.jsonl"), slurp(folder / "other" / "metrics.jsonl"));
}

TEST(TrainSlow, ItsOwnConfigRunsItAgain) {
  const Folder folder;
  write_small_data(folder / "data");
  run_small(small_request(folder / "data", folder / "one", {{"estimator", "entmax"}}));
  TrainRequest again;
  again.experiment = "ssvae";
  again.config = folder / "one" / "config.toml";
  again.out = folder / "two";
  run_small(again);
  expect_same_run(folder / "one", folder / "two");
  EXPECT_EQ(slurp(folder / "one" / "config.toml"), slurp(folder / "two" / "config.toml"));
}

TEST(TrainSlow, StoppedAnywhereItGoesOnAsIfItHadNot) {
  const Folder folder;
  write_small_data(folder / "data");
  for (const auto& [name, value] :
       Settings{{"estimator", "sparsemax"}, {"estimator", "sfe"}, {"lr-schedule", "cosine"}}) {
    const auto straight = folder / (value + "-straight");
    run_small(small_request(folder / "data", straight, {{name, value}}));
    // In the first epoch, at an epoch's last step, between the phases, mid-way through training.
    for (const int64_t steps : {1, 3, 6, 11}) {
      const auto out = folder / (value + std::to_string(steps));
      auto request = small_request(folder / "data", out, {{name, value}});
      EXPECT_FALSE(run_small(request, steps).summary.has_value());
      EXPECT_FALSE(std::filesystem::exists(out / "summary.json"));
      request.resume = true;
      EXPECT_TRUE(run_small(request).summary.has_value());
      expect_same_run(straight, out);
    }
  }
}

TEST(TrainSlow, RowsAfterTheCheckpointAreCutBack) {
  const Folder folder;
  write_small_data(folder / "data");
  const auto out = folder / "run";
  auto request = small_request(folder / "data", out);
  run_small(request);
  const std::string straight = slurp(out / "metrics.jsonl");

  // As if the program had been killed while it wrote the row of epoch 2.
  const auto stopped = folder / "stopped";
  request.out = stopped;
  run_small(request, 5);
  const std::string kept = slurp(stopped / "metrics.jsonl");
  sparsum_test::spit(stopped / "metrics.jsonl", kept + "{\"schema\":1,\"epoch\":2}\n{\"sche");
  request.resume = true;
  run_small(request);
  EXPECT_EQ(slurp(stopped / "metrics.jsonl"), straight);
}

TEST(TrainSlow, MoreEpochsAreTheSameAsAskingForThemAtOnce) {
  const Folder folder;
  write_small_data(folder / "data");
  run_small(small_request(folder / "data", folder / "five", {{"epochs", "5"}}));
  auto request = small_request(folder / "data", folder / "more");
  run_small(request);
  request.resume = true;
  request.settings.emplace_back("epochs", "5");
  run_small(request);
  expect_same_run(folder / "five", folder / "more");
}

TEST(TrainSlow, WarmStartFromAFileIsTheWarmupItself) {
  const Folder folder;
  write_small_data(folder / "data");
  run_small(small_request(folder / "data", folder / "own"));
  const std::string warmup = (folder / "own" / "checkpoints" / "warmup.safetensors").string();
  run_small(small_request(folder / "data", folder / "given", {{"warm-start", warmup}}));
  const auto own = rows(folder / "own" / "metrics.jsonl");
  const auto given = rows(folder / "given" / "metrics.jsonl");
  ASSERT_EQ(given.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(given[i]["train"].dump(), own[i + 2]["train"].dump());
    EXPECT_EQ(given[i]["validation"].dump(), own[i + 2]["validation"].dump());
  }
  EXPECT_EQ(Json::parse(slurp(folder / "given" / "summary.json"))["warmup"].dump(),
            Json::parse(slurp(folder / "own" / "summary.json"))["warmup"].dump());

  // Another estimator may use it if it has the same map, and only then.
  run_small(small_request(folder / "data", folder / "top-k",
                          {{"warm-start", warmup}, {"estimator", "top-k"}}));
  const std::string message = input_error_of([&] {
    run_small(small_request(folder / "data", folder / "dense",
                            {{"warm-start", warmup}, {"estimator", "dense"}}));
  });
  EXPECT_TRUE(message.starts_with(warmup + ": expected a checkpoint of signature '")) << message;
  EXPECT_FALSE(std::filesystem::exists(folder / "dense")) << "something was written";
}

TEST(TrainSlow, ChunksChangeNothingButMemory) {
  const Folder folder;
  write_small_data(folder / "data");
  run_small(small_request(folder / "data", folder / "whole", {{"estimator", "dense"}}));
  run_small(small_request(folder / "data", folder / "chunks",
                          {{"estimator", "dense"}, {"max-evaluations-per-chunk", "37"}}));
  const auto whole = rows(folder / "whole" / "metrics.jsonl");
  const auto chunks = rows(folder / "chunks" / "metrics.jsonl");
  ASSERT_EQ(whole.size(), chunks.size());
  // The draws of h come in other groups, so they are other draws: the curves agree as two seeds do.
  EXPECT_NEAR(whole.back()["validation"]["elbo"].get<double>(),
              chunks.back()["validation"]["elbo"].get<double>(), 15);
}

TEST(TrainSlow, ALossThatIsNotFiniteStopsItWithTheStepTheBatchAndTheCheckpoint) {
  const Folder folder;
  write_small_data(folder / "data");
  const auto out = folder / "run";
  const auto request = small_request(folder / "data", out, {{"lr", "1e30"}});
  try {
    run_small(request);
    FAIL() << "no error";
  } catch (const TrainingDiverged& error) {
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with("training stopped at step 8 (train epoch 1, batch 2 of 6): "))
        << message;
    EXPECT_NE(message.find(" on 16 labelled training images ("), std::string::npos) << message;
    EXPECT_NE(message.find("and 16 unlabelled training images ("), std::string::npos) << message;
    EXPECT_TRUE(message.ends_with("last good checkpoint: " +
                                  (out / "checkpoints" / "last.safetensors").string()))
        << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  for (const auto& [name, tensor] :
       read_safetensors(out / "checkpoints" / "last.safetensors").tensors) {
    EXPECT_TRUE(tensor.isfinite().all().item<bool>()) << name;
  }
  EXPECT_EQ(rows(out / "metrics.jsonl").size(), 2u);
}

TEST(TrainSlow, ACosineHalvesTheLearningRateHalfWay) {
  const Folder folder;
  write_small_data(folder / "data");
  const auto model_after = [&](const std::string& name, const std::string& epochs,
                               const std::string& schedule) {
    run_small(
        small_request(folder / "data", folder / name,
                      {{"epochs", epochs}, {"steps-per-epoch", "1"}, {"lr-schedule", schedule}}));
    return read_safetensors(folder / name / "checkpoints/last.safetensors").tensors;
  };
  // Two steps of one epoch each; the first is the same in all three.
  const auto one = model_after("one", "1", "constant"), two = model_after("two", "2", "constant"),
             cosine = model_after("cosine", "2", "cosine");
  int compared = 0;
  for (const auto& [key, tensor] : cosine) {
    if (!key.starts_with("model/")) continue;
    EXPECT_TRUE(tensor.allclose((one.at(key) + two.at(key)) / 2, 1e-5, 1e-6)) << key;
    compared += !tensor.allclose(two.at(key), 1e-5, 1e-6);
  }
  EXPECT_GT(compared, 4);
}

TEST(Train, ACosineIsNotGivenAnotherEnd) {
  const Folder folder;
  write_small_data(folder / "data");
  auto request = small_request(folder / "data", folder / "run", {{"lr-schedule", "cosine"}});
  run_small(request, 1);
  request.resume = true;
  request.settings.emplace_back("epochs", "5");
  EXPECT_TRUE(input_error_of([&] { run_small(request); }).starts_with("option --epochs: expected"));
}

TEST(Train, RefusesToResumeAsAnotherRun) {
  const Folder folder;
  write_small_data(folder / "data");
  const auto out = folder / "run";
  auto request = small_request(folder / "data", out);
  run_small(request, 1);
  request.resume = true;
  request.settings.emplace_back("lr", "0.25");
  const std::string message = input_error_of([&] { run_small(request); });
  EXPECT_EQ(message, "option --lr: expected '0.0005', with which the run in " + out.string() +
                         " began, got '0.25'; a resumed run keeps its options");
}

TEST(Train, ResumesARunThatHasNoCheckpointYetFromItsBeginning) {
  const Folder folder;
  write_small_data(folder / "data");
  const auto out = folder / "run";
  auto request = small_request(folder / "data", out);
  run_small(request, 1);
  std::filesystem::remove(out / "checkpoints" / "last.safetensors");
  request.resume = true;
  sparsum_test::StopAfter observer(2);
  train(request, observer.stop, observer);
  EXPECT_NE(observer.messages.find("has no checkpoint yet: starting from the beginning"),
            std::string::npos)
      << observer.messages;
}

TEST(Train, WritesNothingIfTheDataAreBad) {
  const Folder folder;
  write_small_data(folder / "data");
  const auto images = folder / "data" / "mnist" / data_source("mnist").files[0].name;
  const std::string bytes = slurp(images);
  sparsum_test::spit(images, bytes.substr(0, bytes.size() / 2));
  const auto out = folder / "run";
  const std::string message =
      input_error_of([&] { run_small(small_request(folder / "data", out)); });
  EXPECT_TRUE(message.starts_with(images.string())) << message;
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST(Train, ChecksAnEvaluatedRunsCheckpoint) {
  const Folder folder;
  write_small_data(folder / "data");
  const auto out = folder / "run";
  run_small(small_request(folder / "data", out), 1);
  const auto last = out / "checkpoints" / "last.safetensors";
  const std::string bytes = slurp(last);
  sparsum_test::spit(last, bytes.substr(0, bytes.size() - 100));
  const std::string message = input_error_of([&] { evaluate_run(out, "", {}); });
  EXPECT_TRUE(message.starts_with(last.string() + ": ")) << message;
  EXPECT_EQ(input_error_of([&] { evaluate_run(folder.path(), "", {}); }),
            folder.path().string() + ": expected the folder of a run, found no config.toml in it");
}

}  // namespace
}  // namespace sparsum::lab
