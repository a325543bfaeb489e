// Per-target pieces shared by the kernels that map score rows to the simplex.
// Included once per SIMD target; see the Highway quick reference for the pattern.

#if defined(SPARSUM_SIMPLEX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSUM_SIMPLEX_INL_H_
#undef SPARSUM_SIMPLEX_INL_H_
#else
#define SPARSUM_SIMPLEX_INL_H_
#endif

#include "kernels/scratch.h"

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
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

// How many elements of a row come before the first whole vector that does not straddle two cache
// lines: worth the detour where vectors are as long as cache lines and all others would straddle.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE size_t head_length(D d, const T* row, size_t cols) {
  const size_t bytes = hn::Lanes(d) * sizeof(T);
  const size_t past = reinterpret_cast<uintptr_t>(row) % bytes;
  return past == 0 || past % sizeof(T) != 0 ? 0 : std::min(cols, (bytes - past) / sizeof(T));
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
  size_t i = head_length(d, out, cols);
  if (i > 0) store_tail(f(load_tail(d, scores, i, hn::Zero(d))), d, out, i);
  // Four loads before four stores: a load right behind a store to the same offset in another page
  // waits for it.
  for (; i + 4 * lanes <= cols; i += 4 * lanes) {
    const auto v0 = f(hn::LoadU(d, scores + i)), v1 = f(hn::LoadU(d, scores + i + lanes));
    const auto v2 = f(hn::LoadU(d, scores + i + 2 * lanes)),
               v3 = f(hn::LoadU(d, scores + i + 3 * lanes));
    hn::StoreU(v0, d, out + i);
    hn::StoreU(v1, d, out + i + lanes);
    hn::StoreU(v2, d, out + i + 2 * lanes);
    hn::StoreU(v3, d, out + i + 3 * lanes);
  }
  for (; i + lanes <= cols; i += lanes) hn::StoreU(f(hn::LoadU(d, scores + i)), d, out + i);
  if (i < cols) {
    store_tail(f(load_tail(d, scores + i, cols - i, hn::Zero(d))), d, out + i, cols - i);
  }
}

// The same around the caches: for results that are too large for them, not reading the old contents
// of `out` into the cache first saves a third of the traffic. The caller ends with
// hwy::FlushStream().
template <class D, class F, typename T = hn::TFromD<D>>
HWY_INLINE void stream_row(D d, const T* HWY_RESTRICT scores, T* HWY_RESTRICT out, size_t cols,
                           F&& f) {
  const size_t lanes = hn::Lanes(d);
  size_t i = head_length(d, out, cols);
  if (i > 0) store_tail(f(load_tail(d, scores, i, hn::Zero(d))), d, out, i);
  for (; i + 4 * lanes <= cols; i += 4 * lanes) {
    const auto v0 = f(hn::LoadU(d, scores + i)), v1 = f(hn::LoadU(d, scores + i + lanes));
    const auto v2 = f(hn::LoadU(d, scores + i + 2 * lanes)),
               v3 = f(hn::LoadU(d, scores + i + 3 * lanes));
    hn::Stream(v0, d, out + i);
    hn::Stream(v1, d, out + i + lanes);
    hn::Stream(v2, d, out + i + 2 * lanes);
    hn::Stream(v3, d, out + i + 3 * lanes);
  }
  for (; i + lanes <= cols; i += lanes) hn::Stream(f(hn::LoadU(d, scores + i)), d, out + i);
  if (i < cols) {
    store_tail(f(load_tail(d, scores + i, cols - i, hn::Zero(d))), d, out + i, cols - i);
  }
}

// Results of this many bytes bypass the caches.
constexpr size_t kStreamedBytes = size_t{4} << 20;

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
  const bool aligned =
      reinterpret_cast<uintptr_t>(grad_scores) % (lanes * sizeof(T)) == 0 && n % lanes == 0;
  const bool streamed = aligned && static_cast<size_t>(rows) * n * sizeof(T) >= kStreamedBytes;
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
    if (streamed) {
      for (; i < n; i += lanes) {
        const auto pv = hn::LoadU(d, p + i);
        const auto mask = hn::Gt(pv, zero);
        hn::Stream(zero, d, out + i);
        if (!hn::AllFalse(d, mask)) meet(i, pv, mask, hn::LoadU(d, g + i));
      }
      hwy::FlushStream();
    }
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

