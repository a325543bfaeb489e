#include "lab/experiments/ssvae.h"

#include "lab/data/binarize.h"
#include "lab/error.h"
#include "lab/likelihood.h"
#include "lab/metrics.h"
#include "lab/png.h"
#include "lab/random.h"

#include <sparsum/expectation.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <sstream>

namespace sparsum::lab {
namespace {

constexpr int64_t kEvaluationBatch = 500;
constexpr int64_t kHidden = 128;
constexpr int64_t kClassifierHidden = 256;

/// The pairs of two batches as those of one batch, the examples of `a` before those of `b`.
Assignments side_by_side(const Assignments& a, const Assignments& b) {
  Assignments both;
  both.rows = at::cat({a.rows, b.rows + a.batch_size()});
  both.row_splits = at::cat({a.row_splits, b.row_splits.slice(0, 1) + a.count()});
  both.parts = a.parts;
  if (a.indices.defined() && b.indices.defined()) {
    both.indices = at::cat({a.indices, b.indices});
  } else {
    both.indicators = at::cat({a.values(), b.values()});
  }
  return both;
}

/// Correia et al. (2020, appendix); for estimators they did not try, those of the nearest kin.
double published_learning_rate(const std::string& estimator) {
  for (const char* sparse : {"sparsemax", "entmax", "top-k", "top-k-adaptive", "sparsemap"}) {
    if (estimator == sparse) return 5e-4;
  }
  return estimator == "sfe" || estimator == "sfe-plus" ? 1e-4 : 1e-3;
}

/// Of Gumbel-Softmax, a step: τ = max(0.5, exp(−1e-4·step)), renewed every 1,000 steps.
constexpr double kPublishedTemperatureDecay = 1e-4;

}  // namespace

// --- options -------------------------------------------------------------------------------------

Options SsvaeConfig::options() {
  constexpr double kMax = std::numeric_limits<double>::max();
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  std::vector<std::string> datasets;
  for (const auto& source : data_sources()) datasets.push_back(source.name);

  Options o;
  o.add("experiment", &experiment, "the experiment these options belong to", {"ssvae"});
  o.add("dataset", &dataset, "images to model", datasets);
  declare_estimator(o, estimator, "how the expectation over the class is differentiated");
  run.declare(o);
  o.add("epochs", &epochs, "length of semi-supervised training", "epochs", 0, kMany);
  o.add("warmup-epochs", &warmup_epochs, "length of the warm start on labelled images only",
        "epochs", 0, kMany);
  o.add("warm-start", &warm_start,
        "checkpoints/warmup.safetensors of a run with the same map, to start from instead of a "
        "warm-up of its own");
  o.add("steps-per-epoch", &steps_per_epoch, "length of a semi-supervised epoch", "steps", 0, kMany)
      .describe_default(
          "0: one pass over the unlabelled images, 704 steps for 45000 in batches of 64");
  o.add("batch-size", &batch_size, "labelled images a step, and unlabelled images a step", "images",
        1, kMany);
  o.add("lr", &learning_rate, "Adam's learning rate in semi-supervised training", "", 0.0, kMax)
      .describe_default(
          "0: as published for the estimator, 5e-4 for the sparse ones, 1e-4 for sfe and sfe-plus, "
          "else 1e-3");
  o.add("warmup-lr", &warmup_learning_rate, "Adam's learning rate in the warm start", "", 0.0,
        kMax);
  o.add("weight-decay", &weight_decay,
        "L2 penalty: this times a parameter is added to its gradient", "", 0.0, kMax);
  o.add(
      "split", &split,
      "which training images are labelled, unlabelled and for validation: the published lists, "
      "or a stratified draw; auto: published where the lists are there and the numbers are theirs",
      {"auto", "published", "stratified"});
  o.add("split-seed", &split_seed, "seed of the stratified split, whatever the seed of the run", "",
        0, std::numeric_limits<int64_t>::max());
  o.add("labelled", &labelled, "labelled training images", "images", 1, kMany);
  o.add("unlabelled", &unlabelled, "unlabelled training images", "images", 1, kMany);
  o.add("validation", &validation, "training images set aside for validation", "images", 1, kMany);
  declare_estimator_options(o, estimator);
  o.add("max-evaluations-per-chunk", &max_evaluations_per_chunk,
        "bounds memory: losses evaluated at once, recomputed in the backward pass; 0: no bound",
        "evaluations", 0, kMany);
  return o;
}

std::string SsvaeConfig::map() const {
  for (const char* same : {"sparsemax", "top-k", "top-k-adaptive", "sparsemap"}) {
    if (estimator.name == same) return "sparsemax";
  }
  if (estimator.name == "entmax") {
    std::ostringstream name;
    name << "entmax " << estimator.options.alpha;
    return name.str();
  }
  return "softmax";
}

std::string SsvaeConfig::signature(int64_t pixels, int64_t classes) const {
  std::ostringstream text;
  text << "ssvae " << pixels << " pixels, " << classes << " classes, " << SsvaeModel::kLatents
       << " latents, " << map();
  return text.str();
}

void SsvaeConfig::resolve() {
  SsvaeConfig fresh;
  require_read(options(), fresh.options(), estimator.name);
  run.resolve();
  if (split == "auto") {
    const bool published_sizes = labelled == 5000 && unlabelled == 45000 && validation == 10000;
    std::error_code error;
    const bool lists = std::filesystem::exists(data_root(run.data) / "mnist-splits", error);
    split = dataset == "mnist" && published_sizes && lists ? "published" : "stratified";
  }
  if (split == "published" && dataset != "mnist") {
    throw InputError("option --split: the published lists are those of mnist, the dataset is " +
                     dataset);
  }
  if (!warm_start.empty()) warmup_epochs = 0;
  if (steps_per_epoch == 0) steps_per_epoch = (unlabelled + batch_size - 1) / batch_size;
  if (learning_rate == 0) learning_rate = published_learning_rate(estimator.name);
  resolve_estimator(estimator, learning_rate, kPublishedTemperatureDecay);
}

std::unique_ptr<ExperimentConfig> SsvaeConfig::clone() const {
  return std::make_unique<SsvaeConfig>(*this);
}

void SsvaeConfig::check_estimator() const {
  // Both data sets have ten classes of images of 28 × 28 pixels.
  make_estimator(estimator, Categorical(10), /*context=*/784, run.seed);
}

std::string SsvaeConfig::run_name() const {
  return "ssvae-" + dataset + "-" + estimator.name + "-s" + std::to_string(run.seed);
}

std::unique_ptr<Experiment> SsvaeConfig::make() const {
  const auto root = data_root(run.data);
  ImageData data = load_image_data(data_source(dataset), root);
  Split indices;
  if (split == "published") {
    indices = read_published_split(root, data.train.images.size(0));
    const auto check = [&](const char* option, int64_t expected, const at::Tensor& list) {
      if (list.size(0) != expected) {
        throw InputError(std::string("option --") + option + ": the published split has " +
                         std::to_string(list.size(0)) + ", got " + std::to_string(expected));
      }
    };
    check("labelled", labelled, indices.labelled);
    check("unlabelled", unlabelled, indices.unlabelled);
    check("validation", validation, indices.validation);
  } else {
    indices = stratified_split(data.train.labels, labelled, unlabelled, validation,
                               make_generator(split_seed, "split"));
  }
  return std::make_unique<Ssvae>(*this, std::move(data), std::move(indices));
}

// --- model ---------------------------------------------------------------------------------------

SsvaeModel::SsvaeModel(int64_t pixels, int64_t classes, at::Generator generator) {
  constexpr int64_t kC = kClassifierHidden;
  classifier_ = register_module(
      "classifier",
      std::make_shared<Mlp>(std::vector<int64_t>{pixels, kC, kC, kC, classes}, generator));
  encoder_ = register_module(
      "encoder", std::make_shared<AssignmentLinear>(pixels, classes, kHidden, generator));
  encoder_rest_ = register_module(
      "encoder_rest",
      std::make_shared<Mlp>(std::vector<int64_t>{kHidden, kHidden, 2 * kLatents}, generator));
  decoder_ = register_module(
      "decoder", std::make_shared<AssignmentLinear>(kLatents, classes, kHidden, generator));
  decoder_rest_ = register_module(
      "decoder_rest",
      std::make_shared<Mlp>(std::vector<int64_t>{kHidden, kHidden, pixels}, generator));
}

at::Tensor SsvaeModel::encode(const Assignments& z, const at::Tensor& features) const {
  return encoder_rest_->forward(encoder_->add_to_examples(features, z).relu_());
}

at::Tensor SsvaeModel::decode(const Assignments& z, const at::Tensor& h) const {
  return decoder_rest_->forward(decoder_->add(decoder_->features(h), z).relu_());
}

at::Tensor SsvaeModel::loss(const Assignments& z, const at::Tensor& images,
                            const at::Tensor& features, const at::Generator& noise) const {
  const auto [h, divergence] = sample_gaussian(encode(z, features), noise);
  return bernoulli_nll(decode(z, h), images, z.rows) + divergence;
}

at::Tensor SsvaeModel::loss(const Assignments& z, const at::Tensor& images,
                            const at::Tensor& features, const at::Tensor& noise) const {
  const auto [h, divergence] = shift_gaussian(encode(z, features), z.gather(noise));
  return bernoulli_nll(decode(z, h), images, z.rows) + divergence;
}

// --- training ------------------------------------------------------------------------------------

Ssvae::Ssvae(const SsvaeConfig& config, ImageData data, Split split)
    : config_(config),
      data_(std::move(data)),
      split_(std::move(split)),
      classes_(data_.classes),
      pixels_(data_.train.images[0].numel()),
      structure_(classes_),
      device_(config.run.device) {
  data_.train.images = data_.train.images.flatten(1);
  data_.test.images = data_.test.images.flatten(1);
  network_ =
      std::make_shared<SsvaeModel>(pixels_, classes_, make_generator(config.run.seed, "init"));
  estimator_ = make_estimator(config.estimator, structure_, pixels_, config.run.seed);
  root_ = std::make_shared<torch::nn::Module>("ssvae");
  root_->register_module("network", network_);
  root_->register_module("estimator", estimator_);
  if (!config.warm_start.empty()) {
    Checkpoint::read(config.warm_start, name(), signature())
        .load_module("model/network.", *network_);
  }
  root_->to(device_);
  const int64_t warmup_steps = (config.labelled + config.batch_size - 1) / config.batch_size;
  phases_ = {{.name = "warmup",
              .epochs = config.warmup_epochs,
              .steps = warmup_steps,
              .learning_rate = config.warmup_learning_rate,
              .weight_decay = config.weight_decay},
             {.name = "train",
              .epochs = config.epochs,
              .steps = config.steps_per_epoch,
              .learning_rate = config.learning_rate,
              .weight_decay = config.weight_decay,
              .estimator_learning_rate = config.estimator.baseline_learning_rate,
              .estimator_weight_decay = config.estimator.baseline_weight_decay,
              .cosine = config.run.cosine()}};
  start_streams(phases_.front().name);
}

std::string Ssvae::signature() const { return config_.signature(pixels_, classes_); }

void Ssvae::start_streams(const std::string& phase) {
  const int64_t seed = config_.run.seed;
  labelled_order_.emplace(split_.labelled, make_generator(seed, phase + "/labelled"));
  unlabelled_order_.emplace(split_.unlabelled, make_generator(seed, phase + "/unlabelled"));
  pixel_noise_ = make_generator(seed, phase + "/pixels");
  model_noise_ = make_generator(seed, phase + "/model", device_);
}

void Ssvae::begin_phase(const Phase& phase) { start_streams(phase.name); }

Ssvae::Batch Ssvae::draw(bool with_unlabelled) {
  const at::Tensor labelled = labelled_order_->next(config_.batch_size);
  last_labelled_ = labelled.size(0);
  last_batch_ =
      with_unlabelled ? at::cat({labelled, unlabelled_order_->next(config_.batch_size)}) : labelled;
  Batch batch;
  batch.images =
      binarize(data_.train.images.index_select(0, last_batch_), pixel_noise_).to(device_);
  batch.labels = data_.train.labels.index_select(0, labelled).to(device_);
  return batch;
}

at::Tensor Ssvae::labelled_objective(const at::Tensor& generative, const at::Tensor& scores,
                                     const at::Tensor& labels) {
  sums_.count("correct", scores.detach().argmax(1).eq(labels).sum().item<int64_t>());
  sums_.count("labels", labels.size(0));
  return (generative + estimator_->supervised_loss(scores, labels)).mean() + structure_.log_size();
}

at::Tensor Ssvae::step(const Phase& phase) {
  root_->train();
  const bool supervised_only = phase.name == "warmup";
  const Batch batch = draw(!supervised_only);
  // What does not depend on z, for labelled and unlabelled images in one pass.
  const at::Tensor scores = network_->scores(batch.images);
  const at::Tensor features = network_->features(batch.images);
  require_finite("the scores of the classifier", scores);
  const Assignments known = one_per_example(batch.labels, classes_);

  if (supervised_only) {
    const at::Tensor objective = labelled_objective(
        network_->loss(known, batch.images, features, model_noise_), scores, batch.labels);
    sums_.add("labelled", objective.item<double>());
    sums_.add_step(objective.item<double>());
    return objective;
  }

  const std::vector<int64_t> sizes = {last_labelled_, batch.images.size(0) - last_labelled_};
  const auto images = batch.images.split_with_sizes(sizes);
  const auto split_scores = scores.split_with_sizes(sizes);
  const auto split_features = features.split_with_sizes(sizes);

  // Small networks cost as much in calls as in arithmetic, so the labelled images ride along with
  // the first evaluation of the unlabelled ones that has a graph; the estimator may make others.
  // Chunks forbid that: they are evaluated without a graph, and again in the backward pass.
  const bool chunked = config_.max_evaluations_per_chunk > 0;
  at::Tensor generative;
  const auto labelled_alone = [&] {
    return network_->loss(known, images[0], split_features[0], model_noise_);
  };
  if (chunked) generative = labelled_alone();
  const LossFn unlabelled_alone = [this, unlabelled = images[1]](
                                      const Assignments& z, const std::vector<at::Tensor>& shared) {
    return network_->loss(z, unlabelled, shared[0], model_noise_);
  };
  const LossFn with_labelled = [&](const Assignments& z, const std::vector<at::Tensor>& shared) {
    if (generative.defined() || !at::GradMode::is_enabled()) return unlabelled_alone(z, shared);
    const at::Tensor all_features =
        shared[0].is_same(split_features[1]) ? features : at::cat({split_features[0], shared[0]});
    const at::Tensor both =
        network_->loss(side_by_side(known, z), batch.images, all_features, model_noise_);
    const auto parts = both.split_with_sizes({known.count(), z.count()});
    generative = parts[0];
    return Loss(parts[1]);
  };
  const Problem problem{
      .structure = structure_,
      .scores = split_scores[1],
      .loss = chunked ? unlabelled_alone : with_labelled,
      .shared = {split_features[1]},
      .context = images[1],
      .max_evaluations_per_chunk = config_.max_evaluations_per_chunk,
  };
  const Estimate estimate = estimator_->estimate(problem, model_noise_);
  if (!generative.defined()) generative = labelled_alone();
  const at::Tensor labelled = labelled_objective(generative, split_scores[0], batch.labels);
  const at::Tensor unlabelled = estimate.objective.mean() + structure_.log_size();
  const double weight = static_cast<double>(config_.unlabelled) / config_.labelled;
  at::Tensor objective = at::add(labelled, unlabelled, weight);

  sums_.add("labelled", labelled.item<double>());
  sums_.add("unlabelled", unlabelled.item<double>());
  sums_.add_step(objective.item<double>());
  sums_.add_evaluations(estimate.evaluations);
  if (estimate.auxiliary.defined()) objective = objective + estimate.auxiliary;
  return objective;
}

Problem Ssvae::fixed_problem(int64_t size, int64_t seed) {
  if (size > split_.unlabelled.size(0)) {
    throw InputError("option --examples: expected at most the " +
                     std::to_string(split_.unlabelled.size(0)) + " unlabelled images, got " +
                     std::to_string(size));
  }
  const at::Tensor indices =
      ShuffledCycle(split_.unlabelled, make_generator(seed, "problem/images")).next(size);
  const at::Tensor images =
      binarize(data_.train.images.index_select(0, indices), make_generator(seed, "problem/pixels"))
          .to(device_);
  const at::Tensor scores = network_->scores(images).detach();
  require_finite("the scores of the classifier", scores);
  const at::Tensor noise =
      at::randn({size, SsvaeModel::kLatents}, make_generator(seed, "problem/model", device_),
                scores.options());
  return {
      .structure = structure_,
      .scores = scores,
      .loss =
          [this, images, noise](const Assignments& z, const std::vector<at::Tensor>& shared) {
            return Loss(network_->loss(z, images, shared[0], noise));
          },
      .shared = {network_->features(images)},
      .context = images,
      .max_evaluations_per_chunk = config_.max_evaluations_per_chunk,
  };
}

std::string Ssvae::describe_batch() const {
  std::string text = describe_images("labelled", last_batch_.slice(0, 0, last_labelled_));
  if (last_batch_.size(0) > last_labelled_) {
    text += " and " + describe_images("unlabelled", last_batch_.slice(0, last_labelled_));
  }
  return text;
}

EpochNumbers Ssvae::epoch_numbers() const {
  return sums_.numbers(sums_.counted("labels") > 0 ? std::optional(accuracy()) : std::nullopt);
}

double Ssvae::accuracy() const {
  return static_cast<double>(sums_.counted("correct")) /
         static_cast<double>(sums_.counted("labels"));
}

Json Ssvae::epoch_metrics() const {
  Json metrics;
  metrics["objective"] = sums_.mean_objective();
  metrics["labelled"] = sums_.mean("labelled");
  metrics["unlabelled"] = sums_.has_evaluations() ? Json(sums_.mean("unlabelled")) : Json();
  metrics["accuracy"] = accuracy();
  metrics["evaluations"] = sums_.evaluations();
  return metrics;
}

// --- evaluation ----------------------------------------------------------------------------------

Json Ssvae::evaluate(const std::string& split) {
  const at::NoGradGuard no_grad;
  root_->eval();
  const bool test = split == "test";
  TORCH_CHECK(test || split == "validation", "ssvae: expected split 'validation' or 'test', got '",
              split, "'");
  const LabelledImages& source = test ? data_.test : data_.train;
  const at::Tensor indices =
      test ? at::arange(source.images.size(0), at::kLong) : split_.validation;
  // The same pixels and draws of h at every evaluation of every run, so that curves are comparable.
  const at::Generator pixel_noise = make_generator(0, "evaluate/" + split + "/pixels");
  const at::Generator model_noise = make_generator(0, "evaluate/" + split + "/model", device_);

  int64_t correct = 0;
  double elbo = 0;
  std::vector<at::Tensor> evaluations;
  for (const at::Tensor& batch : indices.split(kEvaluationBatch)) {
    const at::Tensor images =
        binarize(source.images.index_select(0, batch), pixel_noise).to(device_);
    const at::Tensor labels = source.labels.index_select(0, batch).to(device_);
    const at::Tensor scores = network_->scores(images);
    require_finite("the scores of the classifier", scores);
    const at::Tensor features = network_->features(images);
    const SparseDistribution q = estimator_->distribution(structure_, scores)->enumerate();
    const at::Tensor loss = expectation(
        q, [&](const Assignments& z) { return network_->loss(z, images, features, model_noise); });
    elbo += (q.entropy() - loss - structure_.log_size()).sum(at::kDouble).item<double>();
    correct += scores.argmax(1).eq(labels).sum().item<int64_t>();
    evaluations.push_back(estimator_->evaluations(structure_, scores).cpu());
  }
  const double count = static_cast<double>(indices.size(0));
  if (!std::isfinite(elbo)) throw NonFiniteError("the ELBO is " + std::to_string(elbo / count));
  Json metrics;
  metrics["accuracy"] = static_cast<double>(correct) / count;
  metrics["elbo"] = elbo / count;
  metrics["evaluations"] = to_json(quartiles(at::cat(evaluations)));
  return metrics;
}

bool Ssvae::better(const Json& candidate, const Json& incumbent) const {
  const auto key = [](const Json& metrics) {
    return std::pair(metrics.at("accuracy").get<double>(), metrics.at("elbo").get<double>());
  };
  return key(candidate) > key(incumbent);
}

std::vector<Picture> Ssvae::images() {
  const at::NoGradGuard no_grad;
  root_->eval();
  constexpr int64_t kColumns = 10, kSide = 28;
  const auto longs = at::TensorOptions().dtype(at::kLong).device(device_);
  const at::Generator noise = make_generator(0, "images/model", device_);

  // Samples: a class a row, one h a column.
  const at::Tensor h = at::randn({kColumns, SsvaeModel::kLatents}, noise, longs.dtype(at::kFloat));
  const at::Tensor outcomes = at::arange(classes_, longs).repeat_interleave(kColumns);
  const at::Tensor samples =
      network_->decode(one_per_example(outcomes, classes_), h.repeat({classes_, 1})).sigmoid();

  // Reconstructions of the first test images: grey levels, the pixels the model saw, its mean.
  const at::Tensor grey =
      data_.test.images.narrow(0, 0, std::min(kColumns, data_.test.images.size(0)));
  const at::Tensor seen = binarize(grey, make_generator(0, "images/pixels")).to(device_);
  const Assignments z = one_per_example(network_->scores(seen).argmax(1), classes_);
  const at::Tensor mean = network_->encode(z, network_->features(seen)).chunk(2, 1)[0];
  const at::Tensor rebuilt = network_->decode(z, mean).sigmoid();
  const at::Tensor rows = at::stack({grey.to(device_).to(at::kFloat).div(255), seen, rebuilt});

  const int64_t height = pixels_ == kSide * kSide ? kSide : 1, width = pixels_ / height;
  return {{"samples", image_grid(samples.view({classes_, kColumns, height, width}).cpu())},
          {"reconstructions", image_grid(rows.view({3, grey.size(0), height, width}).cpu())}};
}

// --- checkpoints ---------------------------------------------------------------------------------

void Ssvae::save_state(Checkpoint& checkpoint) const {
  labelled_order_->save(checkpoint, "labelled");
  unlabelled_order_->save(checkpoint, "unlabelled");
  checkpoint.put_generator("pixels", pixel_noise_);
  checkpoint.put_generator("model", model_noise_);
  sums_.save(checkpoint);
}

void Ssvae::load_state(const Checkpoint& checkpoint) {
  labelled_order_->load(checkpoint, "labelled");
  unlabelled_order_->load(checkpoint, "unlabelled");
  checkpoint.load_generator("pixels", pixel_noise_);
  checkpoint.load_generator("model", model_noise_);
  sums_.load(checkpoint);
}

Json Ssvae::description() const {
  return {{"experiment", name()},       {"estimator", config_.estimator.name},
          {"dataset", config_.dataset}, {"seed", config_.run.seed},
          {"epochs", config_.epochs},   {"warmup_epochs", config_.warmup_epochs}};
}

}  // namespace sparsum::lab
