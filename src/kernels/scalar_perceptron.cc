#include "sparsum/kernels/scalar_perceptron.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/scalar_perceptron.cc"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway requires.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#ifndef SPARSUM_KERNELS_SCALAR_PERCEPTRON_
#define SPARSUM_KERNELS_SCALAR_PERCEPTRON_
namespace sparsum::kernels {
namespace {

/// Points of a cell, and coefficients of its polynomials.
constexpr size_t kPoints = 8;
/// What a cell has in a table: coefficients of the polynomials of a and of its slope; or moments of
/// the weights of σ and of σ'.
constexpr size_t kRow = 2 * kPoints;
/// Moments are added up in this many tables in turn, because a sum has to wait for the one before.
constexpr size_t kTables = 4;

/// Cell i of `cells` is around (first + i)·2·radius. No cells: no grid.
struct Grid {
  float radius;  // a power of two
  float first;
  int64_t cells;
};

/// What is added up: Σ_k weights[k]·σ(x·factors[k]) and Σ_k slope_weights[k]·σ'(x·factors[k]).
template <typename T>
struct Terms {
  const T* factors;
  const T* weights;
  const T* slope_weights;
  size_t count;
};

}  // namespace
}  // namespace sparsum::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors of numbers that share what is loaded for a term.
constexpr size_t kBlock = HWY_TARGET <= HWY_AVX3 ? 4 : 2;

// Terms that are added without looking at what their roundings lose.
constexpr size_t kTerms = 32;

// The first n numbers, and zeros; n ≤ Lanes(d).
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load(D d, const T* p, size_t n) {
  if (n == hn::Lanes(d)) return hn::LoadU(d, p);
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)] = {};
  std::copy_n(p, n, lanes);
  return hn::Load(d, lanes);
}
template <class D, class V, typename T = hn::TFromD<D>>
HWY_INLINE void store(V v, D d, T* p, size_t n) {
  if (n == hn::Lanes(d)) return hn::StoreU(v, d, p);
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(v, d, lanes);
  std::copy_n(lanes, n, p);
}

/// σ(z) and σ'(z) from q = exp(−|z|) and 1/(1 + q).
template <bool kFinite, class D, class V>
HWY_INLINE void sigmoid(D d, V z, V q, V inverse, V& value, V& derivative) {
  const auto other = hn::Mul(q, inverse);  // σ(−|z|)
  value = hn::IfThenElse(hn::Lt(z, hn::Zero(d)), other, inverse);
  derivative = hn::Mul(other, inverse);
  if constexpr (!kFinite) {
    const auto nan = hn::IsNaN(z);
    value = hn::IfThenElse(nan, z, value);
    derivative = hn::IfThenElse(nan, z, derivative);
  }
}

/// σ(z) and σ'(z), both with a relative error of a few roundings; 0 or 1 at ±∞.
template <bool kFinite, class D, class V>
HWY_INLINE void exact_sigmoid(D d, V z, V& value, V& derivative) {
  using T = hn::TFromD<D>;
  const auto one = hn::Set(d, T{1});
  // Next to nothing is 0: numbers that are not normal take a hundred times as long.
  const auto least = hn::Set(d, static_cast<T>(sizeof(T) == 4 ? -87 : -708));
  const auto exponent = hn::Neg(hn::Abs(z));
  const auto q = hn::IfThenElseZero(hn::Ge(exponent, least), hn::Exp(d, hn::Max(exponent, least)));
  sigmoid<kFinite>(d, z, q, hn::Div(one, hn::Add(one, q)), value, derivative);
}

