#include "lab/experiments/signal.h"

#include "lab/data/image_data.h"
#include "lab/error.h"
#include "lab/files.h"
#include "lab/metrics.h"
#include "lab/png.h"
#include "lab/random.h"
#include "lab/run.h"

#include <sparsum/expectation.h>
#include <sparsum/scalar_perceptron.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string_view>

namespace sparsum::lab {
namespace {

constexpr int64_t kEvaluationBatch = 250;               // games
constexpr int64_t kEvaluationPairs = int64_t{1} << 18;  // (game, symbol) pairs, at most
constexpr int64_t kTopographicGames = 1000;

struct Hyperparameters {
  double learning_rate, entropy_weight;
};

/// A method's on feature files, as Correia et al. (2020, appendix) had them for ImageNet, and on
/// digits and clothes, as sweeps/signal-grid.toml found them (docs/results.md).
struct Tuned {
  std::string_view estimator, loss;  ///< loss: "" for both
  Hyperparameters features, images;
};

constexpr Hyperparameters kSparseFeatures = {5e-3, 0.1}, kSparseImages = {1e-3, 0.03};
constexpr Tuned kTuned[] = {
    {"sparsemax", "", kSparseFeatures, kSparseImages},
    {"entmax", "", kSparseFeatures, kSparseImages},
    {"top-k", "", kSparseFeatures, kSparseImages},
    {"top-k-adaptive", "", kSparseFeatures, kSparseImages},
    {"sparsemap", "", kSparseFeatures, kSparseImages},
    {"dense", "", {1e-3, 0.1}, {5e-3, 0.03}},
    {"nvil", "", {1e-3, 0.1}, {1e-3, 0.01}},
    {"gumbel", "", {1e-3, 0.01}, {5e-3, 0.1}},
    {"st-gumbel", "", {1e-3, 0.01}, {2e-3, 0.1}},
    {"sfe", "zero-one", {1e-3, 0.01}, {2e-3, 0.03}},
    {"sfe-plus", "zero-one", {1e-3, 0.05}, {5e-3, 0.03}},
    {"", "", {1e-3, 0.05}, {1e-3, 0.1}},  // sfe, and all others
};

Hyperparameters hyperparameters(const std::string& estimator, const std::string& loss,
                                bool features) {
  for (const Tuned& tuned : kTuned) {
    if (!tuned.estimator.empty() && tuned.estimator != estimator) continue;
    if (!tuned.loss.empty() && tuned.loss != loss) continue;
    return features ? tuned.features : tuned.images;
  }
  return {};  // the last row is for all
}

/// Of Gumbel-Softmax, a step, renewed every 1,000 steps.
constexpr double kPublishedTemperatureDecay = 1e-5;

/// Ranks from 0, the mean of theirs for equal values: [n] float64.
at::Tensor ranks(const at::Tensor& values) {
  const auto [distinct, inverse, counts] =
      at::_unique2(values, /*sorted=*/true, /*return_inverse=*/true, /*return_counts=*/true);
  const at::Tensor sizes = counts.to(at::kDouble);
  return (sizes.cumsum(0) - (sizes + 1) / 2).index_select(0, inverse);
}

/// Spearman's correlation; 0 if one of them is constant.
double rank_correlation(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = ranks(a), y = ranks(b);
  const at::Tensor dx = x - x.mean(), dy = y - y.mean();
  const double scale =
      std::sqrt(dx.square().sum().item<double>() * dy.square().sum().item<double>());
  return scale > 0 ? (dx * dy).sum().item<double>() / scale : 0;
}

/// 1 − cosine of every pair of rows, each once: [m(m − 1)/2].
at::Tensor cosine_distances(const at::Tensor& rows) {
  const at::Tensor unit = rows / rows.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-12);
  const at::Tensor pairs = at::triu_indices(rows.size(0), rows.size(0), 1);
  return 1 - unit.mm(unit.t()).index({pairs[0], pairs[1]});
}

/// A symbol's number in a cell of a picture: all of up to three digits in one size, with a margin.
void put_number(const at::Tensor& cell, int64_t symbol) {
  draw_number(cell.slice(0, 1, -1).slice(1, 1, -1), symbol, /*least_digits=*/3);
}

/// I(symbol; concept) in nats of a joint distribution [V, K].
double mutual_information(const at::Tensor& joint) {
  const at::Tensor independent = joint.sum(1, true) * joint.sum(0, true);
  return at::xlogy(joint, joint / independent.clamp_min(1e-300)).sum().item<double>();
}

}  // namespace

