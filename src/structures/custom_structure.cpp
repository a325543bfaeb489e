#include "structures/regular.h"

#include <ATen/Parallel.h>
#include <sparsum/custom_structure.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace sparsum {
namespace {

/// The scores as the oracles take them: float64, on the host, dense; NaN and +∞ refused by row.
at::Tensor oracle_scores(const std::string& caller, const at::Tensor& scores) {
  const at::Tensor host = scores.detach().to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor illegal = (host < INFINITY).all(1).logical_not_().nonzero();
  TORCH_CHECK_VALUE(illegal.size(0) == 0, caller, ": row ", illegal[0].item<int64_t>(),
                    " of the scores holds NaN or +inf");
  return host;
}

/// Throws unless the outcomes differ from each other.
void check_distinct(const std::string& name, const std::vector<std::vector<uint8_t>>& list,
                    int64_t row) {
  std::unordered_map<std::string_view, size_t> seen;
  for (size_t i = 0; i < list.size(); ++i) {
    const auto* bytes = reinterpret_cast<const char*>(list[i].data());
    const auto [first, is_new] = seen.try_emplace({bytes, list[i].size()}, i);
    TORCH_CHECK(is_new, name, ": k_best_one: expected different outcomes, got number ",
                first->second, " again as number ", i, " in row ", row);
  }
}

}  // namespace

std::vector<std::vector<uint8_t>> CustomStructure::k_best_one(std::span<const double>,
                                                              int64_t) const {
  not_available("k_best");
}

double CustomStructure::log_size() const { not_available("log_size"); }

void CustomStructure::check_outcome(const char* oracle, const std::vector<uint8_t>& outcome) const {
  TORCH_CHECK(static_cast<int64_t>(outcome.size()) == parts(), name(), ": ", oracle,
              ": expected an outcome of V = ", parts(), " indicators, got ", outcome.size());
  for (size_t i = 0; i < outcome.size(); ++i) {
    TORCH_CHECK(outcome[i] <= 1, name(), ": ", oracle, ": expected indicators 0 or 1, got ",
                static_cast<int>(outcome[i]), " for part ", i);
  }
}

void CustomStructure::check_parts(const char* caller) const {
  TORCH_CHECK(parts() >= 1, name(), ": ", caller, ": expected parts() >= 1, got ", parts());
  TORCH_CHECK(0 <= variables() && variables() <= parts(), name(), ": ", caller,
              ": expected 0 <= variables() <= parts() = ", parts(), ", got ", variables());
}

void CustomStructure::check_allowed(const char* oracle, std::span<const double> scores, int64_t row,
                                    const std::vector<uint8_t>& outcome) const {
  for (size_t i = 0; i < scores.size(); ++i) {
    TORCH_CHECK(!outcome[i] || scores[i] > -INFINITY, name(), ": ", oracle,
                ": expected an outcome without parts whose score is -inf, got one with part ", i,
                " in row ", row);
  }
}

std::vector<uint8_t> CustomStructure::checked_best(std::span<const double> scores) const {
  std::vector<uint8_t> outcome = best(scores);
  check_outcome("best", outcome);
  return outcome;
}

Assignments CustomStructure::map(const at::Tensor& scores) const {
  check_parts("map");
  check_scores("map", scores);
  const at::Tensor host = oracle_scores(name() + ": map", scores);
  const int64_t batch = host.size(0), width = parts();
  const double* t = host.const_data_ptr<double>();
  const at::Tensor indicators = at::empty({batch, width}, at::kByte);
  auto* out = indicators.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const std::span<const double> own(t + b * width, static_cast<size_t>(width));
      const auto outcome = checked_best(own);
      check_allowed("best", own, b, outcome);
      std::copy(outcome.begin(), outcome.end(), out + b * width);
    }
  });
  return one_per_example(indicators.to(scores.device()), width);
}

Assignments CustomStructure::k_best(const at::Tensor& scores, int64_t k) const {
  check_parts("k_best");
  check_scores("k_best", scores);
  TORCH_CHECK_VALUE(k >= 1, name(), ": k_best: expected k >= 1, got ", k);
  const std::optional<int64_t> known = size();
  if (known) k = std::clamp<int64_t>(*known, 1, k);
  if (parts() < 62) k = std::min(k, int64_t{1} << parts());
  const at::Tensor host = oracle_scores(name() + ": k_best", scores);
  const int64_t batch = host.size(0), width = parts();
  const double* t = host.const_data_ptr<double>();
  if (batch == 0) {  // a structure without the oracle says so all the same
    k_best_one(std::vector<double>(static_cast<size_t>(width)), 1);
  }
  std::vector<std::vector<std::vector<uint8_t>>> lists(static_cast<size_t>(batch));
  at::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const std::span<const double> own(t + b * width, static_cast<size_t>(width));
      auto& list = lists[static_cast<size_t>(b)];
      list = k_best_one(own, k);
      TORCH_CHECK(!list.empty() && static_cast<int64_t>(list.size()) <= k, name(),
                  ": k_best_one: expected 1 to k = ", k, " outcomes, got ", list.size());
      // What −∞ leaves of Z is the structure's to know.
      const bool all_allowed =
          std::none_of(own.begin(), own.end(), [](double s) { return s == -INFINITY; });
      TORCH_CHECK(
          !known || !all_allowed || static_cast<int64_t>(list.size()) >= std::min(k, *known),
          name(), ": k_best_one: expected min(k, |Z|) = ", std::min(k, known.value_or(k)),
          " outcomes, got ", list.size(), " in row ", b);
      double before = INFINITY;
      for (const auto& outcome : list) {
        check_outcome("k_best_one", outcome);
        check_allowed("k_best_one", own, b, outcome);
        double score = 0;
        for (size_t i = 0; i < own.size(); ++i) score += outcome[i] ? own[i] : 0;
        TORCH_CHECK(score <= before + 1e-9 * (1 + std::abs(before)), name(),
                    ": k_best_one: expected outcomes best first, got score ", score, " after ",
                    before);
        before = score;
      }
      check_distinct(name(), list, b);
    }
  });
  const at::Tensor counts = at::empty({batch}, at::kLong);
  int64_t n = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const auto size = static_cast<int64_t>(lists[static_cast<size_t>(b)].size());
    counts.mutable_data_ptr<int64_t>()[b] = size;
    n += size;
  }
  const at::Tensor indicators = at::empty({n, width}, at::kByte);
  auto* out = indicators.mutable_data_ptr<uint8_t>();
  for (const auto& list : lists) {
    for (const auto& outcome : list) out = std::copy(outcome.begin(), outcome.end(), out);
  }
  Assignments z;
  z.rows = at::repeat_interleave(counts).to(scores.device());
  z.row_splits = at::constant_pad_nd(counts.cumsum(0), {1, 0}).to(scores.device());
  z.parts = width;
  z.indicators = indicators.to(scores.device());
  return z;
}

}  // namespace sparsum
