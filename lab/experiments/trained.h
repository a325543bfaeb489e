#pragma once

#include "lab/experiment.h"
#include "lab/run.h"

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <sparsum/sparse_distribution.h>
#include <sparsum/structure.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace sparsum::lab {

/// What a trained model's encoder says of N images, without history.
struct Encoded {
  at::Tensor scores;  ///< [N, V], of the structure's parts
  /// q(z|x), listed; nothing where q has more outcomes than can be listed: it is then the Gibbs
  /// distribution of the scores.
  std::optional<SparseDistribution> distribution;
  /// The most probable outcome: [N] int64, or [N, D] uint8 where outcomes are bits.
  at::Tensor mode;
};

/// A run's model, read from one of its checkpoints, for use without the data it was trained on. All
/// functions are deterministic, in evaluation mode and without gradient, and may be called from one
/// thread at a time. They throw c10::Error, naming the argument, what was expected and what was
/// found, for tensors of another shape or dtype, and NonFiniteError.
class TrainedModel {
 public:
  virtual ~TrainedModel() = default;

  /// checkpoint, settings: as load_run. Throws InputError.
  static std::unique_ptr<TrainedModel> load(const std::filesystem::path& run,
                                            const std::string& checkpoint,
                                            const Settings& settings);

  ExperimentConfig& config() { return *config_; }
  const std::filesystem::path& checkpoint() const { return checkpoint_; }
  virtual std::string name() const = 0;  ///< of the experiment
  virtual torch::nn::Module& module() = 0;
  /// The latent variable's set.
  virtual const Structure& structure() const = 0;

  /// images: as each model says.
  virtual Encoded encode(const at::Tensor& images) = 0;

 protected:
  std::unique_ptr<ExperimentConfig> config_;  // resolved
  std::filesystem::path checkpoint_;
};

/// bitvector: images [N, 28, 28], [28, 28] or [N, 784] uint8, grey levels.
class TrainedBitvector : public TrainedModel {
 public:
  /// E[x|z] of codes [N, D] or [D] of 0 and 1, of any dtype: [N, 28, 28] float32 in [0, 1].
  virtual at::Tensor decode(const at::Tensor& codes) = 0;
};

/// ssvae: images [N, 28, 28], [28, 28] or [N, 784]: uint8 grey levels, read as the probabilities
/// that the pixels are on, or such probabilities (or binary pixels) in [0, 1], floating or bool.
class TrainedSsvae : public TrainedModel {
 public:
  /// The length of h.
  virtual int64_t latents_size() const = 0;
  /// Mean and standard deviation of q(h|x,z), [N, 8] each, for classes [N] int64.
  virtual std::pair<at::Tensor, at::Tensor> latents(const at::Tensor& images,
                                                    const at::Tensor& classes) = 0;
  /// E[x|z,h] for classes [N] int64 and latents [N, 8]: [N, 28, 28] float32 in [0, 1].
  virtual at::Tensor decode(const at::Tensor& classes, const at::Tensor& latents) = 0;
};

/// signal: images [N, F] floating (or [N, 28, 28], [28, 28] or [N, 784] uint8 for a model of
/// pixels), no row all zero; each is divided by its L2 norm.
class TrainedSignal : public TrainedModel {
 public:
  /// The receiver's p(candidate | symbol): symbols [B] int64, candidates [B, C, F] (or [B, C, 28,
  /// 28]) as images above: [B, C] float32.
  virtual at::Tensor receive(const at::Tensor& symbols, const at::Tensor& candidates) = 0;
};

}  // namespace sparsum::lab