// --- options -------------------------------------------------------------------------------------

Options SignalConfig::options() {
  constexpr double kMax = std::numeric_limits<double>::max();
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  Options o;
  o.add("experiment", &experiment, "the experiment these options belong to", {"signal"});
  o.add("dataset", &dataset,
        "images to name: digits and clothes as 20 concepts, or feature files of one's own",
        {"mnist+fashion-mnist", "features"});
  o.add("features", &features,
        "with --dataset features: folder with train/ and test/, in each an HDF5 file, a row an "
        "image, and its labels")
      .also_after_training();
  o.add("features-name", &features_name,
        "the data set in those files, if they hold several; default: the only one of two "
        "dimensions")
      .also_after_training();
  o.add("labels-name", &labels_name,
        "the data set of the labels in those files, if they hold several of integers; default: the "
        "only one of one dimension")
      .also_after_training();
  o.add("features-cache", &features_cache,
        "memory for the rows kept of each of those files; one that holds a compressed file is read "
        "many times faster",
        "MiB", 1, int64_t{1} << 40)
      .also_after_training();
  o.add("loss", &loss,
        "what the receiver loses: -log p(target), or 1 if the image that it draws is another",
        {"nll", "zero-one"});
  declare_estimator(o, estimator, "how the expectation over the symbol is differentiated");
  o.add("symbols", &symbols, "size of the vocabulary", "symbols", 2, 1 << 20);
  o.add("candidates", &candidates, "images the receiver chooses from", "images", 2, 1 << 16);
  o.add("same-concept", &same_concept,
        "all images of a game are of one concept, instead of each of another");
  o.add("hidden", &hidden, "hidden units of the sender's scalar function", "units", 1, 1 << 20);
  o.add("embedding", &embedding, "size of embeddings of images and symbols", "numbers", 1, 1 << 20);
  o.add("entropy-weight", &entropy_weight, "reward of the sender's entropy", "", -1.0, kMax)
      .describe_default("-1: by estimator and data, as configs/ has it");
  run.declare(o);
  o.add("epochs", &epochs, "length of training", "epochs", 0, kMany);
  o.add("steps-per-epoch", &steps_per_epoch, "length of an epoch", "steps", 1, kMany);
  o.add("batch-size", &batch_size, "games a step", "games", 1, kMany);
  o.add("lr", &learning_rate, "Adam's learning rate", "", 0.0, kMax)
      .describe_default("0: by estimator and data, as configs/ has it");
  o.add("weight-decay", &weight_decay,
        "L2 penalty: this times a parameter is added to its gradient", "", 0.0, kMax);
  o.add("validation-share", &validation_share,
        "share of each concept's training images that is set aside for validation", "", 0.0, 0.9);
  o.add("validation-games", &validation_games, "the fixed games of validation, the first so many",
        "games", 1, kMany)
      .also_after_training();
  o.add("test-games", &test_games, "the fixed games of the test, the first so many", "games", 1,
        kMany)
      .also_after_training();
  declare_estimator_options(o, estimator);
  o.add("max-evaluations-per-chunk", &max_evaluations_per_chunk,
        "bounds memory: losses evaluated at once, recomputed in the backward pass; 0: no bound",
        "evaluations", 0, kMany);
  return o;
}

