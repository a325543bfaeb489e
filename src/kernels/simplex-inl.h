// Per-target pieces shared by the kernels that map score rows to the simplex.
// Included once per SIMD target; see the Highway quick reference for the pattern.

#if defined(SPARSUM_SIMPLEX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSUM_SIMPLEX_INL_H_
#undef SPARSUM_SIMPLEX_INL_H_
#else
#define SPARSUM_SIMPLEX_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Loads p[0 … n−1], n < Lanes(d), the other lanes `fill`; reads nothing beyond.
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V load_tail(D d, const T* HWY_RESTRICT p, size_t n, V fill) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(fill, d, lanes);
  for (size_t i = 0; i < n; ++i) lanes[i] = p[i];
  return hn::Load(d, lanes);
#else
  const auto mask = hn::FirstN(d, n);
  return hn::IfThenElse(mask, hn::MaskedLoad(mask, d, p), fill);
#endif
}

// Stores lanes 0 … n−1 to p, n < Lanes(d); writes nothing beyond.
template <class D, class V, typename T = hn::TFromD<D>>
HWY_INLINE void store_tail(V v, D d, T* HWY_RESTRICT p, size_t n) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(v, d, lanes);
  for (size_t i = 0; i < n; ++i) p[i] = lanes[i];
#else
  hn::BlendedStore(v, hn::FirstN(d, n), d, p);
#endif
}

// Whether every lane is a legal score: finite or −∞.
template <class D, class V>
HWY_INLINE hn::Mask<D> is_legal(D d, V v) {
  return hn::Le(v, hn::Set(d, std::numeric_limits<hn::TFromD<D>>::max()));
}

// Elements that scan_candidates may write: its stores are whole vectors.
template <typename T>
HWY_INLINE size_t candidate_capacity(size_t cols) {
  return cols + 5 * (HWY_MAX_BYTES / sizeof(T));
}

template <typename T>
struct Candidates {
  size_t count;  // 0 if the row is illegal
  T max;         // the row's largest score
};

// One pass over a row: its maximum, and in `out` every score that is ≥ the maximum seen so far −
// radius when it is met: a superset of {s ≥ max − radius}. Blocks without such a score, almost all
// of a long row, cost a load and two compares a vector. Compressing in a register and storing whole
// vectors is fast on every machine; compress-stores to memory are not.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE Candidates<T> scan_candidates(D d, const T* HWY_RESTRICT scores, size_t cols, T radius,
                                         T* HWY_RESTRICT out) {
  const size_t lanes = hn::Lanes(d);
  const auto minus_infinity = hn::Set(d, -std::numeric_limits<T>::infinity());
  T max = -std::numeric_limits<T>::infinity();
  auto max_v = minus_infinity;
  auto threshold = minus_infinity;
  size_t count = 0;

  const auto raise = [&](hn::Vec<D> block_max) HWY_ATTR {
    if (!hn::AllFalse(d, hn::Gt(block_max, max_v))) {
      max = hn::GetLane(hn::MaxOfLanes(d, block_max));
      max_v = hn::Set(d, max);
      threshold = hn::Sub(max_v, hn::Set(d, radius));
    }
  };
  const auto keep = [&](hn::Vec<D> v) HWY_ATTR {
    const auto mask = hn::Ge(v, threshold);
    hn::StoreU(hn::Compress(v, mask), d, out + count);
    count += hn::CountTrue(d, mask);
  };

  size_t i = 0;
  auto legal = hn::Eq(minus_infinity, minus_infinity);
  for (; i + 4 * lanes <= cols; i += 4 * lanes) {
    const auto v0 = hn::LoadU(d, scores + i);
    const auto v1 = hn::LoadU(d, scores + i + lanes);
    const auto v2 = hn::LoadU(d, scores + i + 2 * lanes);
    const auto v3 = hn::LoadU(d, scores + i + 3 * lanes);
    legal = hn::And(legal, hn::And(hn::And(is_legal(d, v0), is_legal(d, v1)),
                                   hn::And(is_legal(d, v2), is_legal(d, v3))));
    const auto block_max = hn::Max(hn::Max(v0, v1), hn::Max(v2, v3));
    if (HWY_LIKELY(hn::AllFalse(d, hn::Ge(block_max, threshold)))) continue;
    raise(block_max);
    keep(v0);
    keep(v1);
    keep(v2);
    keep(v3);
  }
  for (; i + lanes <= cols; i += lanes) {
    const auto v = hn::LoadU(d, scores + i);
    legal = hn::And(legal, is_legal(d, v));
    raise(v);
    keep(v);
  }
  if (i < cols) {
    const size_t n = cols - i;
    const auto v = load_tail(d, scores + i, n, minus_infinity);
    legal = hn::And(legal, is_legal(d, v));
    raise(v);
    const auto mask = hn::And(hn::Ge(v, threshold), hn::FirstN(d, n));
    hn::StoreU(hn::Compress(v, mask), d, out + count);
    count += hn::CountTrue(d, mask);
  }
  if (!hn::AllTrue(d, legal) || max == -std::numeric_limits<T>::infinity()) return {0, max};
  return {count, max};
}

