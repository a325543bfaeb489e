#pragma once

#include "lab/experiment.h"
#include "lab/run.h"

#include <ATen/ATen.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace sparsum::lab {

/// Running moments of estimates g_1 … g_R of a gradient, against a reference g*. In float64.
class GradientMoments {
 public:
  /// reference: g*, [n] float64; may be undefined: then only mean() and variance() are known.
  explicit GradientMoments(at::Tensor reference = {})
      : reference_(std::move(reference)),
        reference_norm_(reference_.defined() ? reference_.norm().item<double>() : 0) {}

  /// estimate: [n] float64.
  void add(const at::Tensor& estimate);

  int64_t count() const { return count_; }
  const at::Tensor& mean() const { return mean_; }
  /// tr Cov(g), unbiased: ≥ 0; of at least two estimates.
  double variance() const;
  /// ‖mean − g*‖. Of unbiased estimates about √(variance / R).
  double bias() const;
  /// Mean of cos(g, g*), which is taken as 0 where one of them is.
  double cosine() const;
  /// √ mean ‖g − g*‖².
  double rmse() const;

 private:
  at::Tensor reference_, mean_;
  double reference_norm_;
  int64_t count_ = 0;
  double squares_ = 0;  // Σ ‖g − mean‖²
  double cosines_ = 0;
};

/// How gradients are compared.
struct GradientQualityOptions {
  int64_t examples = 16;
  int64_t repeats = 100;
  int64_t batch_seed = 0;
  int64_t settle = 200;
  int64_t enumerate = 4096;
  int64_t reference_draws = 16;
  int64_t reference_repeats = 200;
  std::string estimators = "all";

  void declare(Options& options);
};

/// What `sparsum gradient-quality` is asked.
struct GradientQualityRequest {
  std::filesystem::path run;     ///< folder of a run, or empty for a fresh model
  std::string checkpoint;        ///< of the run: its name, or "" for the best one, else the last
  std::string experiment;        ///< of a fresh model
  std::filesystem::path config;  ///< of a fresh model: a TOML file with options, or empty
  /// Options of the experiment (of a run: device, threads, data), and of estimators, which go to
  /// those that read them.
  Settings settings;
  GradientQualityOptions options;
  std::filesystem::path out;  ///< folder for gradient_quality.json, or empty
};

struct GradientQualityProgress {
  std::string what;                       ///< the estimator's name, or "reference"
  int64_t estimator = 0, estimators = 0;  ///< counted from 1; 0 is the reference
  int64_t done = 0, total = 0;            ///< estimates
};

/// Compares the gradients that estimators give for one batch, of the mean objective E[ℓ] − H(q) in
/// the scores and in the loss's parameters, at one model. Where the set can be listed (at most
/// `enumerate` outcomes), against dense marginalization, which is exact; else against the mean of
/// many leave-one-out estimates. The loss is a function of z alone (Experiment::fixed_problem), so
/// that errors are those of the discrete variable. Baselines, averages and scales first learn for
/// `settle` estimates and then rest; those of the run's own estimator are as they were trained.
///
/// Returns, and writes to out/gradient_quality.json, nothing if `stop` became true:
///   {"schema": 1, "model": what was trained, "run", "checkpoint": or null, "structure",
///   "examples",
///    "batch_seed", "settle", "reference": {"kind": "exact" or "leave-one-out", "evaluations",
///    "scores", "loss": {"norm", "error", "size"}}, "estimators": [{"estimator", "family",
///    "objective": "the same", "another map" or "another bound", "evaluations": per example,
///    "milliseconds": median of one estimate with its backward pass, "repeats", "scores", "loss":
///    {"bias": norm of the mean's distance from the reference, "bias_error": its Monte Carlo
///    standard error, "variance": total, "cosine", "rmse"}}], "versions", "device", "threads"}.
/// Throws InputError.
std::optional<Json> gradient_quality(
    const GradientQualityRequest& request, const std::atomic<bool>& stop,
    const std::function<void(const GradientQualityProgress&)>& progress);

}  // namespace sparsum::lab