void SignalConfig::resolve() {
  SignalConfig fresh;
  require_read(options(), fresh.options(), estimator.name);
  run.resolve();
  const bool files = dataset == "features";
  if (files && features.empty()) {
    throw InputError("option --features: expected a folder with --dataset features, got none");
  }
  for (const auto& [name, is_given] : {std::pair{"features", !features.empty()},
                                       std::pair{"features-name", !features_name.empty()},
                                       std::pair{"labels-name", !labels_name.empty()}}) {
    if (files || !is_given) continue;
    throw InputError(std::string("option --") + name +
                     ": only --dataset features reads it, the dataset is " + dataset);
  }
  if (entropy_weight < 0 && entropy_weight != -1) {
    throw InputError(
        "option --entropy-weight: expected at least 0, or -1 for the estimator's, got " +
        number_text(entropy_weight));
  }
  if (estimator.name == "vimco" && loss == "zero-one") {
    throw InputError("option --loss: vimco bounds a likelihood; expected nll, got zero-one");
  }
  const Hyperparameters own = hyperparameters(estimator.name, loss, files);
  if (learning_rate == 0) learning_rate = own.learning_rate;
  if (entropy_weight < 0) entropy_weight = own.entropy_weight;
  resolve_estimator(estimator, learning_rate, kPublishedTemperatureDecay);
}

std::string SignalConfig::signature(int64_t width) const {
  std::ostringstream text;
  text << "signal " << width << " features, " << symbols << " symbols, " << embedding
       << " embedding, " << hidden << " hidden";
  return text.str();
}

std::unique_ptr<ExperimentConfig> SignalConfig::clone() const {
  return std::make_unique<SignalConfig>(*this);
}

void SignalConfig::check_estimator() const {
  // The width of the images is known from the data alone, and no estimator refuses one.
  make_estimator(estimator, Categorical(symbols), /*context=*/1, run.seed);
}

std::string SignalConfig::run_name() const {
  std::ostringstream run_name;
  run_name << "signal-" << (dataset == "features" ? "features" : "images") << "-" << estimator.name;
  if (loss != "nll") run_name << "-" << loss;
  if (same_concept) run_name << "-same-concept";
  run_name << "-s" << run.seed;
  return run_name.str();
}

std::unique_ptr<Experiment> SignalConfig::make() const {
  if (dataset != "features") {
    return std::make_unique<Signal>(
        *this, load_image_concepts({"mnist", "fashion-mnist"}, data_root(run.data)));
  }
  FeatureFileOptions files;
  files.data_set = features_name;
  files.labels = labels_name;
  files.cache_bytes = features_cache << 20;
  return std::make_unique<Signal>(*this, load_feature_concepts(features, files));
}

// --- model ---------------------------------------------------------------------------------------

SignalModel::SignalModel(int64_t features, int64_t symbols, int64_t embedding, int64_t hidden,
                         at::Generator generator) {
  const auto weight = [&](const char* name, at::IntArrayRef shape, int64_t inputs) {
    return register_parameter(name, initial(shape, inputs, generator));
  };
  sender_ = weight("sender", {embedding, features}, features);
  inner_ = weight("inner", {hidden}, 1);
  outer_ = weight("outer", {hidden}, hidden);
  speaker_ = weight("speaker", {symbols, embedding}, embedding);
  receiver_ = weight("receiver", {embedding, features}, features);
  table_ = register_parameter("symbols",
                              at::empty({symbols, embedding}, at::kFloat).normal_(0, 1, generator));
}

at::Tensor SignalModel::scores(const at::Tensor& targets) const {
  const at::Tensor embedded = at::linear(targets, sender_);
  return at::linear(scalar_perceptron(embedded, inner_, outer_), speaker_).div(10);
}

at::Tensor SignalModel::receive(const at::Tensor& images) const {
  return at::linear(images, receiver_);
}

