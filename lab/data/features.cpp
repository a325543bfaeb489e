#include "lab/data/features.h"

#include "lab/data/npy.h"
#include "lab/error.h"
#include "lab/files.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <utility>

namespace sparsum::lab {

namespace {

// 1 / ‖row‖₂, or 0 where it is not defined. Squares of float32 neither overflow nor vanish in
// float64.
template <typename T>
double inverse_norm(const T* row, int64_t width) {
  double sums[4] = {0, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= width; i += 4) {
    for (int j = 0; j < 4; ++j) {
      const auto x = static_cast<double>(row[i + j]);
      sums[j] += x * x;
    }
  }
  for (; i < width; ++i) sums[0] += static_cast<double>(row[i]) * static_cast<double>(row[i]);
  const double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return sum > 0 && std::isfinite(sum) ? 1 / std::sqrt(sum) : 0;
}

template <typename T>
void scale_row(const T* row, int64_t width, double factor, float* out) {
  for (int64_t i = 0; i < width; ++i) {
    out[i] = static_cast<float>(static_cast<double>(row[i]) * factor);
  }
}

class FeaturesInMemory final : public Features {
 public:
  FeaturesInMemory(const at::Tensor& data, const std::string& name) {
    TORCH_CHECK(data.dim() == 2 && data.numel() > 0 && data.device().is_cpu() &&
                    (data.scalar_type() == at::kByte || data.scalar_type() == at::kFloat),
                "features_in_memory: expected data of shape [rows, F], Byte or Float, not empty, "
                "on the CPU, got ",
                data.scalar_type(), " ", data.sizes(), " on ", data.device());
    data_ = data.detach().contiguous();
    factors_.resize(static_cast<size_t>(rows()));
    const int64_t bytes = data_.scalar_type() == at::kByte;
    at::parallel_for(0, rows(), 1 + (int64_t{1} << 20) / width(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        factors_[static_cast<size_t>(i)] =
            bytes ? inverse_norm(row<uint8_t>(i), width()) : inverse_norm(row<float>(i), width());
      }
    });
    const auto bad = std::find(factors_.begin(), factors_.end(), 0.0);
    if (bad == factors_.end()) return;
    const int64_t i = bad - factors_.begin();
    const at::Tensor values = data_[i].to(at::kFloat);
    throw InputError(name + ": " + refusal_of_row(values.const_data_ptr<float>(), width(), i));
  }

  int64_t rows() const override { return data_.size(0); }
  int64_t width() const override { return data_.size(1); }
  int64_t memory_bytes() const override {
    return static_cast<int64_t>(data_.nbytes() + factors_.size() * sizeof(double));
  }

 private:
  template <typename T>
  const T* row(int64_t i) const {
    return data_.const_data_ptr<T>() + i * data_.size(1);
  }

  void read(std::span<const int64_t> rows, float* out) const override {
    const bool bytes = data_.scalar_type() == at::kByte;
    const auto n = static_cast<int64_t>(rows.size());
    at::parallel_for(0, n, 1 + (int64_t{1} << 20) / width(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t from = rows[static_cast<size_t>(i)];
        const double factor = factors_[static_cast<size_t>(from)];
        float* to = out + i * width();
        if (bytes) {
          scale_row(row<uint8_t>(from), width(), factor, to);
        } else {
          scale_row(row<float>(from), width(), factor, to);
        }
      }
    });
  }

  at::Tensor data_;
  std::vector<double> factors_;
};

Labels labels_of_npy(const std::filesystem::path& path) {
  const at::Tensor values = read_npy(path);
  const auto type = values.scalar_type();
  if (values.dim() != 1 || (type != at::kLong && type != at::kInt && type != at::kByte)) {
    throw InputError(path.string() +
                     ": expected labels in one dimension of int64, int32 or uint8, got " +
                     std::to_string(values.dim()) + " dimensions of " + at::toString(type) +
                     " (strings go into a .json)");
  }
  return {values.to(at::kLong), {}};
}

