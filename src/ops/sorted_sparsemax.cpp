#include "ops/sorted_sparsemax.h"

#include <ATen/ATen.h>

namespace sparsum::ops {

at::Tensor sorted_sparsemax(const at::Tensor& scores, int64_t dim) {
  const at::Tensor x = scores - scores.amax(dim, true);
  const at::Tensor sorted = std::get<0>(x.sort(/*stable=*/true, dim, /*descending=*/true));
  // −∞ would turn the sums behind it into NaN·0; anything ≤ −1 has no mass.
  const at::Tensor bounded = sorted.clamp_min(-2);
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape[static_cast<size_t>(dim)] = x.size(dim);
  const at::Tensor rank = at::arange(1, x.size(dim) + 1, x.options()).view(shape);
  const at::Tensor tau = (bounded.cumsum(dim) - 1) / rank;
  const at::Tensor count = (bounded > tau).sum(dim, true).clamp_min(1);
  return (x - tau.gather(dim, count - 1)).clamp_min(0);
}

}  // namespace sparsum::ops
