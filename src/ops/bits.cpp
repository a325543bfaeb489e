#include "ops/bits.h"

#include "ops/checks.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace sparsum::ops {

void check_bits(const char* op, const at::Tensor& scores, int64_t least, int64_t most) {
  check_floating(op, "scores", scores);
  TORCH_CHECK(scores.dim() == 2 && scores.size(1) >= 1, op,
              ": expected scores to be [B, D] with D >= 1, got ", scores.sizes());
  TORCH_CHECK_VALUE(0 <= least && least <= most && most <= scores.size(1), op,
                    ": expected 0 <= least <= most <= D = ", scores.size(1),
                    ", got least = ", least, ", most = ", most);
}

void throw_illegal_bits(const char* op, const at::Tensor& scores, int64_t row, int64_t least) {
  const at::Tensor values = scores.select(0, row);
  if (values.isnan().any().item<bool>() || values.eq(INFINITY).any().item<bool>()) {
    throw_illegal_row(op, scores, row);
  }
  TORCH_CHECK_VALUE(false, op, ": expected at least ", least,
                    " finite scores in every row, one for each bit that must be on, got ",
                    values.isfinite().sum().item<int64_t>(), " in row ", row);
}

at::Tensor splits_of(const at::Tensor& counts) {
  const int64_t n = counts.size(0);
  at::Tensor splits = at::empty({n + 1}, counts.options());
  const int64_t* count = counts.const_data_ptr<int64_t>();
  int64_t* split = splits.mutable_data_ptr<int64_t>();
  split[0] = 0;
  for (int64_t i = 0; i < n; ++i) split[i + 1] = split[i] + count[i];
  return splits;
}

at::Tensor rows_of(const at::Tensor& splits) {
  const int64_t* split = splits.const_data_ptr<int64_t>();
  const int64_t batch = splits.size(0) - 1;
  at::Tensor rows = at::empty({split[batch]}, splits.options());
  int64_t* row = rows.mutable_data_ptr<int64_t>();
  for (int64_t b = 0; b < batch; ++b) std::fill(row + split[b], row + split[b + 1], b);
  return rows;
}

}  // namespace sparsum::ops
