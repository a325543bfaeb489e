#include "small_run.h"

#include <gtest/gtest.h>
#include <lab/codes.h>
#include <lab/data/npy.h>
#include <lab/experiments/bitvector.h>
#include <lab/png.h>
#include <lab/random.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::run_small;
using sparsum_test::slurp;
using sparsum_test::write_small_data;

TrainRequest request(const std::filesystem::path& root, const std::filesystem::path& out,
                     const Settings& more = {}) {
  TrainRequest request;
  request.experiment = "bitvector";
  request.out = out;
  request.settings = {{"data", root.string()},     {"dataset", "mnist"}, {"bits", "6"},
                      {"validation", "60"},        {"batch-size", "16"}, {"epochs", "2"},
                      {"steps-per-epoch", "6"},    {"threads", "2"},     {"importance-images", "8"},
                      {"importance-samples", "32"}};
  request.settings.insert(request.settings.end(), more.begin(), more.end());
  return request;
}

TEST(BitvectorModel, NllIsThePapersDecoder) {
  BitvectorModel model(784, 5, make_generator(0, "init"));
  const auto generator = make_generator(1, "x");
  const at::Tensor levels = at::randint(0, 256, {3, 784}, generator, at::kLong);
  const BitVector structure(5);
  const at::Tensor scores = at::randn({3, 5}, generator, at::kFloat);
  const Assignments z = structure.k_best(scores, 4);
  const at::Tensor nll = model.nll(z, levels);
  nll.sum().backward();

  const auto p = model.named_parameters();
  std::vector<at::Tensor> gradients;
  for (const auto& each : p) gradients.push_back(each->grad());
  model.zero_grad();
  const at::Tensor hidden = (z.values().matmul(p["code.table"]) + p["code.bias"]).relu();
  const at::Tensor features =
      at::linear(hidden, p["pixel_features.weight"], p["pixel_features.bias"]).view({-1, 784, 5});
  const at::Tensor logits = at::linear(features, p["levels.weight"], p["levels.bias"]);
  const at::Tensor expected =
      at::cross_entropy_loss(logits.flatten(0, 1), levels.index_select(0, z.rows).flatten(), {},
                             at::Reduction::None)
          .view({-1, 784})
          .sum(1);
  EXPECT_TRUE(nll.allclose(expected, 1e-5, 1e-3));
  expected.sum().backward();
  size_t i = 0;
  for (const auto& each : p) {
    const at::Tensor reference = each->grad();
    if (reference.defined()) {
      EXPECT_TRUE(gradients[i].allclose(reference, 1e-3, 1e-2)) << each.key();
    } else {
      EXPECT_FALSE(gradients[i].defined()) << each.key();  // the encoder
    }
    ++i;
  }
  const at::Tensor mean = model.mean_image(z);
  const at::Tensor grey = at::linspace(0, 1, 256);
  EXPECT_TRUE(mean.allclose(logits.detach().softmax(2).matmul(grey), 1e-4, 1e-5));
}

TEST(Bitvector, EveryEstimatorTrains) {
  const Folder folder;
  write_small_data(folder.path());
  struct Case {
    std::string name;
    Settings more;
  };
  const Case cases[] = {
      {"dense", {}},
      {"top-k", {}},
      {"top-k-adaptive", {{"max-k", "64"}}},
      {"sparsemap", {}},
      {"sparsemap", {{"algorithm", "closed-form"}, {"encoding", "one-state"}}},
      {"sparsemap", {{"structure", "subset"}, {"budget", "2"}, {"init", "random"}}},
      {"sparsemap-budget", {}},
      {"top-k", {{"structure", "budget"}}},
      {"sfe", {{"samples", "2"}}},
      {"sfe", {{"structure", "budget"}, {"budget", "2"}}},
  };
  int i = 0;
  for (const Case& each : cases) {
    SCOPED_TRACE(each.name + " " + std::to_string(i));
    Settings more = each.more;
    more.emplace_back("estimator", each.name);
    const auto result =
        run_small(request(folder.path(), folder / ("run" + std::to_string(i++)), more));
    ASSERT_TRUE(result.summary);
    const Json& test = (*result.summary)["test"];
    EXPECT_NEAR(test["elbo"].get<double>(),
                -test["rate"].get<double>() - test["distortion"].get<double>(), 1e-6);
    // 784 pixels of log 256 = 4348 nats is what knows nothing.
    EXPECT_GT(test["elbo"].get<double>(), -4400);
    EXPECT_GE(test["rate"].get<double>(), -1e-6);
    EXPECT_LE(test["rate"].get<double>(), 6 * std::log(2.0) + 1e-6);
    // Draws of a bounded q say nothing of the codes outside the bound, which are possible too.
    const bool covered = each.name != "sfe" || each.more.size() == 1;
    ASSERT_EQ(test.contains("nll"), covered);
    if (!covered) continue;
    EXPECT_LE(test["nll"]["nats"].get<double>(), 4400);
    EXPECT_GE(test["nll"]["standard_error"].get<double>(), 0);
    EXPECT_EQ(test["nll"]["images"], 8);
    for (const char* image : {"reconstructions", "samples", "walk"}) {
      EXPECT_TRUE(
          std::filesystem::exists(result.folder / "images" / (std::string(image) + ".png")));
    }
  }
}

