#include "lab/png.h"

#include "lab/error.h"
#include "lab/files.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wunused-function"
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_PNG
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace sparsum::lab {

namespace {

constexpr uint8_t kWhite = 255;

}  // namespace

at::Tensor image_grid(const at::Tensor& images, int64_t gap, int64_t scale) {
  TORCH_CHECK(images.dim() == 4 && images.numel() > 0,
              "image_grid: expected images of shape [R, C, H, W] with none of them 0, got shape ",
              images.sizes());
  TORCH_CHECK(images.is_floating_point(), "image_grid: expected floating-point images, got ",
              images.scalar_type());
  TORCH_CHECK(gap >= 0, "image_grid: expected gap >= 0, got ", gap);
  TORCH_CHECK(scale >= 1, "image_grid: expected scale >= 1, got ", scale);
  const at::Tensor grey = images.detach()
                              .to(at::kCPU, at::kFloat)
                              .nan_to_num(0.0)
                              .clamp(0, 1)
                              .mul(255)
                              .round()
                              .to(at::kByte)
                              .repeat_interleave(scale, 2)
                              .repeat_interleave(scale, 3);
  const int64_t rows = grey.size(0), cols = grey.size(1);
  const int64_t height = grey.size(2), width = grey.size(3);
  at::Tensor grid = at::full({rows * height + (rows - 1) * gap, cols * width + (cols - 1) * gap},
                             kWhite, at::kByte);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      grid.narrow(0, r * (height + gap), height)
          .narrow(1, c * (width + gap), width)
          .copy_(grey[r][c]);
    }
  }
  return grid;
}

at::Tensor read_png(const std::filesystem::path& path) {
  const std::string bytes = read_file(path);
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> data(
      stbi_load_from_memory(reinterpret_cast<const stbi_uc*>(bytes.data()),
                            static_cast<int>(bytes.size()), &width, &height, &channels, 1),
      stbi_image_free);
  if (!data) {
    throw InputError(path.string() + ": expected a PNG image: " + stbi_failure_reason());
  }
  at::Tensor image = at::empty({height, width}, at::kByte);
  std::copy_n(data.get(), image.numel(), image.mutable_data_ptr<uint8_t>());
  return image;
}

void write_png(const std::filesystem::path& path, const at::Tensor& image) {
  TORCH_CHECK(image.scalar_type() == at::kByte, "write_png: expected image to be Byte, got ",
              image.scalar_type());
  TORCH_CHECK(image.dim() == 2 || (image.dim() == 3 && image.size(2) == 3),
              "write_png: expected shape [H, W] or [H, W, 3], got ", image.sizes());
  TORCH_CHECK(image.numel() > 0 && image.numel() <= std::numeric_limits<int>::max() / 2,
              "write_png: expected 1 … 2^30 bytes, got shape ", image.sizes());
  const at::Tensor dense = image.cpu().contiguous();
  const int channels = image.dim() == 2 ? 1 : 3;
  const int width = static_cast<int>(image.size(1));

  std::string bytes;
  const auto append = [](void* context, void* data, int size) {
    static_cast<std::string*>(context)->append(static_cast<const char*>(data),
                                               static_cast<size_t>(size));
  };
  const int done =
      stbi_write_png_to_func(append, &bytes, width, static_cast<int>(image.size(0)), channels,
                             dense.const_data_ptr<uint8_t>(), width * channels);
  TORCH_CHECK(done != 0, "write_png: no memory to compress an image of shape ", image.sizes());
  write_file_atomically(path, bytes);
}

}  // namespace sparsum::lab
