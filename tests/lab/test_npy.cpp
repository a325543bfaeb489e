#include "tests/lab/folder.h"

#include <gtest/gtest.h>
#include <lab/data/npy.h>
#include <torch/torch.h>

#include <limits>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::slurp;
using sparsum_test::spit;
using namespace std::string_literals;

std::string npy(const std::string& header, const std::string& data, char major = 1) {
  std::string bytes = "\x93NUMPY" + std::string(1, major) + '\0';
  bytes += static_cast<char>(header.size() & 0xff);
  bytes += static_cast<char>(header.size() >> 8);
  if (major > 1) bytes += "\0\0"s;
  return bytes + header + data;
}

TEST(Npy, ReadsHandWrittenFiles) {
  const Folder folder;
  const auto path = folder / "f.npy";
  spit(path, npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }     \n",
                 "\x05\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"s));
  EXPECT_TRUE(at::equal(read_npy(path), torch::tensor({5, -1}, at::kLong)));
  // Formats 2.0 and 3.0 have a longer length; keys in another order, other quotes and spaces.
  for (const char major : {2, 3}) {
    spit(path, npy("{\"shape\":(1, 2),'fortran_order' : False,'descr':'|u1'}", "\x07\xff", major));
    EXPECT_TRUE(at::equal(read_npy(path), torch::tensor({{7, 255}}, at::kByte)));
  }
  // What Python 2 wrote.
  spit(path,
       npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1L, 1L), }\n", "\0\0\x80\x3f"s));
  EXPECT_TRUE(at::equal(read_npy(path), torch::ones({1, 1})));
  spit(path,
       npy("{'descr': '<f8', 'fortran_order': False, 'shape': (), }\n", "\0\0\0\0\0\0\0\xc0"s));
  EXPECT_TRUE(at::equal(read_npy(path), torch::full({}, -2.0, at::kDouble)));
  // Every byte but 0 is true.
  spit(path, npy("{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }\n", "\0\x01\x02"s));
  EXPECT_TRUE(at::equal(read_npy(path), torch::tensor({false, true, true})));
}

TEST(Npy, WritesWhatNumpyWrites) {
  const Folder folder;
  write_npy(folder / "f.npy", torch::tensor({3, 4}, at::kInt));
  // The first 128 bytes as numpy.save writes them.
  const std::string header = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }";
  EXPECT_EQ(slurp(folder / "f.npy"), "\x93NUMPY\x01\0\x76\0"s + header +
                                         std::string(117 - header.size(), ' ') + "\n" +
                                         "\x03\0\0\0\x04\0\0\0"s);
}

TEST(Npy, RoundTripsEveryDtypeAndShape) {
  const Folder folder;
  const std::vector<std::vector<int64_t>> shapes = {{}, {0}, {1}, {7}, {3, 0, 2}, {2, 3, 4}};
  for (const auto type : {at::kLong, at::kInt, at::kByte, at::kBool, at::kFloat, at::kDouble}) {
    for (const auto& shape : shapes) {
      int64_t n = 1;
      for (const int64_t size : shape) n *= size;
      const at::Tensor tensor = (at::arange(n) % 5).to(type).view(shape);
      write_npy(folder / "f.npy", tensor);
      const at::Tensor back = read_npy(folder / "f.npy");
      EXPECT_EQ(back.scalar_type(), type);
      EXPECT_TRUE(at::equal(back, tensor)) << type << " " << tensor.sizes();
      EXPECT_EQ((slurp(folder / "f.npy").size() - tensor.nbytes()) % 64, 0u);
    }
  }
  const at::Tensor strided = at::arange(12).view({3, 4}).t();
  write_npy(folder / "f.npy", strided);
  EXPECT_TRUE(at::equal(read_npy(folder / "f.npy"), strided));
}

TEST(Npy, RefusesOtherFiles) {
  const Folder folder;
  const auto path = folder / "f.npy";
  const auto message = [&](const std::string& bytes) {
    spit(path, bytes);
    const std::string text = input_error_of([&] { read_npy(path); });
    EXPECT_TRUE(text.starts_with(path.string() + ": ")) << text;
    return text.substr(std::min(text.size(), path.string().size() + 2));
  };
  const std::string good = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n";
  EXPECT_EQ(message("PK\x03\x04"),
            "expected a NumPy .npy file, which begins with \\x93NUMPY; this one does not");
  EXPECT_EQ(message("\x93NUMPY\x01"), "truncated inside the header");
  EXPECT_EQ(message("\x93NUMPY\x02\0\x10\0"s), "truncated inside the header");
  EXPECT_EQ(message("\x93NUMPY\x01\0\x10\0{}"s),
            "truncated inside the header: expected 16 bytes of it, got 2");
  EXPECT_EQ(message("\x93NUMPY\x04\0\x10\0\0\0{}"s),
            "expected .npy format 1.0, 2.0 or 3.0, got 4.0");
  EXPECT_EQ(message(npy("{'descr': '>i4', 'fortran_order': False, 'shape': (2,), }\n", "")),
            "expected one of the dtypes <i8, <i4, |u1, |b1, <f4, <f8, got >i4");
  EXPECT_EQ(
      message(npy("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (2,), }\n", "")),
      "expected one of the dtypes <i8, <i4, |u1, |b1, <f4, <f8, got [('a', '<i4')]");
  EXPECT_EQ(message(npy("{'descr': '<i4', 'fortran_order': True, 'shape': (2,), }\n", "")),
            "expected C order, got Fortran order");
  EXPECT_EQ(message(npy(good, "1234567")),
            "truncated: expected 8 bytes for shape (2,) of <i4, got 7");
  EXPECT_EQ(message(npy(good, "123456789")), "expected 8 bytes for shape (2,) of <i4, got 9");
  EXPECT_EQ(message(npy("{'descr': '<i8', 'fortran_order': False, "
                        "'shape': (4294967296, 4294967296, 0), }\n",
                        "")),
            "the shape (4294967296, 4294967296, 0) is too large");

  const std::string syntax =
      "expected a header with 'descr', 'fortran_order' and 'shape', got something else";
  for (const char* header :
       {"", "{", "{}", "[]", "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), } x",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (-2,), }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2, }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
        "{'descr': '<i4', 'fortran_order': 0, 'shape': (2,), }",
        "{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), 'more': '', }",
        "{'descr': '<i4, 'fortran_order': False, 'shape': (2,), }",
        "{'descr': [('a', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<i4' 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<i4', 'fortran_order': False}"}) {
    EXPECT_EQ(message(npy(header, "12345678")), syntax) << header;
  }
}

TEST(Npy, RefusesToWriteOtherTypes) {
  const Folder folder;
  EXPECT_THROW(write_npy(folder / "f.npy", torch::ones({2}, at::kHalf)), c10::Error);
  EXPECT_EQ(folder.size(), 0u);
}

}  // namespace
}  // namespace sparsum::lab
