#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace sparsum::lab {

/// Named tensors and named strings, in a file that cannot carry code.
struct TensorFile {
  std::map<std::string, at::Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

/// Reads the safetensors layout (8-byte little-endian header length, JSON header, raw little-endian
/// data). Tensors are on the CPU. Errors (InputError) name the file and what is wrong: truncated,
/// header that is no JSON, unknown dtype, offsets that overlap, leave gaps or pass the end, sizes
/// that do not match shapes.
TensorFile read_safetensors(const std::filesystem::path& path);

/// Writes it atomically. dtypes: float64/32/16, bfloat16, int64/32/16/8, uint8, bool. Names sorted,
/// data 8-byte aligned: the same contents give the same bytes.
void write_safetensors(const std::filesystem::path& path, const TensorFile& contents);

}  // namespace sparsum::lab
