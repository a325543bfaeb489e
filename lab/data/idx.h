#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>

namespace sparsum::lab {

/// Reads an IDX file of unsigned bytes, gzipped or not (the format of MNIST).
/// Returns: uint8, the dimensions of its header (images [N, 28, 28], labels [N]).
/// Errors (InputError): wrong magic number, another element type, a size in the header that the
/// contents do not match (both named).
at::Tensor read_idx(const std::filesystem::path& path);

/// Writes `bytes` (uint8, any shape) as an IDX file, atomically; gzipped if the name ends in .gz.
void write_idx(const std::filesystem::path& path, const at::Tensor& bytes);

}  // namespace sparsum::lab
