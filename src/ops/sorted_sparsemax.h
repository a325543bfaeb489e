#pragma once

#include <ATen/core/Tensor.h>

namespace sparsum::ops {

/// Sparsemax along `dim` in ATen alone, by sorting (Held, Wolfe and Crowder, 1974): the path of
/// devices without a kernel of ours. scores: float32 or float64. No value checks: NaN spreads over
/// its row.
at::Tensor sorted_sparsemax(const at::Tensor& scores, int64_t dim);

}  // namespace sparsum::ops
