// Reading a sweep's file: what runs it stands for, and what is refused before anything begins.

#include "folder.h"

#include <gtest/gtest.h>
#include <lab/sweep.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::spit;

std::vector<std::string> names_of(const Sweep& sweep) {
  std::vector<std::string> names;
  for (const SweepRun& run : sweep.runs) names.push_back(run.name);
  return names;
}

/// Reads a file with this text.
Sweep read(const Folder& folder, const std::string& text) {
  spit(folder / "study.toml", text);
  return read_sweep(folder / "study.toml");
}

std::string refusal(const std::string& text) {
  const Folder folder;
  std::string message = input_error_of([&] { read(folder, text); });
  const std::string path = (folder / "study.toml").string();
  EXPECT_TRUE(message.starts_with(path)) << message;
  return message.substr(std::min(message.size(), path.size()));
}

using Names = std::vector<std::string>;

TEST(Sweep, ListsStandForEveryCombination) {
  const Folder folder;
  const Sweep sweep = read(folder, R"(
[common]
experiment = "ssvae"
seed = [0, 1]
[[runs]]
lr = [1e-3, 5e-4]
[[runs]]
estimator = "dense"
label = "all classes"
seed = 7
)");
  EXPECT_EQ(sweep.name, "study");
  EXPECT_EQ(names_of(sweep),
            (Names{"ssvae-mnist-sparsemax-lr0.001-s0", "ssvae-mnist-sparsemax-lr0.0005-s0",
                   "all classes-s7",  // every entry's first seed before any second
                   "ssvae-mnist-sparsemax-lr0.001-s1", "ssvae-mnist-sparsemax-lr0.0005-s1"}));
  EXPECT_EQ(sweep.runs[0].label, sweep.runs[3].label);
  EXPECT_NE(sweep.runs[0].label, sweep.runs[1].label);
  for (const SweepRun& run : sweep.runs) {
    EXPECT_EQ(run.experiment, "ssvae");
    // As it stands in the file: what is left to "auto" is the run's own to work out.
    spit(folder / "run.toml", run.config);
    EXPECT_NO_THROW(read_config(folder / "run.toml")->resolve());
  }
  EXPECT_NE(sweep.runs[1].config.find("lr = 0.0005\n"), std::string::npos);
  EXPECT_NE(sweep.runs[2].config.find("seed = 7\n"), std::string::npos);
}

TEST(Sweep, ALabelIsOneMethod) {
  EXPECT_EQ(refusal("[common]\nexperiment = \"ssvae\"\nlabel = \"x\"\n"),
            ": label belongs into [[runs]], not into [common]");
  const std::string same = "[[runs]]\nexperiment = \"ssvae\"\nlabel = \"x\"\n";
  EXPECT_EQ(
      refusal(same + "seed = [0, 2]\n" + same + "seed = 1\nlr = 0.5\n"),
      ":5: expected runs labelled x to differ in their seed alone, as tables take their mean; "
      "the entry at line 1 has other options");
  const Folder folder;
  EXPECT_EQ(read(folder, same + "seed = 0\n" + same + "seed = 1\n").runs.size(), 2u);
}

TEST(Sweep, WithoutRunsNothingHasALine) {
  EXPECT_TRUE(refusal("[common]\nexperiment = \"ssvae\"\nestimator = \"arm\"\n")
                  .starts_with(": estimator 'arm'"));
  EXPECT_TRUE(refusal("[common]\nexperiment = \"vae\"\n").starts_with(":2: unknown experiment"));
}

TEST(Sweep, AConfigIsFoundBesideTheFileAndCountsItsEpochs) {
  const Folder folder;
  spit(folder / "base.toml", "experiment = \"ssvae\"\nestimator = \"dense\"\nepochs = 3\n");
  const Sweep sweep = read(folder, R"(
name = "a study"
[common]
warmup-epochs = 2
[[runs]]
config = "base.toml"
estimator = ["sparsemax", "dense"]
)");
  EXPECT_EQ(sweep.name, "a study");
  EXPECT_EQ(names_of(sweep), (Names{"ssvae-mnist-sparsemax-s0", "ssvae-mnist-dense-s0"}));
  EXPECT_EQ(sweep.runs[0].epochs, 5);
}

TEST(Sweep, CommonAloneIsOneEntry) {
  const Folder folder;
  EXPECT_EQ(names_of(read(folder, "[common]\nexperiment = \"bitvector\"\nbits = [4, 8]\n")),
            (Names{"bitvector-fashion-mnist-d4-top-k-bits4-s0",
                   "bitvector-fashion-mnist-d8-top-k-bits8-s0"}));
}

