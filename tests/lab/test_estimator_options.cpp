// Which estimator reads which options, what is refused, and what is published.

#include "folder.h"

#include <gtest/gtest.h>
#include <lab/estimator_options.h>
#include <lab/experiment.h>
#include <lab/run.h>
#include <sparsum/categorical.h>

#include <algorithm>
#include <cstdlib>
#include <set>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;

std::unique_ptr<ExperimentConfig> config_of(const std::string& experiment,
                                            const Settings& settings) {
  auto config = make_config(experiment);
  Options options = config->options();
  for (const auto& [name, text] : settings) options.set(name, text);
  return config;
}

std::string value_of(ExperimentConfig& config, const std::string& name) {
  const Options options = config.options();
  for (const Option& option : options.all()) {
    if (option.name == name) return value_text(option);
  }
  ADD_FAILURE() << "no option " << name;
  return "";
}

bool defined_for(const std::string& estimator, const std::string& experiment) {
  const bool bits_only =
      estimator == "arm" || estimator == "disarm" || estimator == "sparsemap-budget";
  const bool categories_only = estimator == "sparsemax" || estimator == "entmax";
  return experiment == "ssvae" ? !bits_only : !categories_only;
}

TEST(EstimatorOptions, TheTableHasEveryEstimatorAndOnlyOptionsThatThereAre) {
  std::set<std::string> declared;
  const auto config = make_config("bitvector");
  const Options options = config->options();
  for (const Option& option : options.all()) declared.insert(option.name);
  for (const std::string& name : estimator_names()) {
    for (const std::string& option : options_read_by(name)) {
      EXPECT_TRUE(declared.contains(option)) << name << ": " << option;
      const auto readers = readers_of(option);
      EXPECT_NE(std::find(readers.begin(), readers.end(), name), readers.end());
    }
  }
  EXPECT_THROW(options_read_by("nobody"), c10::Error);
  EXPECT_TRUE(readers_of("epochs").empty());
}

TEST(EstimatorOptions, EveryOptionIsReadByAnEstimatorAndSaysByWhich) {
  Options options;
  EstimatorSettings settings("dense");
  declare_estimator_options(options, settings);
  for (const Option& option : options.all()) {
    const auto readers = readers_of(option.name);
    ASSERT_FALSE(readers.empty()) << option.name;
    if (option.name == "samples") {
      EXPECT_TRUE(option.description.starts_with("estimators that sample: "));
    } else {
      EXPECT_TRUE(option.description.starts_with(readers.front())) << option.description;
      EXPECT_NE(option.description.find(readers.back() + ": "), std::string::npos)
          << option.description;
    }
  }
}

TEST(EstimatorOptions, WhatTheEstimatorDoesNotReadIsRefusedByName) {
  const auto error = [](const std::string& experiment, const Settings& settings) {
    const auto config = config_of(experiment, settings);
    return input_error_of([&] { config->resolve(); });
  };
  EXPECT_EQ(error("bitvector", {{"estimator", "sfe"}, {"budget", "4"}}),
            "option --budget: estimator 'sfe' does not read it; sparsemap-budget does");
  EXPECT_EQ(error("ssvae", {{"alpha", "1.2"}}),
            "option --alpha: estimator 'sparsemax' does not read it; entmax does");
  EXPECT_EQ(error("ssvae", {{"estimator", "dense"}, {"k", "4"}}),
            "option --k: estimator 'dense' does not read it; top-k, top-k-adaptive, sum-and-sample "
            "do");
  EXPECT_EQ(error("ssvae", {{"estimator", "rebar"}, {"temperature-decay", "1e-3"}}),
            "option --temperature-decay: estimator 'rebar' does not read it; gumbel, st-gumbel do");
  EXPECT_EQ(error("bitvector", {{"encoding", "one-state"}}),
            "option --encoding: estimator 'top-k' does not read it; sparsemap, sparsemap-budget "
            "do");
  EXPECT_TRUE(error("ssvae", {{"estimator", "sfe"}, {"baseline-lr", "0.1"}})
                  .starts_with("option --baseline-lr: estimator 'sfe' does not read it; nvil"));

  // Read at other times.
  EXPECT_EQ(error("ssvae", {{"estimator", "relax"}, {"control-scale", "2"}}),
            "option --control-scale: estimator 'relax' does not read it with --embed-loss false");
  EXPECT_EQ(error("ssvae", {{"estimator", "imle"}, {"gamma-terms", "4"}}),
            "option --gamma-terms: estimator 'imle' does not read it with --noise gumbel");
  EXPECT_EQ(error("ssvae", {{"estimator", "sfe"}, {"baseline", "none"}, {"baseline-decay", "0.5"}}),
            "option --baseline-decay: estimator 'sfe' does not read it with --baseline none");
  EXPECT_EQ(
      error("ssvae",
            {{"estimator", "gumbel"}, {"temperature-decay", "0"}, {"temperature-every", "10"}}),
      "option --temperature-every: estimator 'gumbel' does not read it with --temperature-decay 0");
  EXPECT_EQ(
      error("bitvector",
            {{"estimator", "sparsemap"}, {"algorithm", "closed-form"}, {"tolerance", "1e-6"}}),
      "option --tolerance: estimator 'sparsemap' does not read it with --algorithm "
      "closed-form");

  // What is read, and what has its default.
  for (const Settings& fine : std::vector<Settings>{
           {{"structure", "budget"}, {"budget", "4"}},
           {{"estimator", "sparsemap-budget"}, {"budget", "4"}},
           {{"estimator", "sfe"}, {"encoding", "both-states"}, {"temperature", "1"}},
           {{"estimator", "relax"}, {"embed-loss", "true"}, {"control-scale", "2"}},
           {{"estimator", "imle"}, {"noise", "sum-of-gamma"}, {"gamma-terms", "4"}},
           {{"estimator", "sfe"}, {"baseline-decay", "0.5"}},
           {{"estimator", "gumbel"}, {"temperature-every", "10"}},
       }) {
    EXPECT_NO_THROW(config_of("bitvector", fine)->resolve());
  }
}

