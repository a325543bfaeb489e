// SparseMAP's operators called by their names: what they are given is checked before it is read.

#include "tests/structures/errors.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace sparsum {
namespace {

using sparsum_test::error_of;
using Given = const at::Tensor&;
using Optional = const std::optional<at::Tensor>&;

template <class Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor longs(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

/// Two examples with 2 and 1 configurations of 3 parts.
struct Support {
  at::Tensor row_splits = longs({0, 2, 3});
  at::Tensor configurations = at::tensor({1, 0, 0, 0, 1, 1, 1, 1, 0}, at::kByte).view({3, 3});
  at::Tensor probs = at::tensor({0.25, 0.75, 1.0});
  at::Tensor scores = at::tensor({0.1, 0.2, 0.3, 0.4, 0.5, 0.6}).view({2, 3});
  int64_t variables = 3;
};

template <class Call>
void expect_checked_support(const std::string& name, const Call& call) {
  const auto error = [&](const auto& spoil) {
    Support s;
    spoil(s);
    return error_of([&] { call(s); });
  };
  const std::string start = name + ": expected ";
  EXPECT_EQ(error([](Support&) {}), "");
  EXPECT_EQ(error([](Support& s) { s.row_splits = s.row_splits.to(at::kInt); }),
            start + "row_splits to be int64, got Int");
  EXPECT_EQ(error([](Support& s) {
              s.row_splits = s.row_splits.view({3, 1});
            }),
            start + "row_splits to be [B + 1], got [3, 1]");
  EXPECT_EQ(error([](Support& s) { s.row_splits = longs({}); }),
            start + "row_splits to be [B + 1], got [0]");
  EXPECT_EQ(error([](Support& s) {
              s.row_splits = longs({1, 2, 3});
            }),
            start + "row_splits to begin with 0, got 1");
  EXPECT_EQ(error([](Support& s) {
              s.row_splits = longs({0, 4, 3});
            }),
            start + "row_splits to ascend, got 4 before 3 at 2");
  EXPECT_EQ(error([](Support& s) {
              s.row_splits = longs({0, 2, 5});
            }),
            start + "row_splits to end with n = 3, got 5");
  EXPECT_EQ(error([](Support& s) { s.configurations = s.configurations.to(at::kFloat); }),
            start + "configurations to be uint8 or bool, got Float");
  EXPECT_EQ(error([](Support& s) { s.configurations = s.configurations[0]; }),
            start + "configurations to be [n, V] with V >= 1, got [3]");
  EXPECT_EQ(error([](Support& s) { s.variables = 4; }), start + "0 <= variables <= V = 3, got 4");
  EXPECT_EQ(error([](Support& s) { s.variables = -1; }), start + "0 <= variables <= V = 3, got -1");
}

TEST(SparsemapOps, VjpChecksWhatItIsGiven) {
  const auto vjp = op<at::Tensor(Given, Given, Given, int64_t)>("sparsum::sparsemap_vjp");
  const auto call = [&](const Support& s, Given grad) {
    return vjp.call(grad, s.row_splits, s.configurations, s.variables);
  };
  expect_checked_support("sparsemap_vjp", [&](const Support& s) { call(s, s.probs); });
  EXPECT_EQ(call({}, at::ones({3})).sizes(), (at::IntArrayRef{2, 3}));
  EXPECT_EQ(error_of([&] { call({}, at::ones({2})); }),
            "sparsemap_vjp: expected grad to be [n] = [3], got [2]");
  EXPECT_EQ(error_of([&] { call({}, at::ones({3}, at::kLong)); }),
            "sparsemap_vjp: expected grad to be floating point, got Long");
}

TEST(SparsemapOps, VjpTransposeChecksWhatItIsGiven) {
  const auto transpose =
      op<at::Tensor(Given, Given, Given, int64_t)>("sparsum::sparsemap_vjp_transpose");
  const auto call = [&](const Support& s, Given tangent) {
    return transpose.call(tangent, s.row_splits, s.configurations, s.variables);
  };
  expect_checked_support("sparsemap_vjp_transpose", [&](const Support& s) { call(s, s.scores); });
  EXPECT_EQ(call({}, at::ones({2, 3})).sizes(), (at::IntArrayRef{3}));
  EXPECT_EQ(error_of([&] {
              call({}, at::ones({1, 3}));
            }),
            "sparsemap_vjp_transpose: expected tangent to be [B, V] = [2, 3], got [1, 3]");
  EXPECT_EQ(error_of([&] {
              call({}, at::ones({2, 3}, at::kLong));
            }),
            "sparsemap_vjp_transpose: expected tangent to be floating point, got Long");
}

TEST(SparsemapOps, WeightsCheckWhatTheyAreGiven) {
  const auto weights =
      op<at::Tensor(Given, Given, Given, Given, int64_t, double)>("sparsum::sparsemap_weights");
  for (const bool graph : {false, true}) {
    const auto call = [&](const Support& s) {
      return weights.call(s.scores.detach().requires_grad_(graph), s.probs, s.row_splits,
                          s.configurations, s.variables, 1);
    };
    expect_checked_support("sparsemap_weights", call);
    const auto error = [&](const auto& spoil) {
      Support s;
      spoil(s);
      return error_of([&] { call(s); });
    };
    EXPECT_EQ(error([](Support& s) { s.scores = s.scores.slice(0, 1); }),
              "sparsemap_weights: expected scores to be [B, V] = [2, 3], got [1, 3]");
    EXPECT_EQ(error([](Support& s) { s.probs = s.probs.slice(0, 1); }),
              "sparsemap_weights: expected probs to be [n] = [3], got [2]");
    EXPECT_EQ(error([](Support& s) { s.probs = s.probs.to(at::kLong); }),
              "sparsemap_weights: expected probs to be floating point, got Long");
  }
}

TEST(SparsemapOps, TheActiveSetChecksWhereItStarts) {
  using Solutions = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                               at::Tensor, at::Tensor, at::Tensor>;
  const auto solve = op<Solutions(Given, int64_t, int64_t, bool, double, int64_t, Optional,
                                  Optional, Optional, Optional)>("sparsum::sparsemap_active_set");
  const auto error = [&](Optional initial, Optional row_splits = {}, Optional configurations = {},
                         Optional probs = {}) {
    return error_of([&] {
      solve.call(Support().scores, 0, 3, false, 1e-9, 0, initial, row_splits, configurations,
                 probs);
    });
  };
  const Support s;
  const std::string start = "sparsemap_active_set: expected ";
  EXPECT_EQ(error({}), "");
  EXPECT_EQ(error(at::zeros({2, 3}, at::kByte)), "");
  EXPECT_EQ(error(at::zeros({2, 3}, at::kBool)), "");
  EXPECT_EQ(error(at::zeros({2, 2}, at::kByte)),
            start + "initial to be [B, D] = [2, 3], got [2, 2]");
  EXPECT_EQ(error(at::zeros({6}, at::kByte)), start + "initial to be [B, D] = [2, 3], got [6]");
  EXPECT_EQ(error(at::zeros({2, 3})), start + "initial to be uint8 or bool, got Float");
  EXPECT_EQ(error({}, s.row_splits, s.configurations, s.probs), "");
  const std::string all =
      start + "all of warm_row_splits, warm_configurations and warm_probs, or none";
  EXPECT_EQ(error({}, s.row_splits), all);
  EXPECT_EQ(error({}, s.row_splits, s.configurations), all);
  EXPECT_EQ(error({}, {}, s.configurations, s.probs), all);
  EXPECT_EQ(error({}, longs({0, 3}), s.configurations, s.probs),
            start + "warm_row_splits to be [B + 1] = [3], got [2]");
  EXPECT_EQ(error({}, longs({0, 2, 4}), s.configurations, s.probs),
            start + "warm_row_splits to end with n = 3, got 4");
  EXPECT_EQ(error({}, longs({0, 5, 3}), s.configurations, s.probs),
            start + "warm_row_splits to ascend, got 5 before 3 at 2");
  EXPECT_EQ(error({}, s.row_splits.to(at::kInt), s.configurations, s.probs),
            start + "warm_row_splits to be int64, got Int");
  EXPECT_EQ(error({}, s.row_splits, s.configurations.slice(1, 1), s.probs),
            start + "warm_configurations to be [n, D] = [3, 3], got [3, 2]");
  EXPECT_EQ(error({}, s.row_splits, s.configurations.view(-1), s.probs),
            start + "warm_configurations to be [n, D], got [9]");
  EXPECT_EQ(error({}, s.row_splits, s.configurations.to(at::kLong), s.probs),
            start + "warm_configurations to be uint8 or bool, got Long");
  EXPECT_EQ(error({}, s.row_splits, s.configurations, s.probs.slice(0, 1)),
            start + "warm_probs to be [n] = [3], got [2]");
  EXPECT_EQ(error({}, s.row_splits, s.configurations, s.probs.to(at::kLong)),
            start + "warm_probs to be floating point, got Long");
}

TEST(SparsemapOps, MarginalsBackwardChecksWhatItIsGiven) {
  const auto backward =
      op<at::Tensor(Given, Given, Given, bool)>("sparsum::sparsemap_marginals_backward");
  const at::Tensor mu = at::full({2, 3}, 0.5), tight = at::ones({2}, at::kBool);
  // Of the CPU, of devices without kernels, and of tensors without values.
  const auto cpu = [&](Given g, Given m, Given t) { return backward.call(g, m, t, false); };
  const auto generic = [&](Given g, Given m, Given t) {
    return backward.redispatch(c10::DispatchKeySet(c10::DispatchKey::CUDA), g, m, t, false);
  };
  const auto meta = [&](Given g, Given m, Given t) {
    return backward.call(g.to(at::kMeta), m.to(at::kMeta), t.to(at::kMeta), false);
  };
  const std::vector<std::function<at::Tensor(Given, Given, Given)>> paths = {cpu, generic, meta};
  const std::string start = "sparsemap_marginals_backward: expected ";
  for (const auto& path : paths) {
    const auto error = [&](Given g, Given m, Given t) { return error_of([&] { path(g, m, t); }); };
    EXPECT_EQ(error(mu, mu, tight), "");
    EXPECT_EQ(error(mu.slice(1, 1), mu, tight), start + "grad to be [B, D] = [2, 3], got [2, 2]");
    EXPECT_EQ(error(mu.to(at::kLong), mu, tight), start + "grad to be floating point, got Long");
    EXPECT_EQ(error(mu[0], mu[0], tight), start + "marginals to be [B, D] with D >= 1, got [3]");
    EXPECT_EQ(error(mu, mu.to(at::kLong), tight),
              start + "marginals to be floating point, got Long");
    EXPECT_EQ(error(mu, mu, tight.slice(0, 1)), start + "tight to be [B] = [2], got [1]");
    EXPECT_EQ(error(mu, mu, tight.to(at::kByte)), start + "tight to be bool, got Byte");
  }
  // Rows that need not lie next to each other.
  const at::Tensor strided = at::tensor({1, 0, 0, 1}, at::kLong).to(at::kBool).slice(0, 0, 4, 2);
  const at::Tensor g = at::tensor({1.0, 2.0, 4.0, 1.0, 2.0, 4.0}).view({2, 3});
  EXPECT_TRUE(cpu(g, mu, strided).equal(cpu(g, mu, strided.contiguous())));
  const auto list =
      op<std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                    at::Tensor, at::Tensor>(Given, Given, int64_t, int64_t)>(
          "sparsum::sparsemap_configurations");
  EXPECT_TRUE(std::get<2>(list.call(mu, strided, 0, 2))
                  .equal(std::get<2>(list.call(mu, strided.contiguous(), 0, 2))));
}

using ConfigurationsBackward = at::Tensor(Given, Given, Given, Given, Given, bool);

TEST(SparsemapConfigurationsBackward, IsTheGradientOfTheWeightsAndItsBackwardTheTranspose) {
  const auto list =
      op<std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                    at::Tensor, at::Tensor>(Given, Given, int64_t, int64_t)>(
          "sparsum::sparsemap_configurations");
  const auto backward = op<ConfigurationsBackward>("sparsum::sparsemap_configurations_backward");
  auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{5});
  const int64_t bits = 7, rows = 5;
  at::Tensor mu = at::rand({rows, bits}, generator, at::kDouble).mul(1.6).sub(0.3).clamp(0, 1);
  const at::Tensor tight = at::zeros({rows}, at::kBool);
  for (const int64_t most : {bits, bits - 1}) {
    const bool on_line = most < bits;
    // So that no bound is near.
    if (on_line) mu = mu * 0.8;
    const auto [splits, pair_rows, base, flip_splits, flips, probs, upper, lower] =
        list.call(mu, tight, 0, most);
    const at::Tensor g = at::randn(probs.sizes(), generator, probs.options());
    const at::Tensor got = backward.call(g, mu, splits, upper, lower, on_line);
    // Differences of ⟨g, weights⟩: these change as their cuts move.
    constexpr double kStep = 1e-7;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t bit = 0; bit < bits; ++bit) {
        const double m = mu[row][bit].item<double>();
        if (!(m > 0 && m < 1)) {
          EXPECT_EQ(got[row][bit].item<double>(), 0);
          continue;
        }
        at::Tensor moved = mu.clone();
        moved[row][bit] += kStep;
        const at::Tensor after = std::get<5>(list.call(moved, tight, 0, most));
        ASSERT_EQ(after.size(0), probs.size(0));
        EXPECT_NEAR(got[row][bit].item<double>(),
                    (g * (after - probs)).sum().item<double>() / kStep, 1e-5);
      }
    }
    const at::Tensor h = at::randn(mu.sizes(), generator, mu.options());
    const at::Tensor attached = g.clone().requires_grad_();
    const auto back = torch::autograd::grad(
        {backward.call(attached, mu, splits, upper, lower, on_line)}, {attached}, {h});
    EXPECT_NEAR((back[0] * g).sum().item<double>(), (got * h).sum().item<double>(), 1e-12);
    const at::Tensor single =
        backward.call(g.to(at::kFloat), mu.to(at::kFloat), splits, upper, lower, on_line);
    EXPECT_EQ(single.scalar_type(), at::kFloat);
    EXPECT_TRUE(single.allclose(got.to(at::kFloat), 1e-5, 1e-5));
  }
}

