#include "tests/lab/folder.h"

#include <gtest/gtest.h>
#include <lab/safetensors.h>
#include <torch/torch.h>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::slurp;
using sparsum_test::spit;
using namespace std::string_literals;

std::string little_endian(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

std::string safetensors(const std::string& header, const std::string& data) {
  return little_endian(header.size()) + header + data;
}

TEST(Safetensors, ReadsAHandWrittenFile) {
  const Folder folder;
  // Laid out as the format's description has it; entries in another order than the data, spaces
  // behind the header.
  spit(folder / "f",
       safetensors("{\"bias\":{\"dtype\":\"I16\",\"shape\":[2],\"data_offsets\":[8,12]},"
                   "\"__metadata__\":{\"format\":\"pt\",\"step\":\"7\"},"
                   "\"weight\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
                   "\"none\":{\"dtype\":\"F64\",\"shape\":[0,3],\"data_offsets\":[12,12]},"
                   "\"flag\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[12,13]}}   ",
                   "\0\0\x80\x3f\0\0\0\xc0\x05\0\xff\xff\x01"s));
  const TensorFile file = read_safetensors(folder / "f");
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"step", "7"}}));
  ASSERT_EQ(file.tensors.size(), 4u);
  EXPECT_TRUE(at::equal(file.tensors.at("weight"), torch::tensor({{1.0f, -2.0f}})));
  EXPECT_TRUE(at::equal(file.tensors.at("bias"), torch::tensor({5, -1}, at::kShort)));
  EXPECT_TRUE(at::equal(file.tensors.at("none"), torch::empty({0, 3}, at::kDouble)));
  EXPECT_TRUE(at::equal(file.tensors.at("flag"), torch::tensor(true)));
}

TEST(Safetensors, WritesTheDocumentedBytes) {
  const Folder folder;
  TensorFile file;
  file.tensors["b"] = torch::tensor({1, 2, 3}, at::kByte);
  file.tensors["c"] = torch::tensor({-2.0f});
  file.tensors["a"] = torch::tensor({9}, at::kByte);
  file.metadata["k"] = "v \"q\"";
  write_safetensors(folder / "f", file);
  // Names in order; wide elements first in the data, names in order among equals.
  std::string header =
      "{\"__metadata__\":{\"k\":\"v \\\"q\\\"\"},"
      "\"a\":{\"data_offsets\":[4,5],\"dtype\":\"U8\",\"shape\":[1]},"
      "\"b\":{\"data_offsets\":[5,8],\"dtype\":\"U8\",\"shape\":[3]},"
      "\"c\":{\"data_offsets\":[0,4],\"dtype\":\"F32\",\"shape\":[1]}}";
  header.append((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(slurp(folder / "f"), safetensors(header, "\0\0\0\xc0\x09\x01\x02\x03"s));
}

TEST(Safetensors, RoundTripsEveryDtype) {
  const Folder folder;
  TensorFile file;
  auto generator = at::detail::createCPUGenerator(4);
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt,
                          at::kShort, at::kChar, at::kByte, at::kBool}) {
    const std::vector<std::vector<int64_t>> shapes = {{}, {0}, {3}, {2, 0, 4}, {3, 5}};
    for (size_t i = 0; i < shapes.size(); ++i) {
      file.tensors[std::string(at::toString(type)) + "." + std::to_string(i)] =
          at::randint(0, 2, shapes[i], generator).mul(37.25).to(type);
    }
  }
  file.tensors["strided"] = at::arange(12, at::kDouble).view({3, 4}).t();
  file.tensors["leaf"] = torch::ones({2}, at::requires_grad());
  file.tensors["π \"quoted\"\n"] = torch::ones({1});
  file.metadata = {{"config", "a = \"b\"\nμ = 1\n"}, {"", ""}};
  write_safetensors(folder / "f", file);

  const TensorFile back = read_safetensors(folder / "f");
  EXPECT_EQ(back.metadata, file.metadata);
  ASSERT_EQ(back.tensors.size(), file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) {
    EXPECT_EQ(back.tensors.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(back.tensors.at(name), tensor)) << name;
    EXPECT_FALSE(back.tensors.at(name).requires_grad());
  }
  // The same contents, the same bytes.
  const std::string bytes = slurp(folder / "f");
  write_safetensors(folder / "g", back);
  EXPECT_EQ(slurp(folder / "g"), bytes);
  EXPECT_EQ(folder.size(), 2u);
}

