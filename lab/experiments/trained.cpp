#include "lab/experiments/trained.h"

#include "lab/error.h"
#include "lab/experiments/bitvector.h"
#include "lab/experiments/signal.h"
#include "lab/experiments/ssvae.h"
#include "lab/metrics.h"
#include "lab/random.h"
#include "lab/run_folder.h"
#include "lab/safetensors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

namespace sparsum::lab {
namespace {

constexpr int64_t kHeight = 28, kWidth = 28, kPixels = kHeight * kWidth, kClasses = 10;
constexpr int64_t kBatch = 100;

/// [N, 28, 28], [28, 28] or [N, 784] as [N, 784].
at::Tensor flat_pixels(const char* caller, const at::Tensor& images) {
  const bool one = images.dim() == 2 && images.size(0) == kHeight && images.size(1) == kWidth;
  const bool flat = images.dim() == 2 && images.size(1) == kPixels;
  const bool square = images.dim() == 3 && images.size(1) == kHeight && images.size(2) == kWidth;
  TORCH_CHECK_VALUE(one || flat || square, caller,
                    ": expected images of 28 x 28 pixels, [N, 28, 28], got ", images.sizes());
  return images.reshape({-1, kPixels});
}

/// Integers [n] from 0 to count − 1.
at::Tensor outcomes(const char* caller, const char* what, const at::Tensor& values, int64_t count) {
  TORCH_CHECK_VALUE(values.dim() == 1 && at::isIntegralType(values.scalar_type(), false), caller,
                    ": expected ", what, " to be integers [N], got ", values.scalar_type(), " ",
                    values.sizes());
  const at::Tensor integers = values.to(at::kLong);
  if (integers.numel() > 0) {
    const auto low = integers.min().item<int64_t>(), high = integers.max().item<int64_t>();
    TORCH_CHECK_VALUE(low >= 0 && high < count, caller, ": expected ", what, " from 0 to ",
                      count - 1, ", got ", low < 0 ? low : high);
  }
  return integers;
}

/// Distributions of batches of images as one.
SparseDistribution join(const std::vector<SparseDistribution>& parts) {
  if (parts.size() == 1) return parts.front();
  std::vector<at::Tensor> rows, splits, indices, indicators, probs, exact;
  int64_t examples = 0, pairs = 0;
  for (const SparseDistribution& q : parts) {
    const Assignments& z = q.support();
    rows.push_back(z.rows + examples);
    splits.push_back(z.row_splits.slice(0, splits.empty() ? 0 : 1) + pairs);
    if (z.indices.defined()) {
      indices.push_back(z.indices);
    } else {
      indicators.push_back(z.values(at::kByte));
    }
    probs.push_back(q.probs());
    if (q.exact().defined()) exact.push_back(q.exact());
    examples += z.batch_size();
    pairs += z.count();
  }
  Assignments z;
  z.rows = at::cat(rows);
  z.row_splits = at::cat(splits);
  z.parts = parts.front().support().parts;
  if (indices.size() == parts.size()) z.indices = at::cat(indices);
  if (indicators.size() == parts.size()) z.indicators = at::cat(indicators);
  z.full_grid = std::all_of(parts.begin(), parts.end(),
                            [](const SparseDistribution& q) { return q.support().full_grid; });
  return {z, at::cat(probs), exact.size() == parts.size() ? at::cat(exact) : at::Tensor()};
}

/// What an estimator takes scores of images to mean, batch by batch.
template <typename Scores>
Encoded encode_batches(const at::Tensor& images, const Estimator& estimator,
                       const Structure& structure, int64_t limit, const Scores& scores_of) {
  const auto size = structure.size();
  std::vector<at::Tensor> scores, modes;
  std::vector<SparseDistribution> parts;
  bool listed = true;
  for (const at::Tensor& batch : images.split(kBatch)) {
    scores.push_back(scores_of(batch));
    const auto q = estimator.distribution(structure, scores.back());
    const Assignments mode = q->mode();
    modes.push_back(mode.indices.defined() ? mode.indices : mode.values(at::kByte));
    const auto* sparse = dynamic_cast<const SparseDistribution*>(q.get());
    listed = listed && (sparse != nullptr || (size && *size <= limit));
    if (listed) parts.push_back(sparse != nullptr ? *sparse : q->enumerate(limit));
  }
  Encoded encoded{at::cat(scores), std::nullopt, at::cat(modes)};
  if (listed) encoded.distribution = join(parts);
  return encoded;
}

class BitvectorOfRun final : public TrainedBitvector {
 public:
  BitvectorOfRun(const BitvectorConfig& config, const std::filesystem::path& checkpoint)
      : codec_(config, checkpoint), limit_(config.estimator.options.max_outcomes) {}