at::Tensor SignalModel::log_choice(const Assignments& z, const at::Tensor& images) const {
  const int64_t games = images.size(0), candidates = images.size(1), symbols = table_.size(0);
  const auto every_symbol = [&](const at::Tensor& of) {  // [B, symbols, C], by one product
    return at::matmul(of, table_.t()).transpose(1, 2);
  };
  if (z.full_grid) {
    return every_symbol(images).reshape({games * symbols, candidates}).log_softmax(1);
  }
  // The images of each pair are gathered; beyond a few symbols a game it is cheaper to score all,
  // of the games that are asked for: some of them, one after the other, where a chunk is evaluated.
  const int64_t few = std::max<int64_t>(8, symbols / 32);
  if (z.indices.defined() && z.count() > few) {
    const int64_t first = z.rows[0].item<int64_t>();
    const int64_t asked = z.rows[-1].item<int64_t>() - first + 1;
    if (z.count() > few * asked) {
      const at::Tensor place = at::add(z.indices, z.rows - first, symbols);
      return every_symbol(images.narrow(0, first, asked))
          .reshape({asked * symbols, candidates})
          .index_select(0, place)
          .log_softmax(1);
    }
  }
  const at::Tensor said = z.embed(table_).unsqueeze(2);
  return at::bmm(z.gather(images), said).squeeze(2).log_softmax(1);
}

// --- training ------------------------------------------------------------------------------------

Signal::Signal(const SignalConfig& config, ConceptData data)
    : config_(config),
      data_(std::move(data)),
      structure_(config.symbols),
      device_(config.run.device) {
  const int64_t width = data_.train.features->width();
  network_ = std::make_shared<SignalModel>(width, config.symbols, config.embedding, config.hidden,
                                           make_generator(config.run.seed, "init"));
  estimator_ = make_estimator(config.estimator, structure_, width, config.run.seed);
  root_ = std::make_shared<torch::nn::Module>("signal");
  root_->register_module("network", network_);
  root_->register_module("estimator", estimator_);
  root_->to(device_);
  phases_ = {{.name = "train",
              .epochs = config.epochs,
              .steps = config.steps_per_epoch,
              .learning_rate = config.learning_rate,
              .weight_decay = config.weight_decay,
              .estimator_learning_rate = config.estimator.baseline_learning_rate,
              .estimator_weight_decay = config.estimator.baseline_weight_decay,
              .cosine = config.run.cosine()}};
  const GameRules rules{config.candidates, config.same_concept};
  // The same images and the same games for every run.
  auto [kept, held_out] = hold_out(data_.train.by_concept, config.validation_share,
                                   make_generator(0, "games/hold-out"), data_.names);
  games_.emplace(std::move(kept), rules, "training", data_.names);
  try {
    validation_games_ =
        validation_games(GameSampler(std::move(held_out), rules, "validation", data_.names),
                         config.validation_games);
  } catch (const InputError& error) {
    throw InputError(std::string(error.what()) +
                     "; --validation-share says how many training images are set aside for them");
  }
  test_games_ =
      test_games(GameSampler(data_.test.by_concept, rules, "test", data_.names), config.test_games);
  start_streams(phases_.front().name);
}

std::string Signal::signature() const { return config_.signature(data_.train.features->width()); }

void Signal::start_streams(const std::string& phase) {
  game_draws_ = make_generator(config_.run.seed, phase + "/games");
  model_noise_ = make_generator(config_.run.seed, phase + "/model", device_);
}

void Signal::begin_phase(const Phase& phase) { start_streams(phase.name); }

Signal::Batch Signal::gather(const Games& games, bool test) const {
  const Features& features = *(test ? data_.test : data_.train).features;
  const at::Tensor images = features.gather(games.candidates);  // [B, C, F]
  const at::Tensor own = games.positions.view({-1, 1, 1}).expand({-1, 1, images.size(2)});
  return {images.gather(1, own).squeeze(1).to(device_), images.flatten(0, 1).to(device_),
          games.positions.to(device_)};
}

