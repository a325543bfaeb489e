#include "lab/trainer.h"

#include "lab/error.h"
#include "lab/png.h"
#include "lab/version.h"

#include <ATen/Parallel.h>

#include <chrono>
#include <cmath>
#include <numbers>

namespace sparsum::lab {
namespace {

double clock_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Adam make_adam(Experiment& experiment, const Phase& phase) {
  Adam::Group model{{}, {.learning_rate = phase.learning_rate, .weight_decay = phase.weight_decay}};
  Adam::Group estimator{{},
                        {.learning_rate = phase.estimator_learning_rate,
                         .weight_decay = phase.estimator_weight_decay}};
  for (const auto& entry : experiment.model().named_parameters()) {
    Adam::Group& group = entry.key().starts_with("estimator.") ? estimator : model;
    group.parameters.emplace_back(entry.key(), *entry);
  }
  return Adam(std::vector<Adam::Group>{std::move(model), std::move(estimator)});
}

/// What multiplies the phase's learning rates at a step of it, counted from 0.
double learning_rate_scale(const Phase& phase, int64_t step) {
  if (!phase.cosine) return 1;
  const auto steps = static_cast<double>(phase.epochs * phase.steps);
  return (1 + std::cos(std::numbers::pi * static_cast<double>(step) / steps)) / 2;
}

}  // namespace

Trainer::Trainer(Experiment& experiment, const RunConfig& config, RunFolder folder,
                 const std::atomic<bool>& stop, TrainingObserver& observer)
    : experiment_(experiment),
      config_(config),
      folder_(std::move(folder)),
      stop_(stop),
      observer_(observer) {}

void Trainer::resume() {
  const auto path = folder_.checkpoint("last");
  if (!std::filesystem::exists(path)) {
    observer_.on_message(folder_.path().string() +
                         " has no checkpoint yet: starting from the beginning");
    return;
  }
  const auto checkpoint = Checkpoint::read(path, experiment_.name(), experiment_.signature());
  Json state;
  try {
    state = Json::parse(checkpoint.text("progress"));
    phase_ = state.at("phase");
    in_phase_ = state.at("in_phase");
    epochs_in_phase_ = state.at("epochs_in_phase");
    epochs_ = state.at("epochs");
    steps_in_epoch_ = state.at("steps_in_epoch");
    steps_ = state.at("steps");
    seconds_ = state.at("seconds");
    earlier_seconds_ = state.at("epoch_seconds");
    best_ = state.at("best");
    phase_results_ = state.at("phase_results");
  } catch (const Json::exception& error) {
    throw InputError(path.string() + ": expected the progress of a run, found: " + error.what());
  }
  if (phase_ >= experiment_.phases().size()) {
    throw InputError(path.string() + ": expected phase 0 … " +
                     std::to_string(experiment_.phases().size() - 1) + ", found " +
                     std::to_string(phase_));
  }
  earlier_steps_ = steps_in_epoch_;
  checkpoint.load_module("model/", experiment_.model());
  if (in_phase_) {
    adam_ = std::make_unique<Adam>(make_adam(experiment_, experiment_.phases()[phase_]));
    adam_->load(checkpoint);
    experiment_.load_state(checkpoint);
  }
  observer_.on_message("resuming after epoch " + std::to_string(epochs_) + ", step " +
                       std::to_string(steps_));
}

std::optional<Json> Trainer::run() {
  const auto epochs = static_cast<size_t>(epochs_);
  metrics_ = std::make_unique<AppendedFile>(folder_.metrics(), epochs);
  timing_ = std::make_unique<AppendedFile>(folder_.timing(), epochs);
  const auto& phases = experiment_.phases();
  for (;;) {
    const Phase& phase = phases[phase_];
    if (!run_phase(phase)) return std::nullopt;
    if (phase_ + 1 == phases.size()) return finish_run();
    finish_phase(phase);
    ++phase_;
    in_phase_ = false;
    epochs_in_phase_ = 0;
  }
}

bool Trainer::run_phase(const Phase& phase) {
  if (!in_phase_) {
    adam_ = std::make_unique<Adam>(make_adam(experiment_, phase));
    experiment_.begin_phase(phase);
    in_phase_ = true;
  }
  while (epochs_in_phase_ < phase.epochs) {
    if (steps_in_epoch_ == 0) experiment_.begin_epoch();
    epoch_started_ = clock_seconds();
    for (;;) {
      if (stop_.load()) {
        save_last();
        write_images();
        return false;
      }
      if (steps_in_epoch_ == phase.steps) break;
      step(phase);
      if (config_.checkpoint_every > 0 && steps_ % config_.checkpoint_every == 0) save_last();
      observer_.on_step(progress(phase));
    }
    finish_epoch(phase);
  }
  return true;
}

void Trainer::step(const Phase& phase) {
  try {
    const at::Tensor objective = experiment_.step(phase);
    const double value = objective.item<double>();
    if (!std::isfinite(value)) throw NonFiniteError("the objective is " + std::to_string(value));
    objective.backward();
  } catch (const NonFiniteError& error) {
    ++steps_in_epoch_;
    ++steps_;
    diverged(phase, std::string(error.what()) + " on " + experiment_.describe_batch());
  }
  adam_->step(learning_rate_scale(phase, epochs_in_phase_ * phase.steps + steps_in_epoch_));
  adam_->zero_grad();
  ++steps_in_epoch_;
  ++steps_;
}

void Trainer::finish_epoch(const Phase& phase) {
  const double trained = clock_seconds();
  const int64_t own_steps = steps_in_epoch_ - earlier_steps_;
  const double rate = own_steps > 0 ? own_steps / (trained - epoch_started_) : 0;
  const Json validation = evaluate(phase, "validation");

  Json metrics;
  metrics["schema"] = 1;
  metrics["epoch"] = epochs_ + 1;
  metrics["phase"] = phase.name;
  metrics["steps"] = phase.steps;
  metrics["train"] = experiment_.epoch_metrics();
  metrics["validation"] = validation;
  Json timing;
  timing["epoch"] = epochs_ + 1;
  timing["phase"] = phase.name;
  timing["seconds"] = earlier_seconds_ + clock_seconds() - epoch_started_;
  timing["steps_per_second"] = rate;
  timing["evaluate_seconds"] = clock_seconds() - trained;
  const Progress done = progress(phase);

  metrics_->append(metrics.dump());
  timing_->append(timing.dump());
  ++epochs_;
  ++epochs_in_phase_;
  steps_in_epoch_ = 0;
  seconds_ += timing["seconds"].get<double>();
  earlier_seconds_ = 0;
  earlier_steps_ = 0;
  epoch_started_ = 0;
  const bool last_phase = phase_ + 1 == experiment_.phases().size();
  if (last_phase && (best_.is_null() || experiment_.better(validation, best_["validation"]))) {
    best_ = Json{{"epoch", epochs_}, {"validation", validation}};
    save_model("best");
  }
  save_last();
  observer_.on_epoch(done, metrics, timing);
}

void Trainer::finish_phase(const Phase& phase) {
  save_model(phase.name);
  phase_results_[phase.name] = Json{{"test", evaluate(phase, "test")}};
}

Json Trainer::finish_run() {
  const Phase& phase = experiment_.phases().back();
  // Model selection as published: the test images are looked at once, by the epoch that validated
  // best.
  if (!best_.is_null()) {
    Checkpoint::read(folder_.checkpoint("best"), experiment_.name(), experiment_.signature())
        .load_module("model/", experiment_.model());
  }
  const Json test = evaluate(phase, "test");
  write_images();

  int64_t parameters = 0;
  for (const auto& parameter : experiment_.model().parameters()) parameters += parameter.numel();
  Json summary;
  summary["schema"] = 1;
  summary.update(experiment_.description());
  summary["seconds"] = seconds_;
  summary["parameters"] = parameters;
  for (const auto& [name, result] : phase_results_.items()) summary[name] = result;
  summary["best"] = best_;
  summary["test"] = test;
  summary["versions"] = Json{{"sparsum", version()}, {"torch", torch_version()}};
  summary["threads"] = at::get_num_threads();
  write_file_atomically(folder_.summary(), summary.dump(2) + "\n");
  return summary;
}

void Trainer::save_last() {
  // A loss can be finite one step after the parameters stopped being so; such a state is no good
  // checkpoint, and the one before is worth keeping.
  const at::NoGradGuard no_grad;
  for (const auto& entry : experiment_.model().named_parameters()) {
    if (!entry->isfinite().all().item<bool>()) {
      diverged(experiment_.phases()[phase_], "parameter " + entry.key() + " is not finite");
    }
  }
  Json state;
  state["phase"] = phase_;
  state["in_phase"] = in_phase_;
  state["epochs_in_phase"] = epochs_in_phase_;
  state["epochs"] = epochs_;
  state["steps_in_epoch"] = steps_in_epoch_;
  state["steps"] = steps_;
  state["seconds"] = seconds_;
  state["epoch_seconds"] = epoch_seconds();
  state["best"] = best_;
  state["phase_results"] = phase_results_;

  Checkpoint checkpoint(experiment_.name(), experiment_.signature());
  checkpoint.put_text("progress", state.dump());
  checkpoint.put_text("config", read_file(folder_.config()));
  checkpoint.put_module("model/", experiment_.model());
  adam_->save(checkpoint);
  experiment_.save_state(checkpoint);
  checkpoint.write(folder_.checkpoint("last"));
}

void Trainer::save_model(const std::string& name) {
  Checkpoint checkpoint(experiment_.name(), experiment_.signature());
  checkpoint.put_text("config", read_file(folder_.config()));
  checkpoint.put_module("model/", experiment_.model());
  checkpoint.write(folder_.checkpoint(name));
}

void Trainer::write_images() {
  for (const Picture& picture : experiment_.images()) {
    write_png(folder_.image(picture.name), picture.image);
    if (picture.numbers.is_null()) continue;
    write_file_atomically(folder_.image_numbers(picture.name), picture.numbers.dump() + "\n");
  }
}

Json Trainer::evaluate(const Phase& phase, const std::string& split) {
  try {
    return experiment_.evaluate(split);
  } catch (const NonFiniteError& error) {
    diverged(phase, std::string(error.what()) + " on the " + split + " images");
  }
}

Progress Trainer::progress(const Phase& phase) const {
  Progress result;
  result.phase = phase.name;
  result.epoch = epochs_in_phase_ + 1;
  result.epochs = phase.epochs;
  result.step = steps_in_epoch_;
  result.steps = phase.steps;
  result.steps_done = steps_;
  for (const auto& each : experiment_.phases()) result.steps_total += each.epochs * each.steps;
  const double seconds = clock_seconds() - epoch_started_;
  result.steps_per_second = seconds > 0 ? (steps_in_epoch_ - earlier_steps_) / seconds : 0;
  result.numbers = experiment_.epoch_numbers();
  return result;
}

double Trainer::epoch_seconds() const {
  return earlier_seconds_ + (epoch_started_ > 0 ? clock_seconds() - epoch_started_ : 0);
}

void Trainer::diverged(const Phase& phase, const std::string& what) const {
  const auto last = folder_.checkpoint("last");
  throw TrainingDiverged("training stopped at step " + std::to_string(steps_) + " (" + phase.name +
                         " epoch " + std::to_string(epochs_in_phase_ + 1) + ", batch " +
                         std::to_string(steps_in_epoch_) + " of " + std::to_string(phase.steps) +
                         "): " + what + "; last good checkpoint: " +
                         (std::filesystem::exists(last) ? last.string() : std::string("none yet")));
}

}  // namespace sparsum::lab
