#include "ops/rows.h"
#include "structures/regular.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <sparsum/categorical.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace sparsum {
namespace {

/// Throws, naming the first row of `scores` whose `statistic` (its largest score, or its total
/// weight) is not finite. On other devices than the CPU reading values would synchronise: there NaN
/// spreads.
void check_rows(const std::string& caller, const at::Tensor& scores, const at::Tensor& statistic) {
  if (!statistic.is_cpu()) return;
  const at::Tensor values = statistic.to(at::kDouble);
  const auto value = values.accessor<double, 1>();
  for (int64_t b = 0; b < values.size(0); ++b) {
    if (std::isfinite(value[b])) continue;
    const at::Tensor row = scores[b].detach();
    TORCH_CHECK(!row.isnan().any().item<bool>(), caller, ": row ", b, " of the scores holds NaN");
    TORCH_CHECK(row.max().item<double>() < INFINITY, caller, ": row ", b,
                " of the scores holds +inf");
    TORCH_CHECK(false, caller, ": row ", b, " of the scores has no finite score");
  }
}

/// The k best columns of each row, best first, ties to the lower index: a selection and a sort of
/// k, O(K + k log k).
template <typename scalar_t>
void select_k_best(const at::Tensor& scores, int64_t k, const at::Tensor& indices) {
  const int64_t columns = scores.size(1);
  const scalar_t* data = scores.const_data_ptr<scalar_t>();
  int64_t* out = indices.mutable_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(1, 32768 / columns);
  at::parallel_for(0, scores.size(0), grain, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> order(columns);
    for (int64_t b = begin; b < end; ++b) {
      const scalar_t* row = data + b * columns;
      const auto better = [row](int64_t i, int64_t j) {
        return row[i] != row[j] ? row[i] > row[j] : i < j;
      };
      std::iota(order.begin(), order.end(), 0);
      if (k < columns) std::nth_element(order.begin(), order.begin() + k, order.end(), better);
      std::sort(order.begin(), order.begin() + k, better);
      std::copy_n(order.begin(), k, out + b * k);
    }
  });
}

}  // namespace

Categorical::Categorical(int64_t values) : values_(values) {
  TORCH_CHECK(values >= 1, "Categorical: expected at least 1 value, got ", values);
}

std::string Categorical::name() const { return "categorical(" + std::to_string(values_) + ")"; }

double Categorical::log_size() const { return std::log(static_cast<double>(values_)); }

Assignments Categorical::enumerate(int64_t batch, const at::Device& device, int64_t limit) const {
  TORCH_CHECK(values_ <= limit, name(), ": enumerate: ", values_,
              " outcomes are more than the limit of ", limit);
  Assignments z = regular_assignments(batch, values_, values_, device);
  z.indices =
      at::arange(values_, z.rows.options()).unsqueeze(0).expand({batch, values_}).reshape(-1);
  z.full_grid = true;
  return z;
}

Assignments Categorical::map(const at::Tensor& scores) const {
  check_scores("map", scores);
  const at::NoGradGuard no_grad;
  const auto [best, index] = scores.max(1);
  check_rows(name() + ": map", scores, best);
  return one_per_example(index, values_);
}

Assignments Categorical::k_best(const at::Tensor& scores, int64_t k) const {
  check_scores("k_best", scores);
  TORCH_CHECK(k >= 1, name(), ": k_best: expected k >= 1, got ", k);
  const at::NoGradGuard no_grad;
  const int64_t batch = scores.size(0);
  k = std::min(k, values_);
  check_rows(name() + ": k_best", scores, scores.amax(1));
  Assignments z = regular_assignments(batch, k, values_, scores.device());
  if (scores.is_cpu()) {
    z.indices = at::empty({batch * k}, z.rows.options());
    const at::Tensor rows = scores.contiguous();
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, scores.scalar_type(), "k_best",
                                    [&] { select_k_best<scalar_t>(rows, k, z.indices); });
  } else {
    // A stable sort, for its rule on ties.
    const at::Tensor order =
        std::get<1>(at::sort(scores, /*stable=*/true, /*dim=*/1, /*descending=*/true));
    z.indices = order.slice(1, 0, k).reshape(-1);
  }
  return z;
}

Assignments Categorical::sample(const at::Tensor& scores, int64_t samples,
                                at::Generator generator) const {
  check_scores("sample", scores);
  TORCH_CHECK(samples >= 1, name(), ": sample: expected at least 1 sample, got ", samples);
  const at::NoGradGuard no_grad;
  const int64_t batch = scores.size(0);
  const at::Tensor probs = ops::widened(scores).softmax(1);
  const at::Tensor cumulative = probs.cumsum(1, at::kDouble);
  const at::Tensor total = cumulative.slice(1, values_ - 1);
  check_rows(name() + ": sample", scores, total.squeeze(1));
  // Dividing by the total makes the last sum exactly 1, and so every sum after the last possible
  // outcome: a uniform below 1 can then never fall on an outcome of probability 0.
  const at::Tensor table = cumulative.div(total);
  const at::Tensor noise =
      at::rand({batch, samples}, generator, table.options());  // 53 bits, in [0, 1)
  Assignments z = regular_assignments(batch, samples, values_, scores.device());
  z.indices = at::searchsorted(table, noise, /*out_int32=*/false, /*right=*/true).reshape(-1);
  // A row of NaN, which only the CPU refuses above, must at least give an index that exists.
  if (!scores.is_cpu()) z.indices.clamp_max_(values_ - 1);
  return z;
}

at::Tensor Categorical::score(const at::Tensor& scores, const Assignments& z) const {
  check_scores("score", scores);
  TORCH_CHECK(z.parts == values_, name(), ": score: expected assignments of ", values_,
              " parts, got ", z.parts);
  TORCH_CHECK(z.batch_size() == scores.size(0), name(), ": score: expected assignments of ",
              scores.size(0), " examples, got ", z.batch_size());
  if (!z.indices.defined()) return Structure::score(scores, z);
  if (z.full_grid) return scores.reshape(-1);
  return scores.reshape(-1).index_select(0, at::add(z.indices, z.rows, values_));
}

at::Tensor Categorical::log_partition(const at::Tensor& scores) const {
  check_scores("log_partition", scores);
  return scores.logsumexp(1);
}

at::Tensor Categorical::marginals(const at::Tensor& scores) const {
  check_scores("marginals", scores);
  return scores.softmax(1);
}

at::Tensor Categorical::entropy(const at::Tensor& scores) const {
  check_scores("entropy", scores);
  const at::Tensor log_probs = scores.log_softmax(1);
  // exp(−∞) · lowest is 0 where exp(−∞) · −∞ would be NaN; in the gradient too.
  const double lowest = scores.scalar_type() == at::kHalf ? -65504.0 : -1e30;
  return (log_probs.exp() * log_probs.clamp_min(lowest)).sum(1).neg();
}

}  // namespace sparsum
