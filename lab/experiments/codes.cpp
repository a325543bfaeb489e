#include "lab/codes.h"

#include "lab/data/idx.h"
#include "lab/data/npy.h"
#include "lab/error.h"
#include "lab/experiments/bitvector.h"
#include "lab/png.h"
#include "lab/run_folder.h"

#include <ATen/ATen.h>

#include <sstream>

namespace sparsum::lab {
namespace {

constexpr int64_t kHeight = BitvectorCodec::kHeight, kWidth = BitvectorCodec::kWidth;

std::string shape_of(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.sizes();
  return text.str();
}

BitvectorCodec load(const CodesRequest& request) {
  const RunFolder folder = RunFolder::of_existing_run(request.run);
  const auto config = read_config(folder.config());
  auto* bitvector = dynamic_cast<BitvectorConfig*>(config.get());
  if (bitvector == nullptr) {
    throw InputError(request.run.string() +
                     ": expected a run of `sparsum train bitvector`, whose codes are bits; this is "
                     "one of another experiment");
  }
  {
    Options options = config->options();
    for (const auto& [name, text] : request.settings) options.set(name, text);
  }
  config->resolve();
  return BitvectorCodec(*bitvector, find_checkpoint(folder, request.checkpoint));
}

/// Images as the codec takes them: uint8 [N, pixels].
at::Tensor read_images(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  at::Tensor images;
  if (extension == ".npy") {
    images = read_npy(path);
  } else if (extension == ".png") {
    images = read_png(path);
  } else {
    images = read_idx(path);
  }
  if (images.scalar_type() != at::kByte) {
    std::ostringstream dtype;
    dtype << images.scalar_type();
    throw InputError(path.string() + ": expected grey levels 0 … 255 as uint8, got " + dtype.str());
  }
  if (images.dim() == 2 && images.size(0) == kHeight && images.size(1) == kWidth) {
    return images.reshape({1, kHeight * kWidth});
  }
  const bool flat = images.dim() == 2 && images.size(1) == kHeight * kWidth;
  const bool square = images.dim() == 3 && images.size(1) == kHeight && images.size(2) == kWidth;
  if (!flat && !square) {
    throw InputError(path.string() + ": expected images of 28×28 pixels, [N, 28, 28], got " +
                     shape_of(images));
  }
  return images.reshape({-1, kHeight * kWidth});
}

at::Tensor read_codes(const std::filesystem::path& path, int64_t bits) {
  at::Tensor codes = read_npy(path);
  if (codes.dim() == 1) codes = codes.unsqueeze(0);
  if (codes.dim() != 2 || codes.size(1) != bits) {
    throw InputError(path.string() + ": expected codes of " + std::to_string(bits) + " bits, [N, " +
                     std::to_string(bits) + "], got " + shape_of(codes));
  }
  const at::Tensor wrong = codes.ne(0).logical_and(codes.ne(1)).nonzero();
  if (wrong.size(0) > 0) {
    const auto row = wrong[0][0].item<int64_t>(), column = wrong[0][1].item<int64_t>();
    throw InputError(path.string() + ": expected codes of 0 and 1, got " +
                     number_text(codes[row][column].item<double>()) + " in row " +
                     std::to_string(row) + ", column " + std::to_string(column));
  }
  return codes.to(at::kByte);
}

void require_extension(const char* what, const std::filesystem::path& path,
                       std::initializer_list<const char*> known) {
  std::string list;
  for (const char* extension : known) {
    if (path.extension() == extension) return;
    list += (list.empty() ? "" : " or ") + std::string(extension);
  }
  throw InputError(std::string(what) + ": expected a file name that ends in " + list + ", got '" +
                   path.string() + "'");
}

}  // namespace

Json encode_images(const CodesRequest& request) {
  require_extension("the codes", request.output, {".npy"});
  if (!request.support.empty()) require_extension("the support", request.support, {".npz"});
  BitvectorCodec codec = load(request);
  const at::Tensor images = read_images(request.input);
  const at::Tensor modes = codec.encode(images);
  Json result{
      {"images", images.size(0)}, {"bits", codec.bits()}, {"output", request.output.string()}};
  // Everything is worked out before anything is written.
  std::vector<at::Tensor> codes, probs, splits = {at::zeros({1}, at::kLong)};
  if (!request.support.empty()) {
    for (const at::Tensor& batch : images.split(100)) {
      if (batch.size(0) == 0) break;
      try {
        const SparseDistribution q = codec.posterior(batch);
        codes.push_back(q.support().values(at::kByte).cpu());
        probs.push_back(q.probs().to(at::kCPU, at::kFloat));
        splits.push_back(q.support().row_splits.slice(0, 1).cpu() + splits.back()[-1]);
      } catch (const c10::Error& error) {
        throw InputError("option --support: the run's q(z|x) lists no support: " +
                         std::string(error.what_without_backtrace()));
      }
    }
    if (codes.empty()) {
      codes = {at::empty({0, codec.bits()}, at::kByte)};
      probs = {at::empty({0})};
    }
  }
  write_npy(request.output, modes);
  if (request.support.empty()) return result;
  write_npz(
      request.support,
      {{"codes", at::cat(codes)}, {"probs", at::cat(probs)}, {"row_splits", at::cat(splits)}});
  result["support"] = request.support.string();
  result["configurations"] = splits.back()[-1].item<int64_t>();
  return result;
}

Json decode_codes(const CodesRequest& request) {
  require_extension("the images", request.output, {".png", ".npy"});
  BitvectorCodec codec = load(request);
  const at::Tensor codes = read_codes(request.input, codec.bits());
  const at::Tensor images = codec.decode(codes).view({-1, kHeight, kWidth});
  if (request.output.extension() == ".npy") {
    write_npy(request.output, images.clamp(0, 1).mul(255).round().to(at::kByte));
  } else {
    if (images.size(0) == 0) {
      throw InputError(request.input.string() + ": expected at least one code to draw, got none");
    }
    constexpr int64_t kColumns = 10;
    const int64_t columns = std::min(kColumns, images.size(0));
    const int64_t rows = (images.size(0) + columns - 1) / columns;
    at::Tensor grid = at::zeros({rows * columns, kHeight, kWidth});
    grid.slice(0, 0, images.size(0)).copy_(images);
    write_png(request.output, image_grid(grid.view({rows, columns, kHeight, kWidth})));
  }
  return {{"images", images.size(0)}, {"bits", codec.bits()}, {"output", request.output.string()}};
}

}  // namespace sparsum::lab
