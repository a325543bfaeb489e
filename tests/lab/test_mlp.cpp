#include <gtest/gtest.h>
#include <lab/likelihood.h>
#include <lab/mlp.h>
#include <lab/random.h>
#include <sparsum/categorical.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum::lab {
namespace {

/// Central differences of a scalar function in every entry of a float64 tensor.
template <typename Function>
at::Tensor numeric_gradient(const Function& function, const at::Tensor& at_point) {
  const double step = 1e-6;
  at::Tensor point = at_point.detach().clone(), result = at::empty_like(point);
  auto* x = point.data_ptr<double>();
  for (int64_t i = 0; i < point.numel(); ++i) {
    const double kept = x[i];
    x[i] = kept + step;
    const double above = function(point).template item<double>();
    x[i] = kept - step;
    const double below = function(point).template item<double>();
    x[i] = kept;
    result.view(-1)[i] = (above - below) / (2 * step);
  }
  return result;
}

TEST(Mlp, IsInitialisedFromItsGeneratorAlone) {
  torch::manual_seed(1);
  const Mlp one({20, 50, 3}, make_generator(5, "init"));
  torch::manual_seed(2);
  const Mlp two({20, 50, 3}, make_generator(5, "init"));
  const Mlp other({20, 50, 3}, make_generator(6, "init"));
  const auto a = one.parameters(), b = two.parameters(), c = other.parameters();
  ASSERT_EQ(a.size(), 4u);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(a[i].equal(b[i]));
    EXPECT_FALSE(a[i].equal(c[i]));
  }
}

TEST(Mlp, StartsAsTorchsLinearLayersDo) {
  // Uniform on ±1/√fan_in, weights and biases: bounds kept, and nearly reached by 10,000 draws.
  const Mlp mlp({100, 100, 4}, make_generator(0, "init"));
  for (const auto& entry : mlp.named_parameters()) {
    EXPECT_LE(entry->abs().max().item<double>(), 0.1) << entry.key();
  }
  const at::Tensor weight = mlp.named_parameters()["0.weight"];
  EXPECT_GT(weight.abs().max().item<double>(), 0.0999);
  EXPECT_NEAR(weight.mean().item<double>(), 0, 6 * 0.1 / std::sqrt(3.0) / 100);
  EXPECT_NEAR(weight.square().mean().item<double>(), 0.01 / 3, 2e-4);
}

TEST(Mlp, IsProductsWithReluBetween) {
  const Mlp mlp({4, 6, 5, 2}, make_generator(0, "init"));
  const auto p = mlp.named_parameters();
  const at::Tensor x = at::randn({3, 4}, make_generator(1, "x"), at::kFloat);
  at::Tensor y = x;
  for (int layer = 0; layer < 3; ++layer) {
    const std::string prefix = std::to_string(layer) + ".";
    y = y.matmul(p[prefix + "weight"].t()) + p[prefix + "bias"];
    if (layer < 2) y = y.clamp_min(0);
  }
  EXPECT_TRUE(at::allclose(mlp.forward(x), y, 1e-5, 1e-6));
}

TEST(AssignmentLinear, IsOneLayerOverFeaturesAndIndicatorsSideBySide) {
  const AssignmentLinear layer(5, 4, 3, make_generator(0, "init"));
  const auto p = layer.named_parameters();
  const Categorical structure(4);
  const at::Tensor x = at::randn({6, 5}, make_generator(1, "x"), at::kFloat);
  const at::Tensor scores = at::randn({6, 4}, make_generator(2, "x"), at::kFloat);
  std::vector<Assignments> cases = {structure.enumerate(6, at::kCPU), structure.map(scores),
                                    structure.sample(scores, 3, make_generator(3, "z"))};
  Assignments relaxed = cases[1];
  relaxed.indices = at::Tensor();
  relaxed.indicators = scores.softmax(1);
  cases.push_back(relaxed);
  ASSERT_TRUE(cases[0].full_grid);
  for (const Assignments& z : cases) {
    const at::Tensor both = at::cat({x.index_select(0, z.rows), z.values()}, 1);
    const at::Tensor weight = at::cat({p["weight"], p["table"].t()}, 1);
    const at::Tensor expected = both.matmul(weight.t()) + p["bias"];
    EXPECT_TRUE(at::allclose(layer.add_to_examples(layer.features(x), z), expected, 1e-5, 1e-6));
    EXPECT_TRUE(at::allclose(layer.add(layer.features(x.index_select(0, z.rows)), z), expected,
                             1e-5, 1e-6));
  }
}

