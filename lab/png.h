#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>

namespace sparsum::lab {

/// Lays images [R, C, H, W] (floating point, 0 black … 1 white, clamped) out as a grid of R rows
/// and C columns with `gap` pixels between them, each pixel enlarged `scale` times. Returns uint8
/// [height, width].
at::Tensor image_grid(const at::Tensor& images, int64_t gap = 2, int64_t scale = 2);

/// Writes a number ≥ 0 into the middle of an image [H, W] (floating point), its digits white (1)
/// and as large as there is room for, for numbers of `least_digits` digits at least: those that are
/// shorter are of the same size. Nothing is drawn where there is not enough for single pixels.
void draw_number(const at::Tensor& image, int64_t number, int64_t least_digits = 1);

/// Writes an 8-bit grey [H, W] or RGB [H, W, 3] image (uint8, CPU) as PNG, atomically. Throws
/// InputError.
void write_png(const std::filesystem::path& path, const at::Tensor& image);

/// Reads a PNG file as grey levels: uint8 [H, W]; colours become their luma. Throws InputError.
at::Tensor read_png(const std::filesystem::path& path);

}  // namespace sparsum::lab
