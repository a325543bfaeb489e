#pragma once

#include "lab/options.h"

#include <sparsum/estimator.h>

#include <string>
#include <vector>

namespace sparsum::lab {

/// What an experiment lets the user choose of its estimator.
struct EstimatorSettings {
  explicit EstimatorSettings(std::string estimator) : name(std::move(estimator)) {
    options.temperature_decay = kAsPublished;
  }

  /// Of temperature_decay: what the experiment published for the estimator, filled in by its
  /// resolve().
  static constexpr double kAsPublished = -1;

  std::string name;
  EstimatorOptions options;
  double baseline_learning_rate = 0;  ///< of the estimator's own parameters; 0: the model's
  double baseline_weight_decay = 0;
};

/// Declares --estimator, with all names.
void declare_estimator(Options& options, EstimatorSettings& estimator, std::string description);

/// Declares the options of all estimators. The description of each begins with who reads it.
/// `budget` is left to experiments on bits; context and parts are theirs to fill in.
void declare_estimator_options(Options& options, EstimatorSettings& estimator);

/// The options that the estimator called `name` reads, as on the command line; throws c10::Error
/// for a name that is not in the table.
const std::vector<std::string>& options_read_by(const std::string& name);

/// Whether it reads that option.
bool reads(const std::string& name, const std::string& option);

/// What it has in common with others: "exact"; "sparse" (exact, for another map than softmax);
/// "score-function"; "set" (without replacement); "control-variate" (coupled draws, too); "bound"
/// (another one than the expectation); "relaxed" (biased).
const std::string& family_of(const std::string& name);

/// The estimators that read an option, in their order; empty for what is no option of estimators.
std::vector<std::string> readers_of(const std::string& option);

/// Throws InputError, "option --k: estimator 'sfe' does not read it; …", if an option has another
/// value than its default although the estimator does not read it, or not with the others as they
/// are: "option --baseline-decay: estimator 'sfe' does not read it with --baseline none".
///
/// given: the options as set; defaults: the same of a fresh config. also_read: options that are
/// read by something else this time.
void require_read(const Options& given, const Options& defaults, const std::string& estimator,
                  const std::vector<std::string>& also_read = {});

/// Fills in what is left to be worked out: k is the published one, the learning rate of learned
/// baselines the model's, the temperature decays as published. Checks options against each other;
/// throws InputError.
void resolve_estimator(EstimatorSettings& estimator, double learning_rate,
                       double published_temperature_decay);

/// Makes it for a structure and checks that it is defined there. context: numbers an example in
/// Problem::context. seed: of learned baselines' initial parameters. Throws InputError: options
/// that contradict each other, another structure.
std::shared_ptr<Estimator> make_estimator(const EstimatorSettings& estimator,
                                          const Structure& structure, int64_t context,
                                          int64_t seed);

}  // namespace sparsum::lab
