#include "lab/run.h"

#include "lab/error.h"
#include "lab/files.h"

#include <algorithm>

namespace sparsum::lab {
namespace {

void apply(ExperimentConfig& config, const TrainRequest& request) {
  Options options = config.options();
  if (!request.config.empty()) options.read_toml(request.config);
  for (const auto& [name, text] : request.settings) options.set(name, text);
}

/// Refuses options that would make the rest of the run another run than its beginning.
void require_same(ExperimentConfig& stored, ExperimentConfig& wanted, const RunFolder& folder) {
  std::vector<std::string> free = {"data", "threads", "checkpoint-every"};
  // A schedule that knows where training ends is another one with another end.
  if (!stored.run.cosine()) free.push_back("epochs");
  const auto before = stored.options(), after = wanted.options();
  for (size_t i = 0; i < before.all().size(); ++i) {
    const Option& old_option = before.all()[i];
    if (std::find(free.begin(), free.end(), old_option.name) != free.end()) continue;
    const std::string was = value_text(old_option), is = value_text(after.all()[i]);
    if (was != is) {
      throw InputError("option --" + old_option.name + ": expected '" + was +
                       "', with which the run in " + folder.path().string() + " began, got '" + is +
                       "'; a resumed run keeps its options" +
                       (old_option.name == "epochs"
                            ? ", and with lr-schedule cosine its learning rates fall to 0 there"
                            : ""));
    }
  }
}

/// Sets options of a finished run anew. Refuses those that its model was made with.
void apply_after_training(ExperimentConfig& config, const Settings& settings) {
  Options options = config.options();
  std::string free;
  for (const Option& option : options.all()) {
    if (option.after_training) free += (free.empty() ? "" : ", ") + option.name;
  }
  for (const auto& [name, text] : settings) {
    const bool fixed = std::any_of(
        options.all().begin(), options.all().end(),
        [&](const Option& option) { return option.name == name && !option.after_training; });
    if (fixed) {
      throw InputError("option --" + name + ": a trained model keeps it; others may be " + free);
    }
    options.set(name, text);
  }
}

}  // namespace

TrainResult train(const TrainRequest& request, const std::atomic<bool>& stop,
                  TrainingObserver& observer) {
  auto config = make_config(request.experiment);
  apply(*config, request);
  const auto path =
      request.out.empty() ? std::filesystem::path("runs") / config->run_name() : request.out;
  const RunFolder folder =
      request.resume ? RunFolder::of_existing_run(path) : RunFolder::for_new_run(path);
  if (request.resume) {
    auto stored = read_config(folder.config());
    config = read_config(folder.config());
    apply(*config, request);
    config->resolve();
    stored->resolve();  // of a version that did not have all of today's options
    require_same(*stored, *config, folder);
  }
  config->resolve();
  const auto experiment = config->make();
  folder.create(config->options().to_toml());
  Trainer trainer(*experiment, config->run, folder, stop, observer);
  if (request.resume) trainer.resume();
  return {path, trainer.run()};
}

std::filesystem::path find_checkpoint(const RunFolder& folder, const std::string& name) {
  if (!name.empty()) return folder.checkpoint(name);
  for (const char* candidate : {"best", "last"}) {
    if (std::filesystem::exists(folder.checkpoint(candidate))) return folder.checkpoint(candidate);
  }
  throw InputError(folder.path().string() +
                   ": expected a run with a checkpoint, found none in checkpoints/");
}

LoadedRun load_run(const std::filesystem::path& path, const std::string& checkpoint,
                   const Settings& settings) {
  const RunFolder folder = RunFolder::of_existing_run(path);
  LoadedRun run;
  run.config = read_config(folder.config());
  apply_after_training(*run.config, settings);
  run.config->resolve();
  run.checkpoint = find_checkpoint(folder, checkpoint);
  run.experiment = run.config->make();
  Checkpoint::read(run.checkpoint, run.experiment->name(), run.experiment->signature())
      .load_module("model/", run.experiment->model());
  return run;
}

Json evaluate_run(const std::filesystem::path& path, const std::string& checkpoint,
                  const Settings& settings) {
  const LoadedRun run = load_run(path, checkpoint, settings);
  Json result;
  result["run"] = path.string();
  result["checkpoint"] = run.checkpoint.string();
  try {
    result["test"] = run.experiment->evaluate("test");
  } catch (const NonFiniteError& error) {
    throw InputError(run.checkpoint.string() + ": " + error.what());
  }
  return result;
}

}  // namespace sparsum::lab
