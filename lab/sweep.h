#pragma once

#include "lab/experiment.h"

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace sparsum::lab {

/// One run of a sweep.
struct SweepRun {
  std::string name;        ///< its folder's: the label, or what tells it apart, and the seed
  std::string label;       ///< shared by the runs that differ in their seed alone
  std::string experiment;  ///< "ssvae"
  std::string config;      ///< all options, as TOML
  std::string method;      ///< the same, but for the seed
  int64_t epochs = 0;      ///< of all phases
  int64_t place = 0;       ///< in the order of the file, by which shards are dealt out
};

/// A list of runs, made from a file such as
///   [common]                     # options of every run
///   experiment = "ssvae"
///   [[runs]]
///   config = "ssvae-dense.toml"  # options from a file, its path relative to this one's folder
///   label = "dense"              # how tables and folders call it; default: by its options
///   seed = [0, 1, 2]             # a list stands for one run for each of its elements;
///                                # several lists for every combination of theirs
/// Without [[runs]] there is one entry, [common]. The runs are in the file's order, but for the
/// seeds: first all with the first of their list, then all with the second, and so on.
struct Sweep {
  std::string name;  ///< the key `name`, or the file's own
  std::string text;  ///< the file
  std::vector<SweepRun> runs;
};

/// Reads the file and works out all options of all runs, so that what is wrong with one of them is
/// found before any begins. Throws InputError: what read_config refuses, options that contradict
/// each other, an estimator that is not defined for the experiment's variable, two runs of one
/// name, runs of one label that differ in more than their seed.
Sweep read_sweep(const std::filesystem::path& file);

/// What `sparsum sweep` is asked.
struct SweepRequest {
  std::filesystem::path file, out;
  std::string program;            ///< what each run is started with: this program's own path
  int64_t jobs = 1;               ///< runs at a time, each a process
  int64_t threads = 0;            ///< of all together; 0: a thread a core
  int64_t shard = 0, shards = 1;  ///< of all runs, those whose `place` mod `shards` is it
};

enum class RunState {
  kWaiting,
  kRunning,
  kFinished,   ///< summary.json is there
  kFailed,     ///< ended otherwise; `message` says how
  kElsewhere,  ///< another process holds it; tried again while there is other work
};

/// Where a run is, for whoever shows it.
struct RunStatus {
  const SweepRun* run = nullptr;
  RunState state = RunState::kWaiting;
  int64_t epoch = 0;        ///< complete ones
  double eta_seconds = -1;  ///< of a running one, from its speed so far; −1: not known yet
  std::string message;      ///< of a failed one: the last line that it wrote, or what ended it
};

/// Is told about a sweep about once a second, and at every change of a run's state.
class SweepObserver {
 public:
  virtual ~SweepObserver() = default;
  virtual void on_progress(const std::vector<RunStatus>&) {}
  /// `status` has just become what it is.
  virtual void on_change(const RunStatus&) {}
};

struct SweepResult {
  int64_t finished = 0, failed = 0, elsewhere = 0, waiting = 0;
};

/// Runs what is not finished yet: continues what was cut off, goes on past runs that fail, and
/// tries those again that failed in an earlier call. The folder:
///   sweep.toml, sweep.json   the file, and every run with its label and options
///   configs/RUN.toml         what it is started with
///   runs/RUN/                its folder
///   logs/RUN.txt             its messages
///   failed/RUN.json          its exit code and last message, while it is failed
/// Any number of processes may work on one folder at a time, on several machines with shards, on
/// one also without: a run is taken by a lock. stop: polled; once true, the runs finish their step,
/// save their state and end.
/// Throws InputError: the file; a folder that holds another sweep's run of the same name; the disk.
SweepResult run_sweep(const SweepRequest& request, const std::atomic<bool>& stop,
                      SweepObserver& observer);

}  // namespace sparsum::lab
