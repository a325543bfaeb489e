#include "sparsum/kernels/entmax.h"

#include "sparsum/kernels/sparsemax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/entmax.cc"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway requires.
#include "kernels/scratch.h"
#include "kernels/simplex-inl.h"

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {

// ---- α = 1.5: p = (x − τ)²_+, x = s/2
// ---------------------------------------------------------------------
//
// √f, f = Σ (x − τ)²_+, is convex and decreasing in τ, and linear for a single element: Newton on
// √f = 1 from the left, τ += (f − √f)/h with h = Σ (x − τ)_+, never passes the solution and is near
// it after a few steps. A last step on f = 1 itself then squares what is left of the error, so the
// search may stop at its root.

template <typename T>
constexpr T kNear = T{1e-5f};
template <>
constexpr double kNear<double> = 1e-9;

template <class D, typename T = hn::TFromD<D>>
HWY_INLINE double entmax15_tau(D d, const T* HWY_RESTRICT x, size_t count) {
  const size_t lanes = hn::Lanes(d);
  T tau = T{-1};
  for (;;) {
    const auto tau_v = hn::Set(d, tau);
    auto f_v = hn::Zero(d), h_v = hn::Zero(d);
    for (size_t i = 0; i < count; i += lanes) {
      auto y = hn::ZeroIfNegative(hn::Sub(hn::LoadU(d, x + i), tau_v));
      if (count - i < lanes) y = hn::IfThenElseZero(hn::FirstN(d, count - i), y);
      f_v = hn::MulAdd(y, y, f_v);
      h_v = hn::Add(h_v, y);
    }
    const T f = hn::GetLane(hn::SumOfLanes(d, f_v));
    if (f - 1 <= kNear<T>) break;
    const T next = tau + (f - std::sqrt(f)) / hn::GetLane(hn::SumOfLanes(d, h_v));
    if (!(next > tau)) break;  // the step is lost in rounding
    tau = next;
  }
  const Excess excess = excess_over(d, x, count, static_cast<double>(tau));
  return static_cast<double>(tau) + (excess.square - 1) / (2 * excess.linear);
}

// The same for a row in each lane; every lane stops at its own solution, so a row's result is its
// own.
template <class D>
HWY_INLINE void sums_above(D d, const LaneRows<D>& rows, size_t length, hn::Vec<D> scale,
                           hn::Vec<D> tau, hn::Vec<D>& f, hn::Vec<D>& h) {
  auto f0 = hn::Zero(d), f1 = f0, h0 = f0, h1 = f0;
  size_t i = 0;
  for (; i + 2 <= length; i += 2) {
    const auto y0 = hn::ZeroIfNegative(hn::MulSub(rows.at(d, i), scale, tau));
    const auto y1 = hn::ZeroIfNegative(hn::MulSub(rows.at(d, i + 1), scale, tau));
    f0 = hn::MulAdd(y0, y0, f0);
    f1 = hn::MulAdd(y1, y1, f1);
    h0 = hn::Add(h0, y0);
    h1 = hn::Add(h1, y1);
  }
  if (i < length) {
    const auto y = hn::ZeroIfNegative(hn::MulSub(rows.at(d, i), scale, tau));
    f0 = hn::MulAdd(y, y, f0);
    h0 = hn::Add(h0, y);
  }
  f = hn::Add(f0, f1);
  h = hn::Add(h0, h1);
}

template <class D, typename T = hn::TFromD<D>>
HWY_INLINE LaneThresholds<D> entmax15_lanes_tau(D d, const LaneRows<D>& rows, size_t length,
                                                hn::Vec<D> start, hn::Vec<D> scale) {
  const auto one = hn::Set(d, T{1}), half = hn::Set(d, T{0.5}), near = hn::Set(d, T{1} + kNear<T>);
  auto tau = start;
  auto done = hn::Lt(one, one);
  for (;;) {
    hn::Vec<D> f, h;
    sums_above(d, rows, length, scale, tau, f, h);
    if (hn::AllTrue(d, done)) return {tau, hn::Mul(half, hn::Div(hn::Sub(f, one), h))};
    const auto next = hn::Add(tau, hn::Div(hn::Sub(f, hn::Sqrt(f)), h));
    done = hn::Or(done, hn::Or(hn::Le(f, near), hn::Le(next, tau)));
    tau = hn::IfThenElse(done, tau, next);
  }
}

// Two steps of the same: enough for a bound.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> entmax15_lower_bound(D d, const LaneRows<D>& rows, size_t length) {
  const auto one = hn::Set(d, T{1});
  auto tau = hn::Neg(one);
  for (int step = 0; step < 2; ++step) {
    hn::Vec<D> f, h;
    sums_above(d, rows, length, one, tau, f, h);
    tau = hn::Max(tau, hn::Add(tau, hn::Div(hn::Sub(f, hn::Sqrt(f)), h)));
  }
  return tau;
}

