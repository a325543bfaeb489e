#include "lab/estimator_options.h"

#include "lab/error.h"
#include "lab/random.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace sparsum::lab {
namespace {

using Names = std::vector<std::string>;

struct Entry {
  std::string name, family;
  Names options;
};

/// Which estimator is of which family and reads which options, in the order of estimator_names().
const std::vector<Entry>& table() {
  const Names sparsemap = {"encoding", "algorithm", "init", "tolerance", "max-iterations"};
  const Names annealed = {"samples", "temperature", "temperature-decay", "temperature-min",
                          "temperature-every"};
  const auto with = [](Names names, const Names& more) {
    names.insert(names.end(), more.begin(), more.end());
    return names;
  };
  const Names learned = {"baseline-lr", "baseline-weight-decay"};
  const Names network = with({"baseline-layers", "baseline-hidden"}, learned);
  static const std::vector<Entry> kTable = {
      {"dense", "exact", {"max-outcomes"}},
      {"sparsemax", "sparse", {}},
      {"entmax", "sparse", {"alpha"}},
      {"top-k", "sparse", {"k"}},
      {"top-k-adaptive", "sparse", {"k", "max-k"}},
      {"sparsemap", "sparse", sparsemap},
      {"sparsemap-budget", "sparse", with(sparsemap, {"budget"})},
      {"sfe", "score-function", {"samples", "baseline", "baseline-decay"}},
      {"sfe-plus", "score-function", {"samples"}},
      {"sfe-loo", "score-function", {"samples"}},
      {"nvil", "score-function", with({"samples"}, network)},
      {"sum-and-sample", "set", {"k", "samples", "baseline"}},
      {"unordered-set", "set", {"samples", "baseline"}},
      {"rebar", "control-variate",
       with({"samples", "temperature", "control-scale", "adapt-temperature"}, learned)},
      {"relax", "control-variate",
       with({"samples", "temperature", "control-scale", "embed-loss", "baseline-decay"}, network)},
      {"arm", "control-variate", {"samples"}},
      {"disarm", "control-variate", {"samples"}},
      {"muprop", "control-variate", {"samples", "baseline", "baseline-decay"}},
      {"vimco", "bound", {"samples"}},
      {"gumbel", "relaxed", annealed},
      {"st-gumbel", "relaxed", annealed},
      {"straight-through", "relaxed", {"samples"}},
      {"imle",
       "relaxed",
       {"samples", "noise", "noise-temperature", "gamma-size", "gamma-terms", "target-step"}},
  };
  return kTable;
}

/// With one option at that value, the estimator does not read some of the others.
struct Exception {
  Names estimators;
  std::string option, value;
  Names unread;
};

const std::vector<Exception>& exceptions() {
  static const std::vector<Exception> kExceptions = {
      {{"sparsemap", "sparsemap-budget"},
       "algorithm",
       "closed-form",
       {"init", "tolerance", "max-iterations"}},
      {{"sfe", "muprop"}, "baseline", "none", {"baseline-decay"}},
      {{"relax"}, "embed-loss", "false", {"control-scale"}},
      {{"gumbel", "st-gumbel"}, "temperature-decay", "0", {"temperature-min", "temperature-every"}},
      {{"imle"}, "noise", "gumbel", {"gamma-size", "gamma-terms"}},
  };
  return kExceptions;
}

bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

const Entry& entry(const std::string& name) {
  for (const Entry& each : table()) {
    if (each.name == name) return each;
  }
  TORCH_CHECK(false, "estimator '", name, "' is not in the table of lab/estimator_options.cpp");
}

std::string listed(const Names& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

const Names& options_read_by(const std::string& name) { return entry(name).options; }

bool reads(const std::string& name, const std::string& option) {
  return contains(options_read_by(name), option);
}

const std::string& family_of(const std::string& name) { return entry(name).family; }

Names readers_of(const std::string& option) {
  Names readers;
  for (const Entry& each : table()) {
    if (reads(each.name, option)) readers.push_back(each.name);
  }
  return readers;
}

void declare_estimator(Options& o, EstimatorSettings& estimator, std::string description) {
  o.add("estimator", &estimator.name, std::move(description), estimator_names());
}

void declare_estimator_options(Options& o, EstimatorSettings& estimator) {
  constexpr double kMax = std::numeric_limits<double>::max();
  constexpr double kTiny = 1e-15;  // where 0 is excluded
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  EstimatorOptions& e = estimator.options;
  const auto read = [](const char* option, const char* meaning) {
    return listed(readers_of(option)) + ": " + meaning;
  };

  o.add("alpha", &e.alpha, read("alpha", "1 is softmax, 2 is sparsemax"), "", 1.0, kMax);
  o.add("k", &e.k, read("k", "the largest support, the first one, the outcomes that are summed"),
        "outcomes", 0, kMany)
      .describe_default("0: 10, of sum-and-sample 1");
  o.add("max-k", &e.max_k, read("max-k", "the largest support"), "outcomes", 1, kMany);
  o.add("encoding", &e.encoding,
        read("encoding", "regularised are the indicators of a bit being on, or of both its states"),
        {"one-state", "both-states"});
  o.add("algorithm", &e.algorithm,
        read("algorithm", "few configurations by iterating, or a whole face by sorting"),
        {"active-set", "closed-form"});
  o.add("init", &e.init,
        read("init",
             "the active set starts from the best configuration, or from that of random scores"),
        {"map", "random"});
  o.add("tolerance", &e.tolerance, read("tolerance", "the active set's largest duality gap"), "",
        kTiny, kMax);
  o.add("max-iterations", &e.max_iterations,
        read("max-iterations", "of the active set, of each example"), "iterations", 0, kMany)
      .describe_default("0: 1000 + 20 a part");
  o.add("max-outcomes", &e.max_outcomes, read("max-outcomes", "the largest set it agrees to list"),
        "outcomes", 1, kMany);
  // Its readers are half of all.
  o.add("samples", &e.samples, "estimators that sample: draws per example", "draws", 0, kMany)
      .describe_default("0: as few as the estimator needs");
  o.add("baseline", &e.baseline,
        read("baseline",
             "what is subtracted from a cost; moving-average is of sfe and muprop, summed of "
             "sum-and-sample, built-in of unordered-set"),
        {"auto", "none", "moving-average", "summed", "built-in"});
  o.add("baseline-decay", &e.baseline_decay,
        read("baseline-decay", "weight of the past in the moving average"), "", 0.0, 0.999999);
  o.add("baseline-layers", &e.baseline_layers,
        read("baseline-layers", "hidden layers of the learned baseline"), "layers", 0, 100);
  o.add("baseline-hidden", &e.baseline_hidden, read("baseline-hidden", "width of each"), "units", 1,
        1 << 20);
  o.add("baseline-lr", &estimator.baseline_learning_rate,
        read("baseline-lr", "Adam's learning rate for the estimator's own parameters"), "", 0.0,
        kMax)
      .describe_default("0: as published, the model's");
  o.add("baseline-weight-decay", &estimator.baseline_weight_decay,
        read("baseline-weight-decay", "L2 penalty on the estimator's own parameters"), "", 0.0,
        kMax);
  o.add("control-scale", &e.control_scale,
        read("control-scale",
             "where the scale of the control variate starts (relax: with "
             "--embed-loss)"),
        "", -kMax, kMax);
  o.add("embed-loss", &e.embed_loss,
        read("embed-loss", "the control variate holds a multiple of the relaxed loss, too"));
  o.add("adapt-temperature", &e.adapt_temperature,
        read("adapt-temperature", "also learns the temperature, at one more evaluation a draw"));
  o.add("temperature", &e.temperature,
        read("temperature", "of the relaxation, where its schedule starts"), "", kTiny, kMax);
  o.add("temperature-decay", &e.temperature_decay,
        read("temperature-decay", "the temperature falls as exp(-decay * step)"), "per step",
        EstimatorSettings::kAsPublished, kMax)
      .describe_default("-1: as published for the estimator");
  o.add("temperature-min", &e.temperature_min,
        read("temperature-min", "the temperature falls no further"), "", kTiny, kMax);
  o.add("temperature-every", &e.temperature_every,
        read("temperature-every", "the temperature changes after that many"), "steps", 1, kMany);
  o.add("noise", &e.noise, read("noise", "what perturbs the scores"), {"gumbel", "sum-of-gamma"});
  o.add("noise-temperature", &e.noise_temperature,
        read("noise-temperature", "what the noise is multiplied by"), "", 0.0, kMax);
  o.add("gamma-size", &e.gamma_size,
        read("gamma-size", "of sum-of-gamma noise: parts that an outcome uses"), "parts", 1, kMany);
  o.add("gamma-terms", &e.gamma_terms, read("gamma-terms", "of sum-of-gamma noise: its length"),
        "terms", 1, kMany);
  o.add("target-step", &e.target_step,
        read("target-step", "how far the target's scores are from the scores"), "", kTiny, kMax);
}

void require_read(const Options& given, const Options& defaults, const std::string& estimator,
                  const Names& also_read) {
  // Why an option that the estimator reads at other times is not read this time; "" if it is.
  const auto unread_with = [&](const std::string& name) -> std::string {
    for (const Exception& each : exceptions()) {
      if (!contains(each.estimators, estimator) || !contains(each.unread, name)) continue;
      for (const Option& option : given.all()) {
        if (option.name == each.option && value_text(option) == each.value) {
          return " with --" + each.option + " " + each.value;
        }
      }
    }
    return "";
  };
  for (size_t i = 0; i < given.all().size(); ++i) {
    const Option& option = given.all()[i];
    const Names readers = readers_of(option.name);
    if (readers.empty() || contains(also_read, option.name)) continue;
    const bool read = reads(estimator, option.name);
    const std::string exception = read ? unread_with(option.name) : "";
    if (read && exception.empty()) continue;
    if (value_text(option) == value_text(defaults.all()[i])) continue;
    throw InputError("option --" + option.name + ": estimator '" + estimator +
                     "' does not read it" + exception +
                     (read ? "" : "; " + listed(readers) + (readers.size() > 1 ? " do" : " does")));
  }
}

void resolve_estimator(EstimatorSettings& estimator, double learning_rate,
                       double published_temperature_decay) {
  EstimatorOptions& e = estimator.options;
  const auto read = [&](const char* option) { return reads(estimator.name, option); };
  if (read("k") && e.k == 0) e.k = estimator.name == "sum-and-sample" ? 1 : 10;
  if (read("max-k") && e.max_k < e.k) {
    throw InputError("option --max-k: expected at least --k, " + std::to_string(e.k) + ", got " +
                     std::to_string(e.max_k));
  }
  if (read("temperature-decay")) {
    if (e.temperature_decay < 0 && e.temperature_decay != EstimatorSettings::kAsPublished) {
      throw InputError(
          "option --temperature-decay: expected at least 0, or -1 for what was "
          "published, got " +
          number_text(e.temperature_decay));
    }
    if (e.temperature_decay < 0) e.temperature_decay = published_temperature_decay;
  }
  if (read("baseline-lr") && estimator.baseline_learning_rate == 0) {
    estimator.baseline_learning_rate = learning_rate;
  }
}

std::shared_ptr<Estimator> make_estimator(const EstimatorSettings& settings,
                                          const Structure& structure, int64_t context,
                                          int64_t seed) {
  EstimatorOptions options = settings.options;
  options.context = context;
  options.parts = structure.parts();
  options.temperature_decay = std::max(options.temperature_decay, 0.0);
  try {
    auto estimator =
        sparsum::make_estimator(settings.name, options, make_generator(seed, "estimator"));
    estimator->check(structure);
    return estimator;
  } catch (const c10::Error& error) {
    throw InputError(error.what_without_backtrace());
  }
}

}  // namespace sparsum::lab
