#include "small_run.h"

#include <gtest/gtest.h>
#include <lab/data/binarize.h>
#include <lab/experiments/ssvae.h>
#include <lab/random.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::write_small_data;

SsvaeConfig small_config(const std::filesystem::path& root, const std::string& estimator) {
  SsvaeConfig config;
  config.run.data = root.string();
  config.estimator.name = estimator;
  config.split = "stratified";
  config.labelled = 40;
  config.unlabelled = 96;
  config.validation = 60;
  config.batch_size = 16;
  config.epochs = 1;
  config.warmup_epochs = 1;
  config.resolve();
  return config;
}

/// The model's loss as the paper writes it, with z as a one-hot vector beside x and beside h.
at::Tensor reference_loss(const SsvaeModel& model, const at::Tensor& x, const at::Tensor& one_hot,
                          const at::Tensor& noise) {
  const auto p = model.named_parameters();
  const auto layer = [&](const std::string& name, const at::Tensor& input) {
    return at::linear(input, p[name + ".weight"], p[name + ".bias"]);
  };
  const auto first = [&](const std::string& name, const at::Tensor& input) {
    const at::Tensor weight = at::cat({p[name + ".weight"], p[name + ".table"].t()}, 1);
    return at::linear(at::cat({input, one_hot}, 1), weight, p[name + ".bias"]).relu();
  };
  const at::Tensor code =
      layer("encoder_rest.1", layer("encoder_rest.0", first("encoder", x)).relu());
  const at::Tensor mean = code.slice(1, 0, 8), sigma = code.slice(1, 8, 16).exp();
  const at::Tensor h = mean + sigma * noise;
  const at::Tensor logits =
      layer("decoder_rest.1", layer("decoder_rest.0", first("decoder", h)).relu());
  const at::Tensor nll =
      at::binary_cross_entropy_with_logits(logits, x, {}, {}, at::Reduction::None).sum(1);
  const at::Tensor divergence = (0.5 * (mean.pow(2) + sigma.pow(2) - 1) - sigma.log()).sum(1);
  return nll + divergence;
}

TEST(SsvaeModel, LossIsThePapersOnOneHotClasses) {
  SsvaeModel model(784, 10, make_generator(0, "init"));
  const auto generator = make_generator(1, "x");
  const at::Tensor x = at::rand({3, 784}, generator, at::kFloat).gt(0.5).to(at::kFloat);
  const Categorical structure(10);
  const at::Tensor scores = at::randn({3, 10}, generator, at::kFloat);
  for (const Assignments& z : {structure.enumerate(3, at::kCPU), structure.k_best(scores, 2)}) {
    model.zero_grad();
    const at::Tensor loss = model.loss(z, x, model.features(x), make_generator(2, "h"));
    loss.sum().backward();
    std::vector<at::Tensor> gradients;
    for (const auto& p : model.parameters()) gradients.push_back(p.grad());

    model.zero_grad();
    const at::Tensor noise = at::randn({z.count(), 8}, make_generator(2, "h"), at::kFloat);
    const at::Tensor expected = reference_loss(model, x.index_select(0, z.rows),
                                               at::one_hot(z.indices, 10).to(at::kFloat), noise);
    expected.sum().backward();
    EXPECT_TRUE(at::allclose(loss, expected, 1e-4, 1e-3));
    const auto named = model.named_parameters().keys();
    for (size_t i = 0; i < gradients.size(); ++i) {
      const at::Tensor reference = model.parameters()[i].grad();
      ASSERT_EQ(gradients[i].defined(), reference.defined()) << named[i];
      if (!reference.defined()) continue;  // the classifier has no part in this loss
      EXPECT_TRUE(at::allclose(gradients[i], reference, 1e-3, 1e-3)) << named[i];
    }
  }
}