template <typename T>
int64_t entmax15_rows(const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs, int64_t rows,
                      int64_t cols) {
  const hn::ScalableTag<T> d;
  const auto half = hn::Set(d, T{0.5});
  // Short rows reach the lanes as score − max, longer ones scaled already.
  const auto lane_scale = cols <= static_cast<int64_t>(kShortRow) ? half : hn::Set(d, T{1});
  return map_rows(
      d, scores, probs, rows, cols, /*radius=*/T{2},
      [&](const auto& group, size_t length)
          HWY_ATTR { return entmax15_lower_bound(d, group, length); },
      [&](const auto& group, size_t length, auto start)
          HWY_ATTR { return entmax15_lanes_tau(d, group, length, start, lane_scale); },
      [&](T* x, size_t count) HWY_ATTR { return entmax15_tau(d, x, count); },
      [&](auto x, auto high, auto low) HWY_ATTR {
        const auto y = hn::ZeroIfNegative(hn::Sub(hn::MulSub(x, half, high), low));
        return hn::Mul(y, y);
      });
}

// ---- α = 1: softmax
// ----------------------------------------------------------------------------------------

template <typename T>
int64_t softmax_rows(const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs, int64_t rows,
                     int64_t cols) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t n = static_cast<size_t>(cols);
  const auto lowest = hn::Set(d, -std::numeric_limits<T>::infinity());
  for (int64_t row = 0; row < rows; ++row) {
    const T* s = scores + row * cols;
    T* p = probs + row * cols;
    auto max_v = lowest;
    auto legal = hn::Eq(lowest, lowest);
    for_each_vector(d, s, n, -std::numeric_limits<T>::infinity(),
                    [&](auto v, size_t, size_t) HWY_ATTR {
                      legal = hn::And(legal, is_legal(d, v));
                      max_v = hn::Max(max_v, v);
                    });
    max_v = hn::MaxOfLanes(d, max_v);
    if (!hn::AllTrue(d, hn::And(legal, hn::Gt(max_v, lowest)))) return row;
    auto sum_v = hn::Zero(d);
    for_each_vector(d, s, n, -std::numeric_limits<T>::infinity(),
                    [&](auto v, size_t at, size_t valid) HWY_ATTR {
                      // Below −745 the exponential is 0 in every precision; the bound keeps −∞ out
                      // of it.
                      const auto x = hn::Sub(v, max_v);
                      const auto floor = hn::Set(d, T{-745});
                      const auto e =
                          hn::IfThenElseZero(hn::Gt(x, floor), hn::Exp(d, hn::Max(x, floor)));
                      sum_v = hn::Add(sum_v, e);
                      if (valid == lanes) {
                        hn::StoreU(e, d, p + at);
                      } else {
                        store_tail(e, d, p + at, valid);
                      }
                    });
    const auto scale = hn::Div(hn::Set(d, T{1}), hn::SumOfLanes(d, sum_v));
    transform_row(d, p, p, n, [&](auto v) HWY_ATTR { return hn::Mul(v, scale); });
  }
  return -1;
}

