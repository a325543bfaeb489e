#include "tests/lab/folder.h"

#include <gtest/gtest.h>
#include <lab/data/idx.h>
#include <torch/torch.h>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::slurp;
using sparsum_test::spit;
using namespace std::string_literals;

TEST(Idx, ReadsAHandWrittenFile) {
  const Folder folder;
  // Two images of 2 × 3, in the layout that Yann LeCun's page describes.
  spit(folder / "f",
       "\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x03"
       "\x01\x02\x03\x04\x05\x06\xff\xfe\xfd\0\0\x07"s);
  const at::Tensor tensor = read_idx(folder / "f");
  EXPECT_EQ(tensor.scalar_type(), at::kByte);
  EXPECT_TRUE(at::equal(
      tensor,
      torch::tensor({1, 2, 3, 4, 5, 6, 255, 254, 253, 0, 0, 7}, at::kByte).view({2, 2, 3})));
}

TEST(Idx, WritesTheSameBytes) {
  const Folder folder;
  write_idx(folder / "f", torch::tensor({7, 8, 9}, at::kByte));
  EXPECT_EQ(slurp(folder / "f"), "\0\0\x08\x01\0\0\0\x03\x07\x08\x09"s);
}

TEST(Idx, RoundTripsAnyShapeWithAndWithoutGzip) {
  const Folder folder;
  auto generator = at::detail::createCPUGenerator(11);
  const std::vector<std::vector<int64_t>> shapes = {{},        {0},         {1},         {300},
                                                    {3, 0, 2}, {5, 28, 28}, {2, 3, 4, 5}};
  for (const auto& shape : shapes) {
    const at::Tensor bytes = at::randint(0, 256, shape, generator, at::TensorOptions(at::kByte));
    for (const char* name : {"f", "f.gz"}) {
      write_idx(folder / name, bytes);
      EXPECT_TRUE(at::equal(read_idx(folder / name), bytes)) << bytes.sizes() << name;
    }
    EXPECT_EQ(slurp(folder / "f.gz").substr(0, 2), "\x1f\x8b");
  }
  // Larger than zlib's pieces, and not contiguous.
  const at::Tensor large =
      at::randint(0, 256, {700, 1000}, generator, at::TensorOptions(at::kByte)).t();
  write_idx(folder / "f.gz", large);
  EXPECT_TRUE(at::equal(read_idx(folder / "f.gz"), large));
  EXPECT_EQ(folder.size(), 2u);
}

TEST(Idx, RefusesOtherFiles) {
  const Folder folder;
  const auto path = folder / "f";
  const auto message = [&](const std::string& bytes) {
    spit(path, bytes);
    const std::string text = input_error_of([&] { read_idx(path); });
    EXPECT_TRUE(text.starts_with(path.string() + ": ")) << text;
    return text.substr(std::min(text.size(), path.string().size() + 2));
  };
  EXPECT_EQ(message(""), "expected an IDX file, got 0 bytes");
  EXPECT_EQ(message("\x89PNG...."),
            "expected an IDX file of unsigned bytes, which begins with 00 00 08, got 89 50 4e");
  EXPECT_EQ(message("\0\0\x0d\x01\0\0\0\0"s),
            "expected IDX elements of type 0x08 (unsigned byte), got 0x0d (32-bit float)");
  EXPECT_EQ(message("\0\0\x07\x01\0\0\0\0"s),
            "expected IDX elements of type 0x08 (unsigned byte), got 0x07 (unknown)");
  EXPECT_EQ(message("\0\0\x08\x03\0\0\0\x02"s),
            "expected a header of 16 bytes for 3 dimensions, got 8 bytes");
  EXPECT_EQ(message("\0\0\x08\xff\0\0\0\x02"s), "expected at most 64 dimensions, got 255");
  EXPECT_EQ(message("\0\0\x08\x02\0\0\0\x02\0\0\0\x03"
                    "12345"s),
            "the header says 2 x 3 = 6 bytes, the contents have 5");
  EXPECT_EQ(message("\0\0\x08\x02\0\0\0\x02\0\0\0\x03"
                    "1234567"s),
            "the header says 2 x 3 = 6 bytes, the contents have 7");
  EXPECT_EQ(message("\0\0\x08\0"s), "the header says one element = 1 bytes, the contents have 0");
  // The product of these sizes has more than 64 bits.
  EXPECT_EQ(message("\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"s),
            "the header says 4294967295 x 4294967295 x 4294967295 bytes, the contents have 0");
}

TEST(Idx, RefusesToWriteOtherTypes) {
  const Folder folder;
  EXPECT_THROW(write_idx(folder / "f", torch::ones({2})), c10::Error);
  EXPECT_EQ(folder.size(), 0u);
}

}  // namespace
}  // namespace sparsum::lab
