#include "folder.h"

#include <gtest/gtest.h>
#include <lab/checkpoint.h>
#include <lab/mlp.h>
#include <lab/random.h>
#include <lab/shuffled_cycle.h>
#include <torch/torch.h>

#include <set>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;

TEST(Checkpoint, GivesBackWhatWasPut) {
  const Folder folder;
  Mlp mlp({3, 4, 2}, make_generator(0, "a"));
  at::Generator generator = make_generator(9, "b");
  at::randn({5}, generator, at::kFloat);  // five normals leave half a pair in its state
  Checkpoint written("ssvae", "small");
  written.put_module("model/", mlp);
  written.put_generator("noise", generator);
  written.put("count", at::scalar_tensor(12, at::kLong));
  written.put_text("progress", "{\"epoch\":3}");
  written.write(folder / "c.safetensors");

  const auto read = Checkpoint::read(folder / "c.safetensors", "ssvae", "small");
  Mlp other({3, 4, 2}, make_generator(1, "a"));
  read.load_module("model/", other);
  for (const auto& entry : mlp.named_parameters()) {
    EXPECT_TRUE(entry->equal(other.named_parameters()[entry.key()])) << entry.key();
  }
  at::Generator restored = make_generator(0, "c");
  read.load_generator("noise", restored);
  EXPECT_TRUE(at::randn({7}, generator, at::kFloat).equal(at::randn({7}, restored, at::kFloat)));
  EXPECT_EQ(read.get("count", at::kLong).item<int64_t>(), 12);
  EXPECT_EQ(read.text("progress"), "{\"epoch\":3}");
}

TEST(Checkpoint, RefusesAnotherVersionExperimentOrModel) {
  const Folder folder;
  const auto path = folder / "c.safetensors";
  Checkpoint("ssvae", "8 latents").write(path);
  EXPECT_EQ(input_error_of([&] { Checkpoint::read(path, "signal", "8 latents"); }),
            path.string() + ": expected a checkpoint of experiment 'signal', found 'ssvae'");
  EXPECT_EQ(input_error_of([&] { Checkpoint::read(path, "ssvae", "9 latents"); }),
            path.string() + ": expected a checkpoint of signature '9 latents', found '8 latents'");

  write_safetensors(path, {{}, {{"format", "sparsum-checkpoint"}, {"version", "2"}}});
  EXPECT_EQ(input_error_of([&] { Checkpoint::read(path, "ssvae", "8 latents"); }),
            path.string() + ": expected a checkpoint of version '1', found '2'");

  write_safetensors(path, {{{"weight", at::ones({2})}}, {}});
  EXPECT_EQ(input_error_of([&] { Checkpoint::read(path, "ssvae", "8 latents"); }),
            path.string() + ": expected a checkpoint of format 'sparsum-checkpoint', found none");
}

TEST(Checkpoint, NamesATruncatedFile) {
  const Folder folder;
  const auto path = folder / "c.safetensors";
  Checkpoint whole("ssvae", "m");
  whole.put("x", at::ones({100}));
  whole.write(path);
  const std::string bytes = sparsum_test::slurp(path);
  for (const size_t kept : {size_t{0}, size_t{5}, size_t{40}, bytes.size() - 1}) {
    sparsum_test::spit(path, bytes.substr(0, kept));
    const std::string message = input_error_of([&] { Checkpoint::read(path, "ssvae", "m"); });
    EXPECT_TRUE(message.starts_with(path.string() + ": ")) << message;
  }
}

TEST(Checkpoint, LoadsAModuleWholeOrNotAtAll) {
  const Folder folder;
  const auto path = folder / "c.safetensors";
  const Mlp small({3, 4, 2}, make_generator(0, "a"));
  Checkpoint written("ssvae", "m");
  written.put_module("model/", small);
  written.write(path);
  const auto read = Checkpoint::read(path, "ssvae", "m");

  const auto untouched = [&](const std::vector<int64_t>& sizes, const std::string& expected) {
    Mlp mlp(sizes, make_generator(1, "a"));
    const Mlp before(sizes, make_generator(1, "a"));
    EXPECT_EQ(input_error_of([&] { read.load_module("model/", mlp); }), path.string() + expected);
    for (const auto& entry : mlp.named_parameters()) {
      EXPECT_TRUE(entry->equal(before.named_parameters()[entry.key()])) << entry.key();
    }
  };
  untouched({3, 4, 3}, ": expected tensor 'model/1.bias' to be Float [3], found Float [2]");
  untouched({3, 4, 2, 2}, ": expected a tensor 'model/2.bias', found none");
  untouched({3, 4}, ": expected no tensor 'model/1.bias': this model has none");
}

TEST(RandomStreams, DifferBySeedAndName) {
  std::set<uint64_t> seeds;
  for (int64_t seed = 0; seed < 50; ++seed) {
    for (const char* name : {"init", "warmup/pixels", "train/pixels", "train/model"}) {
      seeds.insert(stream_seed(seed, name));
    }
  }
  EXPECT_EQ(seeds.size(), 200u);
  EXPECT_TRUE(at::randn({4}, make_generator(3, "x"), at::kFloat)
                  .equal(at::randn({4}, make_generator(3, "x"), at::kFloat)));
}

TEST(ShuffledCycle, ShowsEveryIndexOnceBeforeAnyTwice) {
  const at::Tensor indices = at::arange(10, 17, at::kLong);
  ShuffledCycle cycle(indices, make_generator(0, "order"));
  const at::Tensor drawn = at::cat({cycle.next(5), cycle.next(16), cycle.next(7)});
  ASSERT_EQ(drawn.size(0), 28);
  std::set<std::string> orders;
  for (int64_t pass = 0; pass < 4; ++pass) {
    const at::Tensor one = drawn.narrow(0, 7 * pass, 7);
    EXPECT_TRUE(std::get<0>(one.sort()).equal(indices)) << one;
    std::string order;
    for (int64_t i = 0; i < 7; ++i) order += std::to_string(one[i].item<int64_t>()) + " ";
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 4u) << "the same order twice has a chance of 1 in 840";
}

TEST(ShuffledCycle, GoesOnFromACheckpoint) {
  const Folder folder;
  const at::Tensor indices = at::arange(11, at::kLong);
  ShuffledCycle cycle(indices, make_generator(0, "order"));
  cycle.next(15);
  Checkpoint written("ssvae", "m");
  cycle.save(written, "labelled");
  written.write(folder / "c.safetensors");
  ShuffledCycle other(indices, make_generator(1, "order"));
  other.load(Checkpoint::read(folder / "c.safetensors", "ssvae", "m"), "labelled");
  EXPECT_TRUE(cycle.next(40).equal(other.next(40)));
}

}  // namespace
}  // namespace sparsum::lab