TEST(Safetensors, AlignsEveryTensor) {
  const Folder folder;
  TensorFile file;
  file.tensors["a"] = torch::ones({3}, at::kByte);
  file.tensors["b"] = torch::ones({3}, at::kHalf);
  file.tensors["c"] = torch::ones({3}, at::kDouble);
  file.tensors["d"] = torch::ones({3}, at::kFloat);
  for (size_t i = 0; i < 9; ++i) {
    file.metadata["pad"] = std::string(i, 'x');
    write_safetensors(folder / "f", file);
    // 3·8 + 3·4 + 3·2 + 3·1 bytes of data end the file.
    EXPECT_EQ((slurp(folder / "f").size() - 45) % 8, 0u);
  }
  EXPECT_NE(slurp(folder / "f").find("\"c\":{\"data_offsets\":[0,24]"), std::string::npos);
  EXPECT_NE(slurp(folder / "f").find("\"d\":{\"data_offsets\":[24,36]"), std::string::npos);
  EXPECT_NE(slurp(folder / "f").find("\"b\":{\"data_offsets\":[36,42]"), std::string::npos);
}

TEST(Safetensors, HoldsNothingToo) {
  const Folder folder;
  write_safetensors(folder / "f", {});
  EXPECT_EQ(slurp(folder / "f"), safetensors("{}      ", ""));
  EXPECT_TRUE(read_safetensors(folder / "f").tensors.empty());
}

TEST(Safetensors, KeepsNanPayloadsAndNegativeZero) {
  const Folder folder;
  TensorFile file;
  file.tensors["x"] =
      torch::tensor({int64_t{0x7ff0000000000001}, int64_t{1} << 63, int64_t{0x7ff8dead00000000}})
          .view(at::kDouble);
  write_safetensors(folder / "f", file);
  EXPECT_TRUE(at::equal(read_safetensors(folder / "f").tensors.at("x").view(at::kLong),
                        file.tensors["x"].view(at::kLong)));
}

class SafetensorsErrors : public ::testing::Test {
 protected:
  /// What is wrong with a file of these bytes.
  std::string message(const std::string& bytes) {
    const auto path = folder_ / "f";
    spit(path, bytes);
    const std::string text = input_error_of([&] { read_safetensors(path); });
    EXPECT_TRUE(text.starts_with(path.string() + ": ")) << text;
    return text.substr(std::min(text.size(), path.string().size() + 2));
  }
  /// The same for one entry, called x.
  std::string entry(const std::string& json, const std::string& data = "") {
    const std::string text = message(safetensors("{\"x\":" + json + "}", data));
    EXPECT_TRUE(text.starts_with("tensor 'x': ")) << text;
    return text.substr(std::min<size_t>(text.size(), 12));
  }
  Folder folder_;
};

TEST_F(SafetensorsErrors, NameEveryTruncation) {
  const std::string whole =
      safetensors("{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", "1234");
  const size_t header = whole.size() - 12;
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string text = message(whole.substr(0, size));
    if (size < 8) {
      EXPECT_EQ(text, "truncated: expected 8 bytes with the length of the header, got " +
                          std::to_string(size));
    } else if (size < 8 + header) {
      EXPECT_EQ(text, "truncated: expected a header of " + std::to_string(header) + " bytes, got " +
                          std::to_string(size - 8));
    } else {
      EXPECT_EQ(text, "tensor 'x': its data_offsets [0, 4] pass the end of the data at " +
                          std::to_string(size - 8 - header) + " (is the file truncated?)");
    }
  }
  EXPECT_EQ(message(whole + "5"), "expected 4 bytes of data, got 5");
}

TEST_F(SafetensorsErrors, NameWhatIsWrongWithTheHeader) {
  EXPECT_EQ(message(little_endian(~uint64_t{0}) + "{}"),
            "expected a header of at most 100000000 bytes, got length 18446744073709551615: this "
            "is no safetensors file");
  EXPECT_EQ(message(safetensors("", "")), "expected a header that begins with '{'");
  EXPECT_EQ(message(safetensors(" {}", "")), "expected a header that begins with '{'");
  EXPECT_TRUE(message(safetensors("{\"x\":", "")).starts_with("the header is no JSON: "));
  EXPECT_TRUE(message(safetensors("{} {}", "")).starts_with("the header is no JSON: "));
  EXPECT_TRUE(message(safetensors("{\"\xff\":1}", "")).starts_with("the header is no JSON: "));
  EXPECT_TRUE(message(safetensors("{\n\n\"x\" 1}", "")).starts_with("the header is no JSON: "));
  EXPECT_EQ(message(safetensors("{\"x\":{\"y\":{}}}", "")), "the header nests objects too deeply");
  EXPECT_EQ(message(safetensors("{\"__metadata__\":1}", "")),
            "expected __metadata__ to be an object");
  EXPECT_EQ(message(safetensors("{\"__metadata__\":{\"k\":1}}", "")),
            "expected __metadata__ 'k' to be a string");
  const std::string x = "\"x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  EXPECT_EQ(message(safetensors("{" + x + "," + x + "}", "")), "the header has the key 'x' twice");
  EXPECT_EQ(
      message(safetensors(
          "{\"x\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", "")),
      "the header has the key 'dtype' twice");
  // A hundred thousand open brackets end in a message, not in the end of the stack.
  EXPECT_TRUE(message(safetensors("{\"x\":" + std::string(100000, '['), ""))
                  .starts_with("the header is no JSON: "));
}

