#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/core/SymIntArrayRef.h>

#include <cstdint>

namespace sparsum::ops {

/// Throws, in the words "<op>: expected <argument> to be floating point, got Long", unless the
/// dtype is float64, float32, float16 or bfloat16.
void check_floating(const char* op, const char* argument, const at::Tensor& tensor);

/// Throws, in the words "<op>: expected <argument> to be [B, V] = [2, 3], got [2, 4]", unless the
/// tensor has that shape; `symbols` says what it stands for.
void check_shape(const char* op, const char* argument, const at::Tensor& tensor,
                 const char* symbols, c10::SymIntArrayRef shape);

/// Throws, naming the op, unless `splits` are [B + 1] int64 and, where reading them does not
/// synchronise (on the CPU), ascend from 0 to `count`.
void check_splits(const char* op, const char* argument, const at::Tensor& splits,
                  const c10::SymInt& count);

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