TEST(Sweep, WhatCannotRunIsRefusedByItsLine) {
  EXPECT_EQ(refusal("runs = 3\n"), ":1: expected name = \"…\", [common] or [[runs]], got runs");
  EXPECT_EQ(refusal("name = \"empty\"\n"),
            ": expected [common] or [[runs]] with options, found none");
  EXPECT_EQ(refusal("[[runs]]\nseed = 1\n"),
            ":1: expected experiment = \"…\" or config = \"…\", found neither");
  EXPECT_EQ(refusal("[common]\nexperiment = \"ssvae\"\nseed = []\n"),
            ":3: seed: expected at least one value, got an empty list");
  EXPECT_EQ(refusal("[common]\nexperiment = \"ssvae\"\nsede = [1]\n"),
            ":3: unknown option --sede (did you mean seed?)");
  EXPECT_EQ(refusal("[common]\nexperiment = \"ssvae\"\nlr = [1e-3, -1.0]\n"),
            ":3: option --lr: expected a finite number at least 0, got '-1'");
  EXPECT_EQ(refusal("[common]\nexperiment = \"ssvae\"\nlr = {a = 1}\n"),
            ":3: lr: expected a number, a text, true or false, or a list of such");
  EXPECT_EQ(refusal("[common]\nexperiment = \"ssvae\"\nthreads = 2\n"),
            ":3: threads: the sweep's own --threads and --jobs decide this");
  EXPECT_EQ(refusal("[common]\nexperiment = [\"ssvae\", \"signal\"]\n"),
            ":2: experiment: expected one, got a list; use one [[runs]] for each");
  EXPECT_EQ(refusal("[[runs]]\nexperiment = \"ssvae\"\nestimator = [\"dense\", \"arm\"]\n"),
            ":1: estimator 'arm' is for bit vectors without a bound; got categorical(10)");
  EXPECT_EQ(refusal("[[runs]]\nexperiment = \"ssvae\"\nk = 4\n"),
            ":1: option --k: estimator 'sparsemax' does not read it; top-k, top-k-adaptive, "
            "sum-and-sample do");
  EXPECT_EQ(refusal("[common]\nexperiment = \"ssvae\"\n[[runs]]\nseed = 1\n[[runs]]\nseed = 1\n"),
            ": two runs are called ssvae-mnist-sparsemax-s1 (the entries at lines 3 and 5): give "
            "one of them a label");
  EXPECT_EQ(refusal("[common]\nexperiment = \"ssvae\"\nseed = [0, 1, 0]\n"),
            ":3: seed: a value is listed twice");
  EXPECT_NE(refusal("[[runs]]\nconfig = \"nowhere.toml\"\n").find("nowhere.toml"),
            std::string::npos);
  EXPECT_NE(refusal("[[runs]]\nexperiment = \"ssvae\"\nlabel = \"" + std::string(300, 'x') + "\"\n")
                .find("expected a run's name of at most 200 bytes"),
            std::string::npos);
  std::string many = "0";
  for (int i = 1; i < 400; ++i) many += ", " + std::to_string(i);
  EXPECT_EQ(refusal("[common]\nexperiment = \"ssvae\"\nseed = [" + many + "]\nsplit-seed = [" +
                    many + "]\n"),
            ": expected at most 1e+05 runs, got lists that stand for 1.6e+05");
  EXPECT_TRUE(refusal("[common\n").starts_with(":1: no valid TOML: "));
}

TEST(Sweep, ThePublishedStudiesAreRead) {
  const char* folder = std::getenv("SPARSUM_CONFIGS");
  if (folder == nullptr) GTEST_SKIP() << "SPARSUM_CONFIGS is not set; ctest sets it";
  const auto sweeps = std::filesystem::path(folder).parent_path() / "sweeps";
  const std::map<std::string, size_t> expected = {
      {"ssvae", 80}, {"signal", 80}, {"bitvector", 160}, {"quick", 22}, {"signal-grid", 72}};
  for (const auto& [name, runs] : expected) {
    SCOPED_TRACE(name);
    const Sweep sweep = read_sweep(sweeps / (name + ".toml"));
    EXPECT_EQ(sweep.name, name);
    EXPECT_EQ(sweep.runs.size(), runs);
    std::set<std::string> labels;
    for (const SweepRun& run : sweep.runs) labels.insert(run.label);
    const size_t seeds = name == "signal-grid" ? 1 : name == "quick" ? 2 : 10;
    EXPECT_EQ(labels.size(), runs / seeds);
    // Dealt out by their places in the file, no method's seeds go to one shard alone.
    std::set<int64_t> places;
    std::map<std::string, std::set<int64_t>> shards;
    for (const SweepRun& run : sweep.runs) {
      places.insert(run.place);
      shards[run.label].insert(run.place % 8);
    }
    EXPECT_EQ(places.size(), runs);
    EXPECT_EQ(*places.rbegin(), static_cast<int64_t>(runs) - 1);
    for (const auto& [label, own] : shards)
      EXPECT_GE(own.size(), std::min<size_t>(seeds, 8)) << label;
  }
}

}  // namespace
}  // namespace sparsum::lab
