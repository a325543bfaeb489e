#pragma once

#include "lab/data/features.h"
#include "lab/data/hdf5.h"

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace sparsum::lab {

/// The rows of every concept: those of concept k are rows[row_splits[k]] … rows[row_splits[k + 1] −
/// 1], ascending.
struct ConceptRows {
  std::vector<int64_t> rows;
  std::vector<int64_t> row_splits = {0};  ///< concepts + 1

  int64_t concepts() const { return static_cast<int64_t>(row_splits.size()) - 1; }
  std::span<const int64_t> of(int64_t k) const;
};

/// Sorts rows by concept. labels: [rows] int64, each from 0 to concepts − 1, on the CPU.
ConceptRows rows_by_concept(const at::Tensor& labels, int64_t concepts);

/// Images and their concepts.
struct ConceptImages {
  std::shared_ptr<Features> features;  ///< [rows, F]
  at::Tensor labels;                   ///< [rows] int64: the concept of each row
  ConceptRows by_concept;              ///< the same, sorted
  at::Tensor pictures;                 ///< [rows, H, W] uint8 to look at; undefined without
};

/// Images of the same concepts for training and for testing; every concept has some of both.
struct ConceptData {
  std::vector<std::string> names;  ///< one a concept
  ConceptImages train, test;
};

/// The official files of image data sets that are known by name, one after the other: pixels as
/// features, classes as concepts. {"mnist", "fashion-mnist"} gives 20 concepts, digits 0 … 9 and
/// clothes 10 … 19. root: as for find_data(). Throws InputError: as load_image_data(); a blank
/// image; a class without an image in either file.
ConceptData load_image_concepts(const std::vector<std::string>& data_sets,
                                const std::filesystem::path& root);

/// Features from files: root/train and root/test, each with one file .h5 or .hdf5 and its labels:
/// one file .npy, .json or .txt beside it, or without one the 1-D data set of integers in the file.
///
/// Labels may be any integers, or any strings, the same in both folders; concepts are the distinct
/// labels in ascending order. root/concepts.json, where it is there, names them: a list of strings,
/// of which label k has the k-th. Every row is read once. Throws InputError: as
/// open_hdf5_features() and read_labels(); no or several such files; another number of labels than
/// rows; features of another width in train than in test; a concept without a test image or without
/// a training image.
ConceptData load_feature_concepts(const std::filesystem::path& root,
                                  const FeatureFileOptions& options = {});

/// Sets a share of each concept's rows aside: n·share of n, rounded, but at least one and not all.
/// Returns those that stay and those set aside. share = 0: both are all rows. Drawn from
/// `generator`. Throws InputError for a concept of fewer than two rows (if share > 0). names: of
/// the concepts, for messages. share: in [0, 1).
std::pair<ConceptRows, ConceptRows> hold_out(const ConceptRows& all, double share,
                                             at::Generator generator,
                                             const std::vector<std::string>& names = {});

}  // namespace sparsum::lab
