#pragma once

#include "lab/checkpoint.h"
#include "lab/estimator_options.h"
#include "lab/options.h"

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>
#include <torch/nn/module.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace sparsum::lab {

/// Keys in the order in which they were set: what is written is deterministic and reads well.
using Json = nlohmann::ordered_json;

/// A quantity that training cannot go on with became NaN or infinite. what() names it and its
/// value.
class NonFiniteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A stretch of training with its own optimiser.
struct Phase {
  std::string name;  ///< as in metrics.jsonl, and of its checkpoint: "warmup", "train"
  int64_t epochs = 0;
  int64_t steps = 0;  ///< per epoch
  double learning_rate = 1e-3;
  double weight_decay = 0;
  // Of the estimator's own parameters, those of model() called "estimator.…".
  double estimator_learning_rate = 1e-3;
  double estimator_weight_decay = 0;
  /// Whether both learning rates fall to 0 over the phase as half a cosine, 1 + cos(π·step/steps).
  bool cosine = false;
};

/// An image that a run leaves in its folder.
struct Picture {
  std::string name;        ///< its file's, without ".png"
  at::Tensor image;        ///< uint8, as write_png takes it
  Json numbers = nullptr;  ///< what it shows, written beside it as NAME.json; null: nothing
};

/// Running numbers of the current epoch, for a progress bar.
struct EpochNumbers {
  double objective = 0;            ///< mean so far
  std::optional<double> accuracy;  ///< share so far, in [0, 1], where there is one
  double evaluations = 0;  ///< mean loss evaluations per example so far; 0 where none were counted
};

/// A model with its data and its objective: what the training loop needs to know of an experiment.
/// Everything that a step or an epoch changes is in model() or goes through save_state().
class Experiment {
 public:
  virtual ~Experiment() = default;

  virtual std::string name() const = 0;
  /// What a checkpoint must agree in to be loaded: the model's shape and the map.
  virtual std::string signature() const = 0;
  /// In order; the last one is the one whose best epoch is kept. Each but the last leaves a
  /// checkpoint of its name.
  virtual const std::vector<Phase>& phases() const = 0;
  /// All parameters and buffers, the estimator's included.
  virtual torch::nn::Module& model() = 0;
  /// The estimator in model().
  virtual Estimator& estimator() = 0;

  /// Called once before a phase's first step: starts its data order and its random streams.
  virtual void begin_phase(const Phase& phase) = 0;
  /// Forgets the numbers of the epoch before.
  virtual void begin_epoch() = 0;
  /// Draws the next batch and returns its objective, a scalar to call backward() on. Throws
  /// NonFiniteError.
  virtual at::Tensor step(const Phase& phase) = 0;
  /// What the estimator is asked of `size` training examples that `seed` chooses, made to look at
  /// gradients: the scores without history, and a loss that is a function of z and the model's
  /// parameters alone, because what else it would draw is drawn once and kept. Refers to this
  /// object and its model as it is; backward() may be called any number of times with the graph
  /// retained. Throws InputError (fewer examples than that) and NonFiniteError.
  virtual Problem fixed_problem(int64_t size, int64_t seed) = 0;
  /// The images that the last step used, in words, for the message that training stopped on them.
  virtual std::string describe_batch() const = 0;

  virtual EpochNumbers epoch_numbers() const = 0;
  /// "train" of this epoch's row in metrics.jsonl.
  virtual Json epoch_metrics() const = 0;
  /// Metrics on "validation" or "test", the same numbers for the same model. Throws NonFiniteError.
  virtual Json evaluate(const std::string& split) = 0;
  /// Whether one validation result is better than another, for the best checkpoint.
  virtual bool better(const Json& candidate, const Json& incumbent) const = 0;

  /// Random streams, data order, the epoch's sums: all that is not in model().
  virtual void save_state(Checkpoint& checkpoint) const = 0;
  virtual void load_state(const Checkpoint& checkpoint) = 0;

  /// What to look at of the current model.
  virtual std::vector<Picture> images() = 0;

  /// The head of summary.json: data set, estimator, seed and so on.
  virtual Json description() const = 0;
};

/// Options that every experiment has.
struct RunConfig {
  std::string data;  ///< root folder of the data sets, "" for data_root's choice
  int64_t seed = 0;
  int64_t threads = 0;  ///< 0: LibTorch's choice, filled in by resolve()
  std::string device = "cpu";
  int64_t checkpoint_every = 0;  ///< steps; 0: at the end of each epoch only
  std::string lr_schedule = "constant";

  bool cosine() const { return lr_schedule == "cosine"; }
  void declare(Options& options);
  /// Fills in `threads`, sets LibTorch up (number of threads; numbers too small for full precision
  /// count as zero), and checks that the device is there. Throws InputError.
  void resolve();
};

/// An experiment's options, and how they make the experiment.
class ExperimentConfig {
 public:
  virtual ~ExperimentConfig() = default;
  /// The options, bound to this object, which must outlive them. Their defaults are the values held
  /// when this is called.
  virtual Options options() = 0;
  /// The choice of estimator among them.
  virtual EstimatorSettings& estimator_settings() = 0;
  /// Options of estimators that something else reads with the present values.
  virtual std::vector<std::string> also_read() const { return {}; }
  /// Works out what was left to "auto" and checks options against each other. Throws InputError.
  virtual void resolve() = 0;
  /// Throws InputError if the estimator is not defined for the experiment's variable, or not with
  /// its options; call resolve() first. make() finds this, too, but reads the data before.
  virtual void check_estimator() const = 0;
  virtual std::unique_ptr<ExperimentConfig> clone() const = 0;
  /// The name of a run folder with these options, e.g. "ssvae-mnist-sparsemax-s0".
  virtual std::string run_name() const = 0;
  /// Reads the data and builds the model; call resolve() first. Throws InputError.
  virtual std::unique_ptr<Experiment> make() const = 0;

  RunConfig run;
};

/// The experiments' names, and a line on each.
const std::vector<std::pair<std::string, std::string>>& experiments();
/// Default options of the experiment called `name`. Throws InputError with the known names.
std::unique_ptr<ExperimentConfig> make_config(const std::string& name);
/// The options that a config.toml holds, of the experiment it names. Throws InputError.
std::unique_ptr<ExperimentConfig> read_config(const std::filesystem::path& path);

}  // namespace sparsum::lab