/// The same, where many are added up: with a relative error below 4e-7 in float, in half the time.
template <bool kFinite, class D, class V, hwy::EnableIf<sizeof(hn::TFromD<D>) == 8>* = nullptr>
HWY_INLINE void fast_sigmoid(D d, V z, V& value, V& derivative) {
  exact_sigmoid<kFinite>(d, z, value, derivative);
}
template <bool kFinite, class D, class V, hwy::EnableIf<sizeof(hn::TFromD<D>) == 4>* = nullptr>
HWY_INLINE void fast_sigmoid(D d, V z, V& value, V& derivative) {
  const hn::RebindToSigned<D> di;
  const auto one = hn::Set(d, 1.0f), least = hn::Set(d, -87.0f);
  const auto exponent = hn::Or(z, hn::SignBit(d));
  const auto x = hn::Max(exponent, least);
  // Added to 1.5·2²³, x/log 2 is rounded, and its last bits are an integer.
  const auto shift = hn::Set(d, 0x1.8p23f);
  const auto shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), shift);
  const auto n = hn::Sub(shifted, shift);
  // log 2 in two parts; the product with the first is exact.
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::MulAdd(n, hn::Set(d, 2.12194440e-4f), r);
  // exp(r), |r| ≤ log(2)/2, as in Cephes.
  auto power = hn::MulAdd(hn::Set(d, 1.9875691500e-4f), r, hn::Set(d, 1.3981999507e-3f));
  for (const float c :
       {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f}) {
    power = hn::MulAdd(power, r, hn::Set(d, c));
  }
  const auto scaled =
      hn::BitCast(d, hn::Add(hn::BitCast(di, power), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
  const auto q = hn::IfThenElseZero(hn::Ge(exponent, least), scaled);
  const auto sum = hn::Add(one, q);
  const auto near = hn::ApproximateReciprocal(sum);
  const auto inverse = hn::MulAdd(near, hn::NegMulAdd(sum, near, one), near);
  sigmoid<kFinite>(d, z, q, inverse, value, derivative);
}

/// A sum and what its roundings lost.
template <class D, class V>
HWY_INLINE void add(D, V term, V& sum, V& lost) {
  const auto next = hn::Add(sum, term);
  const auto part = hn::Sub(next, sum);
  lost = hn::Add(lost, hn::Add(hn::Sub(sum, hn::Sub(next, part)), hn::Sub(term, part)));
  sum = next;
}
template <class D, class V>
HWY_INLINE V total(D, V sum, V lost) {
  return hn::IfThenElse(hn::IsFinite(sum), hn::Add(sum, lost), sum);
}

/// The sums at kCount vectors of x.
template <size_t kCount, bool kFinite, bool kSlopes, typename T>
HWY_NOINLINE void sums_block(const T* HWY_RESTRICT x, size_t stored, const Terms<T>& terms,
                             T* HWY_RESTRICT values, T* HWY_RESTRICT slopes) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  V at[kCount], value[kCount], value_lost[kCount], slope[kCount], slope_lost[kCount];
  for (size_t b = 0; b < kCount; ++b) {
    at[b] = kCount == 1 ? load(d, x, stored) : hn::LoadU(d, x + b * lanes);
    value[b] = value_lost[b] = slope[b] = slope_lost[b] = hn::Zero(d);
  }
  for (size_t begin = 0; begin < terms.count; begin += kTerms) {
    const size_t end = std::min(terms.count, begin + kTerms);
    V some[kCount], some_slopes[kCount];
    for (size_t b = 0; b < kCount; ++b) some[b] = some_slopes[b] = hn::Zero(d);
    for (size_t k = begin; k < end; ++k) {
      const auto factor = hn::Set(d, terms.factors[k]), weight = hn::Set(d, terms.weights[k]);
      for (size_t b = 0; b < kCount; ++b) {
        V s, derivative;
        fast_sigmoid<kFinite>(d, hn::Mul(at[b], factor), s, derivative);
        some[b] = hn::MulAdd(weight, s, some[b]);
        if constexpr (kSlopes) {
          some_slopes[b] =
              hn::MulAdd(hn::Set(d, terms.slope_weights[k]), derivative, some_slopes[b]);
        }
      }
    }
    for (size_t b = 0; b < kCount; ++b) {
      add(d, some[b], value[b], value_lost[b]);
      if constexpr (kSlopes) add(d, some_slopes[b], slope[b], slope_lost[b]);
    }
  }
  for (size_t b = 0; b < kCount; ++b) {
    const size_t n = kCount == 1 ? stored : lanes;
    store(total(d, value[b], value_lost[b]), d, values + b * lanes, n);
    if constexpr (kSlopes) store(total(d, slope[b], slope_lost[b]), d, slopes + b * lanes, n);
  }
}

template <bool kFinite, bool kSlopes, typename T>
void sums(const T* x, size_t count, const Terms<T>& terms, T* values, T* slopes) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  size_t i = 0;
  for (; i + kBlock * lanes <= count; i += kBlock * lanes) {
    sums_block<kBlock, kFinite, kSlopes>(x + i, lanes, terms, values + i,
                                         kSlopes ? slopes + i : nullptr);
  }
  for (; i < count; i += lanes) {
    sums_block<1, kFinite, kSlopes>(x + i, std::min(lanes, count - i), terms, values + i,
                                    kSlopes ? slopes + i : nullptr);
  }
}