  std::string name() const override { return "bitvector"; }
  torch::nn::Module& module() override { return codec_.module(); }
  const Structure& structure() const override { return codec_.structure(); }

  Encoded encode(const at::Tensor& images) override {
    TORCH_CHECK_TYPE(images.scalar_type() == at::kByte,
                     "encode: expected grey levels 0 ... 255 as uint8, got ", images.scalar_type());
    const at::NoGradGuard no_grad;
    codec_.module().eval();
    return encode_batches(
        flat_pixels("encode", images), codec_.estimator(), codec_.structure(), limit_,
        [&](const at::Tensor& batch) { return codec_.scores(codec_.grey(batch)); });
  }

  at::Tensor decode(const at::Tensor& given) override {
    const at::Tensor codes = given.dim() == 1 ? given.unsqueeze(0) : given;
    const int64_t bits = codec_.bits();
    TORCH_CHECK_VALUE(codes.dim() == 2 && codes.size(1) == bits, "decode: expected codes of ", bits,
                      " bits, [N, ", bits, "], got ", given.sizes());
    const at::Tensor wrong = codes.ne(0).logical_and(codes.ne(1)).nonzero();
    if (wrong.size(0) > 0) {
      const auto row = wrong[0][0].item<int64_t>(), column = wrong[0][1].item<int64_t>();
      TORCH_CHECK_VALUE(false, "decode: expected codes of 0 and 1, got ",
                        codes[row][column].item<double>(), " in row ", row, ", column ", column);
    }
    return codec_.decode(codes.to(at::kByte)).view({-1, kHeight, kWidth});
  }

 private:
  BitvectorCodec codec_;
  int64_t limit_;
};

class SsvaeOfRun final : public TrainedSsvae {
 public:
  SsvaeOfRun(const SsvaeConfig& config, const std::filesystem::path& checkpoint)
      : structure_(kClasses),
        device_(config.run.device),
        network_(std::make_shared<SsvaeModel>(kPixels, kClasses,
                                              make_generator(config.run.seed, "init"))),
        estimator_(make_estimator(config.estimator, structure_, kPixels, config.run.seed)),
        root_(std::make_shared<torch::nn::Module>("ssvae")) {
    root_->register_module("network", network_);
    root_->register_module("estimator", estimator_);
    Checkpoint::read(checkpoint, config.experiment, config.signature(kPixels, kClasses))
        .load_module("model/", *root_);
    root_->to(device_);
    root_->eval();
  }

  std::string name() const override { return "ssvae"; }
  torch::nn::Module& module() override { return *root_; }
  const Structure& structure() const override { return structure_; }

  Encoded encode(const at::Tensor& images) override {
    const at::NoGradGuard no_grad;
    return encode_batches(pixels("encode", images), *estimator_, structure_, kClasses,
                          [&](const at::Tensor& batch) {
                            const at::Tensor scores = network_->scores(batch);
                            require_finite("the scores of the classifier", scores);
                            return scores;
                          });
  }

  int64_t latents_size() const override { return SsvaeModel::kLatents; }

