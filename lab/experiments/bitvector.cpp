#include "lab/experiments/bitvector.h"

#include "lab/error.h"
#include "lab/importance.h"
#include "lab/metrics.h"
#include "lab/png.h"
#include "lab/random.h"

#include <sparsum/expectation.h>
#include <sparsum/linear_cross_entropy.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <sstream>

namespace sparsum::lab {
namespace {

constexpr int64_t kEvaluationBatch = 100;
constexpr int64_t kPairsAtOnce = 2048;  // in evaluation: bounds memory

bool is_sparsemap(const std::string& estimator) { return estimator.starts_with("sparsemap"); }

// Correia et al. (2020, appendix), who tried 32 and 128 bits; for other numbers, and estimators
// they did not try, those of the nearest kin.
double published_learning_rate(const std::string& estimator, int64_t bits) {
  const bool many = bits >= 128;
  if (is_sparsemap(estimator)) return 2e-3;
  if (estimator == "top-k" || estimator == "top-k-adaptive") return many ? 1e-3 : 2e-3;
  if (estimator == "nvil" || estimator == "st-gumbel") return many ? 5e-4 : 1e-3;
  return 1e-3;
}

/// Of τ = max(0.5, exp(−decay·step)), renewed every 1,000 steps.
double published_temperature_decay(const std::string& estimator, int64_t bits) {
  return estimator == "gumbel" && bits >= 128 ? 1e-4 : 1e-5;
}

}  // namespace

// --- options -------------------------------------------------------------------------------------

BitvectorConfig::BitvectorConfig() { estimator.options.encoding = "both-states"; }

Options BitvectorConfig::options() {
  constexpr double kMax = std::numeric_limits<double>::max();
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  std::vector<std::string> datasets;
  for (const auto& source : data_sources()) datasets.push_back(source.name);

  Options o;
  o.add("experiment", &experiment, "the experiment these options belong to", {"bitvector"});
  o.add("dataset", &dataset, "images to model", datasets);
  declare_estimator(o, estimator, "how the expectation over the bits is differentiated");
  o.add("bits", &bits, "D, the length of the latent vector", "bits", 1, 100000);
  o.add("structure", &structure,
        "which vectors q may put mass on: all, at most B bits on, exactly B",
        {"bits", "budget", "subset"});
  o.add("budget", &budget, "B, with --structure budget or subset, or sparsemap-budget", "bits", -1,
        100000)
      .describe_default("-1: half of the bits");
  run.declare(o);
  o.add("epochs", &epochs, "length of training", "epochs", 0, kMany);
  o.add("steps-per-epoch", &steps_per_epoch, "length of an epoch", "steps", 0, kMany)
      .describe_default("0: one pass over the training images");
  o.add("batch-size", &batch_size, "images a step", "images", 0, kMany)
      .describe_default("0: as published, 64, or 16 for sparsemap with 128 bits or more");
  o.add("lr", &learning_rate, "Adam's learning rate", "", 0.0, kMax)
      .describe_default(
          "0: as published for the estimator, 2e-3 for sparsemap and for top-k with fewer than 128 "
          "bits, 5e-4 for nvil and st-gumbel with 128 or more, else 1e-3");
  o.add("weight-decay", &weight_decay,
        "L2 penalty: this times a parameter is added to its gradient", "", 0.0, kMax);
  o.add("split-seed", &split_seed,
        "seed of the split of the training images, whatever the seed of "
        "the run",
        "", 0, kMany);
  o.add("validation", &validation, "training images set aside for validation", "images", 1, kMany);
  declare_estimator_options(o, estimator);
  o.add("importance-samples", &importance_samples,
        "draws per test image for the negative log-likelihood; 0: do not estimate it", "draws", 0,
        kMany)
      .also_after_training();
  o.add("importance-images", &importance_images,
        "how many of the test images, the first ones, it is estimated on", "images", 0, kMany)
      .describe_default("0: all")
      .also_after_training();
  o.add("max-evaluations-per-chunk", &max_evaluations_per_chunk,
        "bounds memory: losses evaluated at once, recomputed in the backward pass; 0: no bound",
        "evaluations", 0, kMany);
  return o;
}

std::unique_ptr<Bits> BitvectorConfig::make_structure() const {
  const int64_t on = budget < 0 ? bits / 2 : budget;
  try {
    if (structure == "budget") return std::make_unique<Budget>(bits, on);
    if (structure == "subset") return std::make_unique<Subset>(bits, on);
  } catch (const c10::Error&) {
    throw InputError("option --budget: expected 0 to " + std::to_string(bits) + " bits, got " +
                     std::to_string(on));
  }
  return std::make_unique<BitVector>(bits);
}

void BitvectorConfig::resolve() {
  BitvectorConfig fresh;
  require_read(options(), fresh.options(), estimator.name, also_read());
  run.resolve();
  const bool bounded = structure != "bits" || estimator.name == "sparsemap-budget";
  if (bounded && budget < 0) budget = bits / 2;
  if (budget > bits) {
    throw InputError("option --budget: expected at most the " + std::to_string(bits) +
                     " bits there are, got " + std::to_string(budget));
  }
  estimator.options.budget = budget;
  if (batch_size == 0) batch_size = is_sparsemap(estimator.name) && bits >= 128 ? 16 : 64;
  if (learning_rate == 0) learning_rate = published_learning_rate(estimator.name, bits);
  resolve_estimator(estimator, learning_rate, published_temperature_decay(estimator.name, bits));
}

std::vector<std::string> BitvectorConfig::also_read() const {
  if (structure == "bits") return {};
  return {"budget"};
}

std::unique_ptr<ExperimentConfig> BitvectorConfig::clone() const {
  return std::make_unique<BitvectorConfig>(*this);
}

void BitvectorConfig::check_estimator() const {
  make_estimator(estimator, *make_structure(), BitvectorCodec::kPixels, run.seed);
}

std::string BitvectorConfig::run_name() const {
  std::ostringstream name;
  name << "bitvector-" << dataset << "-d" << bits << "-" << estimator.name;
  if (structure != "bits") name << "-" << structure;
  if (is_sparsemap(estimator.name) && estimator.options.algorithm != "active-set") {
    name << "-" << estimator.options.algorithm;
  }
  name << "-s" << run.seed;
  return name.str();
}

std::unique_ptr<Experiment> BitvectorConfig::make() const {
  ImageData data = load_image_data(data_source(dataset), data_root(run.data));
  const int64_t images = data.train.images.size(0);
  if (validation >= images) {
    throw InputError("option --validation: expected fewer than the " + std::to_string(images) +
                     " training images, got " + std::to_string(validation));
  }
  const at::Tensor order =
      at::randperm(images, make_generator(split_seed, "split"), at::TensorOptions(at::kLong));
  return std::make_unique<Bitvector>(*this, std::move(data), order.slice(0, validation),
                                     order.slice(0, 0, validation));
}

// --- model ---------------------------------------------------------------------------------------

BitvectorModel::BitvectorModel(int64_t pixels, int64_t bits, at::Generator generator)
    : pixels_(pixels) {
  encoder_ = register_module(
      "encoder", std::make_shared<Mlp>(std::vector<int64_t>{pixels, kHidden, bits}, generator));
  code_ = register_module("code", std::make_shared<AssignmentEmbedding>(bits, kHidden, generator));
  pixel_features_ = register_module(
      "pixel_features", std::make_shared<Linear>(kHidden, pixels * kFeatures, generator));
  levels_ = register_module("levels", std::make_shared<Linear>(kFeatures, kLevels, generator));
}

at::Tensor BitvectorModel::pixel_features(const Assignments& z) const {
  return pixel_features_->forward(code_->forward(z).relu_()).view({-1, pixels_, kFeatures});
}

at::Tensor BitvectorModel::nll(const Assignments& z, const at::Tensor& levels) const {
  return linear_cross_entropy(pixel_features(z), levels_->weight(), levels_->bias(), levels,
                              z.rows);
}

at::Tensor BitvectorModel::mean_image(const Assignments& z) const {
  const at::NoGradGuard no_grad;
  const at::Tensor grey = at::linspace(0, 1, kLevels, levels_->weight().options());
  std::vector<at::Tensor> images;
  for (int64_t begin = 0; begin < z.count(); begin += 16) {
    const Assignments part = z.slice(begin, std::min(begin + 16, z.count()));
    const at::Tensor features = pixel_features(part).flatten(0, 1);
    const at::Tensor mean = levels_->forward(features).softmax(1).mv(grey);
    images.push_back(mean.view({part.count(), pixels_}));
  }
  return images.empty() ? at::empty({0, pixels_}, grey.options()) : at::cat(images);
}

// --- use -----------------------------------------------------------------------------------------

BitvectorCodec::BitvectorCodec(const BitvectorConfig& config)
    : settings_(config.estimator), structure_(config.make_structure()), device_(config.run.device) {
  network_ = std::make_shared<BitvectorModel>(kPixels, config.bits,
                                              make_generator(config.run.seed, "init"));
  estimator_ = make_estimator(config.estimator, *structure_, kPixels, config.run.seed);
  root_ = std::make_shared<torch::nn::Module>("bitvector");
  root_->register_module("network", network_);
  root_->register_module("estimator", estimator_);
  root_->to(device_);
}

BitvectorCodec::BitvectorCodec(const BitvectorConfig& config,
                               const std::filesystem::path& checkpoint)
    : BitvectorCodec(config) {
  Checkpoint::read(checkpoint, config.experiment, signature()).load_module("model/", *root_);
}

std::string BitvectorCodec::signature() const {
  return "bitvector " + std::to_string(kPixels) + " pixels, " + structure_->name();
}

at::Tensor BitvectorCodec::grey(const at::Tensor& levels) const {
  return levels.to(device_, at::kFloat).div(255);
}

at::Tensor BitvectorCodec::scores(const at::Tensor& grey) const {
  const at::Tensor scores = network_->scores(grey);
  require_finite("the scores of the encoder", scores);
  return scores;
}

SparseDistribution BitvectorCodec::posterior(const at::Tensor& levels) {
  const at::NoGradGuard no_grad;
  root_->eval();
  return estimator_->distribution(*structure_, scores(grey(levels)))
      ->enumerate(settings_.options.max_outcomes);
}

std::optional<SparseDistribution> BitvectorCodec::listed(const Distribution& q) const {
  if (const auto* sparse = dynamic_cast<const SparseDistribution*>(&q)) return *sparse;
  if (settings_.name == "dense") return q.enumerate(settings_.options.max_outcomes);
  return std::nullopt;
}

at::Tensor BitvectorCodec::encode(const at::Tensor& levels) {
  const at::NoGradGuard no_grad;
  root_->eval();
  std::vector<at::Tensor> codes;
  for (const at::Tensor& batch : levels.split(kEvaluationBatch)) {
    if (batch.size(0) == 0) break;
    codes.push_back(
        estimator_->distribution(*structure_, scores(grey(batch)))->mode().values(at::kByte).cpu());
  }
  return codes.empty() ? at::empty({0, bits()}, at::kByte) : at::cat(codes);
}

at::Tensor BitvectorCodec::decode(const at::Tensor& codes) {
  root_->eval();
  return network_->mean_image(one_per_example(codes.to(device_), bits())).cpu();
}

// --- training ------------------------------------------------------------------------------------

Bitvector::Bitvector(const BitvectorConfig& config, ImageData data, at::Tensor train,
                     at::Tensor validation)
    : config_(config),
      data_(std::move(data)),
      train_(std::move(train)),
      validation_(std::move(validation)),
      codec_(config),
      device_(config.run.device) {
  data_.train.images = data_.train.images.flatten(1);
  data_.test.images = data_.test.images.flatten(1);
  const int64_t pass = (train_.size(0) + config.batch_size - 1) / config.batch_size;
  phases_ = {{.name = "train",
              .epochs = config.epochs,
              .steps = config.steps_per_epoch > 0 ? config.steps_per_epoch : pass,
              .learning_rate = config.learning_rate,
              .weight_decay = config.weight_decay,
              .estimator_learning_rate = config.estimator.baseline_learning_rate,
              .estimator_weight_decay = config.estimator.baseline_weight_decay,
              .cosine = config.run.cosine()}};
  start_streams(phases_.front().name);
}

void Bitvector::start_streams(const std::string& phase) {
  order_.emplace(train_, make_generator(config_.run.seed, phase + "/order"));
  model_noise_ = make_generator(config_.run.seed, phase + "/model", device_);
}

void Bitvector::begin_phase(const Phase& phase) { start_streams(phase.name); }

at::Tensor Bitvector::levels_of(const at::Tensor& indices, bool test) const {
  return (test ? data_.test : data_.train).images.index_select(0, indices).to(device_);
}

Problem Bitvector::problem_of(const at::Tensor& indices) {
  const at::Tensor levels = levels_of(indices, /*test=*/false);
  const at::Tensor integers = levels.to(at::kLong), grey = codec_.grey(levels);
  return {
      .structure = codec_.structure(),
      .scores = codec_.scores(grey),
      .loss = [this, integers](
                  const Assignments& z,
                  const std::vector<at::Tensor>&) { return codec_.network().nll(z, integers); },
      .shared = {},
      .context = grey,
      .max_evaluations_per_chunk = config_.max_evaluations_per_chunk,
  };
}

Problem Bitvector::fixed_problem(int64_t size, int64_t seed) {
  if (size > train_.size(0)) {
    throw InputError("option --examples: expected at most the " + std::to_string(train_.size(0)) +
                     " training images, got " + std::to_string(size));
  }
  Problem problem =
      problem_of(ShuffledCycle(train_, make_generator(seed, "problem/images")).next(size));
  problem.scores = problem.scores.detach();
  return problem;
}

at::Tensor Bitvector::step(const Phase&) {
  codec_.module().train();
  last_batch_ = order_->next(config_.batch_size);
  const Problem problem = problem_of(last_batch_);
  const Estimate estimate = codec_.estimator().estimate(problem, model_noise_);
  at::Tensor objective =
      estimate.objective.mean() + static_cast<double>(codec_.bits()) * std::log(2.0);

  sums_.add_step(objective.item<double>());
  sums_.add("distortion", estimate.value.mean().item<double>());
  sums_.add("entropy", estimate.entropy.mean().item<double>());
  sums_.add_evaluations(estimate.evaluations);
  if (estimate.auxiliary.defined()) objective = objective + estimate.auxiliary;
  return objective;
}

std::string Bitvector::describe_batch() const { return describe_images("", last_batch_); }

EpochNumbers Bitvector::epoch_numbers() const { return sums_.numbers(); }

Json Bitvector::epoch_metrics() const {
  Json metrics;
  metrics["objective"] = sums_.mean_objective();
  metrics["rate"] = static_cast<double>(codec_.bits()) * std::log(2.0) - sums_.mean("entropy");
  metrics["distortion"] = sums_.mean("distortion");
  metrics["evaluations"] = sums_.evaluations();
  return metrics;
}

// --- evaluation ----------------------------------------------------------------------------------

Json Bitvector::evaluate(const std::string& split) {
  const at::NoGradGuard no_grad;
  codec_.module().eval();
  const bool test = split == "test";
  TORCH_CHECK(test || split == "validation",
              "bitvector: expected split 'validation' or 'test', got '", split, "'");
  const at::Tensor indices = test ? at::arange(data_.test.images.size(0), at::kLong) : validation_;
  const at::Generator draws = make_generator(0, "evaluate/" + split, device_);

  double distortion = 0, entropy = 0;
  int64_t exact = 0, certified = 0;
  bool listed = false;
  std::vector<at::Tensor> evaluations;
  for (const at::Tensor& batch : indices.split(kEvaluationBatch)) {
    const at::Tensor levels = levels_of(batch, test);
    const at::Tensor integers = levels.to(at::kLong);
    const at::Tensor scores = codec_.scores(codec_.grey(levels));
    const auto q = codec_.estimator().distribution(codec_.structure(), scores);
    const auto loss = [&](const Assignments& z, const std::vector<at::Tensor>&) {
      return Loss(codec_.network().nll(z, integers));
    };
    entropy += q->entropy().sum(at::kDouble).item<double>();
    const auto support = codec_.listed(*q);
    listed = support.has_value();
    if (support) {
      const at::Tensor expected = expectation(*support, loss, {}, {kPairsAtOnce, {}});
      distortion += expected.sum(at::kDouble).item<double>();
      evaluations.push_back(support->evaluations().cpu());
      if (support->exact().defined()) {
        exact += support->exact().sum().item<int64_t>();
        certified += support->exact().size(0);
      }
    } else {
      // One draw of the discrete code an image, the same at every evaluation.
      distortion +=
          codec_.network().nll(q->sample(1, draws), integers).sum(at::kDouble).item<double>();
      evaluations.push_back(codec_.estimator().evaluations(codec_.structure(), scores).cpu());
    }
  }
  const auto count = static_cast<double>(indices.size(0));
  const double rate = static_cast<double>(codec_.bits()) * std::log(2.0) - entropy / count;
  distortion /= count;
  if (!std::isfinite(rate + distortion)) {
    throw NonFiniteError("the ELBO is " + std::to_string(-rate - distortion));
  }
  Json metrics;
  metrics["elbo"] = -rate - distortion;
  metrics["rate"] = rate;
  metrics["distortion"] = distortion;
  if (certified > 0) metrics["exact"] = static_cast<double>(exact) / static_cast<double>(certified);
  metrics["evaluations"] = to_json(quartiles(at::cat(evaluations)));
  // Draws of a q that is 0 outside a bound would miss the rest of the prior's codes.
  const bool covers = listed || codec_.structure().free();
  if (test && covers && config_.importance_samples > 0) {
    const int64_t images = config_.importance_images > 0
                               ? std::min(config_.importance_images, indices.size(0))
                               : indices.size(0);
    metrics["nll"] = negative_log_likelihood(indices.slice(0, 0, images), test);
  }
  return metrics;
}

Json Bitvector::negative_log_likelihood(const at::Tensor& indices, bool test) {
  const at::Generator draws = make_generator(0, "evaluate/importance", device_);
  const ImportanceOptions options{config_.importance_samples, kPairsAtOnce};
  double sum = 0, variance = 0;
  for (const at::Tensor& batch : indices.split(16)) {
    const at::Tensor levels = levels_of(batch, test);
    const at::Tensor integers = levels.to(at::kLong);
    const auto q =
        codec_.estimator().distribution(codec_.structure(), codec_.scores(codec_.grey(levels)));
    const auto log_likelihood = [&](const Assignments& z) {
      return codec_.network().nll(z, integers).neg();
    };
    const auto support = codec_.listed(*q);
    const LogEvidence estimate =
        support ? log_evidence(*support, log_likelihood, draws, options)
                : log_evidence(*q, codec_.bits(), log_likelihood, draws, options);
    sum -= estimate.log_evidence.sum().item<double>();
    variance += estimate.standard_error.square().sum().item<double>();
  }
  const auto count = static_cast<double>(indices.size(0));
  const double bits_per_nat = 1 / (std::log(2.0) * static_cast<double>(BitvectorCodec::kPixels));
  return {{"bits_per_dimension", sum / count * bits_per_nat},
          {"nats", sum / count},
          {"standard_error", std::sqrt(variance) / count * bits_per_nat},
          {"samples", config_.importance_samples},
          {"images", indices.size(0)}};
}

bool Bitvector::better(const Json& candidate, const Json& incumbent) const {
  return candidate.at("elbo").get<double>() > incumbent.at("elbo").get<double>();
}

// --- pictures ------------------------------------------------------------------------------------

std::vector<Picture> Bitvector::images() {
  const at::NoGradGuard no_grad;
  constexpr int64_t kColumns = 10, kWalks = 6, kFlips = 12, kTried = 256;
  const auto grid = [&](const at::Tensor& rows, int64_t columns) {
    return image_grid(rows.reshape({-1, columns, BitvectorCodec::kHeight, BitvectorCodec::kWidth}));
  };
  // Of the prior, which is uniform: most of its codes are no image's.
  const at::Tensor prior = at::randint(0, 2, {4 * kColumns, codec_.bits()},
                                       make_generator(0, "images/prior"), at::kByte);

  const at::Tensor originals =
      data_.test.images.narrow(0, 0, std::min(2 * kColumns, data_.test.images.size(0)));
  const at::Tensor codes = codec_.encode(originals);
  const at::Tensor rebuilt = codec_.decode(codes);
  const at::Tensor grey = originals.to(at::kFloat).div(255);
  std::vector<at::Tensor> pairs;
  for (const auto& [a, b] : {std::pair(grey, rebuilt)}) {
    for (int64_t begin = 0; begin + kColumns <= a.size(0); begin += kColumns) {
      pairs.push_back(a.slice(0, begin, begin + kColumns));
      pairs.push_back(b.slice(0, begin, begin + kColumns));
    }
  }
  if (pairs.empty()) pairs = {grey, rebuilt};

  // A walk: an image's code, then the same with one bit flipped, those first that change most. Of
  // many bits only those are tried of which the encoder is least sure.
  const int64_t walks = std::min(kWalks, codes.size(0)), flips = std::min(kFlips, codec_.bits());
  const int64_t tried = std::min(kTried, codec_.bits());
  const at::Tensor sure = codec_.scores(codec_.grey(originals.slice(0, 0, walks))).abs().cpu();
  const at::Tensor candidates =
      std::get<1>(sure.sort(/*stable=*/true, 1, /*descending=*/false)).slice(1, 0, tried);
  std::vector<at::Tensor> rows;
  for (int64_t i = 0; i < walks; ++i) {
    at::Tensor flipped = codes[i].repeat({tried, 1});
    const at::Tensor bit = candidates[i].unsqueeze(1);
    flipped.scatter_(1, bit, 1 - flipped.gather(1, bit));
    const at::Tensor neighbours = codec_.decode(flipped);
    const at::Tensor change = (neighbours - rebuilt[i]).abs().sum(1);
    const at::Tensor most =
        std::get<1>(change.sort(/*stable=*/true, 0, /*descending=*/true)).slice(0, 0, flips);
    rows.push_back(at::cat({rebuilt[i].unsqueeze(0), neighbours.index_select(0, most)}));
  }
  const int64_t columns = pairs.front().size(0);
  return {{"reconstructions", grid(at::cat(pairs), columns)},
          {"samples", grid(codec_.decode(prior), kColumns)},
          {"walk", grid(at::cat(rows), 1 + flips)}};
}

// --- checkpoints ---------------------------------------------------------------------------------

void Bitvector::save_state(Checkpoint& checkpoint) const {
  order_->save(checkpoint, "order");
  checkpoint.put_generator("model", model_noise_);
  sums_.save(checkpoint);
}

void Bitvector::load_state(const Checkpoint& checkpoint) {
  order_->load(checkpoint, "order");
  checkpoint.load_generator("model", model_noise_);
  sums_.load(checkpoint);
}

Json Bitvector::description() const {
  return {{"experiment", name()},       {"estimator", config_.estimator.name},
          {"dataset", config_.dataset}, {"structure", codec_.structure().name()},
          {"bits", config_.bits},       {"seed", config_.run.seed},
          {"epochs", config_.epochs}};
}

}  // namespace sparsum::lab
