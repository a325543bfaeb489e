#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace sparsum::lab {

/// Reads a NumPy .npy file (format 1.0–3.0, little-endian, C order) of int64, int32, uint8, bool,
/// float32 or float64. Errors (InputError): wrong magic number, another dtype, Fortran order,
/// truncated contents.
at::Tensor read_npy(const std::filesystem::path& path);

/// Writes a tensor of one of those dtypes as .npy 1.0, atomically.
void write_npy(const std::filesystem::path& path, const at::Tensor& tensor);

/// Writes named tensors as .npz, atomically: a zip archive, not compressed, of one .npy each, as
/// numpy.load reads it. At most 2³² − 1 bytes in all.
void write_npz(const std::filesystem::path& path,
               const std::vector<std::pair<std::string, at::Tensor>>& arrays);

}  // namespace sparsum::lab