// Up to Lanes(d) rows, one in each lane, so that a threshold is solved for all of them without a
// reduction across lanes: element i of every row is one vector.
template <class D, typename T = hn::TFromD<D>>
class LaneRows {
 public:
  static constexpr size_t kMaxLength = 128;

  HWY_INLINE size_t length() const { return length_; }
  HWY_INLINE hn::Vec<D> at(D d, size_t i) const {
    return hn::Load(d, elements_ + i * hn::Lanes(d));
  }

  HWY_INLINE void clear() { length_ = 0; }
  // Element i of every row.
  HWY_INLINE void set(D d, size_t i, hn::Vec<D> v) {
    hn::Store(v, d, elements_ + i * hn::Lanes(d));
    if (length_ <= i) length_ = i + 1;
  }
  // The next element of one row, its element number i < kMaxLength; shorter rows are filled up with
  // −2, which no threshold lets through.
  HWY_INLINE void append(D d, size_t row, size_t i, T x) {
    if (HWY_UNLIKELY(i == length_)) {
      hn::Store(hn::Set(d, T{-2}), d, elements_ + length_ * hn::Lanes(d));
      ++length_;
    }
    elements_[i * hn::Lanes(d) + row] = x;
  }

 private:
  size_t length_ = 0;
  HWY_ALIGN T elements_[kMaxLength * (HWY_MAX_BYTES / sizeof(T))];
};

// Thresholds of LaneRows, as Threshold: τ = high + low.
template <class D>
struct LaneThresholds {
  hn::Vec<D> high, low;
};

// Rows this short are wholly read into lanes.
constexpr size_t kShortRow = 24;
// Rows up to this length are scanned in groups, whose thresholds are solved together.
constexpr size_t kGroupedRow = 2048;
// A group of rows this large still is in a near cache when it is written.
constexpr size_t kNearBytes = size_t{96} << 10;

// One group of short rows: probs = map(score − max, τ). solve(LaneRows) gives the thresholds.
// Returns −1 or the first illegal row.
template <class D, class Solve, class Map, typename T = hn::TFromD<D>>
HWY_INLINE int64_t map_short_rows(D d, const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs,
                                  int64_t rows, int64_t cols, Solve&& solve, Map&& map) {
  using Index = hwy::MakeSigned<T>;
  const hn::Rebind<Index, D> di;
  const size_t lanes = hn::Lanes(d), n = static_cast<size_t>(cols);
  const auto lowest = hn::Set(d, -std::numeric_limits<T>::infinity());
  LaneRows<D> group;
  HWY_ALIGN Index starts[HWY_MAX_BYTES / sizeof(T)];
  for (int64_t row = 0; row < rows; row += static_cast<int64_t>(lanes)) {
    const size_t left = static_cast<size_t>(rows - row);
    // Lanes without a row of their own repeat the last one, so that nothing beyond it is touched.
    for (size_t i = 0; i < lanes; ++i)
      starts[i] = static_cast<Index>((i < left ? i : left - 1) * n);
    const auto offsets = hn::Load(di, starts);
    const T* s = scores + row * cols;
    T* p = probs + row * cols;
    auto max = lowest;
    auto legal = hn::Eq(max, max);
    for (size_t j = 0; j < n; ++j) {
      const auto v = hn::GatherIndex(d, s + j, offsets);
      max = hn::Max(max, v);
      legal = hn::And(legal, is_legal(d, v));
      group.set(d, j, v);
    }
    legal = hn::And(legal, hn::Gt(max, lowest));
    if (HWY_UNLIKELY(!hn::AllTrue(d, legal))) {
      return row + static_cast<int64_t>(hn::FindFirstTrue(d, hn::Not(legal)));
    }
    for (size_t j = 0; j < n; ++j) group.set(d, j, hn::Sub(group.at(d, j), max));
    const auto tau = solve(group, n, hn::Set(d, T{-1}));
    for (size_t j = 0; j < n; ++j) {
      hn::ScatterIndex(map(group.at(d, j), tau.high, tau.low), d, p + j, offsets);
    }
  }
  return -1;
}

