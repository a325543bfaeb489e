#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <string>

namespace sparsum::lab {

/// The folder of one run:
///   config.toml                              all options, ready to run again
///   metrics.jsonl, timing.jsonl              a line an epoch: what the seed decides, and what it
///   does not summary.json                             final results
///   checkpoints/{last,best,PHASE}.safetensors
///   images/*.png
class RunFolder {
 public:
  /// A new run: throws InputError if `path` exists and is not an empty folder, and says to use
  /// --resume or another --out. Creates nothing yet.
  static RunFolder for_new_run(const std::filesystem::path& path);
  /// A run to continue or to evaluate: throws InputError if `path` has no config.toml.
  static RunFolder of_existing_run(const std::filesystem::path& path);

  /// Makes the folders and writes config.toml. Throws InputError.
  void create(const std::string& config_toml) const;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.toml"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path timing() const { return path_ / "timing.jsonl"; }
  std::filesystem::path summary() const { return path_ / "summary.json"; }
  std::filesystem::path checkpoint(const std::string& name) const {
    return path_ / "checkpoints" / (name + ".safetensors");
  }
  std::filesystem::path image(const std::string& name) const {
    return path_ / "images" / (name + ".png");
  }
  /// The numbers that an image shows.
  std::filesystem::path image_numbers(const std::string& name) const {
    return path_ / "images" / (name + ".json");
  }

 private:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace sparsum::lab