TEST(EstimatorOptions, ThatContradictEachOtherAreRefused) {
  const auto error = [](const Settings& settings) {
    const auto config = config_of("bitvector", settings);
    return input_error_of([&] { config->resolve(); });
  };
  EXPECT_EQ(error({{"estimator", "top-k-adaptive"}, {"k", "20"}, {"max-k", "16"}}),
            "option --max-k: expected at least --k, 20, got 16");
  EXPECT_EQ(error({{"estimator", "top-k-adaptive"}, {"max-k", "9"}}),
            "option --max-k: expected at least --k, 10, got 9");
  EXPECT_EQ(error({{"estimator", "gumbel"}, {"temperature-decay", "-0.5"}}),
            "option --temperature-decay: expected at least 0, or -1 for what was published, got "
            "-0.5");
  EstimatorSettings loo("sfe-loo");
  loo.options.samples = 1;
  const Categorical structure(10);
  EXPECT_NE(input_error_of([&] { make_estimator(loo, structure, 784, 0); }).find("samples"),
            std::string::npos);
  EXPECT_NE(input_error_of([&] {
              make_estimator(EstimatorSettings("arm"), structure, 784, 0);
            }).find("estimator 'arm'"),
            std::string::npos);
}

TEST(EstimatorOptions, ARunsOwnConfigIsReadAgainWhateverTheEstimator) {
  const Folder folder;
  for (const std::string experiment : {"ssvae", "bitvector"}) {
    for (const std::string& name : estimator_names()) {
      SCOPED_TRACE(experiment + " " + name);
      const auto config = config_of(experiment, {{"estimator", name}});
      config->resolve();
      config->resolve();
      const std::string toml = config->options().to_toml();
      sparsum_test::spit(folder / "config.toml", toml);
      const auto again = read_config(folder / "config.toml");
      again->resolve();
      EXPECT_EQ(again->options().to_toml(), toml);
    }
  }
}

TEST(EstimatorOptions, InitialParametersComeFromTheSeed) {
  const Categorical structure(10);
  const auto weights = [&](int64_t seed) {
    return make_estimator(EstimatorSettings("nvil"), structure, 12, seed)->parameters();
  };
  const auto one = weights(1), again = weights(1), other = weights(2);
  ASSERT_FALSE(one.empty());
  EXPECT_EQ(one.front().size(-1), 12);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(one[i].equal(again[i]));
  EXPECT_FALSE(one.front().equal(other.front()));
}

