#include "tests/lab/folder.h"

#include <gtest/gtest.h>
#include <lab/data/features.h>
#include <lab/data/npy.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::spit;

TEST(FeaturesInMemory, HaveUnitNorm) {
  auto generator = at::detail::createCPUGenerator(1);
  // Widths around the number of partial sums; rows in any magnitude.
  for (const int64_t width : {1, 3, 4, 5, 33, 784}) {
    const at::Tensor scale = at::logspace(-30, 30, 50).unsqueeze(1);
    const at::Tensor x = (at::randn({50, width}, generator, at::kFloat) + 0.5) * scale;
    const auto features = features_in_memory(x, "x");
    EXPECT_EQ(features->rows(), 50);
    EXPECT_EQ(features->width(), width);
    const at::Tensor rows = torch::tensor({{4, 49, 4}, {0, 17, 30}});
    const at::Tensor y = features->gather(rows);
    EXPECT_EQ(y.sizes(), (std::vector<int64_t>{2, 3, width}));
    EXPECT_TRUE(y.is_contiguous());
    const at::Tensor wide = x.to(at::kDouble);
    const at::Tensor expected =
        (wide / wide.square().sum(1, true).sqrt()).to(at::kFloat).index({rows});
    EXPECT_TRUE(at::allclose(y, expected, 1e-7, 0)) << width;
    EXPECT_TRUE(
        at::allclose(y.to(at::kDouble).square().sum(-1), at::ones({2, 3}, at::kDouble), 0, 1e-6));
  }
}

TEST(FeaturesInMemory, TakeBytesAsTheyAre) {
  const at::Tensor bytes = torch::tensor({{3, 4}, {0, 255}, {1, 1}}, at::kByte);
  const auto features = features_in_memory(bytes, "x");
  const float half = static_cast<float>(std::sqrt(0.5));
  EXPECT_TRUE(at::equal(features->gather(at::arange(3)),
                        torch::tensor({{0.6F, 0.8F}, {0.0F, 1.0F}, {half, half}})));
  EXPECT_EQ(features->memory_bytes(), 6 + 3 * 8);
  const auto floats = features_in_memory(bytes.to(at::kFloat), "x");
  EXPECT_TRUE(at::equal(floats->gather(at::arange(3)), features->gather(at::arange(3))));
  // A strided tensor, and many rows for several threads.
  const at::Tensor many = at::arange(1, 30001).view({3, 10000}).to(at::kFloat).t();
  const auto strided = features_in_memory(many, "x");
  EXPECT_TRUE(at::allclose(strided->gather(at::arange(10000)), many / many.norm(2, 1, true)));
}

