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

void check_shape(const char* op, const char* argument, const at::Tensor& tensor,
                 const char* symbols, c10::SymIntArrayRef shape) {
  TORCH_CHECK(tensor.sym_sizes() == shape, op, ": expected ", argument, " to be ", symbols, " = ",
              shape, ", got ", tensor.sym_sizes());
}

void check_splits(const char* op, const char* argument, const at::Tensor& splits,
                  const c10::SymInt& count) {
  TORCH_CHECK_TYPE(splits.scalar_type() == at::kLong, op, ": expected ", argument,
                   " to be int64, got ", splits.scalar_type());
  TORCH_CHECK(splits.dim() == 1 && splits.sym_size(0) >= 1, op, ": expected ", argument,
              " to be [B + 1], got ", splits.sym_sizes());
  if (!splits.is_cpu()) return;
  const auto split = splits.accessor<int64_t, 1>();
  TORCH_CHECK_VALUE(split[0] == 0, op, ": expected ", argument, " to begin with 0, got ", split[0]);
  for (int64_t b = 1; b < splits.size(0); ++b) {
    TORCH_CHECK_VALUE(split[b] >= split[b - 1], op, ": expected ", argument, " to ascend, got ",
                      split[b - 1], " before ", split[b], " at ", b);
  }
  const int64_t last = split[splits.size(0) - 1];
  TORCH_CHECK_VALUE(last == count, op, ": expected ", argument, " to end with n = ", count,
                    ", got ", last);
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