TEST_F(SafetensorsErrors, NameWhatIsWrongWithATensor) {
  const std::string members = "expected an object with dtype, shape and data_offsets";
  EXPECT_EQ(entry("1"), members);
  EXPECT_EQ(entry("{\"dtype\":\"U8\",\"shape\":[1]}"), members);
  EXPECT_EQ(entry("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":1}"), members);
  EXPECT_EQ(entry("{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}"),
            "expected dtype to be a string");
  EXPECT_EQ(entry("{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]}"),
            "expected dtype to be one of F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL, got "
            "F8_E4M3");
  for (const char* shape : {"1", "\"1\"", "null"}) {
    EXPECT_EQ(entry("{\"dtype\":\"U8\",\"shape\":"s + shape + ",\"data_offsets\":[0,1]}"),
              "expected shape to be an array of at most 64 sizes");
  }
  for (const char* shape : {"[-1]", "[1.0]", "[\"1\"]", "[1e99]", "[18446744073709551616]"}) {
    EXPECT_EQ(entry("{\"dtype\":\"U8\",\"shape\":"s + shape + ",\"data_offsets\":[0,1]}"),
              "expected shape to hold whole numbers >= 0");
  }
  for (const char* shape : {"[18446744073709551615]", "[4294967296,4294967296]",
                            "[0,4294967296,4294967296]", "[9223372036854775807,8]"}) {
    EXPECT_EQ(entry("{\"dtype\":\"F64\",\"shape\":"s + shape + ",\"data_offsets\":[0,0]}"),
              "its shape is too large");
  }
  for (const char* offsets : {"[0]", "[0,1,2]", "[-1,0]", "[0,1.0]", "0", "null"}) {
    EXPECT_EQ(entry("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":"s + offsets + "}", "1"),
              "expected data_offsets to be two whole numbers >= 0");
  }
  EXPECT_EQ(entry("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}", "1"),
            "expected data_offsets in ascending order, got [1, 0]");
  EXPECT_EQ(entry("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}", "1234"),
            "expected 8 bytes for its shape and dtype, got 4");
  EXPECT_EQ(entry("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}", "12"),
            "its data_offsets [1, 2] leave a gap after byte 0");
  EXPECT_EQ(entry("{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[0,2]}", "\x01\x07"),
            "expected BOOL bytes 0 and 1, got 7");
}

TEST_F(SafetensorsErrors, NameOverlapsAndGaps) {
  const auto two = [](const std::string& first, const std::string& second) {
    return "{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" + first +
           "},\"y\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" + second + "}}";
  };
  EXPECT_EQ(message(safetensors(two("[0,2]", "[1,3]"), "123")),
            "tensor 'y': its data_offsets [1, 3] overlap those of another tensor");
  EXPECT_EQ(message(safetensors(two("[0,2]", "[0,2]"), "12")),
            "tensor 'y': its data_offsets [0, 2] overlap those of another tensor");
  EXPECT_EQ(message(safetensors(two("[3,5]", "[0,2]"), "12345")),
            "tensor 'x': its data_offsets [3, 5] leave a gap after byte 2");
}

TEST_F(SafetensorsErrors, StopWhatCannotBeWritten) {
  TensorFile file;
  file.tensors["x"] = torch::ones({2}, at::kComplexFloat);
  EXPECT_THROW(write_safetensors(folder_ / "f", file), c10::Error);
  file.tensors = {{"__metadata__", torch::ones({2})}};
  EXPECT_THROW(write_safetensors(folder_ / "f", file), c10::Error);
  file.tensors = {{"x", at::Tensor()}};
  EXPECT_THROW(write_safetensors(folder_ / "f", file), c10::Error);
  file.tensors = {{"\xff", torch::ones({2})}};
  EXPECT_THROW(write_safetensors(folder_ / "f", file), c10::Error);
  EXPECT_EQ(folder_.size(), 0u);
}

}  // namespace
}  // namespace sparsum::lab
