#include "lab/png.h"

#include "lab/error.h"
#include "lab/files.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <array>
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

/// The ten digits, 3 × 5: a row in three bits, the top one first.
constexpr std::array<std::array<uint8_t, 5>, 10> kDigits = {{{7, 5, 5, 5, 7},
                                                             {2, 6, 2, 2, 7},
                                                             {7, 1, 7, 4, 7},
                                                             {7, 1, 7, 1, 7},
                                                             {5, 5, 7, 1, 1},
                                                             {7, 4, 7, 1, 7},
                                                             {7, 4, 7, 5, 7},
                                                             {7, 1, 1, 2, 2},
                                                             {7, 5, 7, 5, 7},
                                                             {7, 5, 7, 1, 7}}};
constexpr int64_t kDigitHeight = 5, kDigitWidth = 3, kDigitStep = 4;

}  // namespace

void draw_number(const at::Tensor& image, int64_t number, int64_t least_digits) {
  TORCH_CHECK(image.dim() == 2 && image.is_floating_point(),
              "draw_number: expected an image [H, W], floating point, got ", image.scalar_type(),
              " of shape ", image.sizes());
  TORCH_CHECK(number >= 0, "draw_number: expected a number >= 0, got ", number);
  const std::string digits = std::to_string(number);
  const int64_t length = kDigitStep * static_cast<int64_t>(digits.size()) - 1;
  const int64_t room = std::max(length, kDigitStep * least_digits - 1);
  const int64_t scale = std::min(image.size(0) / kDigitHeight, image.size(1) / room);
  if (scale < 1) return;
  const int64_t top = (image.size(0) - scale * kDigitHeight) / 2;
  int64_t left = (image.size(1) - scale * length) / 2;
  for (const char digit : digits) {
    const auto& glyph = kDigits[static_cast<size_t>(digit - '0')];
    for (int64_t y = 0; y < kDigitHeight; ++y) {
      for (int64_t x = 0; x < kDigitWidth; ++x) {
        if ((glyph[static_cast<size_t>(y)] >> (kDigitWidth - 1 - x) & 1) == 0) continue;
        image.slice(0, top + y * scale, top + (y + 1) * scale)
            .slice(1, left + x * scale, left + (x + 1) * scale)
            .fill_(1);
      }
    }
    left += scale * kDigitStep;
  }
}

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