TEST(Ssvae, EvaluatesTheBoundAndTheAccuracyOfItsOwnPosterior) {
  const Folder folder;
  write_small_data(folder.path());
  for (const char* estimator : {"dense", "sparsemax", "entmax", "sfe"}) {
    const auto config = small_config(folder.path(), estimator);
    const auto experiment = config.make();
    const Json metrics = experiment->evaluate("test");

    // The same by hand: all ten classes of each image, weighted.
    const at::NoGradGuard no_grad;
    const auto data = load_image_data(data_source("mnist"), folder.path());
    const at::Tensor x =
        binarize(data.test.images.flatten(1), make_generator(0, "evaluate/test/pixels"));
    const auto children = experiment->model().named_children();
    const auto model = std::dynamic_pointer_cast<SsvaeModel>(children["network"]);
    const auto method = std::dynamic_pointer_cast<Estimator>(children["estimator"]);
    const at::Tensor scores = model->scores(x);
    const Categorical structure(10);
    const auto q = method->distribution(structure, scores)->enumerate();
    const at::Tensor probs = q.to_dense().to(at::kDouble);
    const at::Tensor noise =
        at::randn({q.support().count(), 8}, make_generator(0, "evaluate/test/model"), at::kFloat);
    const at::Tensor losses =
        reference_loss(*model, x.index_select(0, q.support().rows),
                       at::one_hot(q.support().indices, 10).to(at::kFloat), noise);
    const double distortion = (losses * q.probs()).sum(at::kDouble).item<double>();
    const double entropy = -at::xlogy(probs, probs).sum().item<double>();
    const double n = static_cast<double>(x.size(0));
    EXPECT_NEAR(metrics["elbo"].get<double>(), (entropy - distortion) / n - std::log(10), 2e-2)
        << estimator;
    EXPECT_NEAR(metrics["accuracy"].get<double>(),
                scores.argmax(1).eq(data.test.labels).sum().item<double>() / n, 1e-12);
    const double support = probs.gt(0).sum().item<double>() / n;
    EXPECT_NEAR(metrics["evaluations"]["mean"].get<double>(),
                std::string(estimator) == "sfe" ? 1 : support, 1e-12)
        << estimator;
    EXPECT_EQ(metrics.dump(), experiment->evaluate("test").dump()) << "not the same twice";
  }
}

TEST(Ssvae, ObjectiveWeighsTheUnlabelledMeanByTheirNumbers) {
  const Folder folder;
  write_small_data(folder.path());
  const auto config = small_config(folder.path(), "dense");
  const auto experiment = config.make();
  const Phase& phase = experiment->phases()[1];
  experiment->begin_phase(phase);
  experiment->begin_epoch();
  const double objective = experiment->step(phase).item<double>();
  const Json metrics = experiment->epoch_metrics();
  EXPECT_NEAR(objective,
              metrics["labelled"].get<double>() + 96.0 / 40 * metrics["unlabelled"].get<double>(),
              1e-3 * objective);
  EXPECT_EQ(metrics["evaluations"]["mean"].get<double>(), 10);
  EXPECT_EQ(metrics["evaluations"]["q75"].get<double>(), 10);
  EXPECT_NEAR(metrics["objective"].get<double>(), objective, 1e-9 * objective);
}

TEST(Ssvae, LabelledImagesInTheSameCallAreThoseOfACallOfTheirOwn) {
  const Folder folder;
  write_small_data(folder.path());
  // One chunk that holds everything: the same draws of h, but labelled images evaluated apart.
  std::vector<double> objectives;
  std::vector<std::vector<at::Tensor>> gradients;
  for (const int64_t chunk : {int64_t{0}, int64_t{1} << 40}) {
    auto config = small_config(folder.path(), "dense");
    config.max_evaluations_per_chunk = chunk;
    const auto experiment = config.make();
    const Phase& phase = experiment->phases()[1];
    experiment->begin_phase(phase);
    experiment->begin_epoch();
    const at::Tensor objective = experiment->step(phase);
    objective.backward();
    objectives.push_back(objective.item<double>());
    gradients.emplace_back();
    for (const auto& p : experiment->model().parameters()) gradients.back().push_back(p.grad());
  }
  EXPECT_NEAR(objectives[0], objectives[1], 1e-5 * objectives[0]);
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    EXPECT_TRUE(at::allclose(gradients[0][i], gradients[1][i], 1e-3, 1e-3)) << i;
  }
}

TEST(Ssvae, WarmupLooksAtLabelledImagesAlone) {
  const Folder folder;
  write_small_data(folder.path());
  const auto config = small_config(folder.path(), "sparsemax");
  const auto experiment = config.make();
  const Phase& phase = experiment->phases()[0];
  EXPECT_EQ(phase.name, "warmup");
  EXPECT_EQ(phase.steps, 3);  // ⌈40 / 16⌉
  experiment->begin_phase(phase);
  experiment->begin_epoch();
  experiment->step(phase);
  EXPECT_TRUE(experiment->describe_batch().starts_with("16 labelled training images ("));
  EXPECT_EQ(experiment->describe_batch().find("unlabelled"), std::string::npos);
  const Json metrics = experiment->epoch_metrics();
  EXPECT_TRUE(metrics["unlabelled"].is_null());
  EXPECT_TRUE(metrics["evaluations"].is_null());
}

