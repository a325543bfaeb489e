#include "sparsum/kernels/sparsemax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparsemax.cc"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway requires.
#include "kernels/simplex-inl.h"

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {

// Michelot's iteration (see sparsemax_tau) for a row in each lane. Without reductions across lanes,
// the result does not depend on the SIMD target either.
template <class D>
HWY_INLINE void sum_above(D d, const LaneRows<D>& rows, size_t length, hn::Vec<D> tau,
                          hn::Vec<D>& sum, hn::Vec<D>& count) {
  const auto one = hn::Set(d, hn::TFromD<D>{1});
  auto sum0 = hn::Zero(d), sum1 = sum0, count0 = sum0, count1 = sum0;
  size_t i = 0;
  for (; i + 2 <= length; i += 2) {
    const auto x0 = rows.at(d, i), x1 = rows.at(d, i + 1);
    const auto mask0 = hn::Gt(x0, tau), mask1 = hn::Gt(x1, tau);
    sum0 = hn::Add(sum0, hn::IfThenElseZero(mask0, x0));
    sum1 = hn::Add(sum1, hn::IfThenElseZero(mask1, x1));
    count0 = hn::Add(count0, hn::IfThenElseZero(mask0, one));
    count1 = hn::Add(count1, hn::IfThenElseZero(mask1, one));
  }
  if (i < length) {
    const auto x = rows.at(d, i);
    const auto mask = hn::Gt(x, tau);
    sum0 = hn::Add(sum0, hn::IfThenElseZero(mask, x));
    count0 = hn::Add(count0, hn::IfThenElseZero(mask, one));
  }
  sum = hn::Add(sum0, sum1);
  count = hn::Add(count0, count1);
}

template <class D, typename T = hn::TFromD<D>>
HWY_INLINE LaneThresholds<D> sparsemax_lanes_tau(D d, const LaneRows<D>& rows, size_t length,
                                                 hn::Vec<D> start) {
  const auto one = hn::Set(d, T{1});
  auto tau = start;
  auto count = hn::Zero(d);
  for (;;) {
    hn::Vec<D> sum, kept;
    sum_above(d, rows, length, tau, sum, kept);
    if (hn::AllTrue(d, hn::Eq(kept, count))) break;
    count = kept;
    tau = hn::Max(tau, hn::Div(hn::Sub(sum, one), count));
  }
  // What rounding left of Σ (x − τ)_+ − 1, a sum of probabilities and so itself accurate.
  auto mass = hn::Zero(d);
  for (size_t i = 0; i < length; ++i) {
    mass = hn::Add(mass, hn::ZeroIfNegative(hn::Sub(rows.at(d, i), tau)));
  }
  return {tau, hn::Div(hn::Sub(mass, one), count)};
}

// Two steps of the same: enough for a bound.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> sparsemax_lower_bound(D d, const LaneRows<D>& rows, size_t length) {
  const auto one = hn::Set(d, T{1});
  auto tau = hn::Neg(one);
  for (int step = 0; step < 2; ++step) {
    hn::Vec<D> sum, count;
    sum_above(d, rows, length, tau, sum, count);
    tau = hn::Max(tau, hn::Div(hn::Sub(sum, one), count));
  }
  return tau;
}

template <typename T>
int64_t sparsemax_rows(const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs, int64_t rows,
                       int64_t cols) {
  const hn::ScalableTag<T> d;
  return map_rows(
      d, scores, probs, rows, cols, /*radius=*/T{1},
      [&](const auto& group, size_t length)
          HWY_ATTR { return sparsemax_lower_bound(d, group, length); },
      [&](const auto& group, size_t length, auto start)
          HWY_ATTR { return sparsemax_lanes_tau(d, group, length, start); },
      [&](T* x, size_t count) HWY_ATTR { return sparsemax_tau(d, x, count); },
      [&](auto x, auto high, auto low)
          HWY_ATTR { return hn::ZeroIfNegative(hn::Sub(hn::Sub(x, high), low)); });
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
