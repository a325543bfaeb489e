#include "tests/estimators/enumerated.h"
#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <sparsum/custom_structure.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <string>

// Biased estimators: the value of their bias on a case worked out by hand, and its limit.
//
// One bit, on with probability p = σ(t), and the loss ℓ(z) = (z − c)², so that
//   ∂E[ℓ]/∂t = p(1 − p)(1 − 2c).

namespace sparsum {
namespace {

using sparsum_test::error_of;
using sparsum_test::seeded;

constexpr double kT = 0.6, kC = 0.3, kLimit = 6;
const double kP = 1 / (1 + std::exp(-kT));
const double kExact = kP * (1 - kP) * (1 - 2 * kC);

const LossFn kSquare = [](const Assignments& z, const std::vector<at::Tensor>&) {
  return Loss((z.values(at::kDouble).select(1, 0) - kC).square());
};

/// Gradients in t of `rows` draws.
at::Tensor gradients(const std::string& name, const EstimatorOptions& options, const LossFn& loss,
                     int64_t rows, uint64_t seed) {
  const BitVector structure(1);
  const at::Tensor t = at::full({rows, 1}, kT, at::kDouble).set_requires_grad(true);
  const auto estimator = make_estimator(name, options);
  estimator->eval();
  estimator->estimate({structure, t, loss, {}, {}, 0, 0}, seeded(seed)).objective.sum().backward();
  return t.grad().squeeze(1);
}

/// E[f(u)] over logistic noise around t, by the midpoint rule over its quantiles.
double over_noise(const std::function<double(double)>& f) {
  constexpr int kPoints = 2000000;
  double sum = 0;
  for (int i = 0; i < kPoints; ++i) {
    const double q = (i + 0.5) / kPoints;
    sum += f(kT + std::log(q) - std::log1p(-q));
  }
  return sum / kPoints;
}
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// E[2(ζ − c) ∂ζ/∂t], and with the hard bit in place of ζ in the loss's derivative.
double gumbel_by_quadrature(double tau, bool hard) {
  return over_noise([&](double u) {
    const double zeta = sigmoid(u / tau);
    return 2 * ((hard ? (u > 0 ? 1.0 : 0.0) : zeta) - kC) * zeta * (1 - zeta) / tau;
  });
}

void expect_mean(const at::Tensor& draws, double expected) {
  const double error = draws.std().item<double>() / std::sqrt(static_cast<double>(draws.size(0)));
  EXPECT_NEAR(draws.mean().item<double>(), expected, kLimit * error + 1e-9);
}

TEST(GumbelSoftmax, BiasOfOneBit) {
  for (const double tau : {2.0, 1.0, 0.4}) {
    EstimatorOptions options;
    options.temperature = tau;
    expect_mean(gradients("gumbel", options, kSquare, 50000, 1), gumbel_by_quadrature(tau, false));
    expect_mean(gradients("st-gumbel", options, kSquare, 50000, 2),
                gumbel_by_quadrature(tau, true));
    EXPECT_GT(std::abs(gumbel_by_quadrature(tau, true) - kExact), 1e-3);
  }
}

TEST(GumbelSoftmax, BiasVanishesWithTheTemperature) {
  const auto bias = [](double tau) { return std::abs(gumbel_by_quadrature(tau, false) - kExact); };
  EXPECT_LT(bias(0.1), bias(2));
  EXPECT_LT(bias(0.02), bias(0.1));
  EXPECT_LT(bias(0.004), bias(0.02));
  EXPECT_LT(bias(0.004), 5e-4);
  EstimatorOptions options;
  options.temperature = 0.02;
  expect_mean(gradients("gumbel", options, kSquare, 200000, 3), gumbel_by_quadrature(0.02, false));
}

TEST(GumbelSoftmax, CategoricalDrawsAreSoftmaxDraws) {
  // The hard value is the best of the *perturbed* scores: its frequencies are softmax(t).
  const Categorical structure(4);
  const int64_t rows = 100000;
  const at::Tensor t = at::tensor({0.3, -1.0, 1.2, 0.0}, at::kDouble);
  const at::Tensor scores = t.unsqueeze(0).expand({rows, 4}).contiguous().set_requires_grad(true);
  at::Tensor seen;
  const LossFn loss = [&](const Assignments& z, const std::vector<at::Tensor>&) {
    seen = z.values(at::kDouble).detach();
    return Loss(z.values(at::kDouble).sum(1));
  };
  make_estimator("st-gumbel")->estimate({structure, scores, loss, {}, {}, 1, 0}, seeded(4));
  EXPECT_TRUE(seen.eq(0).logical_or(seen == 1).all().item<bool>());
  EXPECT_TRUE(seen.sum(1).eq(1).all().item<bool>());
  const at::Tensor p = t.softmax(0);
  const at::Tensor z = (seen.mean(0) - p) / (p * (1 - p) / static_cast<double>(rows)).sqrt();
  EXPECT_LT(z.abs().max().item<double>(), kLimit);
}

TEST(GumbelSoftmax, ScheduleCountsEstimatesInTrainingOnly) {
  EstimatorOptions options;
  options.temperature = 2;
  options.temperature_decay = 0.1;
  options.temperature_min = 0.5;
  options.temperature_every = 3;
  const auto estimator = make_estimator("gumbel", options);
  const BitVector structure(1);
  // ∂ζ/∂t = ζ(1 − ζ)/τ gives τ away.
  const auto temperature = [&] {
    const at::Tensor t = at::zeros({1, 1}, at::kDouble).set_requires_grad(true);
    double zeta = 0;
    const LossFn loss = [&](const Assignments& z, const std::vector<at::Tensor>&) {
      const at::Tensor value = z.values(at::kDouble).select(1, 0);
      zeta = value.item<double>();
      return Loss(value + 0);
    };
    estimator->estimate({structure, t, loss, {}, {}, 0, 0}, seeded(5)).objective.sum().backward();
    return zeta * (1 - zeta) / t.grad().item<double>();
  };
  for (int step = 0; step < 20; ++step) {
    const double expected = std::max(0.5, 2 * std::exp(-0.1 * (step / 3 * 3)));
    EXPECT_NEAR(temperature(), expected, 1e-9) << step;
    estimator->eval();
    EXPECT_NEAR(temperature(), std::max(0.5, 2 * std::exp(-0.1 * ((step + 1) / 3 * 3))), 1e-9);
    estimator->train();
  }
  EXPECT_EQ(estimator->named_buffers()["temperature.step"].item<int64_t>(), 20);
}

TEST(StraightThrough, BiasOfOneBit) {
  // E[2(b − c)] ∂p/∂t = 2(p − c)p(1 − p): off by (2p − 1)p(1 − p).
  expect_mean(gradients("straight-through", {}, kSquare, 50000, 6),
              kExact + (2 * kP - 1) * kP * (1 - kP));
  // No bias where the loss is linear.
  const LossFn linear = [](const Assignments& z, const std::vector<at::Tensor>&) {
    return Loss(1.5 * z.values(at::kDouble).select(1, 0));
  };
  const at::Tensor draws = gradients("straight-through", {}, linear, 10, 7);
  EXPECT_TRUE(draws.allclose(at::full_like(draws, 1.5 * kP * (1 - kP)), 1e-12, 1e-12));
}

TEST(Imle, BiasOfOneBit) {
  // A linear loss gz moves the scores by λg: (σ(t) − σ(t − λg))/λ, and gσ′(t) in the limit.
  const double g = 1.5;
  const LossFn linear = [g](const Assignments& z, const std::vector<at::Tensor>&) {
    return Loss(g * z.values(at::kDouble).select(1, 0));
  };
  for (const double step : {5.0, 1.0, 0.1, 0.01}) {
    EstimatorOptions options;
    options.target_step = step;
    const double expected = (kP - sigmoid(kT - step * g)) / step;
    expect_mean(gradients("imle", options, linear, 100000, 8), expected);
  }
  // The smallest step is the limit already.
  EXPECT_NEAR((kP - sigmoid(kT - 0.01 * g)) / 0.01, g * kP * (1 - kP), 2e-3);
}

TEST(Imle, SumOfGammaNoiseOverSubsetsIsGumbelOverall) {
  // The sum of κ of the noises is Gumbel: mean 0.5772, variance π²/6.
  class Spy final : public Structure {
   public:
    std::string name() const override { return "spy"; }
    int64_t parts() const override { return 3; }
    double log_size() const override { return 0; }
    std::optional<int64_t> size() const override { return {}; }
    Assignments map(const at::Tensor& scores) const override {
      if (!seen.defined() && scores.size(0) > 0) seen = scores.clone();
      return one_per_example(at::ones(scores.sizes(), at::kByte), 3);
    }
    mutable at::Tensor seen;
  };
  const Spy spy;
  EstimatorOptions options;
  options.noise = "sum-of-gamma";
  options.gamma_size = 3;
  options.gamma_terms = 100;
  const int64_t rows = 40000;
  const at::Tensor scores = at::zeros({rows, 3}, at::kDouble).set_requires_grad(true);
  const Estimate got =
      make_estimator("imle", options)->estimate({spy, scores, kSquare, {}, {}, 0, 0}, seeded(9));
  EXPECT_FALSE(got.entropy.defined());
  const at::Tensor sum = spy.seen.sum(1);
  EXPECT_NEAR(sum.mean().item<double>(), 0.5772, 0.04);
  EXPECT_NEAR(sum.var().item<double>(), 1.6449, 0.08);
}

/// No two neighbouring parts.
class NoNeighbours final : public CustomStructure {
 public:
  std::string name() const override { return "no-neighbours"; }
  int64_t parts() const override { return 3; }
  std::vector<uint8_t> best(std::span<const double> s) const override {
    const double ends = std::max(s[0], 0.0) + std::max(s[2], 0.0);
    if (s[1] > ends) return {0, 1, 0};
    return {s[0] > 0, 0, s[2] > 0};
  }
};

TEST(Imle, AnyStructureWithAMap) {
  const NoNeighbours structure;
  const at::Tensor scores = at::zeros({200, 3}, at::kDouble).set_requires_grad(true);
  const at::Tensor parameter = at::ones({}, at::kDouble).set_requires_grad(true);
  const LossFn loss = [&](const Assignments& z, const std::vector<at::Tensor>&) {
    // Better with the middle part on.
    return Loss(-parameter * z.values(at::kDouble).select(1, 1));
  };
  for (const int64_t chunk : {0, 7}) {
    EstimatorOptions options;
    options.samples = 4;
    const auto estimator = make_estimator("imle", options);
    estimator->check(structure);
    const Estimate got =
        estimator->estimate({structure, scores, loss, {}, {}, 0, chunk}, seeded(10));
    got.objective.sum().backward();
    const auto gradient = sparsum_test::take_gradients({scores, parameter});
    EXPECT_LT(gradient[0].select(1, 1).mean().item<double>(), -0.005);  // raises its score
    EXPECT_GT(gradient[0].select(1, 0).mean().item<double>(), 0.001);   // at its neighbours' cost
    EXPECT_LT(gradient[1].item<double>(), 0);
    // In chunks the gradient in z takes evaluations of its own.
    EXPECT_TRUE(got.evaluations.equal(at::full({200}, chunk > 0 ? 8 : 4, at::kLong)));
  }
  const std::string error = error_of([&] {
    make_estimator("imle")->estimate({structure, scores, loss, {}, {}, 1, 0}, seeded(1));
  });
  EXPECT_TRUE(error.starts_with("no-neighbours: ") && error.ends_with(" is not available"))
      << error;
}

}  // namespace
}  // namespace sparsum