at::Tensor Signal::embed(const Batch& batch) const {
  return network_->receive(batch.candidates)
      .view({batch.positions.size(0), config_.candidates, config_.embedding});
}

at::Tensor Signal::step(const Phase&) {
  root_->train();
  last_games_ = games_->draw(config_.batch_size, game_draws_);
  const Batch batch = gather(last_games_, /*test=*/false);
  const at::Tensor scores = network_->scores(batch.targets);
  require_finite("the scores of the sender", scores);
  const LossFn nll = [this, positions = batch.positions](const Assignments& z,
                                                         const std::vector<at::Tensor>& shared) {
    const at::Tensor log_p = network_->log_choice(z, shared[0]);
    return Loss(log_p.gather(1, z.gather(positions).unsqueeze(1)).squeeze(1).neg());
  };
  const LossFn zero_one = [this, positions = batch.positions](
                              const Assignments& z, const std::vector<at::Tensor>& shared) {
    const at::Tensor log_p = network_->log_choice(z, shared[0]);
    const at::Tensor pick =
        at::multinomial(log_p.detach().exp(), 1, /*replacement=*/true, model_noise_);
    const at::Tensor wrong = pick.squeeze(1).ne(z.gather(positions)).to(log_p.scalar_type());
    return Loss(wrong, log_p.gather(1, pick).squeeze(1));
  };
  const Problem problem{
      .structure = structure_,
      .scores = scores,
      .loss = config_.loss == "nll" ? nll : zero_one,
      .shared = {embed(batch)},
      .context = batch.targets,
      .entropy_weight = config_.entropy_weight,
      .max_evaluations_per_chunk = config_.max_evaluations_per_chunk,
  };
  const Estimate estimate = estimator_->estimate(problem, model_noise_);
  at::Tensor objective = estimate.objective.mean();
  sums_.add_step(objective.item<double>());
  sums_.add("loss", estimate.value.mean().item<double>());
  sums_.add("entropy", estimate.entropy.mean().item<double>());
  sums_.add_evaluations(estimate.evaluations);
  if (estimate.auxiliary.defined()) objective = objective + estimate.auxiliary;
  return objective;
}

Problem Signal::fixed_problem(int64_t size, int64_t seed) {
  const Batch batch =
      gather(games_->draw(size, make_generator(seed, "problem/games")), /*test=*/false);
  const at::Tensor scores = network_->scores(batch.targets).detach();
  require_finite("the scores of the sender", scores);
  // Of the 0–1 loss the expectation over the receiver's pick: it draws nothing.
  const bool zero_one = config_.loss == "zero-one";
  return {
      .structure = structure_,
      .scores = scores,
      .loss =
          [this, zero_one, positions = batch.positions](const Assignments& z,
                                                        const std::vector<at::Tensor>& shared) {
            const at::Tensor log_p = network_->log_choice(z, shared[0])
                                         .gather(1, z.gather(positions).unsqueeze(1))
                                         .squeeze(1);
            return Loss(zero_one ? 1 - log_p.exp() : -log_p);
          },
      .shared = {embed(batch)},
      .context = batch.targets,
      .entropy_weight = config_.entropy_weight,
      .max_evaluations_per_chunk = config_.max_evaluations_per_chunk,
  };
}

std::string Signal::describe_batch() const {
  return describe_images("", last_games_.targets) + " as targets of games";
}

EpochNumbers Signal::epoch_numbers() const { return sums_.numbers(); }

Json Signal::epoch_metrics() const {
  return {{"objective", sums_.mean_objective()},
          {"loss", sums_.mean("loss")},
          {"entropy", sums_.mean("entropy")},
          {"evaluations", sums_.evaluations()}};
}

// --- evaluation ----------------------------------------------------------------------------------

