// Moments of gradient estimates, and what the comparison of estimators says of those known exactly.

#include "small_run.h"

#include <gtest/gtest.h>
#include <lab/gradient_quality.h>
#include <lab/random.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::run_small;
using sparsum_test::slurp;

TEST(GradientMoments, AreThoseOfTheSample) {
  const at::Tensor sample =
      at::randn({9, 5}, make_generator(1, "sample"), at::TensorOptions(at::kDouble));
  const at::Tensor reference = at::tensor({1.0, -2.0, 0.5, 0.0, 3.0}, at::kDouble);
  GradientMoments moments(reference);
  for (const at::Tensor& row : sample.unbind()) moments.add(row);
  const at::Tensor mean = sample.mean(0);
  EXPECT_EQ(moments.count(), 9);
  EXPECT_TRUE(moments.mean().allclose(mean, 1e-12, 1e-12));
  EXPECT_NEAR(moments.variance(), sample.var(0, /*unbiased=*/true).sum().item<double>(), 1e-12);
  EXPECT_NEAR(moments.bias(), (mean - reference).norm().item<double>(), 1e-12);
  EXPECT_NEAR(moments.rmse(), (sample - reference).square().sum(1).mean().sqrt().item<double>(),
              1e-12);
  EXPECT_NEAR(moments.cosine(),
              at::cosine_similarity(sample, reference.unsqueeze(0), 1).mean().item<double>(),
              1e-12);
}

TEST(GradientMoments, OfEqualEstimatesHaveNoVariance) {
  const at::Tensor one = at::full({3}, 0.1, at::kDouble);
  GradientMoments moments(one);
  moments.add(one);
  EXPECT_TRUE(std::isnan(moments.variance())) << "one estimate says nothing of it";
  moments.add(one);
  EXPECT_EQ(moments.variance(), 0);
  EXPECT_EQ(moments.bias(), 0);
  EXPECT_NEAR(moments.cosine(), 1, 1e-12);
  GradientMoments nothing(one);
  nothing.add(at::zeros({3}, at::kDouble));
  EXPECT_EQ(nothing.cosine(), 0);
}

class GradientQuality : public ::testing::Test {
 protected:
  GradientQuality() { sparsum_test::write_small_data(folder_ / "data", 120, 20); }

  GradientQualityRequest request(const std::string& experiment, const std::string& estimators) {
    GradientQualityRequest request;
    request.experiment = experiment;
    request.settings = {{"data", (folder_ / "data").string()},
                        {"dataset", "mnist"},
                        {"validation", "30"},
                        {"threads", "2"}};
    const Settings own = experiment == "ssvae" ? Settings{{"labelled", "20"}, {"unlabelled", "40"}}
                                               : Settings{{"bits", "3"}};
    request.settings.insert(request.settings.end(), own.begin(), own.end());
    request.options.estimators = estimators;
    request.options.examples = 4;
    request.options.repeats = 40;
    request.options.settle = 5;
    return request;
  }

  static std::optional<Json> run(const GradientQualityRequest& request, bool stopped = false) {
    const std::atomic<bool> stop = stopped;
    return gradient_quality(request, stop, [](const GradientQualityProgress&) {});
  }

  static Json row(const Json& result, const std::string& name) {
    for (const Json& each : result["estimators"]) {
      if (each["estimator"] == name) return each;
    }
    ADD_FAILURE() << "no row of " << name;
    return {};
  }

  Folder folder_;
};