  std::pair<at::Tensor, at::Tensor> latents(const at::Tensor& images,
                                            const at::Tensor& classes) override {
    const at::NoGradGuard no_grad;
    const at::Tensor x = pixels("latents", images);
    const at::Tensor known = outcomes("latents", "classes", classes, kClasses);
    TORCH_CHECK_VALUE(known.size(0) == x.size(0), "latents: expected a class an image, ", x.size(0),
                      ", got ", known.size(0));
    const auto parts =
        network_->encode(one_per_example(known.to(device_), kClasses), network_->features(x))
            .chunk(2, 1);
    return {parts[0], parts[1].exp()};
  }

  at::Tensor decode(const at::Tensor& classes, const at::Tensor& latents) override {
    const at::NoGradGuard no_grad;
    const at::Tensor known = outcomes("decode", "classes", classes, kClasses);
    TORCH_CHECK_VALUE(latents.sizes() == at::IntArrayRef({known.size(0), SsvaeModel::kLatents}) &&
                          at::isFloatingType(latents.scalar_type()),
                      "decode: expected latents to be floating point, [", known.size(0), ", ",
                      SsvaeModel::kLatents, "], got ", latents.scalar_type(), " ", latents.sizes());
    return network_
        ->decode(one_per_example(known.to(device_), kClasses), latents.to(device_, at::kFloat))
        .sigmoid()
        .view({-1, kHeight, kWidth});
  }

 private:
  at::Tensor pixels(const char* caller, const at::Tensor& images) const {
    const auto dtype = images.scalar_type();
    TORCH_CHECK_TYPE(dtype == at::kByte || dtype == at::kBool || at::isFloatingType(dtype), caller,
                     ": expected grey levels 0 ... 255 as uint8, or pixels in [0, 1] as bool or "
                     "floating point, got ",
                     dtype);
    const at::Tensor x = flat_pixels(caller, images).to(device_, at::kFloat);
    if (dtype == at::kByte) return x / 255;
    const at::Tensor wrong = x.ge(0).logical_and(x.le(1)).logical_not().nonzero();
    if (wrong.size(0) > 0) {
      const auto row = wrong[0][0].item<int64_t>(), column = wrong[0][1].item<int64_t>();
      TORCH_CHECK_VALUE(false, caller, ": expected pixels in [0, 1], got ",
                        x[row][column].item<double>(), " in image ", row);
    }
    return x;
  }

  Categorical structure_;
  at::Device device_;
  std::shared_ptr<SsvaeModel> network_;
  std::shared_ptr<Estimator> estimator_;
  std::shared_ptr<torch::nn::Module> root_;
};

class SignalOfRun final : public TrainedSignal {
 public:
  /// width: of an image's features.
  SignalOfRun(const SignalConfig& config, const std::filesystem::path& checkpoint, int64_t width)
      : width_(width),
        structure_(config.symbols),
        device_(config.run.device),
        network_(std::make_shared<SignalModel>(width, config.symbols, config.embedding,
                                               config.hidden,
                                               make_generator(config.run.seed, "init"))),
        estimator_(make_estimator(config.estimator, structure_, width, config.run.seed)),
        root_(std::make_shared<torch::nn::Module>("signal")) {
    root_->register_module("network", network_);
    root_->register_module("estimator", estimator_);
    Checkpoint::read(checkpoint, config.experiment, config.signature(width))
        .load_module("model/", *root_);
    root_->to(device_);
    root_->eval();
  }

  std::string name() const override { return "signal"; }
  torch::nn::Module& module() override { return *root_; }
  const Structure& structure() const override { return structure_; }

  Encoded encode(const at::Tensor& images) override {
    const at::NoGradGuard no_grad;
    return encode_batches(features("encode", "images", images), *estimator_, structure_,
                          structure_.parts(), [&](const at::Tensor& batch) {
                            const at::Tensor scores = network_->scores(batch);
                            require_finite("the scores of the sender", scores);
                            return scores;
                          });
  }

