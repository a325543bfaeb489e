#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>

#include <tuple>

namespace sparsum {

/// Where a batch of distributions is non-zero.
///
/// probs: [B, K], any floating dtype.
/// Returns (row_splits [B+1], rows [n], indices [n]), all int64: the entries {(b, j) : probs[b, j]
/// > 0} in
///   row-major order; row b owns positions row_splits[b] … row_splits[b+1] − 1, rows[i] is the b
///   and indices[i] the j of position i. Not differentiable.
/// Cost: O(BK).
SPARSUM_API std::tuple<at::Tensor, at::Tensor, at::Tensor> support(const at::Tensor& probs);

}  // namespace sparsum
