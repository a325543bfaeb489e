// The signal game on feature files of a known structure: from the file to the trained model's
// games.

#include "small_run.h"

#include <gtest/gtest.h>
#include <lab/data/hdf5.h>
#include <lab/experiments/signal.h>

#ifdef SPARSUM_HAVE_HDF5
#include "hdf5_file.h"
#endif

namespace sparsum::lab {
namespace {

#ifdef SPARSUM_HAVE_HDF5

using sparsum_test::Folder;
using sparsum_test::Hdf5File;
using sparsum_test::run_small;

constexpr int64_t kConcepts = 6, kWidth = 14;

/// Every concept points another way; 30 images each.
void write_features(const std::filesystem::path& folder, uint64_t seed, bool spoil = false) {
  std::filesystem::create_directories(folder);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const at::Tensor labels = at::arange(30 * kConcepts, at::kLong).remainder(kConcepts);
  at::Tensor rows =
      0.1 * at::rand({30 * kConcepts, kWidth}, generator, at::TensorOptions(at::kDouble));
  for (int64_t i = 0; i < rows.size(0); ++i) rows[i][2 * (i % kConcepts)] += 1;
  if (spoil) rows[7][3] = NAN;
  Hdf5File file(folder / "features.h5");
  file.write("features", rows, H5T_IEEE_F32LE, {16, static_cast<hsize_t>(kWidth)});
  file.write("labels", labels, H5T_STD_I64LE);
}

TrainRequest request(const std::filesystem::path& data, const std::filesystem::path& out) {
  TrainRequest request;
  request.experiment = "signal";
  request.out = out;
  request.settings = {{"dataset", "features"},
                      {"features", data.string()},
                      {"symbols", "8"},
                      {"candidates", "4"},
                      {"hidden", "16"},
                      {"embedding", "16"},
                      {"lr", "0.02"},
                      {"entropy-weight", "0.01"},
                      {"epochs", "4"},
                      {"steps-per-epoch", "100"},
                      {"batch-size", "32"},
                      {"threads", "1"},
                      {"validation-games", "50"},
                      {"test-games", "200"}};
  return request;
}

TEST(SignalRun, TrainsOnFeatureFilesAndPlays) {
  const Folder folder;
  write_features(folder / "data" / "train", 1);
  write_features(folder / "data" / "test", 2);
  const TrainResult result = run_small(request(folder / "data", folder / "run"));
  ASSERT_TRUE(result.summary.has_value());
  EXPECT_GT((*result.summary)["test"]["success"].get<double>(), 0.5);  // chance: 0.25
  EXPECT_LT((*result.summary)["test"]["evaluations"]["mean"].get<double>(), 4);

  // The table of symbols and concepts, in numbers.
  const Json table = Json::parse(sparsum_test::slurp(folder / "run/images/symbols-concepts.json"));
  ASSERT_FALSE(table["symbols"].empty());
  EXPECT_EQ(table["symbols"].size(), table["shares"].size());
  EXPECT_EQ(table["concepts"].size(), static_cast<size_t>(kConcepts));
  double use = 0;
  for (size_t i = 0; i < table["symbols"].size(); ++i) {
    double sum = 0;
    for (const Json& share : table["shares"][i]) sum += share.get<double>();
    EXPECT_NEAR(sum, 1, 1e-9);
    if (i > 0) {
      EXPECT_GE(table["use"][i - 1].get<double>(), table["use"][i].get<double>());
    }
    use += table["use"][i].get<double>();
  }
  EXPECT_NEAR(use, 1, 1e-6);  // 8 symbols: none is left out

  const Json played = play_run(folder / "run", "", {}, 5, folder / "play");
  EXPECT_EQ(played["games"].size(), 5u);
  EXPECT_EQ(played["files"], Json::array({(folder / "play" / "games.json").string()}));
  EXPECT_TRUE(std::filesystem::exists(folder / "play" / "games.json"));
  EXPECT_FALSE(std::filesystem::exists(folder / "play" / "games.png"));  // features are no picture
}

// Before anything is trained or written, wherever they are.
TEST(SignalRun, FeaturesThatAreNotFiniteAreNamed) {
  for (const bool in_test : {false, true}) {
    const Folder folder;
    write_features(folder / "data" / "train", 1, /*spoil=*/!in_test);
    write_features(folder / "data" / "test", 2, /*spoil=*/in_test);
    try {
      run_small(request(folder / "data", folder / "run"));
      FAIL() << "NaN was read";
    } catch (const std::exception& error) {
      EXPECT_NE(std::string(error.what()).find("got nan in row 7, column 3"), std::string::npos)
          << error.what();
    }
    EXPECT_FALSE(std::filesystem::exists(folder / "run"));
  }
}

TEST(SignalRun, FeaturesMayMove) {
  const Folder folder;
  write_features(folder / "data" / "train", 1);
  write_features(folder / "data" / "test", 2);
  const TrainResult result = run_small(request(folder / "data", folder / "run"));
  ASSERT_TRUE(result.summary.has_value());
  std::filesystem::rename(folder / "data", folder / "elsewhere");
  EXPECT_THROW(evaluate_run(folder / "run", "", {}), InputError);
  const Json again =
      evaluate_run(folder / "run", "", {{"features", (folder / "elsewhere").string()}});
  EXPECT_EQ(again["test"], (*result.summary)["test"]);
}

#else

TEST(SignalRun, TrainsOnFeatureFilesAndPlays) { GTEST_SKIP() << "built without libhdf5"; }

#endif

}  // namespace
}  // namespace sparsum::lab
