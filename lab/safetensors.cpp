#include "lab/safetensors.h"

#include "lab/error.h"
#include "lab/files.h"

#include <ATen/ops/empty.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

namespace sparsum::lab {

namespace {

static_assert(std::endian::native == std::endian::little, "tensor data are copied as they are");

using Json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
// The layout's own limit.
constexpr uint64_t kMaxHeader = 100'000'000;
// LibTorch's own limit.
constexpr size_t kMaxDimensions = 64;
constexpr const char* kMetadata = "__metadata__";

struct Dtype {
  std::string_view name;
  at::ScalarType type;
};
constexpr Dtype kDtypes[] = {{"F64", at::kDouble},    {"F32", at::kFloat}, {"F16", at::kHalf},
                             {"BF16", at::kBFloat16}, {"I64", at::kLong},  {"I32", at::kInt},
                             {"I16", at::kShort},     {"I8", at::kChar},   {"U8", at::kByte},
                             {"BOOL", at::kBool}};

std::string supported() {
  std::string text;
  for (const Dtype& dtype : kDtypes) text += (text.empty() ? "" : ", ") + std::string(dtype.name);
  return text;
}

// What the header says of one tensor, checked.
struct Entry {
  std::string name;
  at::ScalarType type = at::kFloat;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : path_(path), bytes_(read_file(path)) {}

  TensorFile read() {
    const std::string_view header = header_text();
    const Json json = parse(header);
    const std::string_view data = std::string_view(bytes_).substr(kLengthBytes + header.size());

    TensorFile contents;
    std::vector<Entry> entries;
    for (const auto& [name, value] : json.items()) {
      if (name == kMetadata) {
        contents.metadata = metadata(value);
      } else {
        entries.push_back(entry(name, value));
      }
    }
    check_layout(entries, data.size());
    for (const Entry& entry : entries) contents.tensors[entry.name] = tensor(entry, data);
    return contents;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw InputError(path_.string() + ": " + why);
  }
  [[noreturn]] void fail(const std::string& name, const std::string& why) const {
    fail("tensor '" + name + "': " + why);
  }

  std::string_view header_text() const {
    if (bytes_.size() < kLengthBytes) {
      fail("truncated: expected 8 bytes with the length of the header, got " +
           std::to_string(bytes_.size()));
    }
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), kLengthBytes);
    if (length > kMaxHeader) {
      fail("expected a header of at most " + std::to_string(kMaxHeader) + " bytes, got length " +
           std::to_string(length) + ": this is no safetensors file");
    }
    if (length > bytes_.size() - kLengthBytes) {
      fail("truncated: expected a header of " + std::to_string(length) + " bytes, got " +
           std::to_string(bytes_.size() - kLengthBytes));
    }
    const std::string_view text = std::string_view(bytes_).substr(kLengthBytes, length);
    if (!text.starts_with('{')) fail("expected a header that begins with '{'");
    return text;
  }

  Json parse(std::string_view text) const {
    // The keys of each object that is open: a parser keeps the last of two equal ones, silently,
    // and two readers could then see different files.
    std::vector<std::set<std::string>> open;
    const auto check = [&](int, Json::parse_event_t event, Json& value) {
      switch (event) {
        case Json::parse_event_t::object_start:
          open.emplace_back();
          break;
        case Json::parse_event_t::object_end:
          open.pop_back();
          break;
        case Json::parse_event_t::key:
          if (!open.back().insert(value.get<std::string>()).second) {
            fail("the header has the key '" + value.get<std::string>() + "' twice");
          }
          break;
        default:
          break;
      }
      // The layout nests two objects and an array.
      if (open.size() > 2) fail("the header nests objects too deeply");
      return true;
    };
    try {
      return Json::parse(text, check);
    } catch (const Json::exception& error) {
      fail(std::string("the header is no JSON: ") + error.what());
    }
  }

  std::map<std::string, std::string> metadata(const Json& json) const {
    if (!json.is_object()) fail("expected __metadata__ to be an object");
    std::map<std::string, std::string> strings;
    for (const auto& [key, value] : json.items()) {
      if (!value.is_string()) fail("expected __metadata__ '" + key + "' to be a string");
      strings[key] = value.get<std::string>();
    }
    return strings;
  }

  Entry entry(const std::string& name, const Json& json) const {
    if (!json.is_object() || json.size() != 3 || !json.contains("dtype") ||
        !json.contains("shape") || !json.contains("data_offsets")) {
      fail(name, "expected an object with dtype, shape and data_offsets");
    }
    Entry entry;
    entry.name = name;

    const Json& dtype = json["dtype"];
    if (!dtype.is_string()) fail(name, "expected dtype to be a string");
    const auto text = dtype.get<std::string>();
    const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                     [&](const Dtype& d) { return d.name == text; });
    if (known == std::end(kDtypes)) {
      fail(name, "expected dtype to be one of " + supported() + ", got " + text);
    }
    entry.type = known->type;

