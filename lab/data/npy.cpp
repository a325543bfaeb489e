#include "lab/data/npy.h"

#include "lab/error.h"
#include "lab/files.h"

#include <ATen/ops/empty.h>
#include <zlib.h>

#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sparsum::lab {

namespace {

static_assert(std::endian::native == std::endian::little, "npy data are copied as they are");

constexpr std::string_view kMagic = "\x93NUMPY";

struct Dtype {
  std::string_view descr;
  at::ScalarType type;
};
constexpr Dtype kDtypes[] = {{"<i8", at::kLong}, {"<i4", at::kInt},   {"|u1", at::kByte},
                             {"|b1", at::kBool}, {"<f4", at::kFloat}, {"<f8", at::kDouble}};

std::string supported() {
  std::string text;
  for (const Dtype& dtype : kDtypes) text += (text.empty() ? "" : ", ") + std::string(dtype.descr);
  return text;
}

// The header is a Python dictionary with three keys; this reads as much of Python as NumPy writes.
// Every step returns false (or nothing) where the text is something else.
class Header {
 public:
  explicit Header(std::string_view text) : rest_(text) {}

  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<int64_t>> shape;

  bool parse() {
    if (!take('{')) return false;
    while (!take('}')) {
      const auto key = string();
      if (!key || !take(':')) return false;
      if (*key == "descr" && !descr) {
        if (!take_descr()) return false;
      } else if (*key == "fortran_order" && !fortran_order) {
        if (word("True")) {
          fortran_order = true;
        } else if (word("False")) {
          fortran_order = false;
        } else {
          return false;
        }
      } else if (*key == "shape" && !shape) {
        if (!take_shape()) return false;
      } else {
        return false;
      }
      if (!take(',') && !peek('}')) return false;
    }
    skip_spaces();
    return rest_.empty() && descr && fortran_order && shape;
  }