TEST_F(GradientQuality, ExactOnesHaveNoErrorAndUnbiasedOnesNoBias) {
  auto asked = request("bitvector", "dense,top-k,sfe,sfe-loo,sfe-plus,arm,disarm,unordered-set");
  asked.settings.emplace_back("baseline", "none");
  asked.settings.emplace_back("k", "8");
  asked.out = folder_ / "out" / "deeper";
  // sfe with two draws and no baseline costs what sfe-loo does.
  asked.settings.emplace_back("samples", "2");
  const Json result = *run(asked);
  EXPECT_EQ(Json::parse(slurp(asked.out / "gradient_quality.json")), result);
  EXPECT_EQ(result["structure"], "bit-vector(3)");
  EXPECT_EQ(result["reference"]["kind"], "exact");
  EXPECT_EQ(result["reference"]["evaluations"], 8);
  EXPECT_EQ(result["reference"]["scores"]["size"], 12);
  EXPECT_EQ(result["reference"]["scores"]["error"], 0);
  EXPECT_GT(result["reference"]["loss"]["norm"].get<double>(), 0);
  EXPECT_TRUE(result["run"].is_null());

  for (const char* part : {"scores", "loss"}) {
    SCOPED_TRACE(part);
    const double length = result["reference"][part]["norm"];
    const auto value = [&](const char* name, const char* key) {
      return row(result, name)[part][key].get<double>();
    };
    EXPECT_LE(value("dense", "bias"), 1e-6 * length);
    EXPECT_EQ(value("dense", "variance"), 0);
    EXPECT_NEAR(value("dense", "cosine"), 1, 1e-9);
    EXPECT_EQ(value("top-k", "variance"), 0);
    EXPECT_GT(value("top-k", "bias"), 1e-3 * length) << "it has another map";
    for (const char* unbiased : {"sfe", "sfe-loo", "sfe-plus", "arm", "disarm", "unordered-set"}) {
      SCOPED_TRACE(unbiased);
      // The squared ratio has mean 1 and, over several directions, seldom strays to 6.
      EXPECT_LT(value(unbiased, "bias"), std::sqrt(6) * value(unbiased, "bias_error"));
      EXPECT_GT(value(unbiased, "variance"), 0);
      EXPECT_NEAR(
          value(unbiased, "rmse"),
          std::sqrt(std::pow(value(unbiased, "bias"), 2) + value(unbiased, "variance") * 39 / 40),
          1e-6 * value(unbiased, "rmse"));
    }
  }
  const auto variance = [&](const char* name) {
    return row(result, name)["scores"]["variance"].get<double>();
  };
  EXPECT_GT(variance("sfe"), variance("sfe-loo"));
  EXPECT_GT(variance("arm"), variance("disarm"));
  EXPECT_EQ(row(result, "sfe")["evaluations"], 2);
  EXPECT_EQ(row(result, "sfe")["repeats"], 40);
  EXPECT_EQ(row(result, "dense")["repeats"], 5);
  EXPECT_EQ(row(result, "dense")["objective"], "the same");
  EXPECT_EQ(row(result, "top-k")["objective"], "another map");
  EXPECT_GT(row(result, "sfe")["milliseconds"].get<double>(), 0);
}

TEST_F(GradientQuality, TheSameSeedGivesTheSameNumbers) {
  const auto without_time = [](Json result) {
    for (Json& each : result["estimators"]) each.erase("milliseconds");
    return result.dump();
  };
  auto asked = request("bitvector", "sfe,nvil,gumbel");
  asked.options.repeats = 3;
  const std::string once = without_time(*run(asked));
  EXPECT_EQ(once, without_time(*run(asked)));
  asked.options.batch_seed = 1;
  EXPECT_NE(once, without_time(*run(asked)));
}

TEST_F(GradientQuality, SetsTooLargeToListAreComparedWithAMean) {
  auto asked = request("bitvector", "sfe-loo,dense");
  asked.options.enumerate = 7;
  asked.options.reference_repeats = 60;
  asked.options.reference_draws = 4;
  const Json result = *run(asked);
  EXPECT_EQ(result["reference"]["kind"], "leave-one-out");
  EXPECT_EQ(result["reference"]["evaluations"], 60 * 4);
  const double error = result["reference"]["scores"]["error"];
  EXPECT_GT(error, 0);
  // What is exact is as far from the reference as the reference is from the truth.
  EXPECT_LT(row(result, "dense")["scores"]["bias"].get<double>(), std::sqrt(6) * error);
  EXPECT_GT(row(result, "dense")["scores"]["bias"].get<double>(), error / std::sqrt(6));
  EXPECT_NEAR(row(result, "dense")["scores"]["bias_error"].get<double>(), error, 1e-9 * error);

  asked.options.estimators = "all";
  asked.options.repeats = 2;
  asked.options.settle = 1;
  for (const Json& each : (*run(asked))["estimators"]) {
    EXPECT_NE(each["estimator"], "dense") << "not listable: left out unless asked for";
    EXPECT_NE(each["estimator"], "sparsemax") << "not for bits";
  }
}