// ---- every other α
// -----------------------------------------------------------------------------------------
//
// With δ = α − 1 and w = s − max, p = (1 + δ(w − t))_+^{1/δ} = exp(log1p(δ(w − t))/δ): this t stays
// of order 1 as δ → 0, where it is log Σ exp(w), and nothing cancels. In float64.

// p and p^{1−δ} = p^{2−α} at δ(w − t) = x.
template <class D, class V>
HWY_INLINE void entmax_power(D d, V x, double delta, V& p, V& u) {
  const auto one = hn::Set(d, 1.0);
  const auto base = hn::Add(one, x);
  const auto mask = hn::Gt(base, hn::Zero(d));
  const auto safe = hn::IfThenElseZero(mask, x);
  // Below −745 the exponential is 0; the bound keeps large exponents inside Exp's range.
  const auto exponent = hn::Max(hn::Div(hn::Log1p(d, safe), hn::Set(d, delta)), hn::Set(d, -745.0));
  p = hn::IfThenElseZero(mask, hn::Exp(d, exponent));
  u = hn::IfThenElseZero(mask, hn::Div(p, hn::Add(one, safe)));
}

struct EntmaxSolution {
  double t, sum;  // the threshold and Σp at it, for a last normalisation
};

// Newton on (Σp)^δ = 1, which is linear in t for one element and convex for α ≤ 2, inside a bracket
// that bisection shrinks whenever a step leaves it or the steps have been many.
inline EntmaxSolution entmax_t(const double* HWY_RESTRICT w, size_t count, double delta) {
  const hn::ScalableTag<double> d;
  const size_t lanes = hn::Lanes(d);
  // All scores equal gives the largest t; a single one at the maximum the smallest.
  double low = 0, high = -std::expm1(-delta * std::log(static_cast<double>(count))) / delta;
  double t = 0, sum = 0;
  for (int iteration = 0;; ++iteration) {
    auto p_sum = hn::Zero(d), u_sum = hn::Zero(d);
    const auto t_v = hn::Set(d, t), delta_v = hn::Set(d, delta);
    for (size_t i = 0; i < count; i += lanes) {
      auto x = hn::Mul(delta_v, hn::Sub(hn::LoadU(d, w + i), t_v));
      if (count - i < lanes) x = hn::IfThenElse(hn::FirstN(d, count - i), x, hn::Set(d, -2.0));
      hn::Vec<decltype(d)> p, u;
      entmax_power(d, x, delta, p, u);
      p_sum = hn::Add(p_sum, p);
      u_sum = hn::Add(u_sum, u);
    }
    sum = hn::GetLane(hn::SumOfLanes(d, p_sum));
    if (std::abs(sum - 1) < 1e-15) break;
    (sum > 1 ? low : high) = t;
    const double slope = hn::GetLane(hn::SumOfLanes(d, u_sum));
    double next = t - sum / slope * std::expm1(-delta * std::log(sum)) / delta;
    if (iteration > 50 || !(next > low && next < high)) next = low + (high - low) / 2;
    // The bracket has no number left inside: t is the solution to the last bit.
    if (next == t || next <= low || next >= high) break;
    t = next;
  }
  return {t, sum};
}