// x[i] -= max for the candidates; whole vectors, within candidate_capacity.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE void subtract_max(D d, T* HWY_RESTRICT x, size_t count, T max) {
  const auto max_v = hn::Set(d, max);
  for (size_t i = 0; i < count; i += hn::Lanes(d)) {
    hn::StoreU(hn::Sub(hn::LoadU(d, x + i), max_v), d, x + i);
  }
}

// Calls f(vector, index, n) for each vector of x[0 … count−1], n lanes of it valid.
template <class D, class F, typename T = hn::TFromD<D>>
HWY_INLINE void for_each_vector(D d, const T* x, size_t count, T fill, F&& f) {
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) f(hn::LoadU(d, x + i), i, lanes);
  if (i < count) f(load_tail(d, x + i, count - i, hn::Set(d, fill)), i, count - i);
}

// out[j] = f(scores[j]) over a row; `out` may be `scores`.
template <class D, class F, typename T = hn::TFromD<D>>
HWY_INLINE void transform_row(D d, const T* scores, T* out, size_t cols, F&& f) {
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= cols; i += lanes) hn::StoreU(f(hn::LoadU(d, scores + i)), d, out + i);
  if (i < cols)
    store_tail(f(load_tail(d, scores + i, cols - i, hn::Zero(d))), d, out + i, cols - i);
}

// A threshold τ kept as a float and what the float lost, so that x − high − low is accurate where
// probabilities are much smaller than |τ|.
template <typename T>
struct Threshold {
  explicit Threshold(double tau)
      : high(static_cast<T>(tau)), low(static_cast<T>(tau - static_cast<double>(high))) {}
  T high, low;
};

// Σ (x − τ)_+ and Σ (x − τ)²_+ and the number of x > τ, in float64.
struct Excess {
  double linear, square, count;
};
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE Excess excess_over(D, const T* HWY_RESTRICT x, size_t count, double tau) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<T, decltype(dd)> dx;
  const size_t lanes = hn::Lanes(dd);
  const auto tau_v = hn::Set(dd, tau);
  auto linear = hn::Zero(dd), square = hn::Zero(dd);
  size_t above = 0;
  for (size_t i = 0; i < count; i += lanes) {
    const auto v = hn::LoadU(dx, x + i);
    hn::Vec<decltype(dd)> wide;
    if constexpr (sizeof(T) == sizeof(double)) {
      wide = v;
    } else {
      wide = hn::PromoteTo(dd, v);
    }
    auto y = hn::ZeroIfNegative(hn::Sub(wide, tau_v));
    if (count - i < lanes) y = hn::IfThenElseZero(hn::FirstN(dd, count - i), y);
    linear = hn::Add(linear, y);
    square = hn::MulAdd(y, y, square);
    above += hn::CountTrue(dd, hn::Gt(y, hn::Zero(dd)));
  }
  return {hn::GetLane(hn::SumOfLanes(dd, linear)), hn::GetLane(hn::SumOfLanes(dd, square)),
          static_cast<double>(above)};
}

