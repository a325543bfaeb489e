#pragma once

#include "lab/data/image_data.h"
#include "lab/estimator_options.h"
#include "lab/experiment.h"
#include "lab/experiments/epoch_sums.h"
#include "lab/mlp.h"
#include "lab/shuffled_cycle.h"

#include <ATen/core/Generator.h>
#include <sparsum/assignments.h>
#include <sparsum/bits.h>
#include <sparsum/estimator.h>
#include <sparsum/sparse_distribution.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace sparsum::lab {

/// The options of the bit-vector variational auto-encoder.
struct BitvectorConfig final : ExperimentConfig {
  BitvectorConfig();
  Options options() override;
  void resolve() override;
  void check_estimator() const override;
  EstimatorSettings& estimator_settings() override { return estimator; }
  /// The budget, where the structure has one.
  std::vector<std::string> also_read() const override;
  std::unique_ptr<ExperimentConfig> clone() const override;
  std::string run_name() const override;
  std::unique_ptr<Experiment> make() const override;

  /// The latent variable's set.
  std::unique_ptr<Bits> make_structure() const;

  std::string experiment = "bitvector";
  std::string dataset = "fashion-mnist";
  int64_t split_seed = 0;
  int64_t validation = 5000;
  EstimatorSettings estimator{"top-k"};
  int64_t bits = 32;
  std::string structure = "bits";
  int64_t budget = -1;  // −1: half of the bits
  int64_t max_evaluations_per_chunk = 0;
  int64_t epochs = 100;
  int64_t steps_per_epoch = 0;  // 0: a pass over the training images
  int64_t batch_size = 0;       // 0: as published for the estimator
  double learning_rate = 0;     // 0: as published for the estimator
  double weight_decay = 0;
  int64_t importance_samples = 1024;
  int64_t importance_images = 0;  // 0: all
};

/// The generative model p(z) p(x|z), z a vector of D bits, uniform, x grey levels, and the scores
/// of the approximate posterior q(z|x).
class BitvectorModel final : public torch::nn::Module {
 public:
  static constexpr int64_t kHidden = 128;
  static constexpr int64_t kFeatures = 5;  // numbers a pixel that the last layer reads
  static constexpr int64_t kLevels = 256;

  BitvectorModel(int64_t pixels, int64_t bits, at::Generator generator);

  /// Scores of q(z|x): grey levels [B, pixels] in [0, 1] -> [B, bits].
  at::Tensor scores(const at::Tensor& images) const { return encoder_->forward(images); }
  /// −log p(x|z) of n pairs, in nats: levels [B, pixels] integers in 0 … 255 -> [n].
  at::Tensor nll(const Assignments& z, const at::Tensor& levels) const;
  /// E[x|z] in [0, 1]: [n, pixels]. No gradient.
  at::Tensor mean_image(const Assignments& z) const;

 private:
  at::Tensor pixel_features(const Assignments& z) const;  // [n, pixels, kFeatures]

  int64_t pixels_;
  std::shared_ptr<Mlp> encoder_;
  std::shared_ptr<AssignmentEmbedding> code_;
  std::shared_ptr<Linear> pixel_features_, levels_;
};

/// The model with its latent variable's set and its estimator: what a trained run is used with,
/// without any data.
class BitvectorCodec {
 public:
  static constexpr int64_t kHeight = 28, kWidth = 28, kPixels = kHeight * kWidth;

  /// Freshly initialised. Throws InputError: options that contradict each other.
  explicit BitvectorCodec(const BitvectorConfig& config);
  /// The trained model of a checkpoint. Throws InputError.
  BitvectorCodec(const BitvectorConfig& config, const std::filesystem::path& checkpoint);

  /// What a checkpoint must agree in to be loaded.
  std::string signature() const;
  const Bits& structure() const { return *structure_; }
  int64_t bits() const { return structure_->parts(); }
  torch::nn::Module& module() { return *root_; }
  const BitvectorModel& network() const { return *network_; }
  Estimator& estimator() { return *estimator_; }

  /// What the encoder reads of grey levels [B, pixels], integers in 0 … 255: floats in [0, 1].
  at::Tensor grey(const at::Tensor& levels) const;
  /// Scores of q(z|x) for grey(levels). Throws NonFiniteError.
  at::Tensor scores(const at::Tensor& grey) const;

  // In evaluation mode and without gradient; results on the CPU.
  /// The outcomes q(z|x) supports, with their probabilities, of a few images.
  SparseDistribution posterior(const at::Tensor& levels);
  /// The outcomes of q if it lists them, or is the estimator's to list: nothing where q is known by
  /// its draws and probabilities alone.
  std::optional<SparseDistribution> listed(const Distribution& q) const;
  /// The most probable outcome of each image: [B, D] uint8.
  at::Tensor encode(const at::Tensor& levels);
  /// E[x|z] for codes [n, D] of 0 and 1: [n, pixels] in [0, 1].
  at::Tensor decode(const at::Tensor& codes);

 private:
  EstimatorSettings settings_;
  std::unique_ptr<Bits> structure_;
  at::Device device_;
  std::shared_ptr<BitvectorModel> network_;
  std::shared_ptr<Estimator> estimator_;
  std::shared_ptr<torch::nn::Module> root_;
};

/// Trains it as Correia et al. (2020, §5.3): the negative evidence lower bound
///   E_{q(z|x)}[−log p(x|z)] − H(q) + D log 2,
/// the expectation by any estimator.
class Bitvector final : public Experiment {
 public:
  /// data: the official files. train, validation: indices into the training images.
  Bitvector(const BitvectorConfig& config, ImageData data, at::Tensor train, at::Tensor validation);

  std::string name() const override { return "bitvector"; }
  std::string signature() const override { return codec_.signature(); }
  const std::vector<Phase>& phases() const override { return phases_; }
  torch::nn::Module& model() override { return codec_.module(); }
  Estimator& estimator() override { return codec_.estimator(); }

  void begin_phase(const Phase& phase) override;
  void begin_epoch() override { sums_.clear(); }
  at::Tensor step(const Phase& phase) override;
  Problem fixed_problem(int64_t size, int64_t seed) override;
  std::string describe_batch() const override;

  EpochNumbers epoch_numbers() const override;
  Json epoch_metrics() const override;
  /// With "test" also the negative log-likelihood by importance sampling.
  Json evaluate(const std::string& split) override;
  bool better(const Json& candidate, const Json& incumbent) const override;

  void save_state(Checkpoint& checkpoint) const override;
  void load_state(const Checkpoint& checkpoint) override;

  std::vector<Picture> images() override;
  Json description() const override;

 private:
  void start_streams(const std::string& phase);
  Problem problem_of(const at::Tensor& indices);  // of training images
  at::Tensor levels_of(const at::Tensor& indices, bool test) const;
  Json negative_log_likelihood(const at::Tensor& indices, bool test);

  BitvectorConfig config_;
  ImageData data_;
  at::Tensor train_, validation_;
  BitvectorCodec codec_;
  at::Device device_;
  std::vector<Phase> phases_;

  std::optional<ShuffledCycle> order_;
  at::Generator model_noise_;
  at::Tensor last_batch_;  // indices into the training images
  EpochSums sums_{{"distortion", "entropy"}};
};

}  // namespace sparsum::lab