TEST(Ssvae, NamesScoresThatAreNotFinite) {
  const Folder folder;
  write_small_data(folder.path());
  const auto config = small_config(folder.path(), "sparsemax");
  const auto experiment = config.make();
  {
    const at::NoGradGuard no_grad;
    experiment->model().named_parameters()["network.classifier.0.weight"].fill_(NAN);
  }
  const Phase& phase = experiment->phases()[1];
  experiment->begin_phase(phase);
  try {
    experiment->step(phase);
    FAIL() << "no error";
  } catch (const NonFiniteError& error) {
    EXPECT_STREQ(error.what(), "the scores of the classifier are not finite");
  }
  EXPECT_THROW(experiment->evaluate("validation"), NonFiniteError);
}

TEST(SsvaeConfig, WorksOutWhatIsLeftToIt) {
  const Folder folder;
  const auto resolved = [&](const Settings& settings) {
    SsvaeConfig config;
    config.run.data = folder.path().string();
    Options options = config.options();
    for (const auto& [name, text] : settings) options.set(name, text);
    config.resolve();
    return config;
  };
  const auto standard = resolved({});
  EXPECT_EQ(standard.steps_per_epoch, 704);
  EXPECT_EQ(standard.learning_rate, 5e-4);
  EXPECT_EQ(standard.split, "stratified") << "there are no published lists here";
  EXPECT_GT(standard.run.threads, 0);
  EXPECT_EQ(resolved({{"estimator", "dense"}}).learning_rate, 1e-3);
  EXPECT_EQ(resolved({{"estimator", "sfe"}}).learning_rate, 1e-4);
  EXPECT_EQ(resolved({{"estimator", "sfe"}, {"lr", "0.5"}}).learning_rate, 0.5);
  EXPECT_EQ(resolved({{"unlabelled", "100"}, {"batch-size", "30"}}).steps_per_epoch, 4);
  EXPECT_EQ(resolved({{"warm-start", "x.safetensors"}}).warmup_epochs, 0);

  std::filesystem::create_directories(folder / "mnist-splits");
  EXPECT_EQ(resolved({}).split, "published");
  EXPECT_EQ(resolved({{"labelled", "100"}}).split, "stratified");
  EXPECT_EQ(resolved({{"dataset", "fashion-mnist"}}).split, "stratified");
  EXPECT_EQ(input_error_of([&] {
              resolved({{"dataset", "fashion-mnist"}, {"split", "published"}});
            }),
            "option --split: the published lists are those of mnist, the dataset is "
            "fashion-mnist");
  EXPECT_EQ(input_error_of([&] {
              resolved({{"device", "tpu"}});
            }),
            "option --device: expected cpu, cuda or cuda:INDEX, got 'tpu'");
  EXPECT_TRUE(input_error_of([&] {
                resolved({{"device", "cuda:99"}});
              })
                  .starts_with("option --device: expected cpu, cuda or cuda:INDEX, got 'cuda:99', "
                               "and there are "));
  at::set_num_threads(2);
}

TEST(SsvaeConfig, SurvivesItsOwnToml) {
  const Folder folder;
  SsvaeConfig config;
  config.run.data = folder.path().string();
  config.estimator.name = "entmax";
  config.estimator.options.alpha = 1.3;
  config.run.seed = 12;
  config.resolve();
  const std::string toml = config.options().to_toml();
  sparsum_test::spit(folder / "config.toml", toml);
  EXPECT_EQ(read_config(folder / "config.toml")->options().to_toml(), toml);
}

TEST(SsvaeConfig, NamesMapsThatAreTheSame) {
  const auto map = [](const std::string& estimator) {
    SsvaeConfig config;
    config.estimator.name = estimator;
    return config.map();
  };
  EXPECT_EQ(map("dense"), map("sfe"));
  EXPECT_EQ(map("top-k"), map("sparsemax"));
  EXPECT_NE(map("dense"), map("sparsemax"));
  EXPECT_EQ(map("entmax"), "entmax 1.5");
}

}  // namespace
}  // namespace sparsum::lab
