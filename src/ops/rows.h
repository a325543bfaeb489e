#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace sparsum::ops {

// How an op that works along `dim` sees its tensor: as dense rows [rows, cols] of a dtype that
// kernels take.

/// The dtype that kernels compute in: float64 stays, everything else is float32.
inline at::ScalarType compute_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

/// `tensor` in that dtype, attached to it; no copy if it is so already.
inline at::Tensor widened(const at::Tensor& tensor) {
  return tensor.to(compute_type(tensor.scalar_type()));
}

/// `tensor` with `dim` moved last, dense, in `type`: [rows, cols]. No copy if it is so already.
at::Tensor to_rows(const at::Tensor& tensor, int64_t dim, at::ScalarType type);

/// The inverse: rows [rows, cols] as a tensor of the shape and dtype of `like`.
at::Tensor from_rows(const at::Tensor& rows, const at::Tensor& like, int64_t dim);

/// `sizes` of `like` without `dim`.
at::SymDimVector sizes_without(const at::Tensor& like, int64_t dim);

/// Calls f(begin, end) on ranges of rows, in parallel when there is work for it; f returns −1, or
/// the index of an illegal row relative to `begin`. Returns the first illegal row, or −1.
template <class F>
int64_t parallel_rows(int64_t rows, int64_t cols, const F& f) {
  // A thread is worth waking for about 8,000 elements: some 3 µs of a kernel's work.
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(cols, 1));
  if (rows <= grain) return f(int64_t{0}, rows);
  std::atomic<int64_t> first{rows};
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t bad = f(begin, end);
    if (bad < 0) return;
    int64_t seen = first.load();
    while (begin + bad < seen && !first.compare_exchange_weak(seen, begin + bad)) {
    }
  });
  return first == rows ? -1 : first.load();
}

}  // namespace sparsum::ops
