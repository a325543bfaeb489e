#include "tests/structures/errors.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <sparsum/estimator.h>

#include <cmath>

namespace sparsum {
namespace {

using sparsum_test::error_of;

template <typename Set>
std::string refusal(const std::string& name, const Set& set) {
  EstimatorOptions options;
  set(options);
  return error_of([&] { make_estimator(name, options); });
}

std::string known() {
  std::string all;
  for (const std::string& name : estimator_names()) all += (all.empty() ? "" : ", ") + name;
  return all;
}

TEST(Registry, Names) {
  EXPECT_EQ(estimator_names(),
            (std::vector<std::string>{
                "dense",     "sparsemax",        "entmax",        "top-k",    "top-k-adaptive",
                "sparsemap", "sparsemap-budget", "sfe",           "sfe-plus", "sfe-loo",
                "nvil",      "sum-and-sample",   "unordered-set", "rebar",    "relax",
                "arm",       "disarm",           "muprop",        "vimco",    "gumbel",
                "st-gumbel", "straight-through", "imle"}));
  EstimatorOptions options;
  options.context = options.parts = 2;
  const at::Generator generator = at::detail::createCPUGenerator();
  for (const std::string& name : estimator_names()) {
    EXPECT_NE(make_estimator(name, options, generator), nullptr);
  }
}

TEST(Registry, UnknownNamesGetTheNearestSpelling) {
  EXPECT_EQ(error_of([] { make_estimator("sparsmax"); }),
            "unknown estimator 'sparsmax'; did you mean 'sparsemax'? Known are: " + known());
  EXPECT_EQ(error_of([] { make_estimator("topk"); }),
            "unknown estimator 'topk'; did you mean 'top-k'? Known are: " + known());
}

TEST(Registry, OptionsOutOfRangeAreNamed) {
  EXPECT_EQ(refusal("entmax", [](auto& o) { o.alpha = 0.5; }),
            "estimator 'entmax': expected a finite alpha >= 1, got 0.5");
  EXPECT_EQ(refusal("entmax", [](auto& o) { o.alpha = INFINITY; }),
            "estimator 'entmax': expected a finite alpha >= 1, got inf");
  EXPECT_EQ(refusal("entmax", [](auto& o) { o.alpha = NAN; }),
            "estimator 'entmax': expected a finite alpha >= 1, got nan");
  EXPECT_EQ(refusal("top-k", [](auto& o) { o.k = -1; }),
            "estimator 'top-k': expected k >= 1, or 0 for 10, got -1");
  EXPECT_EQ(refusal("sfe", [](auto& o) { o.samples = -1; }),
            "estimator 'sfe': expected samples >= 1, got -1");
  EXPECT_EQ(
      refusal("sfe", [](auto& o) { o.baseline = "median"; }),
      "estimator 'sfe': expected baseline to be 'auto' or one of 'moving-average', 'none', got "
      "'median'");
  EXPECT_EQ(refusal("sfe", [](auto& o) { o.baseline_decay = 1; }),
            "estimator 'sfe': expected baseline_decay in [0, 1), got 1");
  EXPECT_EQ(refusal("dense", [](auto& o) { o.max_outcomes = 0; }),
            "estimator 'dense': expected max_outcomes >= 1, got 0");
}

TEST(Registry, OptionsOfOthersAreNotRead) {
  EXPECT_EQ(refusal("dense", [](auto& o) { o.alpha = o.k = o.samples = -1; }), "");
  EXPECT_EQ(refusal("sfe", [](auto& o) { o.alpha = o.k = -1; }), "");
}

}  // namespace
}  // namespace sparsum