  at::Tensor receive(const at::Tensor& given, const at::Tensor& candidates) override {
    const at::NoGradGuard no_grad;
    const at::Tensor symbols = outcomes("receive", "symbols", given, structure_.parts());
    TORCH_CHECK_VALUE(candidates.dim() >= 3 && candidates.size(0) == symbols.size(0),
                      "receive: expected candidates [", symbols.size(0), ", C, ", width_, "], for ",
                      symbols.size(0), " symbols, got ", candidates.sizes());
    const int64_t games = candidates.size(0), count = candidates.size(1);
    const at::Tensor rows = features("receive", "candidates", candidates.flatten(0, 1));
    const at::Tensor embedded = network_->receive(rows).view({games, count, -1});
    return network_->log_choice(one_per_example(symbols.to(device_), structure_.parts()), embedded)
        .exp();
  }

 private:
  /// Rows of unit norm.
  at::Tensor features(const char* caller, const char* what, const at::Tensor& images) const {
    const auto dtype = images.scalar_type();
    TORCH_CHECK_TYPE(dtype == at::kByte || at::isFloatingType(dtype), caller, ": expected ", what,
                     " to be uint8 or floating point, got ", dtype);
    const bool one = images.dim() == 2 && images.size(0) == kHeight && images.size(1) == kWidth &&
                     width_ == kPixels;
    const at::Tensor rows = one ? images.reshape({1, kPixels}) : images.flatten(1);
    TORCH_CHECK_VALUE(rows.dim() == 2 && rows.size(1) == width_, caller, ": expected ", what,
                      " of ", width_, " features, got ", images.sizes());
    const at::Tensor x = rows.to(device_, at::kFloat);
    const at::Tensor norm = x.norm(2, {1}, /*keepdim=*/true);
    const at::Tensor wrong = norm.gt(0).logical_and(norm.isfinite()).logical_not().nonzero();
    if (wrong.size(0) > 0) {
      const auto row = wrong[0][0].item<int64_t>();
      TORCH_CHECK_VALUE(false, caller, ": expected ", what,
                        " to be finite and not all zero, got norm ", norm[row][0].item<double>(),
                        " in row ", row);
    }
    return x / norm;
  }

  int64_t width_;
  Categorical structure_;
  at::Device device_;
  std::shared_ptr<SignalModel> network_;
  std::shared_ptr<Estimator> estimator_;
  std::shared_ptr<torch::nn::Module> root_;
};

}  // namespace

std::unique_ptr<TrainedModel> TrainedModel::load(const std::filesystem::path& run,
                                                 const std::string& checkpoint_name,
                                                 const Settings& settings) {
  const RunFolder folder = RunFolder::of_existing_run(run);
  auto config = read_config(folder.config());
  {
    Options options = config->options();
    for (const auto& [name, text] : settings) options.set(name, text);
  }
  config->resolve();
  const std::filesystem::path checkpoint = find_checkpoint(folder, checkpoint_name);
  std::unique_ptr<TrainedModel> model;
  if (const auto* bitvector = dynamic_cast<const BitvectorConfig*>(config.get())) {
    model = std::make_unique<BitvectorOfRun>(*bitvector, checkpoint);
  } else if (const auto* ssvae = dynamic_cast<const SsvaeConfig*>(config.get())) {
    SsvaeConfig without_start = *ssvae;  // the checkpoint has all that a warm start gave
    without_start.warm_start.clear();
    model = std::make_unique<SsvaeOfRun>(without_start, checkpoint);
  } else {
    const TensorFile file = read_safetensors(checkpoint);
    const auto sender = file.tensors.find("model/network.sender");
    const bool known = sender != file.tensors.end() && sender->second.dim() == 2;
    model = std::make_unique<SignalOfRun>(dynamic_cast<const SignalConfig&>(*config), checkpoint,
                                          known ? sender->second.size(1) : kPixels);
  }
  model->config_ = std::move(config);
  model->checkpoint_ = checkpoint;
  return model;
}

}  // namespace sparsum::lab
