#include "lab/gradient_quality.h"

#include "lab/adam.h"
#include "lab/error.h"
#include "lab/files.h"
#include "lab/metrics.h"
#include "lab/random.h"
#include "lab/version.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

namespace sparsum::lab {

// --- moments -------------------------------------------------------------------------------------

void GradientMoments::add(const at::Tensor& estimate) {
  require_finite("the estimates of the gradient", estimate);
  ++count_;
  if (!mean_.defined()) mean_ = at::zeros_like(estimate);
  // Welford: g − the new mean is a multiple of g − the old one.
  const auto n = static_cast<double>(count_);
  const at::Tensor before = estimate - mean_;
  squares_ += before.dot(before).item<double>() * (n - 1) / n;
  mean_.add_(before, 1 / n);
  if (!reference_.defined()) return;
  const double norms = std::sqrt(estimate.dot(estimate).item<double>()) * reference_norm_;
  if (norms > 0) cosines_ += estimate.dot(reference_).item<double>() / norms;
}

double GradientMoments::variance() const {
  return count_ < 2 ? std::numeric_limits<double>::quiet_NaN()
                    : squares_ / static_cast<double>(count_ - 1);
}

double GradientMoments::bias() const { return (mean_ - reference_).norm().item<double>(); }

double GradientMoments::cosine() const { return cosines_ / static_cast<double>(count_); }

double GradientMoments::rmse() const {
  return std::hypot(bias(), std::sqrt(squares_ / static_cast<double>(count_)));
}

// --- options -------------------------------------------------------------------------------------

void GradientQualityOptions::declare(Options& o) {
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  o.add("estimators", &estimators,
        "which to compare: names with commas between them, or all that are defined for the "
        "structure");
  o.add("examples", &examples, "size of the batch", "examples", 1, kMany);
  o.add("repeats", &repeats, "estimates of each gradient; exact estimators make at most 5",
        "estimates", 2, kMany);
  o.add("batch-seed", &batch_seed, "seed of the batch and of all draws", "", 0, kMany);
  o.add("settle", &settle,
        "estimates from which moving averages and learned baselines learn before they are measured",
        "estimates", 0, kMany);
  o.add("enumerate", &enumerate,
        "the largest set whose exact gradient is computed; for larger ones the reference is a mean "
        "of leave-one-out estimates",
        "outcomes", 1, kMany);
  o.add("reference-draws", &reference_draws, "draws of each of those", "draws", 2, kMany);
  o.add("reference-repeats", &reference_repeats, "how many of those", "estimates", 2, kMany);
}

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPairsAtOnce = 4096;  // bounds memory where all outcomes are listed

bool is_deterministic(const std::string& name) {
  return family_of(name) == "exact" || family_of(name) == "sparse";
}

/// What of the comparison is fixed: a batch's problem, and where its gradients are.
class Bench {
 public:
  Bench(Experiment& experiment, const GradientQualityOptions& options)
      : problem_(experiment.fixed_problem(options.examples, options.batch_seed)) {
    problem_.scores = problem_.scores.detach().set_requires_grad(true);
    for (const auto& entry : experiment.model().named_parameters()) {
      if (!entry.key().starts_with("estimator.")) parameters_.push_back(*entry);
    }
  }

  const Problem& problem() const { return problem_; }

  struct Gradient {
    at::Tensor scores, loss;  // [·] float64 on the CPU
    double evaluations = 0;   // mean over the examples
    double seconds = 0;
    at::Tensor auxiliary;
  };

  /// One estimate and its gradients. chunk: 0, or a bound on the pairs evaluated at once.
  Gradient estimate(Estimator& estimator, const at::Generator& generator, int64_t chunk) {
    drop_gradients();
    Problem problem = problem_;
    if (chunk > 0) problem.max_evaluations_per_chunk = chunk;
    Gradient result;
    const auto began = Clock::now();
    const Estimate estimate = estimator.estimate(problem, generator);
    // The graph of what the loss shares is needed again.
    estimate.objective.mean().backward({}, /*retain_graph=*/true);
    if (problem.scores.is_cuda()) torch::cuda::synchronize();
    result.seconds = std::chrono::duration<double>(Clock::now() - began).count();
    result.evaluations = estimate.evaluations.to(at::kDouble).mean().item<double>();
    result.auxiliary = estimate.auxiliary;
    result.scores = flat(problem_.scores);
    std::vector<at::Tensor> parts;
    for (const at::Tensor& parameter : parameters_) {
      if (parameter.grad().defined()) parts.push_back(flat(parameter));
    }
    result.loss = parts.empty() ? at::zeros({0}, at::kDouble) : at::cat(parts);
    drop_gradients();
    return result;
  }