Signal::Played Signal::play(const Games& games, bool test) {
  const at::NoGradGuard no_grad;
  root_->eval();
  const int64_t count = games.size(), concepts = data_.test.by_concept.concepts();
  Played played;
  std::vector<at::Tensor> symbols, probabilities, picks, choices, evaluations;
  played.joint = at::zeros({config_.symbols, concepts}, at::kDouble);
  const int64_t bound = config_.max_evaluations_per_chunk;
  const int64_t pairs = bound > 0 ? std::min(bound, kEvaluationPairs) : kEvaluationPairs;
  const int64_t at_once = std::clamp<int64_t>(pairs / config_.symbols, 1, kEvaluationBatch);
  for (int64_t begin = 0; begin < count; begin += at_once) {
    const Games part = games.slice(begin, std::min(count, begin + at_once));
    const Batch batch = gather(part, test);
    const at::Tensor scores = network_->scores(batch.targets), images = embed(batch);
    require_finite("the scores of the sender", scores);
    const SparseDistribution q = estimator_->distribution(structure_, scores)->enumerate();
    const Assignments& z = q.support();
    const at::Tensor log_p = network_->log_choice(z, images);
    const at::Tensor positions = z.gather(batch.positions);
    const at::Tensor own = log_p.gather(1, positions.unsqueeze(1)).squeeze(1);
    const at::Tensor hit = log_p.argmax(1).eq(positions);
    played.nll -= (q.probs() * own).sum(at::kDouble).item<double>();
    played.expected_success += (q.probs() * hit).sum(at::kDouble).item<double>();
    played.entropy += q.entropy().sum(at::kDouble).item<double>();
    evaluations.push_back(estimator_->evaluations(structure_, scores).cpu());
    const at::Tensor concept_of = part.concepts.to(z.rows.device());
    played.joint.index_put_({z.indices.cpu(), z.gather(concept_of).cpu()},
                            q.probs().to(at::kCPU, at::kDouble), /*accumulate=*/true);

    const Assignments said = q.mode();
    const at::Tensor choice = network_->log_choice(said, images).exp();
    symbols.push_back(said.indices.cpu());
    probabilities.push_back(q.log_prob(said).exp().cpu());
    choices.push_back(choice.cpu());
    picks.push_back(choice.argmax(1).cpu());
  }
  const auto games_played = static_cast<double>(count);
  played.symbols = at::cat(symbols);
  played.probabilities = at::cat(probabilities);
  played.choices = at::cat(choices);
  played.picks = at::cat(picks);
  played.evaluations = at::cat(evaluations);
  played.nll /= games_played;
  played.expected_success /= games_played;
  played.entropy /= games_played;
  played.joint /= games_played;
  if (!std::isfinite(played.nll)) {
    throw NonFiniteError("the negative log-likelihood is " + std::to_string(played.nll));
  }
  return played;
}

Json Signal::evaluate(const std::string& split) {
  const bool test = split == "test";
  TORCH_CHECK(test || split == "validation", "signal: expected split 'validation' or 'test', got '",
              split, "'");
  const Games& games = test ? test_games_ : validation_games_;
  const Features& features = *(test ? data_.test : data_.train).features;
  const Played played = play(games, test);
  Json metrics;
  metrics["success"] = played.picks.eq(games.positions).to(at::kDouble).mean().item<double>();
  metrics["expected_success"] = played.expected_success;
  metrics["nll"] = played.nll;
  metrics["entropy"] = played.entropy;
  metrics["evaluations"] = to_json(quartiles(played.evaluations));
  metrics["symbols"] = std::get<0>(at::_unique2(played.symbols)).size(0);
  metrics["mutual_information"] = mutual_information(played.joint);
  const int64_t some = std::min(kTopographicGames, games.size());
  const at::NoGradGuard no_grad;
  metrics["topographic_similarity"] =
      rank_correlation(cosine_distances(features.gather(games.targets.slice(0, 0, some))),
                       cosine_distances(network_->symbols().cpu().index_select(
                           0, played.symbols.slice(0, 0, some))));
  return metrics;
}

