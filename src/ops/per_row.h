#pragma once

#include "ops/checks.h"
#include "ops/rows.h"

#include <ATen/ATen.h>

#include <cmath>

namespace sparsum::ops {

// What the maps with one more number a row have in common.

/// Throws, naming the op, unless `numbers` broadcast against `scores` with size 1 along `dim`;
/// returns that shape.
inline at::SymDimVector check_per_row(const char* op, const char* argument,
                                      const at::Tensor& numbers, const at::Tensor& scores,
                                      int64_t dim) {
  check_floating(op, argument, numbers);
  const auto all = scores.sym_sizes();
  at::SymDimVector sizes(all.begin(), all.end());
  sizes[static_cast<size_t>(dim)] = 1;
  bool fits = numbers.dim() <= scores.dim();
  for (int64_t i = 1; fits && i <= numbers.dim(); ++i) {
    const auto have = numbers.sym_size(-i);
    fits = have == 1 || have == sizes[sizes.size() - static_cast<size_t>(i)];
  }
  TORCH_CHECK(fits, op, ": expected ", argument, " to broadcast to ", at::SymIntArrayRef(sizes),
              " (scores with size 1 along dim), got shape ", numbers.sym_sizes());
  return sizes;
}

/// Throws, naming the op, the row and the value, on a row with NaN, +∞ or no finite score. For the
/// CPU only: elsewhere reading values would synchronise.
inline void check_rows(const char* op, const at::Tensor& scores, int64_t dim) {
  if (!scores.is_cpu() || scores.numel() == 0) return;
  const int64_t last = dim < 0 ? dim + scores.dim() : dim;
  const at::Tensor rows = to_rows(scores, last, compute_type(scores.scalar_type()));
  // NaN is the largest of all and fails both.
  const at::Tensor best = rows.amax(1);
  const at::Tensor legal = best.lt(INFINITY).logical_and(best.gt(-INFINITY));
  if (legal.all().item<bool>()) return;
  throw_illegal_row(op, rows, legal.logical_not().nonzero()[0].item<int64_t>());
}

}  // namespace sparsum::ops
