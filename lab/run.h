#pragma once

#include "lab/experiment.h"
#include "lab/trainer.h"

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sparsum::lab {

/// Options by name with their values as text, in the order given.
using Settings = std::vector<std::pair<std::string, std::string>>;

/// What `sparsum train` is asked.
struct TrainRequest {
  std::string experiment;        ///< "ssvae"
  std::filesystem::path config;  ///< a TOML file with options, or empty
  Settings settings;             ///< these win over the file
  std::filesystem::path out;     ///< the run folder, or empty for runs/<run name>
  bool resume = false;           ///< continue the run in that folder
};

struct TrainResult {
  std::filesystem::path folder;
  std::optional<Json> summary;  ///< nothing if training was stopped; the state is saved
};

/// Trains, or goes on training. All that can be wrong with the request, the data or the folder is
/// found before anything is written. A resumed run keeps its own options: those given must agree
/// with them, but for `data`, `threads`, `checkpoint-every` and, with a constant learning
/// rate, `epochs`, which may be changed.
/// Throws InputError and TrainingDiverged.
TrainResult train(const TrainRequest& request, const std::atomic<bool>& stop,
                  TrainingObserver& observer);

/// The checkpoint called `name`, or, if that is empty, the best one, else the last. Throws
/// InputError if there is none.
std::filesystem::path find_checkpoint(const RunFolder& folder, const std::string& name);

/// A run's model, as one of its checkpoints has it.
struct LoadedRun {
  std::unique_ptr<ExperimentConfig> config;  ///< resolved
  std::unique_ptr<Experiment> experiment;
  std::filesystem::path checkpoint;
};
/// checkpoint: as for find_checkpoint. settings: options that win over the run's own, of those that
/// may be others after training. Throws InputError.
LoadedRun load_run(const std::filesystem::path& folder, const std::string& checkpoint,
                   const Settings& settings);

/// Evaluates a run's checkpoint on the test images again: the one named, or "best", or "last" where
/// there is no best one yet. settings: as for load_run. Returns {"run", "checkpoint", "test"}.
/// Throws InputError.
Json evaluate_run(const std::filesystem::path& folder, const std::string& checkpoint,
                  const Settings& settings);

}  // namespace sparsum::lab
