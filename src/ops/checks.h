#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sparsum::ops {

/// Throws, in the words "<op>: expected <argument> to be floating point, got Long", unless the
/// dtype is float64, float32, float16 or bfloat16.
void check_floating(const char* op, const char* argument, const at::Tensor& tensor);

/// The non-negative index of `dim`. Throws, naming the op, if it is out of range, the tensor is a
/// scalar without dimensions, or that dimension is empty.
int64_t check_dim(const char* op, const at::Tensor& scores, int64_t dim);

/// Throws, naming the op, unless α is finite and ≥ 1.
void check_alpha(const char* op, double alpha);

/// Throws, naming the op, the row and the value that makes it no score row: a NaN, +∞, or only −∞.
/// `row` is the row's index in scores [rows, cols].
[[noreturn]] void throw_illegal_row(const char* op, const at::Tensor& scores, int64_t row);

/// Throws, naming the op, if a tangent is attached: forward-mode differentiation is not
/// implemented, and without this check its result would silently be zero.
void refuse_forward_mode(const char* op, const at::Tensor& tensor);

}  // namespace sparsum::ops