bool Signal::better(const Json& candidate, const Json& incumbent) const {
  const auto key = [](const Json& metrics) {
    return std::pair(metrics.at("success").get<double>(), -metrics.at("nll").get<double>());
  };
  return key(candidate) > key(incumbent);
}

// --- pictures ------------------------------------------------------------------------------------

std::vector<Picture> Signal::images() {
  constexpr int64_t kRows = 12, kColumns = 10, kTable = 40;
  const int64_t some = std::min<int64_t>(2000, test_games_.size());
  const Games games = test_games_.slice(0, some);
  const Played played = play(games, /*test=*/true);
  const at::Tensor use = played.joint.sum(1);
  const int64_t used = std::min(kTable, use.gt(0).sum().item<int64_t>());
  const at::Tensor order =
      std::get<1>(use.sort(/*stable=*/true, 0, /*descending=*/true)).slice(0, 0, used);

  // p(concept | symbol), the most used symbols from above.
  const at::Tensor table = played.joint.index_select(0, order);
  const at::Tensor share = table / table.sum(1, true).clamp_min(1e-300);
  Json numbers;
  numbers["symbols"] = Json::array();
  numbers["use"] = Json::array();
  numbers["concepts"] = data_.names;
  numbers["shares"] = Json::array();
  for (int64_t i = 0; i < used; ++i) {
    numbers["symbols"].push_back(order[i].item<int64_t>());
    numbers["use"].push_back(use[order[i]].item<double>());
    const double* row = share[i].const_data_ptr<double>();
    numbers["shares"].push_back(std::vector<double>(row, row + share.size(1)));
  }
  std::vector<Picture> pictures = {{"symbols-concepts",
                                    image_grid(share.to(at::kFloat).view({1, 1, used, -1}), 2, 12),
                                    std::move(numbers)}};

  // For the most used symbols, their number and the targets they were said for with the highest
  // probability.
  if (data_.test.pictures.defined()) {
    const int64_t rows = std::min(kRows, used);
    const int64_t height = data_.test.pictures.size(1), width = data_.test.pictures.size(2);
    at::Tensor grid = at::zeros({rows, kColumns + 1, height, width});
    for (int64_t i = 0; i < rows; ++i) {
      put_number(grid[i][0], order[i].item<int64_t>());
      const at::Tensor those = played.symbols.eq(order[i]).nonzero().squeeze(1);
      const at::Tensor best =
          std::get<1>(played.probabilities.index_select(0, those).sort(/*stable=*/true, 0, true));
      const int64_t shown = std::min(kColumns, those.size(0));
      if (shown == 0) continue;
      const at::Tensor targets =
          games.targets.index_select(0, those.index_select(0, best.slice(0, 0, shown)));
      grid[i].slice(0, 1, 1 + shown).copy_(data_.test.pictures.index_select(0, targets) / 255.0);
    }
    pictures.push_back({"symbols", image_grid(grid)});
  }
  return pictures;
}