TEST(SparsemapConfigurationsBackward, RefusesWhatDoesNotFit) {
  const auto backward = op<ConfigurationsBackward>("sparsum::sparsemap_configurations_backward");
  const at::Tensor mu = at::full({2, 3}, 0.5), g = at::ones({3});
  const at::Tensor splits = longs({0, 2, 3}), upper = longs({1, -1, -1}), lower = longs({-1, 1, 3});
  const auto error = [&](Given grad, Given marginals, Given row_splits, Given up, Given low) {
    return error_of([&] { backward.call(grad, marginals, row_splits, up, low, false); });
  };
  EXPECT_EQ(error(g, mu, splits, upper, lower), "");
  const std::string start = "sparsemap_configurations_backward: expected ";
  EXPECT_EQ(error(g, mu[0], splits, upper, lower),
            start + "marginals to be [B, D] with D >= 1, got [3]");
  EXPECT_EQ(error(g.view({3, 1}), mu, splits, upper, lower), start + "grad to be [n], got [3, 1]");
  EXPECT_EQ(error(g, mu, longs({0, 3}), upper, lower),
            start + "row_splits to be [B + 1] = [3], got [2]");
  EXPECT_EQ(error(g, mu, splits, upper.slice(0, 1), lower),
            start + "upper to be [n] = [3], got [2]");
  EXPECT_EQ(error(g, mu, splits, upper, lower.to(at::kInt)), start + "lower to be int64, got Int");
  EXPECT_EQ(error(g, mu, splits, longs({3, -1, -1}), lower),
            start + "upper of row 0 to be -1 or in 0 ... 2, got 3");
  EXPECT_EQ(error(g, mu, splits, upper, longs({-1, 1, 2})),
            start + "lower of row 1 to be -1 or in 3 ... 5, got 2");
}

}  // namespace
}  // namespace sparsum
