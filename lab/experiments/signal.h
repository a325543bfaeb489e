#pragma once

#include "lab/data/concepts.h"
#include "lab/data/games.h"
#include "lab/estimator_options.h"
#include "lab/experiment.h"
#include "lab/experiments/epoch_sums.h"
#include "lab/mlp.h"

#include <ATen/core/Generator.h>
#include <sparsum/assignments.h>
#include <sparsum/categorical.h>
#include <sparsum/estimator.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sparsum::lab {

/// The options of the signal game.
struct SignalConfig final : ExperimentConfig {
  Options options() override;
  void resolve() override;
  void check_estimator() const override;
  EstimatorSettings& estimator_settings() override { return estimator; }
  std::unique_ptr<ExperimentConfig> clone() const override;
  std::string run_name() const override;
  std::unique_ptr<Experiment> make() const override;

  /// What a checkpoint of such a model must agree in to be loaded. width: features of an image.
  std::string signature(int64_t width) const;

  std::string experiment = "signal";
  std::string dataset = "mnist+fashion-mnist";
  std::string features;                    // folder with train/ and test/, of dataset "features"
  std::string features_name, labels_name;  // of the data sets in its files, or ""
  int64_t features_cache = 1024;           // MiB
  std::string loss = "nll";
  EstimatorSettings estimator{"sparsemax"};
  int64_t symbols = 256, candidates = 16;
  bool same_concept = false;
  int64_t hidden = 512, embedding = 256;
  double entropy_weight = -1;  // −1: by estimator and data
  int64_t max_evaluations_per_chunk = 0;
  int64_t epochs = 500, steps_per_epoch = 100, batch_size = 64;
  double learning_rate = 0;  // 0: by estimator and data
  double weight_decay = 0;
  double validation_share = 0.1;  // of each concept's training images
  int64_t validation_games = kValidationGames, test_games = kTestGames;
};

/// Sender and receiver (Lazaridou, Peysakhovich and Baroni, 2017; Correia et al., 2020, §5.2).
class SignalModel final : public torch::nn::Module {
 public:
  SignalModel(int64_t features, int64_t symbols, int64_t embedding, int64_t hidden,
              at::Generator generator);

  /// The sender: scores of the symbols for targets [B, F] -> [B, symbols]. Each coordinate of a
  /// linear embedding goes through one scalar function (scalar_perceptron); what it gives is
  /// mapped linearly to the symbols, and divided by 10.
  at::Tensor scores(const at::Tensor& targets) const;
  /// The receiver's embeddings of images: [m, F] -> [m, embedding]. Once per game, whatever the
  /// number of symbols.
  at::Tensor receive(const at::Tensor& images) const;
  /// log p(candidate | symbol) of n pairs (game, symbol): images [B, C, embedding] -> [n, C].
  at::Tensor log_choice(const Assignments& z, const at::Tensor& images) const;

  /// The receiver's embeddings of the symbols: [symbols, embedding].
  const at::Tensor& symbols() const { return table_; }

 private:
  at::Tensor sender_, inner_, outer_, speaker_;  // weights without biases
  at::Tensor receiver_, table_;
};

/// Trains sender and receiver together: in a game of C images the sender sees one, the target y,
/// and says one symbol z out of many; the receiver sees them all and picks one,
///   E_{π(z|y)}[ℓ(z)] − w·H(π(·|y)),
/// ℓ = −log p(y | images, z), or 1 if the image that the receiver draws is not y ("zero-one").
class Signal final : public Experiment {
 public:
  /// Throws InputError: data without games of these rules.
  Signal(const SignalConfig& config, ConceptData data);

  std::string name() const override { return "signal"; }
  std::string signature() const override;
  const std::vector<Phase>& phases() const override { return phases_; }
  torch::nn::Module& model() override { return *root_; }
  Estimator& estimator() override { return *estimator_; }

  void begin_phase(const Phase& phase) override;
  void begin_epoch() override { sums_.clear(); }
  at::Tensor step(const Phase& phase) override;
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

  /// The first test games, to look at.
  struct Shown {
    /// [{"target": place of the target, "concept", "symbol", "symbol_probability", "pick": place
    /// that the receiver finds most probable, "candidates": [{"row", "concept", "probability"}]}]
    Json games;
    /// A game a row: the target, the symbol's number with a bar as long as the sender's
    /// probability, the candidates with the receiver's, and a square below the right one. Undefined
    /// for data without pictures.
    at::Tensor picture;
  };
  Shown show(int64_t games);

 private:
  /// A batch of games on the device.
  struct Batch {
    at::Tensor targets;     // [B, F]
    at::Tensor candidates;  // [B·C, F]
    at::Tensor positions;   // [B] int64: where the target is
  };

  /// What came of games, each with the sender's most probable symbol and the receiver's most
  /// probable image; sums and means over the sender's distribution where said.
  struct Played {
    at::Tensor symbols, probabilities;  // [G] int64, and the sender's probability of each
    at::Tensor picks, choices;          // [G] int64 places, and the receiver's [G, C]
    at::Tensor evaluations;             // [G] int64
    at::Tensor joint;                   // [symbols, concepts] float64: of symbol and concept
    double nll = 0, expected_success = 0, entropy = 0;  // means, over symbols too
  };

  void start_streams(const std::string& phase);
  Batch gather(const Games& games, bool test) const;
  at::Tensor embed(const Batch& batch) const;  // the receiver's, [B, C, embedding]
  Played play(const Games& games, bool test);

  SignalConfig config_;
  ConceptData data_;
  std::optional<GameSampler> games_;  // of training
  Games validation_games_, test_games_;
  Categorical structure_;
  at::Device device_;
  std::shared_ptr<SignalModel> network_;
  std::shared_ptr<Estimator> estimator_;
  std::shared_ptr<torch::nn::Module> root_;
  std::vector<Phase> phases_;

  at::Generator game_draws_, model_noise_;
  Games last_games_;
  EpochSums sums_{{"loss", "entropy"}};
};

/// What `sparsum play` does: loads a run of this experiment and plays the first test games. Writes
/// games.json and, with pictures, games.png into `out`, if that is not empty. Returns {"games",
/// "files": what was written}. Throws InputError.
Json play_run(const std::filesystem::path& folder, const std::string& checkpoint,
              const std::vector<std::pair<std::string, std::string>>& settings, int64_t games,
              const std::filesystem::path& out);

}  // namespace sparsum::lab