// τ of sparsemax for x[0 … count−1] ≤ 0 with max 0: Σ max(x − τ, 0) = 1. Michelot: starting from a
// superset of the support, τ over the current set only rises and never passes the solution, so
// whatever lies at or below it is dropped for good. A last step in float64 removes the rounding of
// the sums. `x` needs a vector's room beyond `count`; it is overwritten.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE double sparsemax_tau(D d, T* HWY_RESTRICT x, size_t count) {
  const size_t lanes = hn::Lanes(d);
  T tau = T{-1};
  for (bool solved = false;; solved = true) {  // whether tau is the solution for the current set
    const auto tau_v = hn::Set(d, tau);
    auto sum_v = hn::Zero(d);
    size_t kept = 0;
    for (size_t i = 0; i < count; i += lanes) {
      // Reading whole vectors is safe (there is room) and what lies beyond `count` is masked out.
      const auto v = hn::LoadU(d, x + i);
      auto mask = hn::Gt(v, tau_v);
      if (count - i < lanes) mask = hn::And(mask, hn::FirstN(d, count - i));
      sum_v = hn::Add(sum_v, hn::IfThenElseZero(mask, v));
      hn::StoreU(hn::Compress(v, mask), d, x + kept);
      kept += hn::CountTrue(d, mask);
    }
    if (solved && kept == count) break;
    const T sum = hn::GetLane(hn::SumOfLanes(d, sum_v));
    const T next = (sum - T{1}) / static_cast<T>(kept);
    // next ≥ tau up to rounding; the maximum keeps the sets nested, hence the loop finite.
    tau = next > tau ? next : tau;
    count = kept;
  }
  const Excess excess = excess_over(d, x, count, static_cast<double>(tau));
  return static_cast<double>(tau) + (excess.linear - 1) / excess.count;
}

// grad_scores = u ⊙ (g − ⟨u, g⟩/Σu) on the support {p > 0} and 0 elsewhere, u = weight(p), row by
// row: the vector-Jacobian product of every map of the entmax family.
template <class D, class Weight, typename T = hn::TFromD<D>>
HWY_INLINE void center_rows(D d, const T* HWY_RESTRICT grad, const T* HWY_RESTRICT probs,
                            T* HWY_RESTRICT grad_scores, int64_t rows, int64_t cols,
                            Weight&& weight) {
  const size_t lanes = hn::Lanes(d);
  const size_t n = static_cast<size_t>(cols);
  const auto zero = hn::Zero(d);
  // Vectors of the row that meet the support. A sparse row has few: they are listed, and only they
  // are visited a second time; elsewhere `grad` is not even read.
  constexpr size_t kListed = 64;
  size_t listed[kListed];
  for (int64_t row = 0; row < rows; ++row) {
    const T* p = probs + row * cols;
    const T* g = grad + row * cols;
    T* out = grad_scores + row * cols;
    auto sum_u = zero, sum_ug = zero;
    size_t met = 0;
    const auto meet = [&](size_t at, hn::Vec<D> pv, hn::Mask<D> mask, hn::Vec<D> gv) HWY_ATTR {
      const auto u = hn::IfThenElseZero(mask, weight(pv));
      sum_u = hn::Add(sum_u, u);
      sum_ug = hn::Add(sum_ug, hn::IfThenElseZero(mask, hn::Mul(u, gv)));
      if (met < kListed) listed[met] = at;
      ++met;
    };
    const auto write = [&](size_t at, hn::Vec<D> mean) HWY_ATTR {
      const size_t left = n - at;
      const auto pv = left >= lanes ? hn::LoadU(d, p + at) : load_tail(d, p + at, left, zero);
      const auto gv = left >= lanes ? hn::LoadU(d, g + at) : load_tail(d, g + at, left, zero);
      const auto v = hn::IfThenElseZero(hn::Gt(pv, zero), hn::Mul(weight(pv), hn::Sub(gv, mean)));
      if (left >= lanes) {
        hn::StoreU(v, d, out + at);
      } else {
        store_tail(v, d, out + at, left);
      }
    };
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      const auto pv = hn::LoadU(d, p + i);
      const auto mask = hn::Gt(pv, zero);
      hn::StoreU(zero, d, out + i);
      if (!hn::AllFalse(d, mask)) meet(i, pv, mask, hn::LoadU(d, g + i));
    }
    if (i < n) {
      const auto pv = load_tail(d, p + i, n - i, zero);
      const auto mask = hn::Gt(pv, zero);
      store_tail(zero, d, out + i, n - i);
      if (!hn::AllFalse(d, mask)) meet(i, pv, mask, load_tail(d, g + i, n - i, zero));
    }
    if (met == 0) continue;
    const auto mean =
        hn::Set(d, hn::GetLane(hn::SumOfLanes(d, sum_ug)) / hn::GetLane(hn::SumOfLanes(d, sum_u)));
    if (met <= kListed) {
      for (size_t m = 0; m < met; ++m) write(listed[m], mean);
    } else {
      for (size_t at = 0; at < n; at += lanes) write(at, mean);
    }
  }
}

