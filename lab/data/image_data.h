#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace sparsum::lab {

/// Grey-level images with class labels, on the CPU.
struct LabelledImages {
  at::Tensor images;  ///< [N, H, W] uint8, grey level 0 … 255
  at::Tensor labels;  ///< [N] int64
};

/// The official files of one data set.
struct ImageData {
  LabelledImages train, test;
  int64_t classes = 0;
};

/// A data set that is known by name ("mnist", "fashion-mnist").
struct DataSource {
  struct File {
    std::string name;    ///< e.g. "train-images-idx3-ubyte.gz"
    std::string sha256;  ///< of the decompressed contents: recompressed copies are the same data
    std::string url;     ///< the data set's own download address, or a long-standing mirror
  };
  std::string name;
  std::string description;    ///< one line: what it is, its source and licence
  std::string system_folder;  ///< where a Debian package puts it, or empty
  std::vector<File> files;    ///< train images, train labels, test images, test labels
};

/// The data sets known by name.
const std::vector<DataSource>& data_sources();
/// The one called `name`. Throws InputError with the known names and the nearest spelling.
const DataSource& data_source(const std::string& name);

/// The root folder with mnist/, fashion-mnist/, mnist-splits/: `given` if not empty, else
/// SPARSUM_DATA, else $XDG_DATA_HOME/sparsum (~/.local/share/sparsum).
std::filesystem::path data_root(const std::string& given);

/// The folder that holds all files of `source`: root/NAME, else its system folder. Throws
/// InputError that says where it looked and how to get the data (`sparsum data get NAME`).
std::filesystem::path find_data(const DataSource& source, const std::filesystem::path& root);

/// Reads the four files. Throws InputError: as read_idx; labels that do not match the images in
/// number; a label outside 0 … 9; images that are not 28×28. `with_gz_or_without`: a name without
/// .gz is accepted too.
ImageData load_image_data(const DataSource& source, const std::filesystem::path& root);

/// One file's state, for `sparsum data check`.
struct FileCheck {
  std::filesystem::path path;
  bool present = false;
  bool matches = false;  ///< decompressed contents have the expected SHA-256
  std::string message;   ///< what is wrong, or empty
};
std::vector<FileCheck> check_data(const DataSource& source, const std::filesystem::path& root);

/// Puts the files of `source` into root/NAME: copied from its system folder if that is there, else
/// downloaded (libcurl), each checked against its SHA-256 before it gets its name. Files already
/// there and right are kept. progress(file, bytes so far, total or 0). Throws InputError.
void get_data(const DataSource& source, const std::filesystem::path& root,
              const std::function<void(const std::string&, int64_t, int64_t)>& progress = {});

/// Index lists into the training images, each [n] int64.
struct Split {
  at::Tensor labelled, unlabelled, validation;
};

/// The published MNIST split, from
/// root/mnist-splits/{labeled_train_indx,unlabeled_train_indx,validation_indx}.npy. Throws
/// InputError: missing files, indices out of 0 … n_images − 1, lists that overlap.
Split read_published_split(const std::filesystem::path& root, int64_t n_images);

/// A stratified split: `labelled` and `validation` images with class counts as even as the data
/// allow (the largest remainders of n·share), the others unlabelled, cut to `unlabelled`; each list
/// shuffled. Drawn from `generator`. Throws InputError if the data have too few images or a class
/// has none.
Split stratified_split(const at::Tensor& labels, int64_t labelled, int64_t unlabelled,
                       int64_t validation, at::Generator generator);

}  // namespace sparsum::lab
