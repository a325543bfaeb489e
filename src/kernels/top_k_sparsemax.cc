#include "sparsum/kernels/top_k_sparsemax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/top_k_sparsemax.cc"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway requires.
#include "kernels/scratch.h"
#include "kernels/simplex-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <functional>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {

// Only scores within 1 of the maximum can have mass, for any k; selecting happens among those few.
template <typename T>
int64_t top_k_rows(const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs, bool* HWY_RESTRICT exact,
                   int64_t rows, int64_t cols, int64_t k) {
  const hn::ScalableTag<T> d;
  const size_t n = static_cast<size_t>(cols);
  const size_t limit = static_cast<size_t>(std::min(k, cols));
  Scratch<T> scratch(candidate_capacity<T>(n));
  T* candidates = scratch.data();
  for (int64_t row = 0; row < rows; ++row) {
    const T* s = scores + row * cols;
    T* p = probs + row * cols;
    auto [count, max] = scan_candidates(d, s, n, T{1}, candidates);
    if (count == 0) return row;

    // The scan kept everything that was a candidate when it was met; drop what is none in the end.
    count = static_cast<size_t>(
        std::remove_if(candidates, candidates + count, [m = max](T v) { return v - m <= T{-1}; }) -
        candidates);
    T kth = -std::numeric_limits<T>::infinity();  // the smallest score that is kept
    T next = kth;                                 // the largest that is not
    size_t ties = n;  // how many scores equal to kth are kept: any number
    if (count > limit) {
      std::nth_element(candidates, candidates + (limit - 1), candidates + count, std::greater<>());
      kth = candidates[limit - 1];
      next = *std::max_element(candidates + limit, candidates + count);
      ties = static_cast<size_t>(std::count(candidates, candidates + limit, kth));
      count = limit;
    }
    subtract_max(d, candidates, count, max);
    const double tau_wide = sparsemax_tau(d, candidates, count);
    exact[row] = static_cast<double>(next - max) <= tau_wide;

    const Threshold<T> tau(tau_wide);
    const auto max_v = hn::Set(d, max), high = hn::Set(d, tau.high), low = hn::Set(d, tau.low);
    const auto kth_v = hn::Set(d, kth);
    transform_row(d, s, p, n, [&](auto v) HWY_ATTR {
      const auto mass = hn::ZeroIfNegative(hn::Sub(hn::Sub(hn::Sub(v, max_v), high), low));
      return hn::IfThenElseZero(hn::Ge(v, kth_v), mass);
    });
    if (next == kth && !exact[row]) {  // scores tie at the k-th place: the lower indices win
      for (size_t j = 0; j < n; ++j) {
        if (s[j] != kth) continue;
        if (ties == 0) {
          p[j] = 0;
        } else {
          --ties;
        }
      }
    }
  }
  return -1;
}

int64_t top_k_float(const float* s, float* p, bool* exact, int64_t rows, int64_t cols, int64_t k) {
  return top_k_rows(s, p, exact, rows, cols, k);
}
int64_t top_k_double(const double* s, double* p, bool* exact, int64_t rows, int64_t cols,
                     int64_t k) {
  return top_k_rows(s, p, exact, rows, cols, k);
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparsum::kernels {

HWY_EXPORT(top_k_float);
HWY_EXPORT(top_k_double);

int64_t top_k_sparsemax_forward(const float* scores, float* probs, bool* exact, int64_t rows,
                                int64_t cols, int64_t k) {
  return HWY_DYNAMIC_DISPATCH(top_k_float)(scores, probs, exact, rows, cols, k);
}
int64_t top_k_sparsemax_forward(const double* scores, double* probs, bool* exact, int64_t rows,
                                int64_t cols, int64_t k) {
  return HWY_DYNAMIC_DISPATCH(top_k_double)(scores, probs, exact, rows, cols, k);
}

}  // namespace sparsum::kernels
#endif