// The columns of up to Lanes(d) short rows, each row in a lane of its own, with the row's maximum
// subtracted: columns[j * Lanes(d) + lane]. Lanes beyond `rows` repeat the last row, so that
// nothing beyond is read.
template <class D, typename T = hn::TFromD<D>>
class ShortRows {
 public:
  static constexpr size_t kMaxCols = 24;

  HWY_INLINE ShortRows(D d, const T* HWY_RESTRICT scores, size_t rows, size_t cols) : cols_(cols) {
    const hn::Rebind<Index, D> di;
    for (size_t i = 0; i < hn::Lanes(d); ++i) {
      offsets_[i] = static_cast<Index>((i < rows ? i : rows - 1) * cols);
    }
    const auto offsets = hn::Load(di, offsets_);
    const auto lowest = hn::Set(d, -std::numeric_limits<T>::infinity());
    auto max = lowest;
    auto legal = hn::Eq(max, max);
    for (size_t j = 0; j < cols; ++j) {
      const auto v = hn::GatherIndex(d, scores + j, offsets);
      max = hn::Max(max, v);
      legal = hn::And(legal, is_legal(d, v));
      hn::Store(v, d, columns_ + j * hn::Lanes(d));
    }
    legal = hn::And(legal, hn::Gt(max, lowest));
    first_illegal_ =
        hn::AllTrue(d, legal) ? -1 : static_cast<int64_t>(hn::FindFirstTrue(d, hn::Not(legal)));
    for (size_t j = 0; j < cols; ++j) {
      T* column = columns_ + j * hn::Lanes(d);
      hn::Store(hn::Sub(hn::Load(d, column), max), d, column);
    }
  }

  // −1, or the first row that is no legal score row.
  HWY_INLINE int64_t first_illegal() const { return first_illegal_; }
  HWY_INLINE hn::Vec<D> column(D d, size_t j) const {
    return hn::Load(d, columns_ + j * hn::Lanes(d));
  }
  // out[row, j] = f(column j).
  template <class F>
  HWY_INLINE void write(D d, T* HWY_RESTRICT out, F&& f) const {
    const hn::Rebind<Index, D> di;
    const auto offsets = hn::Load(di, offsets_);
    for (size_t j = 0; j < cols_; ++j) hn::ScatterIndex(f(column(d, j)), d, out + j, offsets);
  }

 private:
  using Index = hwy::MakeSigned<T>;
  size_t cols_;
  int64_t first_illegal_;
  HWY_ALIGN Index offsets_[HWY_MAX_BYTES / sizeof(T)];
  HWY_ALIGN T columns_[kMaxCols * (HWY_MAX_BYTES / sizeof(T))];
};

// Calls solve(ShortRows, probs of its first row) for each group of rows. Returns −1 or the first
// illegal row.
template <class D, class Solve, typename T = hn::TFromD<D>>
HWY_INLINE int64_t for_each_short_group(D d, const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs,
                                        int64_t rows, int64_t cols, Solve&& solve) {
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t row = 0; row < rows; row += step) {
    const size_t group = static_cast<size_t>(rows - row < step ? rows - row : step);
    const ShortRows<D> short_rows(d, scores + row * cols, group, static_cast<size_t>(cols));
    if (HWY_UNLIKELY(short_rows.first_illegal() >= 0)) return row + short_rows.first_illegal();
    solve(short_rows, probs + row * cols);
  }
  return -1;
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // SPARSUM_SIMPLEX_INL_H_