 private:
  void skip_spaces() {
    const size_t n = rest_.find_first_not_of(" \t\n");
    rest_.remove_prefix(n == std::string_view::npos ? rest_.size() : n);
  }
  bool peek(char c) {
    skip_spaces();
    return !rest_.empty() && rest_.front() == c;
  }
  bool take(char c) {
    if (!peek(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool word(std::string_view expected) {
    skip_spaces();
    if (!rest_.starts_with(expected)) return false;
    rest_.remove_prefix(expected.size());
    return true;
  }
  std::optional<std::string> string() {
    skip_spaces();
    if (rest_.empty() || (rest_.front() != '\'' && rest_.front() != '"')) return std::nullopt;
    const size_t end = rest_.find(rest_.front(), 1);
    if (end == std::string_view::npos) return std::nullopt;
    std::string value(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    return value;
  }
  bool take_descr() {
    if (peek('[')) {
      // A record type: a list of fields. Kept as text, which no supported dtype equals.
      int depth = 0;
      size_t end = 0;
      do {
        if (end == rest_.size()) return false;
        if (rest_[end] == '[') ++depth;
        if (rest_[end] == ']') --depth;
        ++end;
      } while (depth > 0);
      descr = std::string(rest_.substr(0, end));
      rest_.remove_prefix(end);
      return true;
    }
    descr = string();
    return descr.has_value();
  }
  bool take_shape() {
    if (!take('(')) return false;
    std::vector<int64_t> sizes;
    while (!take(')')) {
      skip_spaces();
      int64_t size = 0;
      const auto result = std::from_chars(rest_.data(), rest_.data() + rest_.size(), size);
      if (result.ec != std::errc() || size < 0) return false;
      rest_.remove_prefix(static_cast<size_t>(result.ptr - rest_.data()));
      word("L");  // Python 2 wrote long integers so.
      sizes.push_back(size);
      if (!take(',') && !peek(')')) return false;
    }
    shape = std::move(sizes);
    return true;
  }

  std::string_view rest_;
};

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace

at::Tensor read_npy(const std::filesystem::path& path) {
  const std::string bytes = read_file(path);
  const auto fail = [&](const std::string& why) { throw InputError(path.string() + ": " + why); };
  const auto byte = [&](size_t i) { return size_t{static_cast<unsigned char>(bytes[i])}; };

  if (!std::string_view(bytes).starts_with(kMagic)) {
    fail("expected a NumPy .npy file, which begins with \\x93NUMPY; this one does not");
  }
  const size_t version_end = kMagic.size() + 2;
  if (bytes.size() < version_end + 2) fail("truncated inside the header");
  const size_t major = byte(6), minor = byte(7);
  if (major < 1 || major > 3 || minor != 0) {
    fail("expected .npy format 1.0, 2.0 or 3.0, got " + std::to_string(major) + "." +
         std::to_string(minor));
  }
  const size_t length_size = major == 1 ? 2 : 4;
  const size_t header_begin = version_end + length_size;
  if (bytes.size() < header_begin) fail("truncated inside the header");
  size_t length = 0;
  for (size_t i = 0; i < length_size; ++i) length |= byte(version_end + i) << (8 * i);
  if (length > bytes.size() - header_begin) {
    fail("truncated inside the header: expected " + std::to_string(length) + " bytes of it, got " +
         std::to_string(bytes.size() - header_begin));
  }

  Header header(std::string_view(bytes).substr(header_begin, length));
  if (!header.parse()) {
    fail("expected a header with 'descr', 'fortran_order' and 'shape', got something else");
  }
  const Dtype* dtype = nullptr;
  for (const Dtype& candidate : kDtypes) {
    if (candidate.descr == *header.descr) dtype = &candidate;
  }
  if (dtype == nullptr) {
    fail("expected one of the dtypes " + supported() + ", got " + *header.descr);
  }
  if (*header.fortran_order) fail("expected C order, got Fortran order");

  const std::string shape = shape_text(*header.shape);
  const size_t contents = bytes.size() - header_begin - length;
  const size_t item = c10::elementSize(dtype->type);
  // The product of what a header says need not fit into 64 bits, even beside a zero.
  size_t positive = item;
  bool empty = false;
  for (const int64_t size : *header.shape) {
    empty = empty || size == 0;
    if (size == 0) continue;
    if (positive > static_cast<size_t>(std::numeric_limits<int64_t>::max() / size)) {
      fail("the shape " + shape + " is too large");
    }
    positive *= static_cast<size_t>(size);
  }
  const size_t expected = empty ? 0 : positive;
  if (contents != expected) {
    fail((contents < expected ? "truncated: " : "") + std::string("expected ") +
         std::to_string(expected) + " bytes for shape " + shape + " of " + *header.descr +
         ", got " + std::to_string(contents));
  }

  const char* data = bytes.data() + header_begin + length;
  at::Tensor tensor = at::empty(*header.shape, dtype->type);
  if (contents == 0) return tensor;
  if (dtype->type == at::kBool) {
    // Only 0 and 1 are bool values in C++; NumPy takes any other byte as true.
    bool* out = tensor.mutable_data_ptr<bool>();
    for (size_t i = 0; i < contents; ++i) out[i] = data[i] != 0;
  } else {
    std::memcpy(tensor.mutable_data_ptr(), data, contents);
  }
  return tensor;
}

namespace {

std::string npy_bytes(const at::Tensor& tensor) {
  const Dtype* dtype = nullptr;
  for (const Dtype& candidate : kDtypes) {
    if (candidate.type == tensor.scalar_type()) dtype = &candidate;
  }
  TORCH_CHECK(dtype != nullptr, "write_npy: expected one of the dtypes ", supported(), ", got ",
              tensor.scalar_type());
  std::string header = "{'descr': '" + std::string(dtype->descr) +
                       "', 'fortran_order': False, 'shape': " + shape_text(tensor.sizes().vec()) +
                       ", }";
  // The data begin at a multiple of 64 bytes, after a line break.
  const size_t prefix = kMagic.size() + 4;
  header.append(63 - (prefix + header.size()) % 64, ' ');
  header += '\n';

  std::string bytes(kMagic);
  bytes +=
      {'\1', '\0', static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  bytes += header;
  const at::Tensor dense = tensor.detach().cpu().contiguous();
  if (dense.numel() > 0) {
    bytes.append(static_cast<const char*>(dense.const_data_ptr()), dense.nbytes());
  }
  return bytes;
}

/// Little-endian bytes of a number.
std::string little(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

}  // namespace

void write_npy(const std::filesystem::path& path, const at::Tensor& tensor) {
  write_file_atomically(path, npy_bytes(tensor));
}

void write_npz(const std::filesystem::path& path,
               const std::vector<std::pair<std::string, at::Tensor>>& arrays) {
  // The layout is that of PKWARE's APPNOTE.TXT: per file a local header and the bytes, then a
  // directory of all files. Stored, dated 1980-01-01, so that equal arrays make equal files.
  std::string bytes, directory;
  for (const auto& [array, tensor] : arrays) {
    const std::string name = array + ".npy", contents = npy_bytes(tensor);
    const auto crc = crc32_z(crc32_z(0, nullptr, 0),
                             reinterpret_cast<const Bytef*>(contents.data()), contents.size());
    const std::string common = little(20, 2) + little(0, 2) + little(0, 2) + little(0, 2) +
                               little(0x21, 2) + little(crc, 4) + little(contents.size(), 4) +
                               little(contents.size(), 4) + little(name.size(), 2) + little(0, 2);
    directory += "PK\1\2" + little(20, 2) + common + little(0, 2) + little(0, 2) + little(0, 2) +
                 little(0, 4) + little(bytes.size(), 4) + name;
    bytes += "PK\3\4" + common + name + contents;
    TORCH_CHECK(bytes.size() < 0xffffffffu, "write_npz: expected less than 2^32 bytes");
  }
  const size_t begin = bytes.size();
  bytes += directory + "PK\5\6" + little(0, 2) + little(0, 2) + little(arrays.size(), 2) +
           little(arrays.size(), 2) + little(directory.size(), 4) + little(begin, 4) + little(0, 2);
  write_file_atomically(path, bytes);
}

}  // namespace sparsum::lab