Labels labels_of_json(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& why) { throw InputError(path.string() + ": " + why); };
  nlohmann::json list;
  try {
    list = nlohmann::json::parse(read_file(path));
  } catch (const nlohmann::json::exception& error) {
    fail(std::string("expected JSON, got something else: ") + error.what());
  }
  if (!list.is_array()) {
    fail(std::string("expected a list of labels, got JSON of type ") + list.type_name());
  }
  Labels labels;
  labels.values = at::empty({static_cast<int64_t>(list.size())}, at::kLong);
  int64_t* values = labels.values.mutable_data_ptr<int64_t>();
  std::unordered_map<std::string, int64_t> known;
  const bool words = !list.empty() && list[0].is_string();
  for (size_t i = 0; i < list.size(); ++i) {
    const nlohmann::json& item = list[i];
    if (words && item.is_string()) {
      const auto [place, is_new] = known.try_emplace(item.get<std::string>(), known.size());
      if (is_new) labels.words.push_back(place->first);
      values[i] = place->second;
    } else if (!words && item.is_number_integer() &&
               !(item.is_number_unsigned() &&
                 item.get<uint64_t>() >
                     static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))) {
      values[i] = item.get<int64_t>();
    } else {
      fail(std::string("expected a list of 64-bit integers or one of strings, got ") +
           (item.is_string() ? "the string " : "") + item.dump().substr(0, 40) + " at position " +
           std::to_string(i));
    }
  }
  return labels;
}

Labels labels_of_text(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  std::vector<int64_t> values;
  size_t begin = text.starts_with("\xEF\xBB\xBF") ? 3 : 0;  // a byte order mark
  while (begin < text.size()) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) {
      line.remove_suffix(1);
    }
    // Only at the end may lines be empty.
    if (line.empty() && text.find_first_not_of(" \t\r\n", end) == std::string::npos) break;
    int64_t value = 0;
    const auto result = std::from_chars(line.data(), line.data() + line.size(), value);
    if (result.ec != std::errc() || result.ptr != line.data() + line.size()) {
      throw InputError(path.string() + ":" + std::to_string(values.size() + 1) +
                       ": expected one integer a line, got '" + std::string(line.substr(0, 40)) +
                       "'");
    }
    values.push_back(value);
  }
  Labels labels;
  labels.values = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), labels.values.mutable_data_ptr<int64_t>());
  return labels;
}

}  // namespace

at::Tensor Features::gather(const at::Tensor& indices) const {
  TORCH_CHECK(indices.scalar_type() == at::kLong && indices.device().is_cpu(),
              "Features::gather: expected indices to be Long, on the CPU, got ",
              indices.scalar_type(), " on ", indices.device());
  const at::Tensor dense = indices.contiguous();
  const std::span<const int64_t> list(dense.const_data_ptr<int64_t>(),
                                      static_cast<size_t>(dense.numel()));
  for (size_t i = 0; i < list.size(); ++i) {
    TORCH_CHECK(list[i] >= 0 && list[i] < rows(), "Features::gather: expected indices from 0 to ",
                rows() - 1, ", got ", list[i], " at position ", i);
  }
  std::vector<int64_t> shape = indices.sizes().vec();
  shape.push_back(width());
  at::Tensor out = at::empty(shape, at::kFloat);
  if (!list.empty()) read(list, out.mutable_data_ptr<float>());
  return out;
}

std::shared_ptr<Features> features_in_memory(const at::Tensor& data, const std::string& name) {
  return std::make_shared<FeaturesInMemory>(data, name);
}

Labels read_labels(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  Labels labels;
  if (extension == ".npy") {
    labels = labels_of_npy(path);
  } else if (extension == ".json") {
    labels = labels_of_json(path);
  } else if (extension == ".txt") {
    labels = labels_of_text(path);
  } else {
    throw InputError(path.string() + ": expected labels in a file .npy, .json or .txt, got '" +
                     extension + "'");
  }
  if (labels.values.numel() == 0) {
    throw InputError(path.string() + ": expected at least one label, got none");
  }
  return labels;
}

bool normalise_row(const float* row, int64_t width, float* out) {
  const double factor = inverse_norm(row, width);
  if (factor == 0) return false;
  scale_row(row, width, factor, out);
  return true;
}

std::string refusal_of_row(const float* row, int64_t width, int64_t index) {
  for (int64_t i = 0; i < width; ++i) {
    if (std::isfinite(row[i])) continue;
    const char* what = std::isnan(row[i]) ? "nan" : row[i] > 0 ? "inf" : "-inf";
    return std::string("expected finite float32 features, got ") + what + " in row " +
           std::to_string(index) + ", column " + std::to_string(i);
  }
  return "expected rows with a norm above 0, got 0 in row " + std::to_string(index);
}

}  // namespace sparsum::lab