// The maxima of a row over the positions with the same remainder: lane i holds a score of the row,
// and the largest lane its maximum. What becomes of NaN depends on the target.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> lane_maxima(D d, const T* HWY_RESTRICT scores, size_t cols) {
  const size_t lanes = hn::Lanes(d);
  const auto lowest = hn::Set(d, -std::numeric_limits<T>::infinity());
  size_t i = head_length(d, scores, cols);
  auto max0 = i > 0 ? load_tail(d, scores, i, lowest) : lowest, max1 = lowest;
  for (; i + 2 * lanes <= cols; i += 2 * lanes) {
    max0 = hn::Max(max0, hn::LoadU(d, scores + i));
    max1 = hn::Max(max1, hn::LoadU(d, scores + i + lanes));
  }
  for (; i < cols; i += lanes) {
    const size_t left = cols - i;
    max0 = hn::Max(
        max0, left >= lanes ? hn::LoadU(d, scores + i) : load_tail(d, scores + i, left, lowest));
  }
  return hn::Max(max0, max1);
}

template <class D, class M>
HWY_INLINE uint64_t mask_bits(D d, M mask) {
  uint8_t bytes[8] = {};
  hn::StoreMaskBits(d, mask, bytes);
  uint64_t bits = 0;
  std::memcpy(&bits, bytes, (hn::Lanes(d) + 7) / 8);
  return bits;
}

// Appends (score − max)·scale to `group` for every score of a row above max + bound. The scores are
// compared 64 at a time and then picked one by one: the bound is so near the threshold that few
// pass. NaN passes always. Returns how many passed; more than kMaxLength are not all appended.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE size_t append_candidates(D d, const T* HWY_RESTRICT scores, size_t cols, T max, T bound,
                                    T scale, const T* ahead, const T* result, size_t row,
                                    LaneRows<D>& group) {
  const size_t lanes = hn::Lanes(d), block = std::max<size_t>(64, lanes);
  const auto max_v = hn::Set(d, max), bound_v = hn::Set(d, bound);
  size_t count = 0;
  // "Not ≤" holds for NaN. Illegal rows show here: a NaN score, ∞ − ∞ under a maximum of +∞, and
  // −∞ + ∞ in a row of nothing but −∞ are all NaN.
  const auto passes = [&](hn::Vec<D> v)
                          HWY_ATTR { return hn::Not(hn::Le(hn::Sub(v, max_v), bound_v)); };
  const auto pick = [&](uint64_t bits, const T* HWY_RESTRICT s) HWY_ATTR {
    const size_t passed = hwy::PopCount(bits);
    count += passed;
    if (HWY_UNLIKELY(count > LaneRows<D>::kMaxLength)) return;
    for (size_t at = count - passed; bits != 0; bits &= bits - 1, ++at) {
      group.append(d, row, at, (s[hwy::Num0BitsBelowLS1Bit_Nonzero64(bits)] - max) * scale);
    }
  };
  size_t i = head_length(d, scores, cols);
  if (i > 0) {
    const auto v = load_tail(d, scores, i, max_v);
    pick(mask_bits(d, hn::And(passes(v), hn::FirstN(d, i))), scores);
  }
  for (; i + block <= cols; i += block) {
    uint64_t bits = 0;
    for (size_t j = 0; j < block; j += lanes) {
      bits |= mask_bits(d, passes(hn::LoadU(d, scores + i + j))) << j;
      hwy::Prefetch(ahead + i + j);
      hwy::Prefetch(result + i + j);
    }
    pick(bits, scores + i);
  }
  uint64_t bits = 0;
  const size_t rest = i;
  for (; i + lanes <= cols; i += lanes) {
    bits |= mask_bits(d, passes(hn::LoadU(d, scores + i))) << (i - rest);
    hwy::Prefetch(ahead + i);
    hwy::Prefetch(result + i);
  }
  if (i < cols) {
    const auto v = load_tail(d, scores + i, cols - i, max_v);
    bits |= mask_bits(d, hn::And(passes(v), hn::FirstN(d, cols - i))) << (i - rest);
  }
  pick(bits, scores + rest);
  return count;
}

