#pragma once

#include "lab/adam.h"
#include "lab/experiment.h"
#include "lab/files.h"
#include "lab/run_folder.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace sparsum::lab {

/// Where training is, for whoever shows it.
struct Progress {
  std::string phase;
  int64_t epoch = 0, epochs = 0;            ///< within the phase, counted from 1
  int64_t step = 0, steps = 0;              ///< within the epoch
  int64_t steps_done = 0, steps_total = 0;  ///< of the whole run
  double steps_per_second = 0;              ///< of this epoch, as far as this process ran it
  EpochNumbers numbers;
};

/// Is told what happens during training. Called from the thread that trains.
class TrainingObserver {
 public:
  virtual ~TrainingObserver() = default;
  virtual void on_step(const Progress&) {}
  /// The rows that were just written to metrics.jsonl and timing.jsonl.
  virtual void on_epoch(const Progress&, const Json& /*metrics*/, const Json& /*timing*/) {}
  virtual void on_message(const std::string&) {}
};

/// The objective, a score or a metric is no longer finite. what() is one line that names step,
/// epoch, batch and the last good checkpoint.
class TrainingDiverged : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Runs an experiment's phases: steps, evaluation and a checkpoint an epoch, the run folder's
/// files. The same experiment and thread count give the same bytes in metrics.jsonl, however often
/// the run was stopped and resumed.
class Trainer {
 public:
  /// folder: already created. stop: polled after every step; once true, the state is saved.
  Trainer(Experiment& experiment, const RunConfig& config, RunFolder folder,
          const std::atomic<bool>& stop, TrainingObserver& observer);

  /// Goes back to checkpoints/last, cutting metrics.jsonl and timing.jsonl back to it; without one
  /// the run starts from its beginning. Throws InputError.
  void resume();

  /// Trains to the end and writes summary.json (returned), or, when stopped, saves the state and
  /// returns nothing. Throws InputError (disk) and TrainingDiverged.
  std::optional<Json> run();

 private:
  bool run_phase(const Phase& phase);  // false: stopped
  void step(const Phase& phase);
  void finish_epoch(const Phase& phase);
  void finish_phase(const Phase& phase);
  Json finish_run();
  void save_last();
  void save_model(const std::string& name);
  void write_images();
  Json evaluate(const Phase& phase, const std::string& split);
  Progress progress(const Phase& phase) const;
  double epoch_seconds() const;
  [[noreturn]] void diverged(const Phase& phase, const std::string& what) const;

  Experiment& experiment_;
  const RunConfig& config_;
  RunFolder folder_;
  const std::atomic<bool>& stop_;
  TrainingObserver& observer_;

  std::unique_ptr<Adam> adam_;
  std::unique_ptr<AppendedFile> metrics_, timing_;
  // Where the run is. All of it is in checkpoints/last, as one JSON text.
  size_t phase_ = 0;
  bool in_phase_ = false;        // the phase has begun: optimiser and streams are its own
  int64_t epochs_in_phase_ = 0;  // complete ones
  int64_t epochs_ = 0;           // complete ones, of all phases
  int64_t steps_in_epoch_ = 0;
  int64_t steps_ = 0;
  double seconds_ = 0;                   // spent in training and evaluation, complete epochs
  double earlier_seconds_ = 0;           // spent on the current epoch by processes before this one
  int64_t earlier_steps_ = 0;            // of the current epoch, by processes before this one
  Json best_;                            // {"epoch", "validation"} of the last phase, or null
  Json phase_results_ = Json::object();  // phase name -> {"test"}
  double epoch_started_ = 0;             // clock
};

}  // namespace sparsum::lab