 private:
  static at::Tensor flat(const at::Tensor& leaf) {
    const at::Tensor& gradient = leaf.grad();
    return gradient.defined() ? gradient.detach().flatten().to(at::kCPU, at::kDouble)
                              : at::zeros({leaf.numel()}, at::kDouble);
  }
  void drop_gradients() {
    problem_.scores.mutable_grad().reset();
    for (at::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
  }

  Problem problem_;
  std::vector<at::Tensor> parameters_;
};

/// Gradients to compare with.
struct Reference {
  at::Tensor scores, loss;
  double scores_error = 0, loss_error = 0;  // Monte Carlo standard errors of their norms
  double evaluations = 0;                   // per example, all estimates together
  bool exact = true;
};

/// Thrown through the comparison where the user stopped it.
struct Stopped {};

class Comparison {
 public:
  Comparison(Experiment& experiment, const GradientQualityOptions& options,
             const at::Device& device, const std::atomic<bool>& stop,
             const std::function<void(const GradientQualityProgress&)>& progress)
      : bench_(experiment, options),
        options_(options),
        device_(device),
        stop_(stop),
        progress_(progress) {}

  const Structure& structure() const { return bench_.problem().structure; }
  const Reference& reference() const { return reference_; }
  int64_t context() const {
    const at::Tensor& context = bench_.problem().context;
    return context.defined() ? context[0].numel() : 0;
  }

  bool listable() const {
    const auto size = structure().size();
    return size && *size <= options_.enumerate;
  }

  void find_reference() {
    EstimatorSettings settings(listable() ? "dense" : "sfe-loo");
    settings.options.samples = listable() ? 0 : options_.reference_draws;
    settings.options.max_outcomes = options_.enumerate;
    const auto estimator = make_estimator(settings, structure(), context(), options_.batch_seed);
    estimator->to(device_);
    estimator->eval();
    const at::Generator draws =
        make_generator(options_.batch_seed, "gradient-quality/reference", device_);
    const int64_t repeats = listable() ? 1 : options_.reference_repeats;
    GradientMoments scores, loss;
    for (int64_t i = 0; i < repeats; ++i) {
      tick({.what = "reference", .done = i, .total = repeats});
      const auto gradient = bench_.estimate(*estimator, draws, chunk_of(settings.name));
      scores.add(gradient.scores);
      loss.add(gradient.loss);
      reference_.evaluations += gradient.evaluations;
    }
    reference_.scores = scores.mean();
    reference_.loss = loss.mean();
    reference_.exact = listable();
    if (!listable()) {
      const auto count = static_cast<double>(repeats);
      reference_.scores_error = std::sqrt(scores.variance() / count);
      reference_.loss_error = std::sqrt(loss.variance() / count);
    }
  }

  /// settled: the estimator's state is that of its training.
  Json measure(const EstimatorSettings& settings, Estimator& estimator, bool settled,
               GradientQualityProgress place) {
    const at::Generator draws =
        make_generator(options_.batch_seed, "gradient-quality/" + settings.name, device_);
    const int64_t chunk = chunk_of(settings.name);
    const bool learns =
        reads(settings.name, "baseline-lr") || reads(settings.name, "baseline-decay");
    const int64_t settle = learns && !settled ? options_.settle : 0;
    const int64_t repeats =
        is_deterministic(settings.name) ? std::min<int64_t>(options_.repeats, 5) : options_.repeats;
    place.total = settle + repeats;
    if (settle > 0) {
      Adam::Parameters parameters;
      for (const auto& entry : estimator.named_parameters()) {
        parameters.emplace_back(entry.key(), *entry);
      }
      Adam adam(std::move(parameters), {.learning_rate = settings.baseline_learning_rate,
                                        .weight_decay = settings.baseline_weight_decay});
      estimator.train();
      for (; place.done < settle; ++place.done) {
        tick(place);
        const auto gradient = bench_.estimate(estimator, draws, chunk);
        if (!gradient.auxiliary.defined()) continue;
        adam.zero_grad();
        gradient.auxiliary.backward();
        adam.step();
      }
      adam.zero_grad();
    }
    estimator.eval();

    GradientMoments scores(reference_.scores), loss(reference_.loss);
    std::vector<double> seconds;
    double evaluations = 0;
    for (int64_t i = 0; i < repeats; ++i, ++place.done) {
      tick(place);
      const auto gradient = bench_.estimate(estimator, draws, chunk);
      TORCH_CHECK(gradient.loss.size(0) == reference_.loss.size(0), "gradient-quality: estimator '",
                  settings.name, "' gives gradients of ", gradient.loss.size(0),
                  " of the loss's parameters, the reference of ", reference_.loss.size(0));
      scores.add(gradient.scores);
      loss.add(gradient.loss);
      evaluations += gradient.evaluations;
      seconds.push_back(gradient.seconds);
    }
    std::sort(seconds.begin(), seconds.end());

    Json row;
    row["estimator"] = settings.name;
    row["family"] = family_of(settings.name);
    row["objective"] = family_of(settings.name) == "sparse"  ? "another map"
                       : family_of(settings.name) == "bound" ? "another bound"
                                                             : "the same";
    row["evaluations"] = evaluations / static_cast<double>(repeats);
    row["milliseconds"] = 1e3 * seconds[seconds.size() / 2];
    row["repeats"] = repeats;
    row["scores"] = numbers(scores, reference_.scores_error, repeats);
    row["loss"] = numbers(loss, reference_.loss_error, repeats);
    return row;
  }