TEST(BernoulliNll, IsBinaryCrossEntropyOfEachPairsExample) {
  const auto generator = make_generator(0, "nll");
  const at::Tensor logits = at::randn({7, 30}, generator, at::kDouble).mul(4);
  const at::Tensor targets = at::rand({3, 30}, generator, at::kDouble).gt(0.5).to(at::kDouble);
  const at::Tensor rows = at::tensor({0, 0, 1, 2, 2, 2, 2}, at::kLong);
  const at::Tensor probs = logits.sigmoid(), x = targets.index_select(0, rows);
  const at::Tensor expected = -(x * probs.log() + (1 - x) * (1 - probs).log()).sum(1);
  EXPECT_TRUE(at::allclose(bernoulli_nll(logits, targets, rows), expected, 1e-10, 1e-10));
}

TEST(BernoulliNll, IsFiniteAtExtremeLogits) {
  const at::Tensor logits = at::tensor({1e4f, -1e4f}).unsqueeze(0);
  const at::Tensor rows = at::zeros({1}, at::kLong);
  EXPECT_EQ(bernoulli_nll(logits, at::tensor({1.f, 0.f}).unsqueeze(0), rows).item<float>(), 0);
  EXPECT_EQ(bernoulli_nll(logits, at::tensor({0.f, 1.f}).unsqueeze(0), rows).item<float>(), 2e4f);
}

TEST(BernoulliNll, GradientIsThatOfFiniteDifferences) {
  const auto generator = make_generator(1, "nll");
  const at::Tensor logits = at::randn({5, 8}, generator, at::kDouble).set_requires_grad(true);
  const at::Tensor targets = at::rand({2, 8}, generator, at::kDouble);
  const at::Tensor rows = at::tensor({0, 1, 1, 1, 0}, at::kLong);
  const at::Tensor upstream = at::randn({5}, generator, at::kDouble);
  const auto function = [&](const at::Tensor& l) {
    return (bernoulli_nll(l, targets, rows) * upstream).sum();
  };
  function(logits).backward();
  EXPECT_TRUE(at::allclose(logits.grad(), numeric_gradient(function, logits), 1e-6, 1e-7));
}

TEST(SampleGaussian, DrawsByMeanAndSigmaAndGivesTheDivergence) {
  const at::Tensor mean = at::tensor({0.5, -1.0, 0.0, 2.0}, at::kDouble).view({2, 2});
  const at::Tensor sigma = at::tensor({0.3, 1.0, 2.0, 0.1}, at::kDouble).view({2, 2});
  const auto [h, divergence] =
      sample_gaussian(at::cat({mean, sigma.log()}, 1), make_generator(4, "h"));
  const at::Tensor noise = at::randn({2, 2}, make_generator(4, "h"), at::kDouble);
  EXPECT_TRUE(at::allclose(h, mean + sigma * noise, 1e-12, 1e-12));
  for (int i = 0; i < 2; ++i) {
    double expected = 0;
    for (int j = 0; j < 2; ++j) {
      const double m = mean[i][j].item<double>(), s = sigma[i][j].item<double>();
      expected += 0.5 * (m * m + s * s - 1) - std::log(s);
    }
    EXPECT_NEAR(divergence[i].item<double>(), expected, 1e-12);
  }
}

TEST(SampleGaussian, GradientsAreThoseOfFiniteDifferences) {
  const auto generator = make_generator(1, "gaussian");
  const at::Tensor input = at::randn({3, 6}, generator, at::kDouble).set_requires_grad(true);
  const at::Tensor by_sample = at::randn({3, 3}, generator, at::kDouble);
  const at::Tensor by_divergence = at::randn({3}, generator, at::kDouble);
  const auto function = [&](const at::Tensor& x) {
    const auto [h, divergence] = sample_gaussian(x, make_generator(4, "h"));
    return (h * by_sample).sum() + (divergence * by_divergence).sum();
  };
  function(input).backward();
  EXPECT_TRUE(at::allclose(input.grad(), numeric_gradient(function, input), 1e-6, 1e-7));
}

}  // namespace
}  // namespace sparsum::lab
