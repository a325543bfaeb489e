#include "lab/experiments/epoch_sums.h"

#include "lab/metrics.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <sstream>

namespace sparsum::lab {
namespace {

/// The entry called `name`, as const as the entries are.
auto& find(auto& entries, const std::string& name) {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const auto& entry) { return entry.name == name; });
  TORCH_CHECK(found != entries.end(), "EpochSums: '", name, "' was not declared");
  return *found;
}

}  // namespace

EpochSums::EpochSums(std::vector<std::string> terms, std::vector<std::string> counts) {
  for (auto& name : terms) terms_.push_back({std::move(name), 0});
  for (auto& name : counts) counts_.push_back({std::move(name), 0});
}

void EpochSums::clear() {
  for (Term& term : terms_) term.sum = 0;
  for (Count& count : counts_) count.number = 0;
  objective_ = 0;
  steps_ = evaluations_ = examples_ = 0;
  evaluations_per_example_.clear();
}

void EpochSums::add_step(double objective) {
  objective_ += objective;
  ++steps_;
}

void EpochSums::add(const std::string& term, double value) { find(terms_, term).sum += value; }

void EpochSums::count(const std::string& name, int64_t number) {
  find(counts_, name).number += number;
}

void EpochSums::add_evaluations(const at::Tensor& per_example) {
  const at::Tensor evaluations = per_example.cpu();
  evaluations_ += evaluations.sum().item<int64_t>();
  examples_ += evaluations.size(0);
  evaluations_per_example_.push_back(evaluations);
}

double EpochSums::mean(const std::string& term) const {
  return find(terms_, term).sum / static_cast<double>(steps_);
}

int64_t EpochSums::counted(const std::string& name) const { return find(counts_, name).number; }

Json EpochSums::evaluations() const {
  return has_evaluations() ? to_json(quartiles(at::cat(evaluations_per_example_))) : Json();
}

EpochNumbers EpochSums::numbers(std::optional<double> accuracy) const {
  EpochNumbers numbers;
  if (steps_ > 0) numbers.objective = mean_objective();
  numbers.accuracy = accuracy;
  if (examples_ > 0) {
    numbers.evaluations = static_cast<double>(evaluations_) / static_cast<double>(examples_);
  }
  return numbers;
}

void EpochSums::save(Checkpoint& checkpoint) const {
  std::vector<double> sums = {objective_};
  for (const Term& term : terms_) sums.push_back(term.sum);
  std::vector<int64_t> counts = {steps_};
  for (const Count& count : counts_) counts.push_back(count.number);
  counts.insert(counts.end(), {evaluations_, examples_});
  checkpoint.put("epoch/sums", at::tensor(sums, at::kDouble));
  checkpoint.put("epoch/counts", at::tensor(counts, at::kLong));
  checkpoint.put("epoch/evaluations", evaluations_per_example_.empty()
                                          ? at::empty({0}, at::kLong)
                                          : at::cat(evaluations_per_example_));
}

void EpochSums::load(const Checkpoint& checkpoint) {
  at::Tensor sums = at::empty({1 + static_cast<int64_t>(terms_.size())}, at::kDouble);
  at::Tensor counts = at::empty({3 + static_cast<int64_t>(counts_.size())}, at::kLong);
  checkpoint.copy_to("epoch/sums", sums);
  checkpoint.copy_to("epoch/counts", counts);
  const auto* sum = sums.const_data_ptr<double>();
  const auto* number = counts.const_data_ptr<int64_t>();
  objective_ = *sum++;
  for (Term& term : terms_) term.sum = *sum++;
  steps_ = *number++;
  for (Count& count : counts_) count.number = *number++;
  evaluations_ = *number++;
  examples_ = *number;
  evaluations_per_example_.clear();
  const at::Tensor evaluations = checkpoint.get("epoch/evaluations", at::kLong);
  if (evaluations.size(0) > 0) evaluations_per_example_.push_back(evaluations);
}

std::string describe_images(const std::string& kind, const at::Tensor& indices) {
  constexpr int64_t kNamed = 4;
  std::ostringstream text;
  text << indices.size(0) << (kind.empty() ? "" : " ") << kind << " training images (";
  for (int64_t i = 0; i < std::min(kNamed, indices.size(0)); ++i) {
    text << (i ? ", " : "") << indices[i].item<int64_t>();
  }
  text << (indices.size(0) > kNamed ? ", …)" : ")");
  return text.str();
}

}  // namespace sparsum::lab