template <typename T>
int64_t entmax_row(const T* HWY_RESTRICT s, T* HWY_RESTRICT p, size_t n, double alpha,
                   T* candidates, double* w) {
  const hn::ScalableTag<T> d;
  const double delta = alpha - 1;
  const double radius = std::min(1 / delta, static_cast<double>(std::numeric_limits<T>::max()));
  const auto [count, max] = scan_candidates(d, s, n, static_cast<T>(radius), candidates);
  if (count == 0) return 0;
  for (size_t i = 0; i < count; ++i)
    w[i] = static_cast<double>(candidates[i]) - static_cast<double>(max);
  const EntmaxSolution solution = entmax_t(w, count, delta);

  const hn::ScalableTag<double> dd;
  const hn::Rebind<T, decltype(dd)> dx;
  const size_t lanes = hn::Lanes(dd);
  const auto max_v = hn::Set(dd, static_cast<double>(max)), t_v = hn::Set(dd, solution.t);
  const auto delta_v = hn::Set(dd, delta), scale = hn::Set(dd, 1 / solution.sum);
  const auto bound = hn::Set(dd, -1.0);
  for (size_t i = 0; i < n; i += lanes) {
    const size_t left = n - i;
    const auto v = left >= lanes ? hn::LoadU(dx, s + i) : load_tail(dx, s + i, left, hn::Zero(dx));
    hn::Vec<decltype(dd)> wide, mass = hn::Zero(dd), unused;
    if constexpr (sizeof(T) == sizeof(double)) {
      wide = v;
    } else {
      wide = hn::PromoteTo(dd, v);
    }
    const auto x = hn::Mul(delta_v, hn::Sub(hn::Sub(wide, max_v), t_v));
    if (!hn::AllFalse(dd, hn::Gt(x, bound))) {
      entmax_power(dd, x, delta, mass, unused);
      mass = hn::Mul(mass, scale);
    }
    hn::Vec<decltype(dx)> out;
    if constexpr (sizeof(T) == sizeof(double)) {
      out = mass;
    } else {
      out = hn::DemoteTo(dx, mass);
    }
    if (left >= lanes) {
      hn::StoreU(out, dx, p + i);
    } else {
      store_tail(out, dx, p + i, left);
    }
  }
  return -1;
}

template <typename T>
int64_t entmax_rows(const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs, int64_t rows, int64_t cols,
                    double alpha) {
  if (alpha == 1) return softmax_rows(scores, probs, rows, cols);
  if (alpha == 1.5) return entmax15_rows(scores, probs, rows, cols);
  if (alpha == 2) return sparsemax_forward(scores, probs, rows, cols);
  const size_t n = static_cast<size_t>(cols);
  Scratch<T> candidates(candidate_capacity<T>(n));
  Scratch<double> w(candidate_capacity<double>(candidate_capacity<T>(n)));
  for (int64_t row = 0; row < rows; ++row) {
    if (entmax_row(scores + row * cols, probs + row * cols, n, alpha, candidates.data(),
                   w.data()) >= 0) {
      return row;
    }
  }
  return -1;
}

// ---- backward
// ----------------------------------------------------------------------------------------------

// u = p^{2−α} in float64; for α > 2 it grows without bound as p falls, so it is divided by its
// maximum first, which the quotient ⟨u, g⟩/Σu does not see but the factor in front does: it is
// multiplied back in.
template <typename T>
void entmax_backward_general(const T* HWY_RESTRICT grad, const T* HWY_RESTRICT probs,
                             T* HWY_RESTRICT grad_scores, size_t n, double alpha) {
  const double power = 2 - alpha;
  double least = 1;
  if (power < 0) {
    for (size_t j = 0; j < n; ++j) {
      if (probs[j] > 0) least = std::min(least, static_cast<double>(probs[j]));
    }
  }
  double sum_u = 0, sum_ug = 0;
  for (size_t j = 0; j < n; ++j) {
    if (!(probs[j] > 0)) continue;
    const double u = std::pow(static_cast<double>(probs[j]) / least, power);
    sum_u += u;
    sum_ug += u * static_cast<double>(grad[j]);
  }
  const double mean = sum_ug / sum_u;
  for (size_t j = 0; j < n; ++j) {
    grad_scores[j] = 0;
    if (!(probs[j] > 0)) continue;
    const double u = std::pow(static_cast<double>(probs[j]), power);
    grad_scores[j] = static_cast<T>(u * (static_cast<double>(grad[j]) - mean));
  }
}