TEST(FeaturesInMemory, NameTheRowThatCannotBeUsed) {
  at::Tensor x = at::ones({5, 3});
  x[4].zero_();
  EXPECT_EQ(input_error_of([&] { features_in_memory(x, "mnist"); }),
            "mnist: expected rows with a norm above 0, got 0 in row 4");
  EXPECT_EQ(input_error_of([&] { features_in_memory(x.to(at::kByte), "mnist"); }),
            "mnist: expected rows with a norm above 0, got 0 in row 4");
  x[2][1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(input_error_of([&] { features_in_memory(x, "mnist"); }),
            "mnist: expected finite float32 features, got nan in row 2, column 1");
  x[0][2] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(input_error_of([&] { features_in_memory(x, "mnist"); }),
            "mnist: expected finite float32 features, got inf in row 0, column 2");
  EXPECT_THROW(features_in_memory(at::ones({5}), "x"), c10::Error);
  EXPECT_THROW(features_in_memory(at::ones({5, 0}), "x"), c10::Error);
  EXPECT_THROW(features_in_memory(at::ones({5, 2}, at::kDouble), "x"), c10::Error);
}

TEST(FeaturesInMemory, CheckIndices) {
  const auto features = features_in_memory(at::ones({5, 3}), "x");
  EXPECT_THROW(features->gather(torch::tensor({5})), c10::Error);
  EXPECT_THROW(features->gather(torch::tensor({-1})), c10::Error);
  EXPECT_THROW(features->gather(torch::tensor({1}, at::kInt)), c10::Error);
  EXPECT_EQ(features->gather(at::empty({0}, at::kLong)).sizes(), (std::vector<int64_t>{0, 3}));
}

TEST(NormaliseRow, LeavesTheRowAloneThatItRefuses) {
  std::vector<float> out = {7, 7};
  for (const float bad :
       {0.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const std::vector<float> row = {bad, 0};
    EXPECT_FALSE(normalise_row(row.data(), 2, out.data()));
    EXPECT_EQ(out, (std::vector<float>{7, 7}));
  }
  // The smallest normal and the largest float: others may count as zero.
  const std::vector<float> row = {std::numeric_limits<float>::min(), 0},
                           large = {std::numeric_limits<float>::max(), 0};
  for (const std::vector<float>& x : {row, large}) {
    EXPECT_TRUE(normalise_row(x.data(), 2, out.data()));
    EXPECT_EQ(out, (std::vector<float>{1, 0}));
  }
}

class LabelFiles : public ::testing::Test {
 protected:
  Labels read(const std::string& name, const std::string& bytes) {
    spit(folder_ / name, bytes);
    return read_labels(folder_ / name);
  }
  /// What is said of the file.
  std::string message(const std::string& name, const std::string& bytes) {
    const std::string prefix = (folder_ / name).string();
    const std::string text = input_error_of([&] { read(name, bytes); });
    EXPECT_TRUE(text.starts_with(prefix)) << text;
    return text.substr(std::min(text.size(), prefix.size()));
  }
  Folder folder_;
};

TEST_F(LabelFiles, AreReadInEveryFormat) {
  const at::Tensor expected = torch::tensor({3, 0, 3, 200});
  for (const auto type : {at::kLong, at::kInt, at::kByte}) {
    write_npy(folder_ / "l.npy", expected.to(type));
    EXPECT_TRUE(at::equal(read_labels(folder_ / "l.npy").values, expected)) << type;
  }
  EXPECT_TRUE(at::equal(read("l.json", "[3, 0,\n3, 200]").values, expected));
  for (const char* text :
       {"3\n0\n3\n200", "3\n0\n3\n200\n", "3\r\n0\r\n3\r\n200\r\n", "3 \n0\n3\n200\n\n \n"}) {
    EXPECT_TRUE(at::equal(read("l.txt", text).values, expected)) << text;
  }
  EXPECT_TRUE(at::equal(read("l.txt", "-1\n9223372036854775807").values,
                        torch::tensor({int64_t{-1}, std::numeric_limits<int64_t>::max()})));
  const Labels words = read("l.json", R"(["cat", "dog", "cat", ""])");
  EXPECT_EQ(words.words, (std::vector<std::string>{"cat", "dog", ""}));
  EXPECT_TRUE(at::equal(words.values, torch::tensor({0, 1, 0, 2})));
}

TEST_F(LabelFiles, RefuseOtherContents) {
  write_npy(folder_ / "l.npy", at::ones({3}));
  EXPECT_EQ(input_error_of([&] { read_labels(folder_ / "l.npy"); }),
            (folder_ / "l.npy").string() +
                ": expected labels in one dimension of int64, int32 or uint8, got 1 dimensions of "
                "Float (strings go into a .json)");
  write_npy(folder_ / "l.npy", at::ones({3, 1}, at::kLong));
  EXPECT_EQ(input_error_of([&] { read_labels(folder_ / "l.npy"); }),
            (folder_ / "l.npy").string() +
                ": expected labels in one dimension of int64, int32 or uint8, got 2 dimensions of "
                "Long (strings go into a .json)");
  write_npy(folder_ / "l.npy", at::ones({0}, at::kLong));
  EXPECT_EQ(input_error_of([&] { read_labels(folder_ / "l.npy"); }),
            (folder_ / "l.npy").string() + ": expected at least one label, got none");
  EXPECT_EQ(message("l.json", "[]"), ": expected at least one label, got none");
  EXPECT_EQ(message("l.json", "{\"a\": 1}"),
            ": expected a list of labels, got JSON of type object");
  EXPECT_TRUE(message("l.json", "[1, 2").starts_with(": expected JSON, got something else: "));
  const std::string list = ": expected a list of 64-bit integers or one of strings, got ";
  EXPECT_EQ(message("l.json", "[1, 2.5]"), list + "2.5 at position 1");
  EXPECT_EQ(message("l.json", "[1, true]"), list + "true at position 1");
  EXPECT_EQ(message("l.json", "[1, \"a\"]"), list + "the string \"a\" at position 1");
  EXPECT_EQ(message("l.json", "[\"a\", 1]"), list + "1 at position 1");
  EXPECT_EQ(message("l.json", "[18446744073709551615]"),
            list + "18446744073709551615 at position 0");
  EXPECT_EQ(message("l.txt", ""), ": expected at least one label, got none");
  EXPECT_EQ(message("l.txt", "1\n2 3\n"), ":2: expected one integer a line, got '2 3'");
  EXPECT_EQ(message("l.txt", "1\n\n3\n"), ":2: expected one integer a line, got ''");
  EXPECT_EQ(message("l.txt", "1.5"), ":1: expected one integer a line, got '1.5'");
  EXPECT_EQ(message("l.txt", "9223372036854775808"),
            ":1: expected one integer a line, got '9223372036854775808'");
  EXPECT_EQ(message("l.pkl", "x"), ": expected labels in a file .npy, .json or .txt, got '.pkl'");
  EXPECT_EQ(input_error_of([&] { read_labels(folder_ / "none.txt"); }),
            "cannot read " + (folder_ / "none.txt").string() + ": No such file or directory");
}

}  // namespace
}  // namespace sparsum::lab