// Maps rows to the simplex: p = map(score − max, τ), where only scores above max − radius can have
// mass and τ solves the map's equation on those, given as (score − max)/radius in (−1, 0].
//   lower_bound(LaneRows, length): in each lane a τ that is not above the row's solution;
//   solve(LaneRows, length, start): τ of the rows in lanes, from such a start;
//   solve_row(x, count): τ of one row, in float64, x with a vector's room beyond count.
// Returns −1 or the first illegal row.
template <class D, class LowerBound, class Solve, class SolveRow, class Map,
          typename T = hn::TFromD<D>>
HWY_INLINE int64_t map_rows(D d, const T* HWY_RESTRICT scores, T* HWY_RESTRICT probs, int64_t rows,
                            int64_t cols, T radius, LowerBound&& lower_bound, Solve&& solve,
                            SolveRow&& solve_row, Map&& map) {
  const size_t lanes = hn::Lanes(d), n = static_cast<size_t>(cols);
  if (n <= kShortRow) return map_short_rows(d, scores, probs, rows, cols, solve, map);

  Scratch<T> scratch(candidate_capacity<T>(n));
  T* x = scratch.data();
  const auto scale = hn::Set(d, T{1} / radius);
  const auto scale_all = [&](size_t count) HWY_ATTR {
    if (radius == T{1}) return;
    for (size_t i = 0; i < count; i += lanes) {
      hn::StoreU(hn::Mul(hn::LoadU(d, x + i), scale), d, x + i);
    }
  };
  const auto write = [&](int64_t row, T row_max, T tau_hi, T tau_lo) HWY_ATTR {
    const auto max_v = hn::Set(d, row_max), high = hn::Set(d, tau_hi), low = hn::Set(d, tau_lo);
    transform_row(d, scores + row * cols, probs + row * cols, n,
                  [&](auto v) HWY_ATTR { return map(hn::Sub(v, max_v), high, low); });
  };

  if (n > kGroupedRow) {
    const bool streamed = static_cast<size_t>(rows) * n * sizeof(T) >= kStreamedBytes;
    for (int64_t row = 0; row < rows; ++row) {
      const T* s = scores + row * cols;
      const auto [count, max] = scan_candidates(d, s, n, radius, x);
      if (count == 0) return row;
      subtract_max(d, x, count, max);
      scale_all(count);
      const Threshold<T> tau(solve_row(x, count));
      if (!streamed) {
        write(row, max, tau.high, tau.low);
        continue;
      }
      const auto max_v = hn::Set(d, max), high = hn::Set(d, tau.high), low = hn::Set(d, tau.low);
      stream_row(d, s, probs + row * cols, n,
                 [&](auto v) HWY_ATTR { return map(hn::Sub(v, max_v), high, low); });
    }
    if (streamed) hwy::FlushStream();
    return -1;
  }

  // As many rows at a time as lanes, and as stay near until they are written. A few scores of a
  // row, the maxima of its lanes, have a threshold that is not above the row's own, and usually not
  // far below: whatever does not pass it is out. Both thresholds are solved in lanes.
  const size_t step = std::min(lanes, std::max<size_t>(4, kNearBytes / (n * sizeof(T))));
  const hn::RebindToSigned<D> di;
  using Index = hn::TFromD<decltype(di)>;
  const auto slack = hn::Set(d, 32 * std::numeric_limits<T>::epsilon());
  const auto minus_one = hn::Set(d, T{-1});
  LaneRows<D> group;
  HWY_ALIGN T maxima[(HWY_MAX_BYTES / sizeof(T)) * (HWY_MAX_BYTES / sizeof(T))];
  HWY_ALIGN T max[HWY_MAX_BYTES / sizeof(T)];
  HWY_ALIGN T bound[HWY_MAX_BYTES / sizeof(T)];
  HWY_ALIGN T tau_high[HWY_MAX_BYTES / sizeof(T)];
  HWY_ALIGN T tau_low[HWY_MAX_BYTES / sizeof(T)];
  bool grouped[HWY_MAX_BYTES / sizeof(T)];
  HWY_ALIGN Index starts[HWY_MAX_BYTES / sizeof(T)];
  for (size_t i = 0; i < lanes; ++i) starts[i] = static_cast<Index>(i * lanes);
  const auto offsets = hn::Load(di, starts);
  for (int64_t first = 0; first < rows; first += static_cast<int64_t>(step)) {
    const size_t members = std::min(step, static_cast<size_t>(rows - first));
    const auto row_scores = [&](size_t i) {
      return scores + (first + static_cast<int64_t>(i)) * cols;
    };
    for (size_t i = 0; i < lanes; ++i) {
      hn::Store(i < members ? lane_maxima(d, row_scores(i), n) : hn::Zero(d), d,
                maxima + i * lanes);
    }
    auto max_v = hn::Set(d, -std::numeric_limits<T>::infinity());
    group.clear();
    for (size_t i = 0; i < lanes; ++i) {
      const auto v = hn::GatherIndex(d, maxima + i, offsets);
      max_v = hn::Max(max_v, v);
      group.set(d, i, v);
    }
    for (size_t i = 0; i < lanes; ++i) {
      group.set(d, i, hn::Mul(hn::Sub(group.at(d, i), max_v), scale));
    }
    const auto start = hn::Max(hn::Sub(lower_bound(group, lanes), slack), minus_one);
    hn::Store(max_v, d, max);
    hn::Store(hn::Mul(start, hn::Set(d, radius)), d, bound);

    group.clear();
    for (size_t i = 0; i < lanes; ++i) {
      grouped[i] = false;
      if (i >= members) {  // lanes without a row hold the problem x = (0)
        group.append(d, i, 0, T{0});
        continue;
      }
      const int64_t row = first + static_cast<int64_t>(i);
      const T* ahead = row_scores(row + static_cast<int64_t>(step) < rows ? i + step : i);
      const size_t count = append_candidates(d, row_scores(i), n, max[i], bound[i], T{1} / radius,
                                             ahead, probs + row * cols, i, group);
      grouped[i] = count <= LaneRows<D>::kMaxLength;
      if (grouped[i]) continue;
      group.append(d, i, 0, T{0});
      const auto found = scan_candidates(d, row_scores(i), n, radius, x);
      if (found.count == 0) return row;
      subtract_max(d, x, found.count, found.max);
      scale_all(found.count);
      const Threshold<T> alone(solve_row(x, found.count));
      write(row, found.max, alone.high, alone.low);
    }
    auto illegal = hn::Lt(slack, slack);
    for (size_t i = 0; i < group.length(); ++i) {
      illegal = hn::Or(illegal, hn::IsNaN(group.at(d, i)));
    }
    if (HWY_UNLIKELY(!hn::AllFalse(d, illegal))) {
      return first + static_cast<int64_t>(hn::FindFirstTrue(d, illegal));
    }
    const auto tau = solve(group, group.length(), start);
    hn::Store(tau.high, d, tau_high);
    hn::Store(tau.low, d, tau_low);
    for (size_t i = 0; i < members; ++i) {
      if (!grouped[i]) continue;
      write(first + static_cast<int64_t>(i), max[i], tau_high[i], tau_low[i]);
    }
  }
  return -1;
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // SPARSUM_SIMPLEX_INL_H_
