#include "structures/regular.h"

#include <ATen/Parallel.h>
#include <sparsum/custom_structure.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

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

std::vector<uint8_t> CustomStructure::checked_best(std::span<const double> scores) const {
  std::vector<uint8_t> outcome = best(scores);
  check_outcome("best", outcome);
  return outcome;
}

Assignments CustomStructure::map(const at::Tensor& scores) const {
  check_scores("map", scores);
  const at::Tensor host = oracle_scores(name() + ": map", scores);
  const int64_t batch = host.size(0), width = parts();
  const double* t = host.const_data_ptr<double>();
  const at::Tensor indicators = at::empty({batch, width}, at::kByte);
  auto* out = indicators.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const auto outcome = checked_best({t + b * width, static_cast<size_t>(width)});
      std::copy(outcome.begin(), outcome.end(), out + b * width);
    }
  });
  Assignments z = regular_assignments(batch, 1, width, scores.device());
  z.indicators = indicators.to(scores.device());
  return z;
}

Assignments CustomStructure::k_best(const at::Tensor& scores, int64_t k) const {
  check_scores("k_best", scores);
  TORCH_CHECK_VALUE(k >= 1, name(), ": k_best: expected k >= 1, got ", k);
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
      double before = INFINITY;
      for (const auto& outcome : list) {
        check_outcome("k_best_one", outcome);
        double score = 0;
        for (size_t i = 0; i < own.size(); ++i) score += outcome[i] ? own[i] : 0;
        TORCH_CHECK(score <= before + 1e-9 * (1 + std::abs(before)), name(),
                    ": k_best_one: expected outcomes best first, got score ", score, " after ",
                    before);
        before = score;
      }
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
