// Every estimator trains in every experiment that it is defined for, and a run that was stopped and
// resumed ends in the same bits as one that was not: baselines, schedules and generators included.

#include "small_run.h"

#include <gtest/gtest.h>
#include <lab/estimator_options.h>
#include <lab/safetensors.h>
#include <sparsum/bits.h>
#include <sparsum/categorical.h>

#include <algorithm>
#include <map>
#include <memory>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::run_small;
using sparsum_test::slurp;

struct Case {
  std::string experiment, estimator;
};

/// Options that make the estimator's own state change within a few steps.
Settings lively(const std::string& estimator) {
  Settings settings;
  const auto& read = options_read_by(estimator);
  const std::pair<const char*, const char*> values[] = {
      {"baseline-layers", "1"},      {"baseline-hidden", "8"},     {"baseline-lr", "0.01"},
      {"adapt-temperature", "true"}, {"temperature-decay", "0.1"}, {"temperature-every", "2"},
      {"embed-loss", "true"},        {"noise", "sum-of-gamma"},
  };
  for (const auto& [name, value] : values) {
    if (std::find(read.begin(), read.end(), name) != read.end()) settings.emplace_back(name, value);
  }
  return settings;
}

TrainRequest request(const Case& each, const std::filesystem::path& data,
                     const std::filesystem::path& out) {
  TrainRequest request;
  request.experiment = each.experiment;
  request.out = out;
  request.settings = {{"data", data.string()},  {"batch-size", "8"}, {"epochs", "2"},
                      {"steps-per-epoch", "4"}, {"threads", "2"},    {"estimator", each.estimator},
                      {"checkpoint-every", "3"}};
  const std::map<std::string, Settings> settings = {{"ssvae",
                                                     {{"dataset", "mnist"},
                                                      {"validation", "30"},
                                                      {"labelled", "20"},
                                                      {"unlabelled", "40"},
                                                      {"warmup-epochs", "1"},
                                                      {"split", "stratified"}}},
                                                    {"bitvector",
                                                     {{"dataset", "mnist"},
                                                      {"validation", "30"},
                                                      {"bits", "5"},
                                                      {"importance-images", "4"},
                                                      {"importance-samples", "8"}}},
                                                    {"signal",
                                                     {{"symbols", "6"},
                                                      {"candidates", "4"},
                                                      {"hidden", "16"},
                                                      {"embedding", "8"},
                                                      {"validation-games", "20"},
                                                      {"test-games", "20"}}}};
  const Settings& own = settings.at(each.experiment);
  request.settings.insert(request.settings.end(), own.begin(), own.end());
  const Settings more = lively(each.estimator);
  request.settings.insert(request.settings.end(), more.begin(), more.end());
  return request;
}

std::vector<Case> cases() {
  std::vector<Case> result;
  const Categorical classes(10);
  const BitVector bits(5);
  const Categorical symbols(6);
  for (const std::string& name : estimator_names()) {
    for (const auto& [experiment, structure] :
         {std::pair<const char*, const Structure*>{"ssvae", &classes},
          {"bitvector", &bits},
          {"signal", &symbols}}) {
      try {
        make_estimator(EstimatorSettings(name), *structure, 784, 0);
        result.push_back({experiment, name});
      } catch (const InputError&) {
        // It says itself which structures it is for.
      }
    }
  }
  return result;
}

class EveryEstimatorSlow : public ::testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<Folder>();
    sparsum_test::write_small_data(*folder_ / "data", 120, 20);
    sparsum_test::write_small_data(*folder_ / "data", 120, 20, "fashion-mnist");
  }
  static void TearDownTestSuite() { folder_.reset(); }
  static std::filesystem::path data() { return *folder_ / "data"; }

 private:
  static inline std::unique_ptr<Folder> folder_;
};

TEST_P(EveryEstimatorSlow, StoppedAndResumedIsTheSameRun) {
  const Case& each = GetParam();
  const Folder folder;
  const auto whole = folder / "whole", cut = folder / "cut";
  const auto straight = run_small(request(each, data(), whole));
  ASSERT_TRUE(straight.summary.has_value());
  const Json& test = (*straight.summary)["test"];
  EXPECT_TRUE(std::isfinite(test[each.experiment == "signal" ? "nll" : "elbo"].get<double>()));
  EXPECT_GE(test["evaluations"]["mean"].get<double>(), 1);

  // In the middle of an epoch, on a step at which nothing else would have been saved.
  auto interrupted = request(each, data(), cut);
  ASSERT_FALSE(run_small(interrupted, 5).summary.has_value());
  interrupted.resume = true;
  ASSERT_TRUE(run_small(interrupted).summary.has_value());

  EXPECT_EQ(slurp(whole / "metrics.jsonl"), slurp(cut / "metrics.jsonl"));
  for (const char* name : {"last", "best"}) {
    const std::string file = std::string(name) + ".safetensors";
    const auto a = read_safetensors(whole / "checkpoints" / file).tensors;
    const auto b = read_safetensors(cut / "checkpoints" / file).tensors;
    ASSERT_EQ(a.size(), b.size()) << name;
    for (const auto& [key, tensor] : a) {
      EXPECT_TRUE(tensor.equal(b.at(key))) << name << ": " << key;
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<Case>& parameter) {
  std::string name = parameter.param.experiment + "_" + parameter.param.estimator;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(, EveryEstimatorSlow, ::testing::ValuesIn(cases()), name_of);

TEST(EveryEstimator, DefinedForOneOfTheExperiments) {
  std::vector<std::string> names;
  for (const Case& each : cases()) {
    if (names.empty() || names.back() != each.estimator) names.push_back(each.estimator);
  }
  EXPECT_EQ(names, estimator_names());
}

}  // namespace
}  // namespace sparsum::lab