TEST_F(GradientQuality, TheLossOfTheSsvaeIsAFunctionOfTheClassAlone) {
  const auto asked = request("ssvae", "dense,sparsemax,sfe-loo");
  const auto config = make_config("ssvae");
  {
    Options options = config->options();
    for (const auto& [name, text] : asked.settings) options.set(name, text);
  }
  config->resolve();
  const auto experiment = config->make();
  const Problem one = experiment->fixed_problem(4, 3), again = experiment->fixed_problem(4, 3);
  EXPECT_TRUE(one.scores.equal(again.scores));
  EXPECT_FALSE(one.scores.requires_grad());
  const Assignments all = one.structure.enumerate(4, at::kCPU);
  const at::Tensor loss = one.loss(all, one.shared).value;
  EXPECT_TRUE(loss.equal(one.loss(all, one.shared).value));
  EXPECT_TRUE(loss.equal(again.loss(all, again.shared).value));
  // Whatever the order and number of the pairs: the noise belongs to the example.
  const at::Tensor last = one.loss(all.slice(37, 40), one.shared).value;
  EXPECT_TRUE(last.allclose(loss.slice(0, 37, 40), 1e-5, 1e-4));
  EXPECT_FALSE(experiment->fixed_problem(4, 4).scores.equal(one.scores));
  EXPECT_EQ(input_error_of([&] { experiment->fixed_problem(41, 0); }),
            "option --examples: expected at most the 40 unlabelled images, got 41");

  const Json result = *run(asked);
  EXPECT_EQ(row(result, "dense")["evaluations"], 10);
  EXPECT_LE(row(result, "dense")["loss"]["bias"].get<double>(),
            1e-5 * result["reference"]["loss"]["norm"].get<double>());
  const Json loo = row(result, "sfe-loo")["scores"];
  EXPECT_LT(loo["bias"].get<double>(), std::sqrt(6) * loo["bias_error"].get<double>());
}

TEST_F(GradientQuality, OfARunLooksAtItsModelAndItsOwnBaseline) {
  TrainRequest training;
  training.experiment = "bitvector";
  training.out = folder_ / "run";
  training.settings = request("bitvector", "").settings;
  const Settings more = {{"estimator", "nvil"},      {"epochs", "1"},
                         {"steps-per-epoch", "4"},   {"batch-size", "8"},
                         {"baseline-hidden", "8"},   {"baseline-layers", "1"},
                         {"importance-samples", "0"}};
  training.settings.insert(training.settings.end(), more.begin(), more.end());
  ASSERT_TRUE(run_small(training).summary);

  GradientQualityRequest asked;
  asked.run = folder_ / "run";
  asked.options = request("bitvector", "dense,nvil,sfe").options;
  asked.options.repeats = 8;
  asked.out = folder_ / "run";
  const Json result = *run(asked);
  EXPECT_EQ(result["run"], (folder_ / "run").string());
  EXPECT_EQ(result["model"]["estimator"], "nvil");
  EXPECT_EQ(result["checkpoint"], (folder_ / "run" / "checkpoints" / "best.safetensors").string());
  EXPECT_TRUE(std::filesystem::exists(folder_ / "run" / "gradient_quality.json"));
  // The run's own baseline is as it was trained, however long others may learn.
  asked.options.settle = 0;
  const Json unsettled = *run(asked);
  EXPECT_EQ(row(result, "nvil")["scores"], row(unsettled, "nvil")["scores"]);
  EXPECT_NE(row(result, "sfe")["scores"], row(unsettled, "sfe")["scores"]);
}

TEST_F(GradientQuality, StoppedItWritesNothing) {
  auto asked = request("bitvector", "sfe");
  asked.out = folder_ / "out";
  EXPECT_FALSE(run(asked, /*stopped=*/true).has_value());
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out" / "gradient_quality.json"));
}

TEST_F(GradientQuality, BadInputIsNamed) {
  const auto error = [&](const std::string& estimators, const Settings& more) {
    auto asked = request("bitvector", estimators);
    asked.settings.insert(asked.settings.end(), more.begin(), more.end());
    return input_error_of([&] { run(asked); });
  };
  EXPECT_EQ(error("sfe,gumble", {}),
            "option --estimators: no estimator is called 'gumble' (did you mean gumbel?)");
  EXPECT_EQ(error("sfe,", {}), "option --estimators: no estimator is called ''");
  EXPECT_NE(error("sparsemax", {}).find("estimator 'sparsemax'"), std::string::npos);
  EXPECT_EQ(error("sfe,arm", {{"alpha", "1.2"}}),
            "option --alpha: none of the estimators asked for reads it");
  EXPECT_NE(error("sfe-loo", {{"samples", "1"}}).find("samples"), std::string::npos);
  EXPECT_EQ(error("sfe", {{"estimator", "sfe"}}),
            "option --estimator: expected --estimators, a list of names");
  auto asked = request("bitvector", "sfe");
  asked.options.examples = 91;
  EXPECT_EQ(input_error_of([&] { run(asked); }),
            "option --examples: expected at most the 90 training images, got 91");
}

}  // namespace
}  // namespace sparsum::lab