 private:
  static Json numbers(const GradientMoments& moments, double reference_error, int64_t repeats) {
    const double own = std::sqrt(moments.variance() / static_cast<double>(repeats));
    return {{"bias", moments.bias()},
            {"bias_error", std::hypot(own, reference_error)},
            {"variance", moments.variance()},
            {"cosine", moments.cosine()},
            {"rmse", moments.rmse()}};
  }

  int64_t chunk_of(const std::string& name) const {
    if (name != "dense") return 0;
    const int64_t size = structure().size().value_or(0);
    return size * options_.examples > kPairsAtOnce ? kPairsAtOnce : 0;
  }

  void tick(const GradientQualityProgress& place) const {
    if (stop_.load()) throw Stopped();
    progress_(place);
  }

  Bench bench_;
  const GradientQualityOptions& options_;
  at::Device device_;
  const std::atomic<bool>& stop_;
  const std::function<void(const GradientQualityProgress&)>& progress_;
  Reference reference_;
};

/// The names asked for, in the order of the documentation.
std::vector<std::string> asked(const std::string& list) {
  const auto known = estimator_names();
  if (list == "all") return known;
  std::vector<std::string> names;
  size_t begin = 0;
  while (begin <= list.size()) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string name = list.substr(begin, end - begin);
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      const std::string near = nearest(name, known);
      throw InputError("option --estimators: no estimator is called '" + name + "'" +
                       (near.empty() ? "" : " (did you mean " + near + "?)"));
    }
    names.push_back(name);
    begin = end + 1;
  }
  std::sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return std::find(known.begin(), known.end(), a) < std::find(known.begin(), known.end(), b);
  });
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// The model, how it came to be, and options for its estimators.
struct Subject {
  LoadedRun model;
  Settings estimator_options;  // as given
  bool trained = false;
};

/// Splits the settings into those of the experiment and those of estimators, and makes the model.
Subject load(const GradientQualityRequest& request) {
  Subject subject;
  Settings settings;
  for (const auto& [name, text] : request.settings) {
    if (name == "estimator") {
      throw InputError("option --estimator: expected --estimators, a list of names");
    }
    (readers_of(name).empty() ? settings : subject.estimator_options).emplace_back(name, text);
  }
  if (!request.run.empty()) {
    subject.model = load_run(request.run, request.checkpoint, settings);
    subject.trained = true;
    return subject;
  }
  auto& config = subject.model.config;
  config = make_config(request.experiment);
  {
    Options options = config->options();
    if (!request.config.empty()) options.read_toml(request.config);
    for (const auto& [name, text] : settings) options.set(name, text);
    for (const auto& [name, text] : subject.estimator_options) {
      if (contains(config->also_read(), name)) options.set(name, text);
    }
  }
  config->resolve();
  subject.model.experiment = config->make();
  return subject;
}

/// The model's config with another estimator, which has its own defaults, the model's if it is the
/// same one, and those options given that it reads.
std::unique_ptr<ExperimentConfig> config_for(const std::string& name, const Subject& subject) {
  const ExperimentConfig& base = *subject.model.config;
  auto config = base.clone();
  const auto fresh = make_config(subject.model.experiment->name());
  Options options = config->options();
  const Options defaults = fresh->options();
  if (config->estimator_settings().name != name) {
    for (const Option& option : defaults.all()) {
      if (readers_of(option.name).empty() || contains(base.also_read(), option.name)) continue;
      options.set(option.name, value_text(option));
    }
  }
  config->estimator_settings().name = name;
  for (const auto& [option, text] : subject.estimator_options) {
    if (reads(name, option)) options.set(option, text);
  }
  config->resolve();
  return config;
}

