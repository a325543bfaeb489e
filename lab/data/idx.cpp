#include "lab/data/idx.h"

#include "lab/error.h"
#include "lab/files.h"

#include <ATen/ops/empty.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <vector>

namespace sparsum::lab {

namespace {

constexpr unsigned char kUnsignedByte = 0x08;
// LibTorch's own limit.
constexpr size_t kMaxDimensions = 64;

std::string hex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (!text.empty()) text += ' ';
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string element_type(unsigned char code) {
  switch (code) {
    case 0x08:
      return "unsigned byte";
    case 0x09:
      return "signed byte";
    case 0x0b:
      return "16-bit integer";
    case 0x0c:
      return "32-bit integer";
    case 0x0d:
      return "32-bit float";
    case 0x0e:
      return "64-bit float";
    default:
      return "unknown";
  }
}

std::string gzip(const std::string& bytes) {
  struct Stream : z_stream {
    Stream() : z_stream{} {
      // 15: the largest window; 16: the gzip container; 8: zlib's default memory level.
      if (deflateInit2(this, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) !=
          Z_OK) {
        throw std::bad_alloc();
      }
    }
    ~Stream() { deflateEnd(this); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
  } stream;

  constexpr size_t kChunk = size_t{1} << 18;
  std::string out;
  std::string buffer(kChunk, '\0');
  size_t consumed = 0;
  int status = Z_OK;
  while (status != Z_STREAM_END) {
    // zlib counts in 32 bits.
    const size_t piece = std::min(bytes.size() - consumed, kChunk);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data() + consumed));
    stream.avail_in = static_cast<uInt>(piece);
    stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream.avail_out = static_cast<uInt>(buffer.size());
    status = deflate(&stream, consumed + piece == bytes.size() ? Z_FINISH : Z_NO_FLUSH);
    consumed += piece - stream.avail_in;
    out.append(buffer.data(), buffer.size() - stream.avail_out);
  }
  return out;
}

}  // namespace

at::Tensor read_idx(const std::filesystem::path& path) {
  const std::string bytes = read_maybe_gzip(path);
  const auto fail = [&](const std::string& why) { throw InputError(path.string() + ": " + why); };
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };

  if (bytes.size() < 4) {
    fail("expected an IDX file, got " + std::to_string(bytes.size()) + " bytes");
  }
  if (byte(0) != 0 || byte(1) != 0) {
    fail("expected an IDX file of unsigned bytes, which begins with 00 00 08, got " +
         hex(std::string_view(bytes).substr(0, 3)));
  }
  if (byte(2) != kUnsignedByte) {
    fail("expected IDX elements of type 0x08 (unsigned byte), got 0x" +
         hex(std::string_view(bytes).substr(2, 1)) + " (" + element_type(byte(2)) + ")");
  }
  const size_t dimensions = byte(3);
  if (dimensions > kMaxDimensions) {
    fail("expected at most " + std::to_string(kMaxDimensions) + " dimensions, got " +
         std::to_string(dimensions));
  }
  const size_t header = 4 + 4 * dimensions;
  if (bytes.size() < header) {
    fail("expected a header of " + std::to_string(header) + " bytes for " +
         std::to_string(dimensions) + " dimensions, got " + std::to_string(bytes.size()) +
         " bytes");
  }
  std::vector<int64_t> sizes;
  std::string shape;
  for (size_t i = 0; i < dimensions; ++i) {
    const size_t at = 4 + 4 * i;
    const int64_t size = int64_t{byte(at)} << 24 | int64_t{byte(at + 1)} << 16 |
                         int64_t{byte(at + 2)} << 8 | int64_t{byte(at + 3)};
    sizes.push_back(size);
    shape += (i == 0 ? "" : " x ") + std::to_string(size);
  }
  if (dimensions == 0) shape = "one element";
  // Compared by division: the product of what a header says need not fit.
  const size_t contents = bytes.size() - header;
  bool empty = false;
  for (const int64_t size : sizes) empty = empty || size == 0;
  uint64_t expected = empty ? 0 : 1;
  bool overflow = false;
  for (const int64_t size : sizes) {
    if (expected != 0 && static_cast<uint64_t>(size) > (uint64_t{1} << 62) / expected) {
      overflow = true;
      break;
    }
    expected *= static_cast<uint64_t>(size);
  }
  if (overflow || expected != contents) {
    fail("the header says " + shape + (overflow ? "" : " = " + std::to_string(expected)) +
         " bytes, the contents have " + std::to_string(contents));
  }
  at::Tensor tensor = at::empty(sizes, at::kByte);
  if (contents > 0) {
    std::memcpy(tensor.mutable_data_ptr<uint8_t>(), bytes.data() + header, contents);
  }
  return tensor;
}

void write_idx(const std::filesystem::path& path, const at::Tensor& bytes) {
  TORCH_CHECK(bytes.scalar_type() == at::kByte, "write_idx: expected bytes to be Byte, got ",
              bytes.scalar_type());
  std::string contents = {'\0', '\0', static_cast<char>(kUnsignedByte),
                          static_cast<char>(bytes.dim())};
  for (const int64_t size : bytes.sizes()) {
    TORCH_CHECK(size < int64_t{1} << 32, "write_idx: expected sizes below 2^32, got ",
                bytes.sizes());
    for (const int shift : {24, 16, 8, 0}) contents += static_cast<char>(size >> shift & 0xff);
  }
  const at::Tensor dense = bytes.cpu().contiguous();
  if (dense.numel() > 0) {
    contents.append(reinterpret_cast<const char*>(dense.const_data_ptr<uint8_t>()),
                    static_cast<size_t>(dense.numel()));
  }
  write_file_atomically(path, path.extension() == ".gz" ? gzip(contents) : contents);
}

}  // namespace sparsum::lab
