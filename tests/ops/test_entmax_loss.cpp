#include "tests/ops/gradcheck.h"

#include <gtest/gtest.h>
#include <sparsum/entmax.h>
#include <sparsum/entmax_loss.h>
#include <sparsum/sparsemax.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <string>

namespace sparsum {
namespace {

using testing::expect_gradients;
using testing::expect_second_gradients;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const std::vector<double> kAlphas = {1.0, 1.0001, 1.3, 1.5, 2.0, 2.5};

class EntmaxLoss : public ::testing::Test {
 protected:
  at::Tensor randn(at::IntArrayRef sizes) { return at::randn(sizes, generator_, at::kDouble); }
  at::Tensor classes(int64_t count, at::IntArrayRef sizes) {
    return at::randint(count, sizes, generator_, at::kLong);
  }
  at::Generator generator_ = at::detail::createCPUGenerator(21);
};

// H_α(p) as written in math.md §1.
at::Tensor tsallis(const at::Tensor& p, double alpha) {
  if (alpha == 1) return -at::where(p > 0, p * at::where(p > 0, p, 1).log(), 0).sum(-1);
  return (1 - p.pow(alpha).sum(-1)) / (alpha * (alpha - 1));
}

TEST_F(EntmaxLoss, IsTheFenchelYoungLoss) {
  const at::Tensor scores = randn({9, 7}), target = classes(7, {9});
  const at::Tensor y = at::one_hot(target, 7).to(at::kDouble);
  const at::Tensor mixed = randn({9, 7}).softmax(-1);
  LossOptions none;
  none.reduction = Reduction::kNone;
  for (double alpha : kAlphas) {
    const at::Tensor p = entmax(scores, alpha);
    const double bound = alpha == 1.0001 ? 1e-9 : 1e-12;  // the formula as written cancels near 1
    const at::Tensor expected = tsallis(p, alpha) + ((p - y) * scores).sum(-1);
    EXPECT_LT((entmax_loss(scores, target, alpha, none) - expected).abs().max().item<double>(),
              bound)
        << alpha;
    EXPECT_LT((entmax_loss(scores, y, alpha, none) - expected).abs().max().item<double>(), bound)
        << alpha;
    const at::Tensor for_mixed =
        tsallis(p, alpha) - tsallis(mixed, alpha) + ((p - mixed) * scores).sum(-1);
    EXPECT_LT((entmax_loss(scores, mixed, alpha, none) - for_mixed).abs().max().item<double>(),
              bound)
        << alpha;
    // Zero if and only if the target is the map itself.
    EXPECT_LT(entmax_loss(scores, p, alpha, none).abs().max().item<double>(), 1e-12);
    EXPECT_GT(entmax_loss(scores, mixed, alpha, none).min().item<double>(), 0);
  }
  EXPECT_LT((entmax_loss(scores, target, 1.0, none) - at::cross_entropy_loss(scores, target, {}, 0))
                .abs()
                .max()
                .item<double>(),
            1e-12);
  EXPECT_TRUE(sparsemax_loss(scores, target, none).equal(entmax_loss(scores, target, 2.0, none)));
}

TEST_F(EntmaxLoss, GradientsOfFirstAndSecondOrder) {
  const at::Tensor target = classes(5, {4});
  const at::Tensor mixed = randn({4, 5}).softmax(-1);
  LossOptions none, with_ignored;
  none.reduction = Reduction::kNone;
  with_ignored.ignore_index = target[1].item<int64_t>();
  for (double alpha : kAlphas) {
    for (const LossOptions& options : {none, LossOptions{}, with_ignored}) {
      const auto f = [&](const auto& x) { return entmax_loss(x[0], target, alpha, options); };
      expect_gradients(f, {randn({4, 5})});
      expect_second_gradients(f, {randn({4, 5})}, 2e-5);
    }
    const auto f = [&](const auto& x) { return entmax_loss(x[0], mixed, alpha, none); };
    expect_gradients(f, {randn({4, 5})});
    expect_second_gradients(f, {randn({4, 5})}, 2e-5);
  }
}

TEST_F(EntmaxLoss, TheGradientIsMapMinusTarget) {
  at::Tensor scores = randn({6, 4}).requires_grad_();
  const at::Tensor target = classes(4, {6});
  LossOptions sum;
  sum.reduction = Reduction::kSum;
  sparsemax_loss(scores, target, sum).backward();
  const at::Tensor expected = sparsemax(scores.detach()) - at::one_hot(target, 4);
  EXPECT_LT((scores.grad() - expected).abs().max().item<double>(), 1e-14);
}

TEST_F(EntmaxLoss, ReductionsAndIgnoredRowsAreCrossEntropys) {
  const at::Tensor scores = randn({3, 6, 4});  // classes along dim 1
  at::Tensor target = classes(6, {3, 4});
  for (int64_t ignore : {-100, -1, 2}) {
    const at::Tensor with_ignored = target.clone();
    with_ignored[0][1] = ignore;
    with_ignored[2][3] = ignore;
    for (int64_t reduction : {0, 1, 2}) {
      LossOptions options;
      options.dim = 1;
      options.ignore_index = ignore;
      options.reduction = static_cast<Reduction>(reduction);
      at::Tensor ours = scores.clone().requires_grad_(), theirs = scores.clone().requires_grad_();
      const at::Tensor a = entmax_loss(ours, with_ignored, 1.0, options);
      const at::Tensor b = at::cross_entropy_loss(theirs, with_ignored, {}, reduction, ignore);
      EXPECT_EQ(a.sizes(), b.sizes());
      EXPECT_LT((a - b).abs().max().item<double>(), 1e-12);
      a.sum().backward();
      b.sum().backward();
      EXPECT_LT((ours.grad() - theirs.grad()).abs().max().item<double>(), 1e-12);
    }
  }
  EXPECT_TRUE(
      std::isnan(sparsemax_loss(randn({2, 3}), at::full({2}, -100, at::kLong)).item<double>()));
}

TEST_F(EntmaxLoss, TargetMassOnAForbiddenScoreIsInfiniteNeverNaN) {
  at::Tensor scores = torch::tensor({{0.5, -kInfinity, 0.1}, {0.2, -kInfinity, 0.3}}, at::kDouble);
  LossOptions none;
  none.reduction = Reduction::kNone;
  for (double alpha : kAlphas) {
    at::Tensor x = scores.clone().requires_grad_();
    const at::Tensor losses = entmax_loss(x, torch::tensor({1, 0}), alpha, none);
    EXPECT_EQ(losses[0].item<double>(), kInfinity);
    EXPECT_TRUE(std::isfinite(losses[1].item<double>()));
    losses.sum().backward();
    EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
    EXPECT_NEAR(x.grad()[0][1].item<double>(), -1, 1e-12);
    const at::Tensor mixed = torch::tensor({{0.5, 0.5, 0.0}, {0.5, 0.0, 0.5}}, at::kDouble);
    const at::Tensor of_mixed = entmax_loss(scores, mixed, alpha, none);
    EXPECT_EQ(of_mixed[0].item<double>(), kInfinity);
    EXPECT_TRUE(std::isfinite(of_mixed[1].item<double>()));
  }
}

TEST_F(EntmaxLoss, TheDeviceGenericPathAgrees) {
  at::Tensor scores = randn({8, 6});
  scores[2][3] = -kInfinity;
  at::Tensor target = classes(3, {8});
  target[5] = -100;
  const at::Tensor mixed = at::where(scores == -kInfinity, 0, scores.softmax(-1));
  using Pair = std::tuple<at::Tensor, at::Tensor>;
  const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("sparsum::entmax_loss_forward", "")
          .typed<Pair(const at::Tensor&, const at::Tensor&, double, int64_t, int64_t)>();
  for (double alpha : kAlphas) {
    for (const at::Tensor& y : {target, mixed}) {
      const auto [losses, probs] = op.call(scores, y, alpha, -1, -100);
      const auto generic =
          op.redispatch(c10::DispatchKeySet(c10::DispatchKey::CUDA), scores, y, alpha, -1, -100);
      EXPECT_LT((std::get<0>(generic) - losses).abs().max().item<double>(), 1e-10) << alpha;
      EXPECT_LT((std::get<1>(generic) - probs).abs().max().item<double>(), 1e-10) << alpha;
    }
  }
}

TEST_F(EntmaxLoss, ReducedPrecisionAndEmptyBatches) {
  const at::Tensor scores = randn({5, 9});
  const at::Tensor target = classes(9, {5});
  for (at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const at::Tensor low = sparsemax_loss(scores.to(type), target);
    EXPECT_EQ(low.scalar_type(), type);
    EXPECT_NEAR(low.item<double>(), sparsemax_loss(scores, target).item<double>(),
                type == at::kFloat ? 1e-6 : 0.05);
  }
  LossOptions none;
  none.reduction = Reduction::kNone;
  EXPECT_EQ(sparsemax_loss(at::empty({0, 4}), at::empty({0}, at::kLong), none).sizes(),
            at::IntArrayRef({0}));
}

template <class F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST_F(EntmaxLoss, ErrorsNameTheRowAndTheValue) {
  const at::Tensor scores = randn({3, 4});
  EXPECT_EQ(error_of([&] {
              entmax_loss(scores, torch::tensor({0, 4, 1}));
            }),
            "entmax_loss: expected target in [0, 3] or ignore_index -100, got 4 for row 1");
  EXPECT_EQ(error_of([&] {
              entmax_loss(scores, torch::tensor({0, 1}));
            }),
            "entmax_loss: expected class indices of shape [3] for scores of shape [3, 4], got [2]");
  EXPECT_EQ(error_of([&] {
              entmax_loss(scores, at::ones({3, 4}, at::kFloat));
            }),
            "entmax_loss: expected target to be Long class indices or distributions of the scores' "
            "dtype Double, got Float");
  EXPECT_EQ(error_of([&] {
              entmax_loss(scores, at::ones({3, 4}, at::kDouble));
            }),
            "entmax_loss: expected target distributions to sum to 1, got 4 in row 0");
  at::Tensor negative = at::one_hot(torch::tensor({0, 1, 2}), 4).to(at::kDouble);
  negative[2][3] = -0.5;
  EXPECT_EQ(error_of([&] { entmax_loss(scores, negative); }),
            "entmax_loss: expected target distributions to be >= 0, got -0.5 in row 2, column 3");
  EXPECT_EQ(error_of([&] {
              entmax_loss(scores, torch::tensor({0, 1, 2}), 0.9);
            }),
            "entmax_loss: expected alpha to be finite and >= 1, got 0.9");
  at::Tensor bad = scores.clone();
  bad[1][0] = kInfinity;
  EXPECT_EQ(error_of([&] {
              entmax_loss(bad, torch::tensor({0, 1, 2}));
            }),
            "entmax_loss: expected scores to be finite or -inf, got inf in row 1, column 0");
}

}  // namespace
}  // namespace sparsum
