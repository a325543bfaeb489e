#include "tests/lab/folder.h"

#include <gtest/gtest.h>
#include <lab/png.h>
#include <torch/torch.h>

#include <cmath>
#include <cstring>

// stb's decoder shares no code with its encoder.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;

at::Tensor decode(const std::filesystem::path& path) {
  int width = 0, height = 0, channels = 0;
  stbi_uc* pixels = stbi_load(path.c_str(), &width, &height, &channels, 0);
  if (pixels == nullptr) {
    ADD_FAILURE() << stbi_failure_reason();
    return {};
  }
  std::vector<int64_t> shape = {height, width};
  if (channels > 1) shape.push_back(channels);
  at::Tensor image = torch::empty(shape, at::kByte);
  std::memcpy(image.data_ptr(), pixels, image.nbytes());
  stbi_image_free(pixels);
  return image;
}

TEST(Png, RoundTripsGreyAndColour) {
  const Folder folder;
  auto generator = at::detail::createCPUGenerator(1);
  const std::vector<std::vector<int64_t>> shapes = {{1, 1},    {1, 7},    {7, 1},       {28, 29},
                                                    {1, 1, 3}, {5, 4, 3}, {300, 200, 3}};
  for (const auto& shape : shapes) {
    const at::Tensor image = at::randint(0, 256, shape, generator, at::TensorOptions(at::kByte));
    write_png(folder / "f.png", image);
    EXPECT_TRUE(at::equal(decode(folder / "f.png"), image)) << image.sizes();
  }
  const at::Tensor strided =
      at::randint(0, 256, {3, 9, 5}, generator, at::TensorOptions(at::kByte)).permute({1, 2, 0});
  write_png(folder / "f.png", strided);
  EXPECT_TRUE(at::equal(decode(folder / "f.png"), strided));
  EXPECT_EQ(folder.size(), 1u);
}

TEST(Png, DrawsNumbersAsLargeAsThereIsRoom) {
  const auto drawn = [](int64_t height, int64_t width, int64_t number) {
    at::Tensor image = at::zeros({height, width});
    draw_number(image, number);
    return image;
  };
  const at::Tensor seventeen = at::tensor({0, 1, 0, 0, 1, 1, 1,  //
                                           1, 1, 0, 0, 0, 0, 1,  //
                                           0, 1, 0, 0, 0, 0, 1,  //
                                           0, 1, 0, 0, 0, 1, 0,  //
                                           1, 1, 1, 0, 0, 1, 0})
                                   .view({5, 7})
                                   .to(at::kFloat);
  EXPECT_TRUE(drawn(5, 7, 17).equal(seventeen));
  // In the middle, and twice as large where that fits.
  at::Tensor framed = at::zeros({7, 9});
  framed.slice(0, 1, 6).slice(1, 1, 8).copy_(seventeen);
  EXPECT_TRUE(drawn(7, 9, 17).equal(framed));
  EXPECT_TRUE(drawn(11, 15, 17)
                  .slice(0, 0, 10)
                  .slice(1, 0, 14)
                  .equal(seventeen.repeat_interleave(2, 0).repeat_interleave(2, 1)));
  at::Tensor with_room = at::zeros({10, 14});
  draw_number(with_room, 17, /*least_digits=*/3);
  EXPECT_EQ(with_room.sum().item<double>(), seventeen.sum().item<double>()) << "not twice as large";
  EXPECT_EQ(drawn(5, 6, 17).sum().item<double>(), 0);  // no room
  for (int64_t digit = 0; digit < 10; ++digit) {
    for (int64_t other = 0; other < digit; ++other) {
      EXPECT_FALSE(drawn(5, 3, digit).equal(drawn(5, 3, other))) << digit << " and " << other;
    }
  }
}

TEST(Png, RefusesWhatIsNoImage) {
  const Folder folder;
  EXPECT_THROW(write_png(folder / "f", torch::ones({2, 2})), c10::Error);
  EXPECT_THROW(write_png(folder / "f", torch::ones({2, 2, 4}, at::kByte)), c10::Error);
  EXPECT_THROW(write_png(folder / "f", torch::ones({4}, at::kByte)), c10::Error);
  EXPECT_THROW(write_png(folder / "f", torch::ones({0, 4}, at::kByte)), c10::Error);
  EXPECT_EQ(folder.size(), 0u);
  const auto missing = folder / "none/f.png";
  EXPECT_EQ(input_error_of([&] {
              write_png(missing, torch::ones({2, 2}, at::kByte));
            }),
            "cannot write " + missing.string() + ": folder " + (folder / "none").string() +
                ": No such file or directory");
}

TEST(ImageGrid, PutsEveryPixelInItsPlace) {
  const int64_t rows = 2, cols = 3, height = 4, width = 5, gap = 3, scale = 2;
  auto generator = at::detail::createCPUGenerator(2);
  const at::Tensor images = at::rand({rows, cols, height, width}, generator);
  const at::Tensor grid = image_grid(images, gap, scale);
  ASSERT_EQ(grid.scalar_type(), at::kByte);
  ASSERT_EQ(grid.sizes(), (std::vector<int64_t>{2 * 8 + 3, 3 * 10 + 2 * 3}));
  const auto source = images.accessor<float, 4>();
  const auto target = grid.accessor<uint8_t, 2>();
  for (int64_t y = 0; y < grid.size(0); ++y) {
    for (int64_t x = 0; x < grid.size(1); ++x) {
      const int64_t r = y / (height * scale + gap), c = x / (width * scale + gap);
      const int64_t i = y % (height * scale + gap) / scale, j = x % (width * scale + gap) / scale;
      const int expected =
          i >= height || j >= width ? 255 : static_cast<int>(std::lround(source[r][c][i][j] * 255));
      EXPECT_EQ(target[y][x], expected) << y << ", " << x;
    }
  }
}

TEST(ImageGrid, ClampsToBlackAndWhite) {
  const float infinity = std::numeric_limits<float>::infinity();
  const at::Tensor image =
      torch::tensor({-1.0f, 0.0f, 0.5f, 1.0f, 2.0f, infinity, -infinity, std::nanf("")});
  const at::Tensor grid = image_grid(image.view({1, 1, 1, 8}), 0, 1);
  EXPECT_TRUE(at::equal(grid, torch::tensor({{0, 0, 128, 255, 255, 255, 0, 0}}, at::kByte)));
}

TEST(ImageGrid, RefusesOtherShapes) {
  EXPECT_THROW(image_grid(torch::ones({2, 2, 2})), c10::Error);
  EXPECT_THROW(image_grid(torch::ones({1, 0, 2, 2})), c10::Error);
  EXPECT_THROW(image_grid(torch::ones({1, 1, 2, 2}, at::kByte)), c10::Error);
  EXPECT_THROW(image_grid(torch::ones({1, 1, 2, 2}), -1, 1), c10::Error);
  EXPECT_THROW(image_grid(torch::ones({1, 1, 2, 2}), 0, 0), c10::Error);
}

}  // namespace
}  // namespace sparsum::lab
