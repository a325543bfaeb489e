#pragma once

#include "lab/data/features.h"

#include <filesystem>
#include <memory>
#include <string>

namespace sparsum::lab {

/// How a file of features is read.
struct FeatureFileOptions {
  std::string data_set;                    ///< of the features; empty: the only one that can be
  std::string labels;                      ///< data set of the labels; the same
  int64_t cache_bytes = int64_t{1} << 30;  ///< for the rows that are kept, as float32
};

/// Whether the program was built with libhdf5.
bool hdf5_available();

/// The features in an HDF5 file: one data set [rows, F] of floating-point numbers of any size and
/// byte order. Without a name, the file must hold exactly one such data set, in any group.
///
/// Nothing but the file's directory is read here. Rows are read by Features::gather, in blocks: the
/// rows of a chunk if it is compressed, else about 32 KiB; neighbouring blocks together. The blocks
/// used last are kept, as float32, normalised, up to `cache_bytes`; beside them buffers of 4 MiB or
/// one block, at most twice that in all, so memory does not grow with the file. Rows drawn at
/// random from a compressed file want a cache that holds all of it: each miss is a whole chunk.
///
/// Throws InputError, naming the file: unreadable, not HDF5, cut short; no data set that fits, or
/// more than one without a name (all are named); contents in other files; a cache that has no room
/// for one block; a program built without libhdf5. Gathering throws it for rows that are not
/// finite, of norm 0 or cannot be read.
std::shared_ptr<Features> open_hdf5_features(const std::filesystem::path& path,
                                             const FeatureFileOptions& options = {});

/// The labels in an HDF5 file: its data set `name` of integers in one dimension, or without a name
/// the only one. Throws InputError as above.
Labels read_hdf5_labels(const std::filesystem::path& path, const std::string& name = "");

}  // namespace sparsum::lab