/// Whether an estimator is for such structures. Too large a set is a matter of its options, which
/// make_estimator() names.
bool is_defined(const EstimatorSettings& settings, const Structure& structure) {
  EstimatorOptions options;
  options.context = 1;
  options.parts = structure.parts();
  options.baseline_hidden = 1;
  const auto estimator = sparsum::make_estimator(settings.name, options, make_generator(0, "none"));
  try {
    estimator->check(structure);
  } catch (const c10::Error&) {
    return settings.name == "dense" || settings.name == "sum-and-sample";
  }
  return true;
}

}  // namespace

std::optional<Json> gradient_quality(
    const GradientQualityRequest& request, const std::atomic<bool>& stop,
    const std::function<void(const GradientQualityProgress&)>& progress) {
  const GradientQualityOptions& options = request.options;
  const auto names = asked(options.estimators);
  const Subject subject = load(request);
  for (const auto& [option, text] : subject.estimator_options) {
    const auto readers = readers_of(option);
    const bool read = contains(subject.model.config->also_read(), option) ||
                      std::any_of(names.begin(), names.end(),
                                  [&, o = option](const auto& name) { return reads(name, o); });
    if (!read) {
      throw InputError("option --" + option + ": none of the estimators asked for reads it");
    }
  }
  if (!request.out.empty()) {
    std::error_code error;
    std::filesystem::create_directories(request.out, error);
    if (error) {
      throw InputError(request.out.string() + ": cannot make the folder: " + error.message());
    }
  }

  Experiment& experiment = *subject.model.experiment;
  experiment.model().eval();
  const at::Device device(subject.model.config->run.device);
  try {
    Comparison comparison(experiment, options, device, stop, progress);
    // All are made before anything is computed: what is wrong is said at once.
    struct Entry {
      EstimatorSettings settings;
      std::shared_ptr<Estimator> made;  // null: the model's own
    };
    std::vector<Entry> entries;
    const auto& own = subject.model.config->estimator_settings();
    for (const std::string& name : names) {
      const auto config = config_for(name, subject);
      Entry entry{config->estimator_settings(), nullptr};
      const bool as_trained =
          subject.trained && name == own.name &&
          std::none_of(subject.estimator_options.begin(), subject.estimator_options.end(),
                       [&](const auto& option) { return reads(name, option.first); });
      if (!as_trained) {
        const bool all = options.estimators == "all";
        if (all && name == "dense" && !comparison.listable()) continue;
        if (all && !is_defined(entry.settings, comparison.structure())) continue;
        entry.made = make_estimator(entry.settings, comparison.structure(), comparison.context(),
                                    subject.model.config->run.seed);
        entry.made->to(device);
      }
      entries.push_back(std::move(entry));
    }
    comparison.find_reference();

    Json rows = Json::array();
    GradientQualityProgress place;
    place.estimators = static_cast<int64_t>(entries.size());
    for (const Entry& entry : entries) {
      ++place.estimator;
      place.what = entry.settings.name;
      place.done = 0;
      Estimator& estimator = entry.made ? *entry.made : experiment.estimator();
      rows.push_back(comparison.measure(entry.settings, estimator, entry.made == nullptr, place));
    }

    const Reference& reference = comparison.reference();
    const auto described = [](const at::Tensor& gradient, double error) {
      return Json{
          {"norm", gradient.norm().item<double>()}, {"error", error}, {"size", gradient.size(0)}};
    };
    Json result;
    result["schema"] = 1;
    result["model"] = experiment.description();
    result["run"] = subject.trained ? Json(request.run.string()) : Json();
    result["checkpoint"] = subject.trained ? Json(subject.model.checkpoint.string()) : Json();
    result["structure"] = comparison.structure().name();
    result["examples"] = options.examples;
    result["batch_seed"] = options.batch_seed;
    result["settle"] = options.settle;
    result["reference"] = {{"kind", reference.exact ? "exact" : "leave-one-out"},
                           {"evaluations", reference.evaluations},
                           {"scores", described(reference.scores, reference.scores_error)},
                           {"loss", described(reference.loss, reference.loss_error)}};
    result["estimators"] = rows;
    result["versions"] = Json{{"sparsum", version()}, {"torch", torch_version()}};
    result["device"] = subject.model.config->run.device;
    result["threads"] = at::get_num_threads();
    if (!request.out.empty()) {
      write_file_atomically(request.out / "gradient_quality.json", result.dump(2) + "\n");
    }
    return result;
  } catch (const Stopped&) {
    return std::nullopt;
  } catch (const NonFiniteError& error) {
    throw InputError((subject.trained ? subject.model.checkpoint.string() : request.experiment) +
                     ": " + error.what());
  }
}

}  // namespace sparsum::lab