/// The smallest and the largest number; NaN for both if one is not finite.
template <typename T>
void range(const T* x, size_t count, T* low_out, T* high_out) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  auto low = hn::Set(d, kInfinity), high = hn::Neg(low);
  auto zero = hn::Zero(d);  // 0·x is NaN for what is not finite
  const auto look = [&](auto v) HWY_ATTR {
    low = hn::Min(low, v);
    high = hn::Max(high, v);
    zero = hn::MulAdd(hn::Zero(d), v, zero);
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) look(hn::LoadU(d, x + i));
  for (; i < count; ++i) look(hn::Set(d, x[i]));
  const bool finite = hn::AllTrue(d, hn::Eq(zero, hn::Zero(d)));
  *low_out = finite ? hn::GetLane(hn::MinOfLanes(d, low)) : std::numeric_limits<T>::quiet_NaN();
  *high_out = finite ? hn::GetLane(hn::MaxOfLanes(d, high)) : std::numeric_limits<T>::quiet_NaN();
}
void range_float(const float* x, size_t count, float* low, float* high) {
  range(x, count, low, high);
}

template <typename T>
void any_sums(const T* x, size_t count, const Terms<T>& terms, T* values, T* slopes) {
  T low, high, least, most;
  range(x, count, &low, &high);
  range(terms.factors, terms.count, &least, &most);
  const bool finite = !std::isnan(low) && !std::isnan(least);
  if (slopes != nullptr) {
    (finite ? sums<true, true, T> : sums<false, true, T>)(x, count, terms, values, slopes);
  } else {
    (finite ? sums<true, false, T> : sums<false, false, T>)(x, count, terms, values, slopes);
  }
}
void sums_float(const float* x, size_t count, const Terms<float>& terms, float* values,
                float* slopes) {
  any_sums(x, count, terms, values, slopes);
}
void sums_double(const double* x, size_t count, const Terms<double>& terms, double* values,
                 double* slopes) {
  any_sums(x, count, terms, values, slopes);
}

/// a becomes σ(a), and derivatives, unless null, σ'(a).
template <typename T>
void outer(T* HWY_RESTRICT a, size_t count, T* HWY_RESTRICT derivatives) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  for (size_t i = 0; i < count; i += lanes) {
    const size_t n = std::min(lanes, count - i);
    hn::Vec<decltype(d)> y, derivative;
    exact_sigmoid<false>(d, load(d, a + i, n), y, derivative);
    store(y, d, a + i, n);
    if (derivatives != nullptr) store(derivative, d, derivatives + i, n);
  }
}
void outer_float(float* a, size_t count, float* derivatives) { outer(a, count, derivatives); }
void outer_double(double* a, size_t count, double* derivatives) { outer(a, count, derivatives); }

/// The cell of each number, counted from the first, and where in it, in [−1, 1].
template <class D, class V>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> locate(D d, const Grid& grid, V e, V& place) {
  const hn::RebindToSigned<D> di;
  // Exact: a power of two, and a difference of numbers that are near each other, or of one from 0.
  const auto to_cells = hn::Set(d, 0.5f / grid.radius);
  const auto first = hn::Set(d, grid.first);
  const auto last = hn::Set(d, grid.first + static_cast<float>(grid.cells - 1));
  const auto cell = hn::Min(hn::Max(hn::Round(hn::Mul(e, to_cells)), first), last);
  place =
      hn::Mul(hn::Sub(e, hn::Mul(cell, hn::Set(d, 2 * grid.radius))), hn::Set(d, 1 / grid.radius));
  return hn::ConvertTo(di, hn::Sub(cell, first));
}

template <class D, class V, class VI>
HWY_INLINE V polynomial(D d, const float* table, VI row, V place) {
  auto value = hn::GatherIndex(d, table + kPoints - 1, row);
  for (size_t k = kPoints - 1; k-- > 0;) {
    value = hn::MulAdd(value, place, hn::GatherIndex(d, table + k, row));
  }
  return value;
}

