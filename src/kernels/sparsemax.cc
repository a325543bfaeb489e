#include "sparsum/kernels/sparsemax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparsemax.cc"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway requires.
#include "kernels/scratch.h"
#include "kernels/simplex-inl.h"

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {

// Michelot's iteration (see sparsemax_tau) for a row in each lane: no reduction across lanes, so
// the result does not depend on the SIMD target either.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> short_rows_tau(D d, const ShortRows<D>& rows, size_t cols) {
  const auto one = hn::Set(d, T{1});
  auto tau = hn::Neg(one);
  auto count = hn::Zero(d);
  for (;;) {
    auto sum = hn::Zero(d);
    auto kept = hn::Zero(d);
    for (size_t j = 0; j < cols; ++j) {
      const auto x = rows.column(d, j);
      const auto mask = hn::Gt(x, tau);
      sum = hn::Add(sum, hn::IfThenElseZero(mask, x));
      kept = hn::Add(kept, hn::IfThenElseZero(mask, one));
    }
    if (hn::AllTrue(d, hn::Eq(kept, count))) return tau;
    count = kept;
    tau = hn::Max(tau, hn::Div(hn::Sub(sum, one), count));
  }
}

template <typename T>
int64_t sparsemax_rows(const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs, int64_t rows,
                       int64_t cols) {
  const hn::ScalableTag<T> d;
  const size_t n = static_cast<size_t>(cols);
  if (n <= ShortRows<decltype(d)>::kMaxCols) {
    return for_each_short_group(
        d, scores, probs, rows, cols, [&](const auto& group, T* out) HWY_ATTR {
          const auto tau = short_rows_tau(d, group, n);
          group.write(d, out, [&](auto x) HWY_ATTR { return hn::ZeroIfNegative(hn::Sub(x, tau)); });
        });
  }
  Scratch<T> scratch(candidate_capacity<T>(n));
  T* candidates = scratch.data();
  for (int64_t row = 0; row < rows; ++row) {
    const T* s = scores + row * cols;
    const auto [count, max] = scan_candidates(d, s, n, T{1}, candidates);
    if (count == 0) return row;
    subtract_max(d, candidates, count, max);
    const Threshold<T> tau(sparsemax_tau(d, candidates, count));
    const auto max_v = hn::Set(d, max), high = hn::Set(d, tau.high), low = hn::Set(d, tau.low);
    transform_row(d, s, probs + row * cols, n, [&](auto v) HWY_ATTR {
      return hn::ZeroIfNegative(hn::Sub(hn::Sub(hn::Sub(v, max_v), high), low));
    });
  }
  return -1;
}

template <typename T>
void sparsemax_backward_rows(const T* HWY_RESTRICT grad, const T* HWY_RESTRICT probs,
                             T* HWY_RESTRICT grad_scores, int64_t rows, int64_t cols) {
  const hn::ScalableTag<T> d;
  center_rows(d, grad, probs, grad_scores, rows, cols,
              [&](auto) HWY_ATTR { return hn::Set(d, T{1}); });
}

int64_t sparsemax_float(const float* s, float* p, int64_t rows, int64_t cols) {
  return sparsemax_rows(s, p, rows, cols);
}
int64_t sparsemax_double(const double* s, double* p, int64_t rows, int64_t cols) {
  return sparsemax_rows(s, p, rows, cols);
}
void sparsemax_backward_float(const float* g, const float* p, float* out, int64_t rows,
                              int64_t cols) {
  sparsemax_backward_rows(g, p, out, rows, cols);
}
void sparsemax_backward_double(const double* g, const double* p, double* out, int64_t rows,
                               int64_t cols) {
  sparsemax_backward_rows(g, p, out, rows, cols);
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparsum::kernels {

HWY_EXPORT(sparsemax_float);
HWY_EXPORT(sparsemax_double);
HWY_EXPORT(sparsemax_backward_float);
HWY_EXPORT(sparsemax_backward_double);

int64_t sparsemax_forward(const float* scores, float* probs, int64_t rows, int64_t cols) {
  return HWY_DYNAMIC_DISPATCH(sparsemax_float)(scores, probs, rows, cols);
}
int64_t sparsemax_forward(const double* scores, double* probs, int64_t rows, int64_t cols) {
  return HWY_DYNAMIC_DISPATCH(sparsemax_double)(scores, probs, rows, cols);
}
void sparsemax_backward(const float* grad, const float* probs, float* grad_scores, int64_t rows,
                        int64_t cols) {
  HWY_DYNAMIC_DISPATCH(sparsemax_backward_float)(grad, probs, grad_scores, rows, cols);
}
void sparsemax_backward(const double* grad, const double* probs, double* grad_scores, int64_t rows,
                        int64_t cols) {
  HWY_DYNAMIC_DISPATCH(sparsemax_backward_double)(grad, probs, grad_scores, rows, cols);
}

}  // namespace sparsum::kernels
#endif
