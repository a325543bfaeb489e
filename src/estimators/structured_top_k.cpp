#include "structures/flips.h"
#include "structures/regular.h"

#include <sparsum/bits.h>
#include <sparsum/categorical.h>
#include <sparsum/support.h>
#include <sparsum/top_k_sparsemax.h>
#include <torch/torch.h>

#include <algorithm>

namespace sparsum {
namespace {

/// More outcomes than any list holds, and twice it is a number still.
constexpr int64_t kMostOutcomes = int64_t{1} << 61;

/// Top-k sparsemax of listed outcomes, at least k + 1 of each example or all it has.
SparseDistribution top_k_of(const Structure& structure, const at::Tensor& scores,
                            const Assignments& listed, int64_t k) {
  const int64_t batch = listed.batch_size(), n = listed.count();
  // Sparsemax does not see what is added to all scores of an example: flips need no base.
  const at::Tensor per_pair = listed.base.defined() && !listed.chained
                                  ? flip_scores(scores, listed)
                                  : structure.score(scores, listed);
  const at::Tensor counts = listed.evaluations();
  const int64_t width = batch == 0 ? 1 : counts.max().item<int64_t>();
  at::Tensor table;
  if (n == batch * width) {
    table = per_pair.view({batch, width});
  } else {
    table = at::full({batch, width}, -INFINITY, per_pair.options())
                .index_put({listed.rows, place_in_example(listed)}, per_pair);
  }
  const auto [probs, exact] = top_k_sparsemax(table, k);
  const auto [row_splits, rows, place] = support(probs.detach());
  const at::Tensor own = probs.reshape(-1).index_select(0, at::add(place, rows, width));
  const at::Tensor pairs = listed.row_splits.index_select(0, rows) + place;
  return SparseDistribution(listed.select(pairs, rows, row_splits), own, exact);
}

void check(const char* caller, const Structure& structure, const at::Tensor& scores, int64_t k) {
  structure.check_scores(caller, scores);
  TORCH_CHECK_VALUE(k >= 1, caller, ": expected k >= 1, got ", k);
}

}  // namespace

SparseDistribution top_k_sparsemax(const Structure& structure, const at::Tensor& scores,
                                   int64_t k) {
  check("top_k_sparsemax", structure, scores, k);
  k = std::min(k, kMostOutcomes);
  if (dynamic_cast<const Categorical*>(&structure)) {
    auto [probs, exact] = top_k_sparsemax(scores, k);
    return SparseDistribution::from_dense(probs, exact);
  }
  return top_k_of(structure, scores, structure.k_best(scores.detach(), k + 1), k);
}

SparseDistribution adaptive_top_k_sparsemax(const Structure& structure, const at::Tensor& scores,
                                            int64_t k, int64_t max_k) {
  constexpr const char* kName = "adaptive_top_k_sparsemax";
  check(kName, structure, scores, k);
  TORCH_CHECK_VALUE(max_k >= k, kName, ": expected max_k >= k = ", k, ", got ", max_k);
  k = std::min(k, kMostOutcomes);
  max_k = std::min(max_k, kMostOutcomes);
  if (dynamic_cast<const Categorical*>(&structure)) {
    return top_k_sparsemax(structure, scores, max_k);  // costs the same for every k
  }
  if (const auto* bits = dynamic_cast<const Bits*>(&structure)) {
    return top_k_of(structure, scores, bits->best_until_exact(scores, max_k + 1), max_k);
  }
  for (;;) {
    SparseDistribution q = top_k_sparsemax(structure, scores, k);
    if (k >= max_k || q.exact().all().item<bool>()) return q;
    k = std::min(2 * k, max_k);
  }
}

}  // namespace sparsum
