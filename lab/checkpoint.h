#pragma once

#include "lab/safetensors.h"

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <string>

namespace sparsum::lab {

/// A training state in one file: named tensors and texts, in the safetensors layout, with what it
/// belongs to: the layout's version, the experiment and the signature of its model. Reading checks
/// all three. Names are paths: "model/…", "adam/…", "generator/…".
class Checkpoint {
 public:
  /// The version of the layout that this program writes and reads.
  static constexpr int64_t kVersion = 1;

  Checkpoint(std::string experiment, std::string signature);

  /// Reads a checkpoint of that experiment and model. Throws InputError, naming the file, what was
  /// expected and what was found: missing, damaged, no checkpoint, another version, experiment or
  /// model.
  static Checkpoint read(const std::filesystem::path& path, const std::string& experiment,
                         const std::string& signature);
  /// Writes it, atomically. Throws InputError.
  void write(const std::filesystem::path& path) const;

  void put(const std::string& name, const at::Tensor& tensor);
  void put_text(const std::string& name, const std::string& text);
  /// Parameters and buffers, as "<prefix><name in the module>".
  void put_module(const std::string& prefix, const torch::nn::Module& module);
  /// The state, as "generator/<name>".
  void put_generator(const std::string& name, const at::Generator& generator);

  // Each throws InputError, naming the file, the entry and what was expected of it.
  at::Tensor get(const std::string& name, at::ScalarType dtype) const;
  std::string text(const std::string& name) const;
  /// Copies an entry into `target`, which fixes shape and dtype.
  void copy_to(const std::string& name, at::Tensor& target) const;
  /// Loads all parameters and buffers or none. Entries that begin with `prefix` and that the module
  /// does not have are an error, too.
  void load_module(const std::string& prefix, torch::nn::Module& module) const;
  void load_generator(const std::string& name, at::Generator& generator) const;

 private:
  [[noreturn]] void fail(const std::string& message) const;
  const at::Tensor& find(const std::string& name, at::ScalarType dtype,
                         std::optional<at::IntArrayRef> shape) const;

  TensorFile contents_;
  std::filesystem::path path_;  // where it was read from, for messages
};

}  // namespace sparsum::lab