template <typename T>
void entmax_backward_rows(const T* HWY_RESTRICT grad, const T* HWY_RESTRICT probs,
                          T* HWY_RESTRICT grad_scores, int64_t rows, int64_t cols, double alpha) {
  const hn::ScalableTag<T> d;
  if (alpha == 1) {
    center_rows(d, grad, probs, grad_scores, rows, cols, [&](auto p) HWY_ATTR { return p; });
  } else if (alpha == 1.5) {
    center_rows(d, grad, probs, grad_scores, rows, cols,
                [&](auto p) HWY_ATTR { return hn::Sqrt(p); });
  } else if (alpha == 2) {
    sparsemax_backward(grad, probs, grad_scores, rows, cols);
  } else {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t at = row * cols;
      entmax_backward_general(grad + at, probs + at, grad_scores + at, static_cast<size_t>(cols),
                              alpha);
    }
  }
}

int64_t entmax_float(const float* s, float* p, int64_t rows, int64_t cols, double alpha) {
  return entmax_rows(s, p, rows, cols, alpha);
}
int64_t entmax_double(const double* s, double* p, int64_t rows, int64_t cols, double alpha) {
  return entmax_rows(s, p, rows, cols, alpha);
}
void entmax_backward_float(const float* g, const float* p, float* out, int64_t rows, int64_t cols,
                           double alpha) {
  entmax_backward_rows(g, p, out, rows, cols, alpha);
}
void entmax_backward_double(const double* g, const double* p, double* out, int64_t rows,
                            int64_t cols, double alpha) {
  entmax_backward_rows(g, p, out, rows, cols, alpha);
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparsum::kernels {

HWY_EXPORT(entmax_float);
HWY_EXPORT(entmax_double);
HWY_EXPORT(entmax_backward_float);
HWY_EXPORT(entmax_backward_double);

namespace {

int64_t forward(const float* s, float* p, int64_t rows, int64_t cols, double alpha) {
  return HWY_DYNAMIC_DISPATCH(entmax_float)(s, p, rows, cols, alpha);
}
int64_t forward(const double* s, double* p, int64_t rows, int64_t cols, double alpha) {
  return HWY_DYNAMIC_DISPATCH(entmax_double)(s, p, rows, cols, alpha);
}
void backward(const float* g, const float* p, float* out, int64_t rows, int64_t cols,
              double alpha) {
  HWY_DYNAMIC_DISPATCH(entmax_backward_float)(g, p, out, rows, cols, alpha);
}
void backward(const double* g, const double* p, double* out, int64_t rows, int64_t cols,
              double alpha) {
  HWY_DYNAMIC_DISPATCH(entmax_backward_double)(g, p, out, rows, cols, alpha);
}

// Calls f(first row, number of rows, α) for each run of rows with the same α; stops at f ≥ 0.
template <class F>
int64_t for_each_alpha(int64_t rows, const double* alpha, int64_t alpha_stride, F&& f) {
  for (int64_t begin = 0; begin < rows;) {
    const double value = alpha[begin * alpha_stride];
    int64_t end = alpha_stride == 0 ? rows : begin + 1;
    while (end < rows && alpha[end * alpha_stride] == value) ++end;
    if (const int64_t bad = f(begin, end - begin, value); bad >= 0) return begin + bad;
    begin = end;
  }
  return -1;
}

template <typename T>
int64_t forward_alphas(const T* scores, T* probs, int64_t rows, int64_t cols, const double* alpha,
                       int64_t alpha_stride) {
  return for_each_alpha(rows, alpha, alpha_stride, [&](int64_t row, int64_t count, double a) {
    return forward(scores + row * cols, probs + row * cols, count, cols, a);
  });
}

template <typename T>
void backward_alphas(const T* grad, const T* probs, T* grad_scores, int64_t rows, int64_t cols,
                     const double* alpha, int64_t alpha_stride) {
  for_each_alpha(rows, alpha, alpha_stride, [&](int64_t row, int64_t count, double a) {
    const int64_t at = row * cols;
    backward(grad + at, probs + at, grad_scores + at, count, cols, a);
    return int64_t{-1};
  });
}

// (eʸ − 1)/y and (eʸ − 1 − y)/y², accurate near 0.
double phi1(double y) { return y == 0 ? 1 : std::expm1(y) / y; }
double phi2(double y) {
  if (std::abs(y) > 0.5) return (std::expm1(y) - y) / (y * y);
  double term = 0.5, sum = 0;
  for (int n = 3; n < 20; ++n) {
    sum += term;
    term *= y / n;
  }
  return sum + term;
}

// ∂p/∂α of one row, contracted with g. For 1 ≤ α ≤ 2, with δ = α − 1, l = log p, E = e^{−δl} − 1
// and means under p (H = −Σ p l): p̃ = p(1 + E)/Z, Z = 1 + Σ p E, and the quotient of
// sparsum/entmax.h becomes
//   p [ (Σ p l² φ₂ − l² φ₂) − l (Σ p E)/δ − H E/δ ] / Z,   φ₂ = φ₂(−δl), E/δ = −l φ₁(−δl),
// in which nothing cancels as δ → 0. For α > 2 the quotient itself is safe, p̃ from scaled powers.
template <typename T>
double grad_alpha_row(const T* grad, const T* probs, int64_t cols, double alpha) {
  const double delta = alpha - 1;
  double entropy = 0, least = 1;
  for (int64_t j = 0; j < cols; ++j) {
    if (!(probs[j] > 0)) continue;
    const double p = static_cast<double>(probs[j]);
    entropy -= p * std::log(p);
    least = std::min(least, p);
  }
  double result = 0;
  if (alpha <= 2) {
    double mean_e = 0, mean_second = 0;  // Σ p E/δ and Σ p l² φ₂
    for (int64_t j = 0; j < cols; ++j) {
      if (!(probs[j] > 0)) continue;
      const double p = static_cast<double>(probs[j]), l = std::log(p);
      mean_e -= p * l * phi1(-delta * l);
      mean_second += p * l * l * phi2(-delta * l);
    }
    const double z = 1 + delta * mean_e;
    for (int64_t j = 0; j < cols; ++j) {
      if (!(probs[j] > 0)) continue;
      const double p = static_cast<double>(probs[j]), l = std::log(p);
      const double bracket =
          mean_second - l * l * phi2(-delta * l) - l * mean_e + entropy * l * phi1(-delta * l);
      result += static_cast<double>(grad[j]) * p * bracket / z;
    }
    return result;
  }
  double sum_u = 0;
  for (int64_t j = 0; j < cols; ++j) {
    if (probs[j] > 0) sum_u += std::pow(static_cast<double>(probs[j]) / least, 2 - alpha);
  }
  for (int64_t j = 0; j < cols; ++j) {
    if (!(probs[j] > 0)) continue;
    const double p = static_cast<double>(probs[j]);
    const double tilted = std::pow(p / least, 2 - alpha) / sum_u;
    const double h = -p * std::log(p);
    result += static_cast<double>(grad[j]) *
              ((p - tilted) / (delta * delta) + (h - tilted * entropy) / delta);
  }
  return result;
}

template <typename T>
void grad_alpha_rows(const T* grad, const T* probs, double* grad_alpha, int64_t rows, int64_t cols,
                     const double* alpha, int64_t alpha_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    grad_alpha[row] =
        grad_alpha_row(grad + row * cols, probs + row * cols, cols, alpha[row * alpha_stride]);
  }
}

// The row's share of H_α(p) = (1 − Σ p^α)/(α(α − 1)) = −Σ p l φ₁((α − 1)l)/α, l = log p: Shannon's
// entropy at 1.
double entropy_term(double p, double alpha) {
  const double l = std::log(p);
  return -p * l * phi1((alpha - 1) * l) / alpha;
}

template <typename T>
double loss_row(const T* scores, const T* probs, int64_t index, const T* target, int64_t cols,
                double alpha) {
  double max = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < cols; ++j) max = std::max(max, static_cast<double>(scores[j]));
  // ⟨p − y, s⟩ = ⟨p − y, s − max⟩, as both sum to 1.
  double value = 0;
  for (int64_t j = 0; j < cols; ++j) {
    if (!(probs[j] > 0)) continue;
    const double p = static_cast<double>(probs[j]);
    value += p * (static_cast<double>(scores[j]) - max) + entropy_term(p, alpha);
  }
  if (target == nullptr) {
    value -= static_cast<double>(scores[index]) - max;
  } else {
    for (int64_t j = 0; j < cols; ++j) {
      if (!(target[j] > 0)) continue;
      const double y = static_cast<double>(target[j]);
      value -= y * (static_cast<double>(scores[j]) - max) + entropy_term(y, alpha);
    }
  }
  return std::max(value, 0.0);  // rounding only: the loss is never negative
}

template <typename T>
void loss_rows(const T* scores, const T* probs, const int64_t* target_index, const T* target_probs,
               T* losses, int64_t rows, int64_t cols, double alpha) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * cols;
    const int64_t index = target_index ? target_index[row] : 0;
    losses[row] =
        index < 0
            ? T{0}
            : static_cast<T>(loss_row(scores + at, probs + at, index,
                                      target_index ? nullptr : target_probs + at, cols, alpha));
  }
}

}  // namespace

