#include "lab/data/concepts.h"

#include "lab/data/image_data.h"
#include "lab/error.h"
#include "lab/files.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randperm.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <system_error>

namespace sparsum::lab {

namespace fs = std::filesystem;

namespace {

std::vector<std::string> class_names(const std::string& data_set, int64_t classes) {
  if (data_set == "fashion-mnist" && classes == 10) {
    return {"T-shirt", "trousers", "pullover", "dress", "coat",
            "sandal",  "shirt",    "trainer",  "bag",   "ankle boot"};
  }
  std::vector<std::string> names;
  for (int64_t k = 0; k < classes; ++k) {
    names.push_back((data_set == "mnist" ? "digit " : data_set + " ") + std::to_string(k));
  }
  return names;
}

// Fills in what follows from features and labels, and checks that no concept is empty.
void complete(ConceptImages& images, const std::vector<std::string>& names, const char* what,
              const std::string& where) {
  const auto concepts = static_cast<int64_t>(names.size());
  images.by_concept = rows_by_concept(images.labels, concepts);
  for (int64_t k = 0; k < concepts; ++k) {
    if (!images.by_concept.of(k).empty()) continue;
    throw InputError(where + ": expected at least one " + what + " image of each concept, got " +
                     "none of '" + names[static_cast<size_t>(k)] + "'");
  }
}

std::string list_of(const std::vector<fs::path>& paths) {
  std::string text;
  for (const fs::path& path : paths) {
    text += (text.empty() ? "" : ", ") + path.filename().string();
  }
  return text;
}

// The files in `folder` with one of these extensions, sorted.
std::vector<fs::path> files_in(const fs::path& folder, const std::vector<std::string>& extensions) {
  std::error_code error;
  fs::directory_iterator entries(folder, error);
  if (error) throw InputError("cannot read folder " + folder.string() + ": " + error.message());
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : entries) {
    std::error_code ignored;
    const std::string extension = entry.path().extension().string();
    if (entry.is_regular_file(ignored) && !entry.path().filename().string().starts_with('.') &&
        std::find(extensions.begin(), extensions.end(), extension) != extensions.end()) {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

struct FeatureFiles {
  std::shared_ptr<Features> features;
  Labels labels;
  fs::path labels_path;
};

FeatureFiles read_feature_folder(const fs::path& folder, const FeatureFileOptions& options) {
  const std::vector<fs::path> found = files_in(folder, {".h5", ".hdf5"});
  if (found.size() != 1) {
    throw InputError(folder.string() + ": expected one file of features, .h5 or .hdf5, got " +
                     (found.empty() ? "none" : list_of(found)));
  }
  const std::vector<fs::path> beside = files_in(folder, {".npy", ".json", ".txt"});
  if (beside.size() > 1 && options.labels.empty()) {
    throw InputError(folder.string() + ": expected one file of labels, .npy, .json or .txt, got " +
                     list_of(beside));
  }
  FeatureFiles files;
  files.features = open_hdf5_features(found.front(), options);
  if (!beside.empty() && options.labels.empty()) {
    files.labels_path = beside.front();
    files.labels = read_labels(files.labels_path);
  } else {
    files.labels_path = found.front();
    try {
      files.labels = read_hdf5_labels(files.labels_path, options.labels);
    } catch (const InputError& error) {
      if (!options.labels.empty()) throw;
      throw InputError(std::string(error.what()) +
                       "; nor is there a file of labels, .npy, .json or .txt, beside it "
                       "(scripts/convert_labels.py makes one of a Python pickle)");
    }
  }
  const int64_t labels = files.labels.values.size(0), rows = files.features->rows();
  if (labels != rows) {
    throw InputError(files.labels_path.string() + ": expected " + std::to_string(rows) +
                     " labels, one for each row of " + found.front().string() + ", got " +
                     std::to_string(labels));
  }
  return files;
}

std::vector<std::string> read_names(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return {};
  try {
    return nlohmann::json::parse(read_file(path)).get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception& error) {
    throw InputError(path.string() +
                     ": expected a list of names in JSON, got something else: " + error.what());
  }
}

// Replaces labels by concepts: `concept_of` their values, or their words.
template <typename Key>
at::Tensor relabel(const Labels& labels, const std::map<Key, int64_t>& concept_of) {
  at::Tensor result = at::empty_like(labels.values);
  const int64_t* from = labels.values.const_data_ptr<int64_t>();
  int64_t* to = result.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < labels.values.size(0); ++i) {
    if constexpr (std::is_same_v<Key, int64_t>) {
      to[i] = concept_of.at(from[i]);
    } else {
      to[i] = concept_of.at(labels.words[static_cast<size_t>(from[i])]);
    }
  }
  return result;
}

// Numbers the keys of a map in its order.
template <typename Key>
void number(std::map<Key, int64_t>& map) {
  int64_t next = 0;
  for (auto& item : map) item.second = next++;
}

/// Reads every row once, so that a bad one is found before a training begins, not where it is
/// drawn.
void read_all_rows(const Features& features) {
  const int64_t at_once = std::max<int64_t>(1, (int64_t{16} << 20) / (4 * features.width()));
  for (int64_t begin = 0; begin < features.rows(); begin += at_once) {
    features.gather(at::arange(begin, std::min(features.rows(), begin + at_once)));
  }
}

}  // namespace

std::span<const int64_t> ConceptRows::of(int64_t k) const {
  const auto begin = static_cast<size_t>(row_splits[static_cast<size_t>(k)]);
  const auto end = static_cast<size_t>(row_splits[static_cast<size_t>(k) + 1]);
  return std::span<const int64_t>(rows).subspan(begin, end - begin);
}

ConceptRows rows_by_concept(const at::Tensor& labels, int64_t concepts) {
  TORCH_CHECK(labels.dim() == 1 && labels.scalar_type() == at::kLong && labels.device().is_cpu(),
              "rows_by_concept: expected labels of shape [rows], Long, on the CPU, got ",
              labels.scalar_type(), " ", labels.sizes(), " on ", labels.device());
  TORCH_CHECK(concepts >= 0, "rows_by_concept: expected concepts >= 0, got ", concepts);
  const at::Tensor dense = labels.contiguous();
  const int64_t* values = dense.const_data_ptr<int64_t>();
  const int64_t n = labels.size(0);
  ConceptRows result;
  result.row_splits.assign(static_cast<size_t>(concepts) + 1, 0);
  for (int64_t i = 0; i < n; ++i) {
    TORCH_CHECK(values[i] >= 0 && values[i] < concepts,
                "rows_by_concept: expected labels from 0 to ", concepts - 1, ", got ", values[i],
                " in row ", i);
    ++result.row_splits[static_cast<size_t>(values[i]) + 1];
  }
  std::partial_sum(result.row_splits.begin(), result.row_splits.end(), result.row_splits.begin());
  result.rows.resize(static_cast<size_t>(n));
  std::vector<int64_t> next = result.row_splits;
  for (int64_t i = 0; i < n; ++i) {
    result.rows[static_cast<size_t>(next[static_cast<size_t>(values[i])]++)] = i;
  }
  return result;
}

ConceptData load_image_concepts(const std::vector<std::string>& data_sets,
                                const std::filesystem::path& root) {
  TORCH_CHECK(!data_sets.empty(), "load_image_concepts: expected at least one data set, got none");
  ConceptData data;
  std::vector<at::Tensor> images[2], labels[2];
  std::string all;
  for (const std::string& name : data_sets) {
    const ImageData part = load_image_data(data_source(name), root);
    const auto offset = static_cast<int64_t>(data.names.size());
    images[0].push_back(part.train.images);
    images[1].push_back(part.test.images);
    labels[0].push_back(part.train.labels + offset);
    labels[1].push_back(part.test.labels + offset);
    for (std::string& one : class_names(name, part.classes)) data.names.push_back(std::move(one));
    all += (all.empty() ? "" : " + ") + name;
  }
  for (size_t i = 0; i < 2; ++i) {
    const char* what = i == 0 ? "training" : "test";
    ConceptImages& part = i == 0 ? data.train : data.test;
    part.pictures = at::cat(images[i]);
    part.labels = at::cat(labels[i]);
    part.features = features_in_memory(part.pictures.flatten(1), all + ", " + what + " images");
    complete(part, data.names, what, all);
  }
  return data;
}

ConceptData load_feature_concepts(const std::filesystem::path& root,
                                  const FeatureFileOptions& options) {
  const FeatureFiles train = read_feature_folder(root / "train", options);
  const FeatureFiles test = read_feature_folder(root / "test", options);
  if (train.features->width() != test.features->width()) {
    throw InputError((root / "test").string() + ": expected " +
                     std::to_string(train.features->width()) + " features, as " +
                     (root / "train").string() + " has, got " +
                     std::to_string(test.features->width()));
  }
  if (train.labels.words.empty() != test.labels.words.empty()) {
    throw InputError(test.labels_path.string() + ": expected " +
                     (train.labels.words.empty() ? "integers" : "strings") + ", as " +
                     train.labels_path.string() + " has, got " +
                     (test.labels.words.empty() ? "integers" : "strings"));
  }
  ConceptData data;
  data.train.features = train.features;
  data.test.features = test.features;
  if (!train.labels.words.empty()) {
    std::map<std::string, int64_t> concept_of;
    for (const Labels* labels : {&train.labels, &test.labels}) {
      for (const std::string& word : labels->words) concept_of[word] = 0;
    }
    number(concept_of);
    for (const auto& item : concept_of) data.names.push_back(item.first);
    data.train.labels = relabel(train.labels, concept_of);
    data.test.labels = relabel(test.labels, concept_of);
  } else {
    std::map<int64_t, int64_t> concept_of;
    for (const Labels* labels : {&train.labels, &test.labels}) {
      const int64_t* values = labels->values.const_data_ptr<int64_t>();
      for (int64_t i = 0; i < labels->values.size(0); ++i) concept_of[values[i]] = 0;
    }
    number(concept_of);
    const fs::path path = root / "concepts.json";
    const std::vector<std::string> names = read_names(path);
    for (const auto& item : concept_of) {
      const int64_t label = item.first;
      if (names.empty()) {
        data.names.push_back(std::to_string(label));
      } else if (label >= 0 && label < static_cast<int64_t>(names.size())) {
        data.names.push_back(names[static_cast<size_t>(label)]);
      } else {
        throw InputError(path.string() + ": expected a name for every label, got " +
                         std::to_string(names.size()) + " names and the label " +
                         std::to_string(label));
      }
    }
    data.train.labels = relabel(train.labels, concept_of);
    data.test.labels = relabel(test.labels, concept_of);
  }
  complete(data.train, data.names, "training", train.labels_path.string());
  complete(data.test, data.names, "test", test.labels_path.string());
  read_all_rows(*data.test.features);
  read_all_rows(*data.train.features);
  return data;
}

std::pair<ConceptRows, ConceptRows> hold_out(const ConceptRows& all, double share,
                                             at::Generator generator,
                                             const std::vector<std::string>& names) {
  TORCH_CHECK(share >= 0 && share < 1, "hold_out: expected share in [0, 1), got ", share);
  if (share == 0) return {all, all};
  ConceptRows kept, held;
  for (int64_t k = 0; k < all.concepts(); ++k) {
    const std::span<const int64_t> rows = all.of(k);
    const auto n = static_cast<int64_t>(rows.size());
    if (n < 2) {
      throw InputError(
          "validation games: expected at least two training images of each concept, to set one "
          "aside, got " +
          std::to_string(n) + " of " +
          (names.empty() ? "concept " + std::to_string(k)
                         : "'" + names[static_cast<size_t>(k)] + "'") +
          "; with --validation-share 0 none is set aside");
    }
    const int64_t aside =
        std::clamp<int64_t>(std::llround(share * static_cast<double>(n)), 1, n - 1);
    const at::Tensor order = at::randperm(n, generator, at::kLong);
    const int64_t* place = order.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < n; ++i) {
      (place[i] < aside ? held : kept).rows.push_back(rows[static_cast<size_t>(i)]);
    }
    kept.row_splits.push_back(static_cast<int64_t>(kept.rows.size()));
    held.row_splits.push_back(static_cast<int64_t>(held.rows.size()));
  }
  return {std::move(kept), std::move(held)};
}

}  // namespace sparsum::lab
