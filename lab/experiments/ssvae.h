#pragma once

#include "lab/data/image_data.h"
#include "lab/estimator_options.h"
#include "lab/experiment.h"
#include "lab/experiments/epoch_sums.h"
#include "lab/mlp.h"
#include "lab/shuffled_cycle.h"

#include <ATen/core/Generator.h>
#include <sparsum/assignments.h>
#include <sparsum/categorical.h>
#include <sparsum/estimator.h>
#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace sparsum::lab {

/// The options of the semi-supervised variational auto-encoder.
struct SsvaeConfig final : ExperimentConfig {
  Options options() override;
  void resolve() override;
  void check_estimator() const override;
  EstimatorSettings& estimator_settings() override { return estimator; }
  std::unique_ptr<ExperimentConfig> clone() const override;
  std::string run_name() const override;
  std::unique_ptr<Experiment> make() const override;

  /// The map from scores to probabilities that the estimator uses: models that share it can share a
  /// warm start.
  std::string map() const;
  /// What a checkpoint of such a model must agree in to be loaded.
  std::string signature(int64_t pixels, int64_t classes) const;

  std::string experiment = "ssvae";
  std::string dataset = "mnist";
  std::string split = "auto";
  int64_t split_seed = 0;
  int64_t labelled = 5000, unlabelled = 45000, validation = 10000;
  EstimatorSettings estimator{"sparsemax"};
  int64_t max_evaluations_per_chunk = 0;
  int64_t epochs = 200, warmup_epochs = 100;
  std::string warm_start;
  int64_t steps_per_epoch = 0;  // 0: a pass over the unlabelled images
  int64_t batch_size = 64;
  double learning_rate = 0;  // 0: as published for the estimator
  double warmup_learning_rate = 1e-3;
  double weight_decay = 1e-5;
};

/// The generative model p(z) p(h) p(x|z,h) and its approximate posterior π(z|x) q(h|x,z) (Kingma et
/// al., 2014): z one of `classes`, uniform; h a standard Gaussian; x binary pixels.
class SsvaeModel final : public torch::nn::Module {
 public:
  SsvaeModel(int64_t pixels, int64_t classes, at::Generator generator);

  /// Scores of π(z|x): images [B, pixels] -> [B, classes].
  at::Tensor scores(const at::Tensor& images) const { return classifier_->forward(images); }
  /// What q(h|x,z) reads of x, once per example: [B, pixels] -> [B, hidden].
  at::Tensor features(const at::Tensor& images) const { return encoder_->features(images); }
  /// −log p(x|z,h) + KL(q(h|x,z) ‖ N(0, I)) of n pairs with one draw of h each: [n], in nats.
  at::Tensor loss(const Assignments& z, const at::Tensor& images, const at::Tensor& features,
                  const at::Generator& noise) const;
  /// The same with h's noise given, [B, latents], and shared by all pairs of an image.
  at::Tensor loss(const Assignments& z, const at::Tensor& images, const at::Tensor& features,
                  const at::Tensor& noise) const;
  /// Logits of p(x|z,h): h [n, latents] -> [n, pixels].
  at::Tensor decode(const Assignments& z, const at::Tensor& h) const;
  /// Means, then log σ, of q(h|x,z): [n, 2·latents].
  at::Tensor encode(const Assignments& z, const at::Tensor& features) const;

  static constexpr int64_t kLatents = 8;

 private:
  std::shared_ptr<Mlp> classifier_;
  std::shared_ptr<AssignmentLinear> encoder_, decoder_;  // first layers
  std::shared_ptr<Mlp> encoder_rest_, decoder_rest_;
};

/// Trains it as Correia et al. (2020, §5.1):
///   labelled image   ℓ(x, z*) + log K + the map's own loss of its scores against z*,
///   unlabelled image E_{π(z|x)}[ℓ(x, z)] − H(π(·|x)) + log K, the negative evidence lower bound,
///   objective        mean labelled + (number unlabelled / number labelled) · mean unlabelled,
/// after a warm start on the labelled images alone.
class Ssvae final : public Experiment {
 public:
  /// data: the official files; split: of the training images. Throws InputError (warm start).
  Ssvae(const SsvaeConfig& config, ImageData data, Split split);

  std::string name() const override { return "ssvae"; }
  std::string signature() const override;
  const std::vector<Phase>& phases() const override { return phases_; }
  torch::nn::Module& model() override { return *root_; }
  Estimator& estimator() override { return *estimator_; }

  void begin_phase(const Phase& phase) override;
  void begin_epoch() override { sums_.clear(); }
  at::Tensor step(const Phase& phase) override;
  /// Of unlabelled images, with one draw of h's noise an image.
  Problem fixed_problem(int64_t size, int64_t seed) override;
  std::string describe_batch() const override;

  EpochNumbers epoch_numbers() const override;
  Json epoch_metrics() const override;
  Json evaluate(const std::string& split) override;
  bool better(const Json& candidate, const Json& incumbent) const override;

  void save_state(Checkpoint& checkpoint) const override;
  void load_state(const Checkpoint& checkpoint) override;

  std::vector<Picture> images() override;
  Json description() const override;

 private:
  struct Batch {
    at::Tensor images;  // [m, pixels], binarised, labelled ones first
    at::Tensor labels;  // [labelled]
  };

  double accuracy() const;  // of this epoch's labelled images
  void start_streams(const std::string& phase);
  Batch draw(bool with_unlabelled);
  /// Mean over the labelled images of ℓ(x, z*) (`generative`), log K and the map's own loss.
  at::Tensor labelled_objective(const at::Tensor& generative, const at::Tensor& scores,
                                const at::Tensor& labels);

  SsvaeConfig config_;
  ImageData data_;
  Split split_;
  int64_t classes_, pixels_;
  Categorical structure_;
  at::Device device_;
  std::shared_ptr<SsvaeModel> network_;
  std::shared_ptr<Estimator> estimator_;
  std::shared_ptr<torch::nn::Module> root_;
  std::vector<Phase> phases_;

  // Streams of the current phase: seeded afresh by begin_phase, so that a phase does not depend on
  // how many numbers the one before it drew.
  std::optional<ShuffledCycle> labelled_order_, unlabelled_order_;
  at::Generator pixel_noise_, model_noise_;
  at::Tensor last_batch_;  // indices into the training images
  int64_t last_labelled_ = 0;
  EpochSums sums_{{"labelled", "unlabelled"}, {"correct", "labels"}};
};

}  // namespace sparsum::lab