    const Json& shape = json["shape"];
    if (!shape.is_array() || shape.size() > kMaxDimensions) {
      fail(name, "expected shape to be an array of at most 64 sizes");
    }
    // The product must fit even where a zero makes it vanish: strides are computed from it.
    const uint64_t item = c10::elementSize(entry.type);
    uint64_t positive = item;
    bool empty = false;
    for (const Json& element : shape) {
      if (!element.is_number_unsigned()) fail(name, "expected shape to hold whole numbers >= 0");
      const auto size = element.get<uint64_t>();
      empty = empty || size == 0;
      if (size > 0 && positive > std::numeric_limits<int64_t>::max() / size) {
        fail(name, "its shape is too large");
      }
      positive *= std::max<uint64_t>(size, 1);
      entry.shape.push_back(static_cast<int64_t>(size));
    }

    const Json& offsets = json["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned()) {
      fail(name, "expected data_offsets to be two whole numbers >= 0");
    }
    entry.begin = offsets[0].get<uint64_t>();
    entry.end = offsets[1].get<uint64_t>();
    if (entry.begin > entry.end) {
      fail(name, "expected data_offsets in ascending order, got " + range(entry));
    }
    const uint64_t expected = empty ? 0 : positive;
    if (entry.end - entry.begin != expected) {
      fail(name, "expected " + std::to_string(expected) + " bytes for its shape and dtype, got " +
                     std::to_string(entry.end - entry.begin));
    }
    return entry;
  }

  static std::string range(const Entry& entry) {
    return c10::str("[", entry.begin, ", ", entry.end, "]");
  }

  // The tensors cover the data exactly, so that a file hides nothing.
  void check_layout(std::vector<Entry>& entries, uint64_t size) const {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    uint64_t covered = 0;
    for (const Entry& entry : entries) {
      if (entry.begin < covered) {
        fail(entry.name, "its data_offsets " + range(entry) + " overlap those of another tensor");
      }
      if (entry.begin > covered) {
        fail(entry.name, "its data_offsets " + range(entry) + " leave a gap after byte " +
                             std::to_string(covered));
      }
      if (entry.end > size) {
        fail(entry.name, "its data_offsets " + range(entry) + " pass the end of the data at " +
                             std::to_string(size) + " (is the file truncated?)");
      }
      covered = entry.end;
    }
    if (covered != size) {
      fail("expected " + std::to_string(covered) + " bytes of data, got " + std::to_string(size));
    }
  }

  at::Tensor tensor(const Entry& entry, std::string_view data) const {
    at::Tensor result = at::empty(entry.shape, entry.type);
    const std::string_view bytes = data.substr(entry.begin, entry.end - entry.begin);
    if (bytes.empty()) return result;
    if (entry.type == at::kBool) {
      // Another value in a C++ bool is undefined behaviour.
      for (const char byte : bytes) {
        if (byte != 0 && byte != 1) {
          fail(entry.name, "expected BOOL bytes 0 and 1, got " +
                               std::to_string(static_cast<unsigned char>(byte)));
        }
      }
    }
    std::memcpy(result.mutable_data_ptr(), bytes.data(), bytes.size());
    return result;
  }

  std::filesystem::path path_;
  std::string bytes_;
};

}  // namespace

TensorFile read_safetensors(const std::filesystem::path& path) { return Reader(path).read(); }

void write_safetensors(const std::filesystem::path& path, const TensorFile& contents) {
  struct Item {
    const std::string* name;
    std::string_view dtype;
    at::Tensor tensor;
  };
  std::vector<Item> items;
  for (const auto& [name, tensor] : contents.tensors) {
    TORCH_CHECK(name != kMetadata, "write_safetensors: a tensor cannot be called ", kMetadata);
    TORCH_CHECK(tensor.defined(), "write_safetensors: tensor '", name, "' is undefined");
    const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) {
      return d.type == tensor.scalar_type();
    });
    TORCH_CHECK(known != std::end(kDtypes), "write_safetensors: tensor '", name,
                "': expected a dtype among ", supported(), ", got ", tensor.scalar_type());
    items.push_back({&name, known->name, tensor.detach().cpu().contiguous()});
  }
  // The layout allows no gaps. Wide elements first keeps every tensor aligned to its element size.
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.tensor.element_size() > b.tensor.element_size();
  });

  Json json = Json::object();
  if (!contents.metadata.empty()) json[kMetadata] = contents.metadata;
  uint64_t offset = 0;
  for (const Item& item : items) {
    const uint64_t end = offset + item.tensor.nbytes();
    json[*item.name] = {{"dtype", item.dtype},
                        {"shape", item.tensor.sizes().vec()},
                        {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string header;
  try {
    header = json.dump();
  } catch (const Json::type_error& error) {
    TORCH_CHECK(false, "write_safetensors: names and metadata must be UTF-8: ", error.what());
  }
  header.append((8 - header.size() % 8) % 8, ' ');

  std::string bytes(kLengthBytes, '\0');
  const uint64_t length = header.size();
  TORCH_CHECK(length <= kMaxHeader, "write_safetensors: expected a header of at most ", kMaxHeader,
              " bytes, got ", length);
  std::memcpy(bytes.data(), &length, kLengthBytes);
  bytes.reserve(bytes.size() + header.size() + offset);
  bytes += header;
  for (const Item& item : items) {
    if (item.tensor.numel() == 0) continue;
    bytes.append(static_cast<const char*>(item.tensor.const_data_ptr()), item.tensor.nbytes());
  }
  write_file_atomically(path, bytes);
}

}  // namespace sparsum::lab
