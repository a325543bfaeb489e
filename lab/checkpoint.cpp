#include "lab/checkpoint.h"

#include "lab/error.h"

#include <ATen/CPUGeneratorImpl.h>

#include <sstream>

namespace sparsum::lab {
namespace {

constexpr const char* kFormat = "sparsum-checkpoint";

std::string describe(at::ScalarType dtype, at::IntArrayRef shape) {
  std::ostringstream out;
  out << c10::toString(dtype) << " " << shape;
  return out.str();
}

}  // namespace

Checkpoint::Checkpoint(std::string experiment, std::string signature) {
  contents_.metadata["format"] = kFormat;
  contents_.metadata["version"] = std::to_string(kVersion);
  contents_.metadata["experiment"] = std::move(experiment);
  contents_.metadata["signature"] = std::move(signature);
}

Checkpoint Checkpoint::read(const std::filesystem::path& path, const std::string& experiment,
                            const std::string& signature) {
  Checkpoint checkpoint(experiment, signature);
  const auto expected = checkpoint.contents_.metadata;
  checkpoint.path_ = path;
  checkpoint.contents_ = read_safetensors(path);
  // In this order: a file that is no checkpoint has no version, one of another version may say
  // nothing of the model.
  for (const char* key : {"format", "version", "experiment", "signature"}) {
    const auto found = checkpoint.contents_.metadata.find(key);
    const std::string value =
        found == checkpoint.contents_.metadata.end() ? "none" : "'" + found->second + "'";
    if (value != "'" + expected.at(key) + "'") {
      checkpoint.fail("expected a checkpoint of " + std::string(key) + " '" + expected.at(key) +
                      "', found " + value);
    }
  }
  return checkpoint;
}

void Checkpoint::write(const std::filesystem::path& path) const {
  write_safetensors(path, contents_);
}

void Checkpoint::put(const std::string& name, const at::Tensor& tensor) {
  contents_.tensors[name] = tensor.detach().to(at::kCPU).contiguous();
}

void Checkpoint::put_text(const std::string& name, const std::string& text) {
  contents_.metadata[name] = text;
}

void Checkpoint::put_module(const std::string& prefix, const torch::nn::Module& module) {
  for (const auto& entry : module.named_parameters()) put(prefix + entry.key(), *entry);
  for (const auto& entry : module.named_buffers()) put(prefix + entry.key(), *entry);
}

void Checkpoint::put_generator(const std::string& name, const at::Generator& generator) {
  put("generator/" + name, generator.get_state());
}

void Checkpoint::fail(const std::string& message) const {
  throw InputError(path_.string() + ": " + message);
}

const at::Tensor& Checkpoint::find(const std::string& name, at::ScalarType dtype,
                                   std::optional<at::IntArrayRef> shape) const {
  const auto found = contents_.tensors.find(name);
  if (found == contents_.tensors.end()) fail("expected a tensor '" + name + "', found none");
  const at::Tensor& tensor = found->second;
  if (tensor.scalar_type() != dtype || (shape && tensor.sizes() != *shape)) {
    fail("expected tensor '" + name + "' to be " + describe(dtype, shape.value_or(tensor.sizes())) +
         ", found " + describe(tensor.scalar_type(), tensor.sizes()));
  }
  return tensor;
}

at::Tensor Checkpoint::get(const std::string& name, at::ScalarType dtype) const {
  return find(name, dtype, std::nullopt);
}

std::string Checkpoint::text(const std::string& name) const {
  const auto found = contents_.metadata.find(name);
  if (found == contents_.metadata.end()) fail("expected a text '" + name + "', found none");
  return found->second;
}

void Checkpoint::copy_to(const std::string& name, at::Tensor& target) const {
  const at::NoGradGuard no_grad;
  target.copy_(find(name, target.scalar_type(), target.sizes()));
}

void Checkpoint::load_module(const std::string& prefix, torch::nn::Module& module) const {
  std::map<std::string, at::Tensor> targets;
  for (const auto& entry : module.named_parameters()) targets[prefix + entry.key()] = *entry;
  for (const auto& entry : module.named_buffers()) targets[prefix + entry.key()] = *entry;
  for (const auto& [name, target] : targets) find(name, target.scalar_type(), target.sizes());
  for (const auto& [name, tensor] : contents_.tensors) {
    if (name.starts_with(prefix) && !targets.contains(name)) {
      fail("expected no tensor '" + name + "': this model has none");
    }
  }
  for (auto& [name, target] : targets) copy_to(name, target);
}

void Checkpoint::load_generator(const std::string& name, at::Generator& generator) const {
  const at::Tensor state = find("generator/" + name, at::kByte, generator.get_state().sizes());
  generator.set_state(state);
}

}  // namespace sparsum::lab
