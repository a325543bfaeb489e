#pragma once

#include "lab/experiment.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sparsum::lab {

/// What the steps of an epoch add up to. Doubles and integers, so that a resumed epoch ends in the
/// same bits.
class EpochSums {
 public:
  /// terms: what is summed beside the objective; counts: what is counted beside steps and
  /// evaluations.
  explicit EpochSums(std::vector<std::string> terms, std::vector<std::string> counts = {});

  void clear();

  /// One more step.
  void add_step(double objective);
  void add(const std::string& term, double value);
  void count(const std::string& name, int64_t number);
  /// The loss evaluations of a batch: [m] int64.
  void add_evaluations(const at::Tensor& per_example);

  int64_t steps() const { return steps_; }
  /// Means over the steps so far; at least one.
  double mean_objective() const { return objective_ / static_cast<double>(steps_); }
  double mean(const std::string& term) const;
  int64_t counted(const std::string& name) const;
  bool has_evaluations() const { return examples_ > 0; }
  /// Mean and quartiles over the examples, or null if nothing was evaluated.
  Json evaluations() const;

  /// For a progress bar; accuracy: where there is one.
  EpochNumbers numbers(std::optional<double> accuracy = {}) const;

  /// Under "epoch/…".
  void save(Checkpoint& checkpoint) const;
  void load(const Checkpoint& checkpoint);

 private:
  struct Term {
    std::string name;
    double sum;
  };
  struct Count {
    std::string name;
    int64_t number;
  };

  double objective_ = 0;
  std::vector<Term> terms_;
  std::vector<Count> counts_;
  int64_t steps_ = 0, evaluations_ = 0, examples_ = 0;
  std::vector<at::Tensor> evaluations_per_example_;  // [m] int64 each
};

/// "16 labelled training images (3, 1, 4, 1, …)". indices: [n] int64; kind: "labelled", or "".
std::string describe_images(const std::string& kind, const at::Tensor& indices);

}  // namespace sparsum::lab