/// a and, unless null, slopes, from the table.
void look_up(const Grid& grid, const float* HWY_RESTRICT table, const float* HWY_RESTRICT e,
             size_t count, float* HWY_RESTRICT a, float* HWY_RESTRICT slopes) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);
  for (size_t i = 0; i < count; i += lanes) {
    const size_t n = std::min(lanes, count - i);
    hn::Vec<decltype(d)> place;
    const auto cell = locate(d, grid, load(d, e + i, n), place);
    const auto row = hn::Mul(cell, hn::Set(di, kRow));
    store(polynomial(d, table, row, place), d, a + i, n);
    if (slopes != nullptr) {
      store(polynomial(d, table + kPoints, row, place), d, slopes + i, n);
    }
  }
}

/// Adds Σ_i c_i·place_i^k and Σ_i c_i e_i·place_i^k over the numbers of each cell to sums [cells,
/// kRow]. `tables`: zeros, [kTables, cells, kRow], and zeros again at the end.
void add_moments(const Grid& grid, const float* HWY_RESTRICT e, const float* HWY_RESTRICT c,
                 size_t count, float* HWY_RESTRICT tables, double* HWY_RESTRICT sums) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::CappedTag<float, kPoints> dp;
  const size_t lanes = hn::Lanes(d), part = hn::Lanes(dp);
  const auto one = hn::Set(dp, 1.0f);
  // Lane k of the powers takes those of the powers t, t², t⁴ that make up k.
  const auto lane = hn::Iota(hn::RebindToSigned<decltype(dp)>(), 0);
  const auto bit = [&](int b) HWY_ATTR {
    return hn::RebindMask(dp, hn::TestBit(lane, hn::Set(hn::RebindToSigned<decltype(dp)>(), b)));
  };
  const auto odd = bit(1), second = bit(2), fourth = bit(4);
  const size_t size = static_cast<size_t>(grid.cells) * kRow;
  HWY_ALIGN int32_t at[HWY_MAX_BYTES / sizeof(float)];
  HWY_ALIGN float power[3][HWY_MAX_BYTES / sizeof(float)];
  for (size_t i = 0; i < count; i += lanes) {
    const size_t n = std::min(lanes, count - i);
    hn::Vec<decltype(d)> place;
    const auto cell = locate(d, grid, load(d, e + i, n), place);
    hn::Store(hn::Mul(cell, hn::Set(di, kRow)), di, at);
    const auto square = hn::Mul(place, place);
    hn::Store(place, d, power[0]);
    hn::Store(square, d, power[1]);
    hn::Store(hn::Mul(square, square), d, power[2]);
    for (size_t j = 0; j < n; ++j) {
      float* HWY_RESTRICT to = tables + (i + j) % kTables * size + at[j];
      const auto t = hn::Set(dp, power[0][j]), t2 = hn::Set(dp, power[1][j]);
      const auto t4 = hn::Set(dp, power[2][j]);
      auto powers = one;
      if (part > 1) powers = hn::IfThenElse(odd, t, one);
      if (part > 2) powers = hn::Mul(powers, hn::IfThenElse(second, t2, one));
      if (part > 4) powers = hn::Mul(powers, hn::IfThenElse(fourth, t4, one));
      const auto weight = hn::Set(dp, c[i + j]), slope_weight = hn::Set(dp, c[i + j] * e[i + j]);
      for (size_t k = 0; k < kPoints; k += part) {
        if (k > 0) powers = hn::Mul(powers, part == 1 ? t : part == 2 ? t2 : t4);
        float* HWY_RESTRICT slopes = to + kPoints + k;
        hn::StoreU(hn::MulAdd(weight, powers, hn::LoadU(dp, to + k)), dp, to + k);
        hn::StoreU(hn::MulAdd(slope_weight, powers, hn::LoadU(dp, slopes)), dp, slopes);
      }
    }
  }
  for (size_t k = 0; k < size; ++k) {
    for (size_t table = 0; table < kTables; ++table) {
      sums[k] += static_cast<double>(tables[table * size + k]);
    }
  }
  std::fill_n(tables, kTables * size, 0.0f);
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparsum::kernels {

HWY_EXPORT(range_float);
HWY_EXPORT(sums_float);
HWY_EXPORT(sums_double);
HWY_EXPORT(outer_float);
HWY_EXPORT(outer_double);
HWY_EXPORT(look_up);
HWY_EXPORT(add_moments);

namespace {

/// Exponentials, or numbers, that are worth a thread: some 50 µs.
constexpr int64_t kWork = 1 << 17;
constexpr int64_t kNumbers = 1 << 13;
/// Shares of a sum, at most.
constexpr int64_t kShares = 64;
/// Numbers whose moments are added in float.
constexpr int64_t kRun = 4096;

struct Range {
  double low, high;
};
Range range(const float* x, int64_t count) {
  float low, high;
  HWY_DYNAMIC_DISPATCH(range_float)(x, static_cast<size_t>(count), &low, &high);
  return {low, high};
}
void sums(const float* x, int64_t count, const Terms<float>& terms, float* values, float* slopes) {
  HWY_DYNAMIC_DISPATCH(sums_float)(x, static_cast<size_t>(count), terms, values, slopes);
}
void sums(const double* x, int64_t count, const Terms<double>& terms, double* values,
          double* slopes) {
  HWY_DYNAMIC_DISPATCH(sums_double)(x, static_cast<size_t>(count), terms, values, slopes);
}
void outer(float* a, int64_t count, float* derivatives) {
  HWY_DYNAMIC_DISPATCH(outer_float)(a, static_cast<size_t>(count), derivatives);
}
void outer(double* a, int64_t count, double* derivatives) {
  HWY_DYNAMIC_DISPATCH(outer_double)(a, static_cast<size_t>(count), derivatives);
}

/// Where in a cell a is computed: Chebyshev's points, rounded so that the points of a cell are
/// floats without rounding.
constexpr std::array<double, kPoints> kPlaces = {-251.0 / 256, -213.0 / 256, -142.0 / 256,
                                                 -50.0 / 256,  50.0 / 256,   142.0 / 256,
                                                 213.0 / 256,  251.0 / 256};

/// [point][k]: the coefficients of the polynomial that is 1 at a point and 0 at the others.
constexpr auto kLagrange = [] {
  std::array<std::array<double, kPoints>, kPoints> all{};
  for (size_t i = 0; i < kPoints; ++i) {
    auto& polynomial = all[i];
    polynomial[0] = 1;
    size_t degree = 0;
    for (size_t j = 0; j < kPoints; ++j) {
      if (j == i) continue;
      const double inverse = 1 / (kPlaces[i] - kPlaces[j]);
      ++degree;
      for (size_t k = degree + 1; k-- > 0;) {
        const double below = k > 0 ? polynomial[k - 1] : 0;
        polynomial[k] = (below - kPlaces[j] * polynomial[k]) * inverse;
      }
    }
  }
  return all;
}();

Grid grid_of(const ScalarPerceptronInputs<float>& in) {
  const Grid none{1, 0, 0};
  // So few numbers that not even one cell pays.
  const auto pays = [&](double cells) {
    const auto count = static_cast<double>(in.count), hidden = static_cast<double>(in.hidden);
    return cells * kPoints * hidden + 16 * count < count * hidden;
  };
  if (!pays(1)) return none;
  const Range u = range(in.u, in.hidden);
  const double largest = std::max(-u.low, u.high);  // NaN fails below
  double size = 0;
  for (int64_t j = 0; j < in.hidden; ++j) size += std::abs(static_cast<double>(in.w[j]));
  // Nothing overflows.
  if (!(largest <= 0x1p60 && size <= 0x1p60)) return none;
  const Range e = range(in.e, in.count);
  if (!(e.low <= e.high)) return none;

  // A radius of at most 1/(2·largest).
  int exponent = 0;
  std::frexp(std::max(largest, 0x1p-60), &exponent);
  const double radius = std::ldexp(0.5, -exponent);
  const double first = std::nearbyint(e.low / (2 * radius));
  const double cells = std::nearbyint(e.high / (2 * radius)) - first + 1;
  // The points are exact, and so is the index of a cell.
  constexpr double kFar = 1 << 15;
  if (!(std::abs(first) < kFar && cells < kFar && pays(cells))) return none;
  return {static_cast<float>(radius), static_cast<float>(first), static_cast<int64_t>(cells)};
}

float point(const Grid& grid, int64_t i) {
  const auto points = static_cast<int64_t>(kPoints);
  const double cell = static_cast<double>(grid.first) + static_cast<double>(i / points);
  return static_cast<float>((2 * cell + kPlaces[static_cast<size_t>(i % points)]) *
                            static_cast<double>(grid.radius));
}

template <typename T>
std::vector<T> products(const T* a, const T* b, int64_t count) {
  std::vector<T> all(static_cast<size_t>(count));
  for (size_t i = 0; i < all.size(); ++i) all[i] = a[i] * b[i];
  return all;
}

/// The rows of the cells begin … end − 1.
void tabulate(const Grid& grid, const Terms<float>& terms, int64_t begin, int64_t end,
              float* table) {
  const auto points = static_cast<int64_t>(kPoints);
  const auto size = static_cast<size_t>(end - begin) * kPoints;
  std::vector<float> x(size), values(size), slopes(size);
  for (size_t i = 0; i < size; ++i) x[i] = point(grid, begin * points + static_cast<int64_t>(i));
  sums(x.data(), static_cast<int64_t>(size), terms, values.data(), slopes.data());
  // In double: the coefficients of a polynomial are small differences of large terms.
  for (size_t from = 0; from < size; from += kPoints) {
    float* row = table + static_cast<size_t>(begin) * kRow + 2 * from;
    for (const float* of : {values.data() + from, slopes.data() + from}) {
      std::array<double, kPoints> sum{};
      for (size_t i = 0; i < kPoints; ++i) {
        for (size_t k = 0; k < kPoints; ++k) sum[k] += kLagrange[i][k] * double{of[i]};
      }
      for (size_t k = 0; k < kPoints; ++k) *row++ = static_cast<float>(sum[k]);
    }
  }
}

template <typename T>
void forward_each(const ScalarPerceptronInputs<T>& in, const Terms<T>& terms,
                  const InRanges& in_ranges, T* y, T* derivatives, T* slopes) {
  in_ranges(in.count, std::max<int64_t>(1, kWork / in.hidden), [&](int64_t begin, int64_t end) {
    sums(in.e + begin, end - begin, terms, y + begin, slopes != nullptr ? slopes + begin : nullptr);
    outer(y + begin, end - begin, derivatives != nullptr ? derivatives + begin : nullptr);
  });
}

/// Shares of `count`, of at least `least`: their number and size do not depend on threads.
struct Shares {
  Shares(int64_t all, int64_t least)
      : count(all), size(std::max({int64_t{1}, least, (all + kShares - 1) / kShares})) {}
  int64_t number() const { return (count + size - 1) / size; }
  int64_t begin(int64_t share) const { return share * size; }
  int64_t end(int64_t share) const { return std::min(count, (share + 1) * size); }
  int64_t count, size;
};

/// by_w and by_u, where the terms are those of numbers, or points, e.
template <typename T>
void parameters_each(const ScalarPerceptronInputs<T>& in, const Terms<T>& terms,
                     const InRanges& in_ranges, T* by_u, T* by_w) {
  const Shares shares(static_cast<int64_t>(terms.count), kWork / in.hidden);
  const auto hidden = static_cast<size_t>(in.hidden);
  const auto number = static_cast<size_t>(shares.number());
  std::vector<T> values(number * hidden), slopes(number * hidden);
  in_ranges(shares.number(), 1, [&](int64_t first, int64_t last) {
    for (int64_t share = first; share < last; ++share) {
      const int64_t begin = shares.begin(share);
      const auto to = static_cast<size_t>(share) * hidden;
      sums(in.u, in.hidden,
           {terms.factors + begin, terms.weights + begin, terms.slope_weights + begin,
            static_cast<size_t>(shares.end(share) - begin)},
           values.data() + to, slopes.data() + to);
    }
  });
  for (size_t j = 0; j < hidden; ++j) {
    double value = 0, slope = 0;
    for (size_t share = 0; share < number; ++share) {
      value += static_cast<double>(values[share * hidden + j]);
      slope += static_cast<double>(slopes[share * hidden + j]);
    }
    by_w[j] = static_cast<T>(value);
    by_u[j] = static_cast<T>(static_cast<double>(in.w[j]) * slope);
  }
}

}  // namespace

void scalar_perceptron_forward(const ScalarPerceptronInputs<float>& inputs,
                               const InRanges& in_ranges, float* y, float* derivatives,
                               float* slopes) {
  const Grid grid = grid_of(inputs);
  const auto slope_weights = products(inputs.u, inputs.w, inputs.hidden);
  const Terms<float> terms{inputs.u, inputs.w, slope_weights.data(), slope_weights.size()};
  if (grid.cells == 0) return forward_each(inputs, terms, in_ranges, y, derivatives, slopes);
  std::vector<float> table(static_cast<size_t>(grid.cells) * kRow);
  const auto points = static_cast<int64_t>(kPoints);
  in_ranges(grid.cells, std::max<int64_t>(1, kWork / (points * inputs.hidden)),
            [&](int64_t begin, int64_t end) { tabulate(grid, terms, begin, end, table.data()); });
  in_ranges(inputs.count, kNumbers, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    HWY_DYNAMIC_DISPATCH(look_up)
    (grid, table.data(), inputs.e + begin, static_cast<size_t>(n), y + begin,
     slopes != nullptr ? slopes + begin : nullptr);
    outer(y + begin, n, derivatives != nullptr ? derivatives + begin : nullptr);
  });
}
void scalar_perceptron_forward(const ScalarPerceptronInputs<double>& inputs,
                               const InRanges& in_ranges, double* y, double* derivatives,
                               double* slopes) {
  const auto slope_weights = products(inputs.u, inputs.w, inputs.hidden);
  forward_each(inputs, {inputs.u, inputs.w, slope_weights.data(), slope_weights.size()}, in_ranges,
               y, derivatives, slopes);
}