Signal::Shown Signal::show(int64_t count) {
  const Games games = test_games_.slice(0, std::min(count, test_games_.size()));
  const Played played = play(games, /*test=*/true);
  Shown shown;
  shown.games = Json::array();
  const auto word = [&](const at::Tensor& label) { return data_.names[label.item<int64_t>()]; };
  for (int64_t i = 0; i < games.size(); ++i) {
    Json candidates = Json::array();
    for (int64_t c = 0; c < config_.candidates; ++c) {
      candidates.push_back({{"row", games.candidates[i][c].item<int64_t>()},
                            {"concept", word(data_.test.labels[games.candidates[i][c]])},
                            {"probability", played.choices[i][c].item<double>()}});
    }
    shown.games.push_back({{"target", games.positions[i].item<int64_t>()},
                           {"concept", word(games.concepts[i])},
                           {"symbol", played.symbols[i].item<int64_t>()},
                           {"symbol_probability", played.probabilities[i].item<double>()},
                           {"pick", played.picks[i].item<int64_t>()},
                           {"candidates", candidates}});
  }
  if (!data_.test.pictures.defined()) return shown;

  // A game a row: the target, the symbol's number, the candidates. Below the symbol a bar as long
  // as the sender's probability, below each candidate one of the receiver's, below the right one a
  // square, too.
  const int64_t height = data_.test.pictures.size(1), width = data_.test.pictures.size(2);
  constexpr int64_t kBelow = 11;
  const at::Tensor strips =
      at::zeros({games.size(), config_.candidates + 2, height + kBelow, width});
  const auto put = [&](int64_t row, int64_t column, const at::Tensor& index) {
    strips[row][column].slice(0, 0, height).copy_(data_.test.pictures[index] / 255.0);
  };
  const auto put_bar = [&](int64_t row, int64_t column, const at::Tensor& probability) {
    const auto length = std::lround(probability.item<double>() * static_cast<double>(width));
    strips[row][column].slice(0, height + 1, height + 4).slice(1, 0, length).fill_(1);
  };
  for (int64_t i = 0; i < games.size(); ++i) {
    put(i, 0, games.targets[i]);
    put_number(strips[i][1].slice(0, 0, height), played.symbols[i].item<int64_t>());
    put_bar(i, 1, played.probabilities[i]);
    for (int64_t c = 0; c < config_.candidates; ++c) {
      put(i, c + 2, games.candidates[i][c]);
      put_bar(i, c + 2, played.choices[i][c]);
    }
    strips[i][games.positions[i].item<int64_t>() + 2]
        .slice(0, height + 6, height + 10)
        .slice(1, width / 2 - 2, width / 2 + 2)
        .fill_(1);
  }
  shown.picture = image_grid(strips);
  return shown;
}

// --- checkpoints ---------------------------------------------------------------------------------

void Signal::save_state(Checkpoint& checkpoint) const {
  checkpoint.put_generator("games", game_draws_);
  checkpoint.put_generator("model", model_noise_);
  sums_.save(checkpoint);
}

void Signal::load_state(const Checkpoint& checkpoint) {
  checkpoint.load_generator("games", game_draws_);
  checkpoint.load_generator("model", model_noise_);
  sums_.load(checkpoint);
}

Json Signal::description() const {
  return {{"experiment", name()},       {"estimator", config_.estimator.name},
          {"dataset", config_.dataset}, {"loss", config_.loss},
          {"symbols", config_.symbols}, {"candidates", config_.candidates},
          {"seed", config_.run.seed},   {"epochs", config_.epochs}};
}

Json play_run(const std::filesystem::path& folder, const std::string& checkpoint,
              const std::vector<std::pair<std::string, std::string>>& settings, int64_t games,
              const std::filesystem::path& out) {
  LoadedRun run = load_run(folder, checkpoint, settings);
  auto* signal = dynamic_cast<Signal*>(run.experiment.get());
  if (signal == nullptr) {
    throw InputError(folder.string() + ": expected a run of the experiment signal, got one of " +
                     run.experiment->name());
  }
  const Signal::Shown shown = signal->show(games);
  Json files = Json::array();
  if (!out.empty()) {
    std::error_code error;
    std::filesystem::create_directories(out, error);
    if (error) throw InputError(out.string() + ": cannot be created: " + error.message());
    write_file_atomically(out / "games.json", shown.games.dump(2) + "\n");
    files.push_back((out / "games.json").string());
    if (shown.picture.defined()) {
      write_png(out / "games.png", shown.picture);
      files.push_back((out / "games.png").string());
    }
  }
  return {{"games", shown.games}, {"files", files}};
}

}  // namespace sparsum::lab