int64_t entmax_forward(const float* scores, float* probs, int64_t rows, int64_t cols,
                       const double* alpha, int64_t alpha_stride) {
  return forward_alphas(scores, probs, rows, cols, alpha, alpha_stride);
}
int64_t entmax_forward(const double* scores, double* probs, int64_t rows, int64_t cols,
                       const double* alpha, int64_t alpha_stride) {
  return forward_alphas(scores, probs, rows, cols, alpha, alpha_stride);
}
void entmax_backward(const float* grad, const float* probs, float* grad_scores, int64_t rows,
                     int64_t cols, const double* alpha, int64_t alpha_stride) {
  backward_alphas(grad, probs, grad_scores, rows, cols, alpha, alpha_stride);
}
void entmax_backward(const double* grad, const double* probs, double* grad_scores, int64_t rows,
                     int64_t cols, const double* alpha, int64_t alpha_stride) {
  backward_alphas(grad, probs, grad_scores, rows, cols, alpha, alpha_stride);
}
void entmax_backward_alpha(const float* grad, const float* probs, double* grad_alpha, int64_t rows,
                           int64_t cols, const double* alpha, int64_t alpha_stride) {
  grad_alpha_rows(grad, probs, grad_alpha, rows, cols, alpha, alpha_stride);
}
void entmax_backward_alpha(const double* grad, const double* probs, double* grad_alpha,
                           int64_t rows, int64_t cols, const double* alpha, int64_t alpha_stride) {
  grad_alpha_rows(grad, probs, grad_alpha, rows, cols, alpha, alpha_stride);
}
void entmax_loss_forward(const float* scores, const float* probs, const int64_t* target_index,
                         const float* target_probs, float* losses, int64_t rows, int64_t cols,
                         double alpha) {
  loss_rows(scores, probs, target_index, target_probs, losses, rows, cols, alpha);
}
void entmax_loss_forward(const double* scores, const double* probs, const int64_t* target_index,
                         const double* target_probs, double* losses, int64_t rows, int64_t cols,
                         double alpha) {
  loss_rows(scores, probs, target_index, target_probs, losses, rows, cols, alpha);
}

}  // namespace sparsum::kernels
#endif