TEST(Bitvector, StoppedAndResumedIsTheSameRun) {
  const Folder folder;
  write_small_data(folder.path());
  const Settings more = {{"estimator", "sparsemap"}, {"checkpoint-every", "4"}};
  const auto whole = run_small(request(folder.path(), folder / "whole", more));
  auto cut = request(folder.path(), folder / "cut", more);
  EXPECT_FALSE(run_small(cut, /*stop_after=*/8).summary);
  cut.resume = true;
  ASSERT_TRUE(run_small(cut).summary);
  EXPECT_EQ(slurp(folder / "whole" / "metrics.jsonl"), slurp(folder / "cut" / "metrics.jsonl"));
}

TEST(Bitvector, ChunksChangeNothing) {
  const Folder folder;
  write_small_data(folder.path());
  const auto whole = run_small(request(folder.path(), folder / "whole"));
  const auto chunks =
      run_small(request(folder.path(), folder / "chunks", {{"max-evaluations-per-chunk", "7"}}));
  EXPECT_NEAR((*whole.summary)["test"]["elbo"].get<double>(),
              (*chunks.summary)["test"]["elbo"].get<double>(), 0.5);
}

TEST(Bitvector, BadOptionsAreNamed) {
  const Folder folder;
  write_small_data(folder.path());
  const auto error = [&](const Settings& more) {
    return input_error_of([&] { run_small(request(folder.path(), folder / "run", more)); });
  };
  EXPECT_NE(
      error({{"structure", "budget"}, {"budget", "7"}}).find("--budget: expected at most the 6"),
      std::string::npos);
  EXPECT_NE(error({{"budget", "-2"}}).find("budget"), std::string::npos);
  EXPECT_NE(error({{"k", "-1"}}).find("k"), std::string::npos);
  EXPECT_NE(error({{"bits", "20"}, {"estimator", "dense"}}).find("has 1048576"), std::string::npos);
  EXPECT_NE(error({{"bits", "80"}, {"estimator", "dense"}}).find("more than 2^63"),
            std::string::npos);
  EXPECT_NE(error({{"validation", "320"}}).find("fewer than the 320"), std::string::npos);
  EXPECT_NE(error({{"estimator", "sparsemax"}}).find("estimator 'sparsemax'"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}

TEST(Codes, EncodeAndDecodeAreTheModels) {
  const Folder folder;
  write_small_data(folder.path());
  const auto run = run_small(request(folder.path(), folder / "run"));
  const at::Tensor images = at::randint(0, 256, {7, 28, 28}, make_generator(2, "i"), at::kByte);
  write_npy(folder / "images.npy", images);
  CodesRequest encode;
  encode.run = run.folder;
  encode.input = folder / "images.npy";
  encode.output = folder / "codes.npy";
  encode.support = folder / "support.npz";
  const Json done = encode_images(encode);
  EXPECT_EQ(done["images"], 7);
  EXPECT_EQ(done["bits"], 6);
  const at::Tensor codes = read_npy(folder / "codes.npy");

  const auto config = read_config(run.folder / "config.toml");
  BitvectorCodec codec(dynamic_cast<BitvectorConfig&>(*config),
                       run.folder / "checkpoints" / "best.safetensors");
  EXPECT_TRUE(codes.equal(codec.encode(images.flatten(1))));
  EXPECT_EQ(done["configurations"], codec.posterior(images.flatten(1)).support().count());

  // The same images as IDX, and one of them as PNG.
  write_idx(folder / "images.gz", images);
  encode.input = folder / "images.gz";
  encode_images(encode);
  EXPECT_TRUE(read_npy(folder / "codes.npy").equal(codes));
  write_png(folder / "one.png", images[3]);
  encode.input = folder / "one.png";
  encode_images(encode);
  EXPECT_TRUE(read_npy(folder / "codes.npy").equal(codes.slice(0, 3, 4)));

  CodesRequest decode;
  decode.run = run.folder;
  write_npy(folder / "codes.npy", codes);
  decode.input = folder / "codes.npy";
  decode.output = folder / "images.npy";
  decode_codes(decode);
  const at::Tensor expected = codec.decode(codes).mul(255).round().view({7, 28, 28});
  EXPECT_TRUE(read_npy(folder / "images.npy").equal(expected.to(at::kByte)));
  decode.output = folder / "grid.png";
  decode_codes(decode);
  EXPECT_EQ(read_png(folder / "grid.png").size(0), 56);  // one row, doubled pixels
}

TEST(Codes, BadInputIsNamed) {
  const Folder folder;
  write_small_data(folder.path());
  const auto run = run_small(request(folder.path(), folder / "run", {{"epochs", "1"}}));
  const auto error = [&](const at::Tensor& contents, bool decode) {
    write_npy(folder / "in.npy", contents);
    CodesRequest request;
    request.run = run.folder;
    request.input = folder / "in.npy";
    request.output = folder / (decode ? "out.png" : "out.npy");
    return input_error_of([&] { decode ? decode_codes(request) : encode_images(request); });
  };
  const std::string file = (folder / "in.npy").string();
  EXPECT_EQ(error(at::zeros({2, 32, 32}, at::kByte), false),
            file + ": expected images of 28×28 pixels, [N, 28, 28], got [2, 32, 32]");
  EXPECT_EQ(error(at::zeros({2, 28, 28}), false),
            file + ": expected grey levels 0 … 255 as uint8, got Float");
  EXPECT_EQ(error(at::zeros({2, 5}, at::kByte), true),
            file + ": expected codes of 6 bits, [N, 6], got [2, 5]");
  EXPECT_EQ(error(at::full({2, 6}, 3, at::kByte), true),
            file + ": expected codes of 0 and 1, got 3 in row 0, column 0");
  EXPECT_FALSE(std::filesystem::exists(folder / "out.png"));
  EXPECT_FALSE(std::filesystem::exists(folder / "out.npy"));
}

}  // namespace
}  // namespace sparsum::lab
