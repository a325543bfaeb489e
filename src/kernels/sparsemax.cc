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
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE LaneThresholds<D> sparsemax_lanes_tau(D d, const LaneRows<D>& rows, size_t length) {
  const auto one = hn::Set(d, T{1});
  auto tau = hn::Neg(one);
  auto count = hn::Zero(d);
  for (;;) {
    auto sum = hn::Zero(d);
    auto kept = hn::Zero(d);
    for (size_t i = 0; i < length; ++i) {
      const auto x = rows.at(d, i);
      const auto mask = hn::Gt(x, tau);
      sum = hn::Add(sum, hn::IfThenElseZero(mask, x));
      kept = hn::Add(kept, hn::IfThenElseZero(mask, one));
    }
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

template <typename T>
int64_t sparsemax_rows(const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs, int64_t rows,
                       int64_t cols) {
  const hn::ScalableTag<T> d;
  return map_rows(
      d, scores, probs, rows, cols, /*radius=*/T{1},
      [&](const auto& group, size_t length)
          HWY_ATTR { return sparsemax_lanes_tau(d, group, length); },
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