TEST(PublishedConfigs, AreReadAndAgreeWithWhatIsAutomatic) {
  const char* folder = std::getenv("SPARSUM_CONFIGS");
  if (folder == nullptr) GTEST_SKIP() << "SPARSUM_CONFIGS is not set; ctest sets it";
  std::set<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    found.insert(entry.path().stem().string());
    SCOPED_TRACE(entry.path().string());
    const auto config = read_config(entry.path());
    const std::string experiment = value_of(*config, "experiment");
    Settings choice{{"estimator", value_of(*config, "estimator")}};
    if (experiment == "bitvector") choice.emplace_back("bits", value_of(*config, "bits"));
    std::string prefix = experiment + "-";
    if (experiment == "signal") {
      choice.emplace_back("loss", value_of(*config, "loss"));
      choice.emplace_back("dataset", value_of(*config, "dataset"));
      if (choice.back().second == "features") {  // where they are is the user's to say
        config->options().set("features", "somewhere");
        choice.emplace_back("features", "somewhere");
        prefix += "features-";
      }
    }
    const auto automatic = config_of(experiment, choice);
    config->resolve();
    automatic->resolve();
    EXPECT_EQ(config->options().to_toml(), automatic->options().to_toml());
    EXPECT_TRUE(experiment == "signal" || defined_for(choice.front().second, experiment));
    // Its name says what it is.
    EXPECT_TRUE(entry.path().stem().string().starts_with(prefix + choice.front().second));
  }
  std::set<std::string> expected;
  for (const char* name :
       {"sparsemax", "dense", "sfe", "sfe-plus", "nvil", "gumbel", "st-gumbel", "sum-and-sample"}) {
    expected.insert(std::string("ssvae-") + name);
  }
  for (const char* name : {"top-k", "sparsemap", "sparsemap-budget", "sfe", "sfe-plus", "nvil",
                           "gumbel", "st-gumbel"}) {
    for (const char* bits : {"-d32", "-d128"}) {
      expected.insert(std::string("bitvector-") + name + bits);
    }
  }
  for (const char* name : {"sparsemax", "dense", "sfe", "sfe-zero-one", "sfe-plus-zero-one", "nvil",
                           "gumbel", "st-gumbel"}) {
    expected.insert(std::string("signal-") + name);
    expected.insert(std::string("signal-features-") + name);
  }
  EXPECT_EQ(found, expected);
}

TEST(PublishedConfigs, HoldTheNumbersOfThePaper) {
  const auto value = [](const std::string& experiment, const std::string& estimator,
                        const std::string& option, const std::string& bits = "32") {
    Settings settings{{"estimator", estimator}};
    if (experiment == "bitvector") settings.emplace_back("bits", bits);
    const auto config = config_of(experiment, settings);
    config->resolve();
    return value_of(*config, option);
  };
  for (const char* name : {"dense", "nvil", "gumbel", "st-gumbel", "sum-and-sample"}) {
    EXPECT_EQ(value("ssvae", name, "lr"), "0.001") << name;
  }
  EXPECT_EQ(value("ssvae", "sparsemax", "lr"), "0.0005");
  EXPECT_EQ(value("ssvae", "sfe", "lr"), "0.0001");
  EXPECT_EQ(value("ssvae", "sfe-plus", "lr"), "0.0001");
  EXPECT_EQ(value("ssvae", "nvil", "baseline-lr"), "0.001");
  EXPECT_EQ(value("ssvae", "sfe", "baseline-lr"), "0");
  EXPECT_EQ(value("ssvae", "gumbel", "temperature-decay"), "0.0001");
  EXPECT_EQ(value("ssvae", "gumbel", "temperature-every"), "1000");
  EXPECT_EQ(value("ssvae", "gumbel", "temperature-min"), "0.5");
  EXPECT_EQ(value("ssvae", "sum-and-sample", "k"), "1");
  EXPECT_EQ(value("bitvector", "top-k", "k"), "10");
  EXPECT_EQ(value("bitvector", "top-k", "lr"), "0.002");
  EXPECT_EQ(value("bitvector", "top-k", "lr", "128"), "0.001");
  for (const char* name : {"sparsemap", "sparsemap-budget"}) {
    EXPECT_EQ(value("bitvector", name, "lr"), "0.002");
    EXPECT_EQ(value("bitvector", name, "lr", "128"), "0.002");
    EXPECT_EQ(value("bitvector", name, "batch-size"), "64");
    EXPECT_EQ(value("bitvector", name, "batch-size", "128"), "16");
  }
  EXPECT_EQ(value("bitvector", "sparsemap-budget", "budget", "128"), "64");
  for (const char* name : {"sfe", "sfe-plus", "gumbel"}) {
    EXPECT_EQ(value("bitvector", name, "lr"), "0.001");
    EXPECT_EQ(value("bitvector", name, "lr", "128"), "0.001");
  }
  for (const char* name : {"nvil", "st-gumbel"}) {
    EXPECT_EQ(value("bitvector", name, "lr"), "0.001");
    EXPECT_EQ(value("bitvector", name, "lr", "128"), "0.0005");
  }
  EXPECT_EQ(value("bitvector", "gumbel", "temperature-decay"), "1e-05");
  EXPECT_EQ(value("bitvector", "gumbel", "temperature-decay", "128"), "0.0001");
  EXPECT_EQ(value("bitvector", "st-gumbel", "temperature-decay", "128"), "1e-05");
}

}  // namespace
}  // namespace sparsum::lab
