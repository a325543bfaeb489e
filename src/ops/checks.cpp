#include "ops/checks.h"

#include <ATen/ATen.h>

#include <cmath>

namespace sparsum::ops {

void check_floating(const char* op, const char* argument, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kDouble || type == at::kFloat || type == at::kHalf || type == at::kBFloat16, op,
      ": expected ", argument, " to be floating point, got ", type);
}

int64_t check_dim(const char* op, const at::Tensor& scores, int64_t dim) {
  const int64_t dims = scores.dim();
  TORCH_CHECK(dims > 0, op, ": expected scores to have at least one dimension, got a scalar");
  TORCH_CHECK_INDEX(dim >= -dims && dim < dims, op, ": expected dim in [", -dims, ", ", dims - 1,
                    "], got ", dim);
  const int64_t positive = dim < 0 ? dim + dims : dim;
  TORCH_CHECK(scores.sym_size(positive) != 0, op, ": expected at least one score along dim ", dim,
              ", got shape ", scores.sym_sizes());
  return positive;
}

void check_alpha(const char* op, double alpha) {
  TORCH_CHECK_VALUE(std::isfinite(alpha) && alpha >= 1, op,
                    ": expected alpha to be finite and >= 1, got ", alpha);
}

void throw_illegal_row(const char* op, const at::Tensor& scores, int64_t row) {
  const at::Tensor values = scores.select(0, row).to(at::kDouble);
  for (int64_t j = 0; j < values.size(0); ++j) {
    const double value = values[j].item<double>();
    TORCH_CHECK_VALUE(!std::isnan(value) && value != INFINITY, op,
                      ": expected scores to be finite or -inf, got ",
                      std::isnan(value) ? "nan" : "inf", " in row ", row, ", column ", j);
  }
  TORCH_CHECK_VALUE(
      false, op, ": expected at least one finite score in every row, got only -inf in row ", row);
}

void refuse_forward_mode(const char* op, const at::Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !tensor._fw_grad(/*level=*/0).defined(), op,
      ": forward-mode differentiation is not implemented; use reverse mode");
}

}  // namespace sparsum::ops