void scalar_perceptron_parameters(const ScalarPerceptronInputs<float>& inputs, const float* c,
                                  const InRanges& in_ranges, float* by_u, float* by_w) {
  const Grid grid = grid_of(inputs);
  if (grid.cells == 0) {
    const auto slope_weights = products(c, inputs.e, inputs.count);
    return parameters_each(inputs, {inputs.e, c, slope_weights.data(), slope_weights.size()},
                           in_ranges, by_u, by_w);
  }

  // Shares large enough for the tables of moments to be small beside them.
  const Shares shares(inputs.count, std::max<int64_t>(1024, 64 * grid.cells));
  const auto cells = static_cast<size_t>(grid.cells), size = cells * kRow;
  std::vector<double> moments(static_cast<size_t>(shares.number()) * size);
  const int64_t grain = std::max<int64_t>(1, kNumbers / shares.size);
  in_ranges(shares.number(), grain, [&](int64_t first, int64_t last) {
    std::vector<float> tables(kTables * size);
    for (int64_t share = first; share < last; ++share) {
      const int64_t run = std::max(kRun, 64 * grid.cells);
      for (int64_t begin = shares.begin(share); begin < shares.end(share); begin += run) {
        const int64_t end = std::min(shares.end(share), begin + run);
        HWY_DYNAMIC_DISPATCH(add_moments)
        (grid, inputs.e + begin, c + begin, static_cast<size_t>(end - begin), tables.data(),
         moments.data() + static_cast<size_t>(share) * size);
      }
    }
  });

  for (size_t share = size; share < moments.size(); share += size) {
    for (size_t i = 0; i < size; ++i) moments[i] += moments[share + i];
  }

  // The transpose of what `tabulate` does.
  std::vector<float> x(cells * kPoints), weights(cells * kPoints), slope_weights(cells * kPoints);
  for (size_t cell = 0; cell < cells; ++cell) {
    const double* of = moments.data() + cell * kRow;
    for (size_t i = 0; i < kPoints; ++i) {
      double weight = 0, slope_weight = 0;
      for (size_t k = 0; k < kPoints; ++k) {
        weight += kLagrange[i][k] * of[k];
        slope_weight += kLagrange[i][k] * of[kPoints + k];
      }
      const size_t at = cell * kPoints + i;
      x[at] = point(grid, static_cast<int64_t>(at));
      weights[at] = static_cast<float>(weight);
      slope_weights[at] = static_cast<float>(slope_weight);
    }
  }
  parameters_each(inputs, {x.data(), weights.data(), slope_weights.data(), x.size()}, in_ranges,
                  by_u, by_w);
}
void scalar_perceptron_parameters(const ScalarPerceptronInputs<double>& inputs, const double* c,
                                  const InRanges& in_ranges, double* by_u, double* by_w) {
  const auto slope_weights = products(c, inputs.e, inputs.count);
  parameters_each(inputs, {inputs.e, c, slope_weights.data(), slope_weights.size()}, in_ranges,
                  by_u, by_w);
}

bool scalar_perceptron_interpolates(const ScalarPerceptronInputs<float>& inputs) {
  return grid_of(inputs).cells > 0;
}

}  // namespace sparsum::kernels
#endif  // HWY_ONCE
