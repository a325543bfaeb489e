#include "sparsum/kernels/linear_cross_entropy.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear_cross_entropy.cc"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway requires.
#include "kernels/scratch.h"

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors run along the positions of one pair, so that weights are broadcast and no sum over
// classes crosses lanes. "Vector of positions" below: Lanes(d) consecutive positions.

// Classes that the inner loops take together, to load what classes share once.
constexpr size_t kBlock = 4;

// Columns whose sums for a block of classes fit into the registers.
constexpr size_t kColumns = HWY_TARGET <= HWY_AVX3 ? 6 : 3;

// The buffer of exponentials: it shares the L2 cache with the sums that each tile adds to, and
// possibly with the other thread of the core.
constexpr size_t kTileBytes = 256 << 10;

// The short cut measures scores in 2⁻²³ of a binary exponent: rounded to an integer they are the
// exponent and the fraction of a float side by side.
constexpr float kOne = 0x1p23f;
constexpr float kPerNat = 12102203.2f;  // 2²³·log₂e

// The short cut's bound on |score|, in binary exponents. Sums of exponentials, their reciprocals
// and the products of both with features stay normal numbers.
constexpr float kReach = 90;
// And on |weight|, so that their products with exponentials do not overflow.
constexpr float kLargeWeight = 0x1p20f;

template <class D, class V>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> nearest(D, V v) {
  // Highway's conversions also saturate, which takes three more instructions.
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  return hn::Vec<hn::RebindToSigned<D>>{_mm512_cvtps_epi32(v.raw)};
#elif HWY_TARGET == HWY_AVX2
  return hn::Vec<hn::RebindToSigned<D>>{_mm256_cvtps_epi32(v.raw)};
#elif HWY_TARGET == HWY_SSE4
  return hn::Vec<hn::RebindToSigned<D>>{_mm_cvtps_epi32(v.raw)};
#elif HWY_TARGET == HWY_SCALAR
  return hn::Vec<hn::RebindToSigned<D>>(static_cast<int32_t>(std::lrint(v.raw)));
#else
  return hn::NearestInt(v);
#endif
}

// scale·fraction = 2^{units/2²³ + 1} in kCount vectors, for units/2²³ in [−126, 126] (the + 1 saves
// an instruction); anything, but no trap, elsewhere. Relative error below 1.8e-7, on average 0. All
// vectors take each step together: with one chain of dependent instructions after the other, fewer
// of them fit into the processor's scheduler.
template <size_t kCount, class D, class V>
HWY_INLINE void powers_of_two(D d, const V* HWY_RESTRICT units, V* HWY_RESTRICT scale,
                              V* HWY_RESTRICT fraction) {
  const hn::RebindToSigned<D> di;
  using VI = hn::Vec<decltype(di)>;
  VI i[kCount];
  V m[kCount];
  for (size_t k = 0; k < kCount; ++k) i[k] = nearest(d, units[k]);
  // The fraction with the exponent of 1: m in [1, 2).
  for (size_t k = 0; k < kCount; ++k) {
    m[k] = hn::BitCast(d, hn::OrAnd(hn::Set(di, 0x3f800000), i[k], hn::Set(di, 0x007fffff)));
  }
  // 2^{m − 1}: minimax in the relative error, then the coefficients moved among floats.
  for (size_t k = 0; k < kCount; ++k) {
    fraction[k] = hn::MulAdd(hn::Set(d, 0x1.ec3214p-10f), m[k], hn::Set(d, -0x1.a1e72ap-12f));
  }
  for (const float c : {0x1.3c93d8p-5f, 0x1.b9b126p-4f, 0x1.6a3ed4p-2f, 0x1.fe3eaap-2f}) {
    for (size_t k = 0; k < kCount; ++k) {
      fraction[k] = hn::MulAdd(fraction[k], m[k], hn::Set(d, c));
    }
  }
  // Two's complement differs from the bias of 128 in the top bit of the eight.
  for (size_t k = 0; k < kCount; ++k) {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
    const VI bits{_mm512_ternarylogic_epi32(i[k].raw, _mm512_set1_epi32(0x7f800000),
                                            _mm512_set1_epi32(0x40000000), 0x6a)};
#else
    const VI bits = hn::Xor(hn::And(i[k], hn::Set(di, 0x7f800000)), hn::Set(di, 0x40000000));
#endif
    scale[k] = hn::BitCast(d, bits);
  }
}
template <class D, class V>
HWY_INLINE V power_of_two(D d, V units) {
  V scale, fraction;
  powers_of_two<1>(d, &units, &scale, &fraction);
  return hn::Mul(scale, fraction);
}

// exp(v) for v ≤ 0; 0 where it is next to nothing and for NaN.
template <class D, class V, hwy::EnableIf<sizeof(hn::TFromD<D>) == 4>* = nullptr>
HWY_INLINE V exponential(D d, V v) {
  const auto power = power_of_two(d, hn::MulAdd(v, hn::Set(d, kPerNat), hn::Set(d, -kOne)));
  return hn::IfThenElseZero(hn::Ge(v, hn::Set(d, -86.0f)), power);
}
template <class D, class V, hwy::EnableIf<sizeof(hn::TFromD<D>) == 8>* = nullptr>
HWY_INLINE V exponential(D d, V v) {
  const auto usable = hn::Ge(v, hn::Set(d, -700.0));
  return hn::IfThenElseZero(usable, hn::Exp(d, hn::IfThenElseZero(usable, v)));
}

// What the pairs of a range share: sizes, the map rearranged, and working memory.
template <typename T>
struct Plan {
  size_t positions, features, classes;
  size_t columns;  // features + 1; the bias is the last
  size_t blocks;   // of kBlock classes
  size_t vectors;  // of positions in a pair
  size_t tile;     // vectors of positions whose exponentials are held together
  bool bounded;    // whether the short cut is possible at all

  T* table;         // [blocks·kBlock, columns]: weight and bias; padding: 0 and −∞
  T* units;         // the same as the short cut measures scores; padding: 0 and −125
  T* reach;         // [columns]: the largest |weight| and |bias| of any class, in binary exponents
  T* x;             // [features, lanes]: a vector of positions, transposed
  T* x_grad;        // likewise
  T* exponentials;  // [blocks, tile, kBlock, lanes]
  T* scaled;        // [tile, columns, lanes]: x and 1 over the position's sum of exponentials
  T* sums;          // [blocks, columns, kBlock, lanes]
  T* gradient;      // [columns, blocks·kBlock]: one pair's
};

// Σ_c 2^{l_c} at a vector of positions within reach. With gradients also the terms and
// Σ_c 2^{l_c} W_c, the latter in the units of the table.
template <size_t kFeatures, bool kGradients>
HWY_NOINLINE void bounded_sum(const Plan<float>& plan, float* HWY_RESTRICT terms,
                              float* HWY_RESTRICT sum_out) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  const size_t stride = plan.tile * kBlock * lanes;
  V x[kFeatures], x_grad[kFeatures];
  for (size_t f = 0; f < kFeatures; ++f) {
    x[f] = hn::Load(d, plan.x + f * lanes);
    x_grad[f] = hn::Zero(d);
  }
  auto sum = hn::Zero(d);
  constexpr size_t kColumnsOfMap = kFeatures + 1;
  const float* HWY_RESTRICT rows = plan.units;
  for (size_t block = 0; block < plan.blocks; ++block) {
    V units[kBlock], scale[kBlock], fraction[kBlock];
    for (size_t k = 0; k < kBlock; ++k) {
      units[k] = hn::Set(d, rows[k * kColumnsOfMap + kFeatures]);
    }
    for (size_t f = 0; f < kFeatures; ++f) {
      for (size_t k = 0; k < kBlock; ++k) {
        units[k] = hn::MulAdd(x[f], hn::Set(d, rows[k * kColumnsOfMap + f]), units[k]);
      }
    }
    powers_of_two<kBlock>(d, units, scale, fraction);
    for (size_t k = 0; k < kBlock; ++k) {
      if constexpr (kGradients) {
        const auto term = hn::Mul(scale[k], fraction[k]);
        hn::Store(term, d, terms + k * lanes);
        sum = hn::Add(sum, term);
        for (size_t f = 0; f < kFeatures; ++f) {
          x_grad[f] = hn::MulAdd(term, hn::Set(d, rows[k * kColumnsOfMap + f]), x_grad[f]);
        }
      } else {
        sum = hn::MulAdd(scale[k], fraction[k], sum);
      }
    }
    rows += kBlock * kColumnsOfMap;
    if constexpr (kGradients) terms += stride;
  }
  hn::Store(sum, d, sum_out);
  if constexpr (kGradients) {
    for (size_t f = 0; f < kFeatures; ++f) hn::Store(x_grad[f], d, plan.x_grad + f * lanes);
  }
}

using BoundedSum = void (*)(const Plan<float>&, float*, float*);

template <bool kGradients>
BoundedSum bounded_sum_of(size_t features) {
  switch (features) {
    case 1:
      return bounded_sum<1, kGradients>;
    case 2:
      return bounded_sum<2, kGradients>;
    case 3:
      return bounded_sum<3, kGradients>;
    case 4:
      return bounded_sum<4, kGradients>;
    case 5:
      return bounded_sum<5, kGradients>;
    case 6:
      return bounded_sum<6, kGradients>;
    case 7:
      return bounded_sum<7, kGradients>;
    case 8:
      return bounded_sum<8, kGradients>;
    default:
      return nullptr;
  }
}

// max_c l_c and Σ_c exp(l_c − max) at any vector of positions. With gradients also the terms (they
// are written in any case) and Σ_c exp(l_c − max) W_c. The sum is NaN where the softmax is.
template <typename T>
HWY_NOINLINE void any_sum(const Plan<T>& plan, bool gradients, T* HWY_RESTRICT terms,
                          T* HWY_RESTRICT sum_out, T* HWY_RESTRICT max_out) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t stride = plan.tile * kBlock * lanes;
  const size_t columns = plan.columns;
  const auto infinity = hn::Set(d, std::numeric_limits<T>::infinity());
  auto max = hn::Neg(infinity);
  auto bad = hn::IsNaN(max);
  for (size_t block = 0; block < plan.blocks; ++block) {
    const T* HWY_RESTRICT w0 = plan.table + block * kBlock * columns;
    const T* HWY_RESTRICT w1 = w0 + columns;
    const T* HWY_RESTRICT w2 = w1 + columns;
    const T* HWY_RESTRICT w3 = w2 + columns;
    auto l0 = hn::Set(d, w0[columns - 1]), l1 = hn::Set(d, w1[columns - 1]);
    auto l2 = hn::Set(d, w2[columns - 1]), l3 = hn::Set(d, w3[columns - 1]);
    for (size_t f = 0; f + 1 < columns; ++f) {
      const auto x = hn::Load(d, plan.x + f * lanes);
      l0 = hn::MulAdd(x, hn::Set(d, w0[f]), l0);
      l1 = hn::MulAdd(x, hn::Set(d, w1[f]), l1);
      l2 = hn::MulAdd(x, hn::Set(d, w2[f]), l2);
      l3 = hn::MulAdd(x, hn::Set(d, w3[f]), l3);
    }
    T* HWY_RESTRICT out = terms + block * stride;
    hn::Store(l0, d, out);
    hn::Store(l1, d, out + lanes);
    hn::Store(l2, d, out + 2 * lanes);
    hn::Store(l3, d, out + 3 * lanes);
    // A maximum may or may not pass NaN on.
    bad = hn::Or(
        bad, hn::Or(hn::Or(hn::IsNaN(l0), hn::IsNaN(l1)), hn::Or(hn::IsNaN(l2), hn::IsNaN(l3))));
    max = hn::Max(max, hn::Max(hn::Max(l0, l1), hn::Max(l2, l3)));
  }
  bad = hn::Or(bad, hn::Eq(hn::Abs(max), infinity));

  auto sum = hn::Zero(d);
  for (size_t block = 0; block < plan.blocks; ++block) {
    T* HWY_RESTRICT out = terms + block * stride;
    for (size_t k = 0; k < kBlock; ++k, out += lanes) {
      const auto term = exponential(d, hn::Sub(hn::Load(d, out), max));
      hn::Store(term, d, out);
      sum = hn::Add(sum, term);
    }
  }
  hn::Store(hn::IfThenElse(bad, hn::Set(d, std::numeric_limits<T>::quiet_NaN()), sum), d, sum_out);
  hn::Store(max, d, max_out);

  if (!gradients) return;
  for (size_t f = 0; f + 1 < columns; ++f) {
    auto g0 = hn::Zero(d), g1 = g0, g2 = g0, g3 = g0;
    for (size_t block = 0; block < plan.blocks; ++block) {
      const T* HWY_RESTRICT w = plan.table + block * kBlock * columns + f;
      const T* HWY_RESTRICT in = terms + block * stride;
      g0 = hn::MulAdd(hn::Load(d, in), hn::Set(d, w[0]), g0);
      g1 = hn::MulAdd(hn::Load(d, in + lanes), hn::Set(d, w[columns]), g1);
      g2 = hn::MulAdd(hn::Load(d, in + 2 * lanes), hn::Set(d, w[2 * columns]), g2);
      g3 = hn::MulAdd(hn::Load(d, in + 3 * lanes), hn::Set(d, w[3 * columns]), g3);
    }
    hn::Store(hn::Add(hn::Add(g0, g1), hn::Add(g2, g3)), d, plan.x_grad + f * lanes);
  }
}

// out[k] = the sum of the lanes of v_k.
template <class D, class V, typename T = hn::TFromD<D>>
HWY_INLINE void store_sums(D d, V v0, V v1, V v2, V v3, T* HWY_RESTRICT out) {
#if HWY_TARGET != HWY_SCALAR && !HWY_HAVE_SCALABLE
  if constexpr (sizeof(T) == 4) {
    // Transposes while adding, which is half the shuffles of four sums.
    const hn::RepartitionToWide<D> dw;
    const auto v01 =
        hn::BitCast(dw, hn::Add(hn::InterleaveLower(d, v0, v1), hn::InterleaveUpper(d, v0, v1)));
    const auto v23 =
        hn::BitCast(dw, hn::Add(hn::InterleaveLower(d, v2, v3), hn::InterleaveUpper(d, v2, v3)));
    const auto v = hn::Add(hn::BitCast(d, hn::InterleaveLower(dw, v01, v23)),
                           hn::BitCast(d, hn::InterleaveUpper(dw, v01, v23)));
    HWY_ALIGN T lanes[hn::MaxLanes(d)];
    hn::Store(v, d, lanes);
    const hn::FixedTag<T, 4> d4;
    auto sum = hn::Load(d4, lanes);
    for (size_t i = 4; i < hn::Lanes(d); i += 4) sum = hn::Add(sum, hn::Load(d4, lanes + i));
    hn::StoreU(sum, d4, out);
    return;
  }
#endif
  out[0] = hn::GetLane(hn::SumOfLanes(d, v0));
  out[1] = hn::GetLane(hn::SumOfLanes(d, v1));
  out[2] = hn::GetLane(hn::SumOfLanes(d, v2));
  out[3] = hn::GetLane(hn::SumOfLanes(d, v3));
}

// Adds a tile of `count` vectors of positions, of which x and 1 are scaled, to kCount columns of
// the gradient from `column` on: lane by lane from tile to tile, and across lanes in the last one.
template <size_t kCount, typename T>
HWY_NOINLINE void add_tile(const Plan<T>& plan, size_t column, size_t count, bool first,
                           bool last) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  const size_t padded = plan.blocks * kBlock;
  for (size_t block = 0; block < plan.blocks; ++block) {
    T* HWY_RESTRICT sums = plan.sums + (block * plan.columns + column) * kBlock * lanes;
    V s[kCount][kBlock];
    for (size_t j = 0; j < kCount; ++j) {
      for (size_t k = 0; k < kBlock; ++k) {
        s[j][k] = first ? hn::Zero(d) : hn::Load(d, sums + (j * kBlock + k) * lanes);
      }
    }
    const T* HWY_RESTRICT terms = plan.exponentials + block * plan.tile * kBlock * lanes;
    const T* HWY_RESTRICT scaled = plan.scaled + column * lanes;
    for (size_t t = 0; t < count; ++t) {
      V term[kBlock];
      for (size_t k = 0; k < kBlock; ++k) term[k] = hn::Load(d, terms + k * lanes);
      for (size_t j = 0; j < kCount; ++j) {
        const auto x = hn::Load(d, scaled + j * lanes);
        for (size_t k = 0; k < kBlock; ++k) s[j][k] = hn::MulAdd(term[k], x, s[j][k]);
      }
      terms += kBlock * lanes;
      scaled += plan.columns * lanes;
    }
    for (size_t j = 0; j < kCount; ++j) {
      if (last) {
        store_sums(d, s[j][0], s[j][1], s[j][2], s[j][3],
                   plan.gradient + (column + j) * padded + block * kBlock);
      } else {
        for (size_t k = 0; k < kBlock; ++k) hn::Store(s[j][k], d, sums + (j * kBlock + k) * lanes);
      }
    }
  }
}

template <typename T>
void add_tile(const Plan<T>& plan, size_t count, bool first, bool last) {
  for (size_t column = 0; column < plan.columns;) {
    const size_t n = std::min(plan.columns - column, kColumns);
    switch (n) {
      case 1:
        add_tile<1>(plan, column, count, first, last);
        break;
      case 2:
        add_tile<2>(plan, column, count, first, last);
        break;
      case 3:
        add_tile<3>(plan, column, count, first, last);
        break;
      case 4:
        add_tile<std::min<size_t>(4, kColumns)>(plan, column, count, first, last);
        break;
      case 5:
        add_tile<std::min<size_t>(5, kColumns)>(plan, column, count, first, last);
        break;
      default:
        add_tile<kColumns>(plan, column, count, first, last);
        break;
    }
    column += n;
  }
}

// factor·sums, laid out as the gradient of a plan, becomes the gradient of the map with that index.
template <typename T, typename S>
void write_map(const Plan<T>& plan, const S* HWY_RESTRICT sums, S factor, size_t index,
               const LinearCrossEntropyGradients<T>& gradients) {
  const size_t padded = plan.blocks * kBlock;
  if (gradients.weight != nullptr) {
    T* HWY_RESTRICT weight = gradients.weight + index * plan.classes * plan.features;
    for (size_t c = 0; c < plan.classes; ++c) {
      for (size_t f = 0; f < plan.features; ++f) {
        *weight++ = static_cast<T>(factor * sums[f * padded + c]);
      }
    }
  }
  if (gradients.bias != nullptr) {
    T* HWY_RESTRICT bias = gradients.bias + index * plan.classes;
    for (size_t c = 0; c < plan.classes; ++c) {
      bias[c] = static_cast<T>(factor * sums[plan.features * padded + c]);
    }
  }
}

template <typename T>
void run_pairs(const LinearCrossEntropyShape& shape, const LinearCrossEntropyInputs<T>& inputs,
               const LinearCrossEntropyGradients<T>* gradients, int64_t begin, int64_t end,
               T* nll_out) {
  using TI = hwy::MakeSigned<T>;
  const hn::ScalableTag<T> d;
  const hn::RebindToSigned<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);

  Plan<T> plan;
  plan.positions = static_cast<size_t>(shape.positions);
  plan.features = static_cast<size_t>(shape.features);
  plan.classes = static_cast<size_t>(shape.classes);
  plan.columns = plan.features + 1;
  plan.blocks = (plan.classes + kBlock - 1) / kBlock;
  plan.vectors = (plan.positions + lanes - 1) / lanes;
  const size_t features = plan.features, columns = plan.columns;
  const size_t padded = plan.blocks * kBlock;
  const bool want_x = gradients != nullptr && gradients->features != nullptr;
  const bool want_w =
      gradients != nullptr && (gradients->weight != nullptr || gradients->bias != nullptr);
  plan.tile = 1;
  if (want_w && plan.vectors > 0) {
    const size_t most = std::max<size_t>(1, kTileBytes / (padded * lanes * sizeof(T)));
    const size_t tiles = (plan.vectors + most - 1) / most;
    plan.tile = (plan.vectors + tiles - 1) / tiles;
  }

  size_t size = 0;
  const auto place = [&](size_t n) {
    const size_t at = size;
    size += (n + 63) / 64 * 64;
    return at;
  };
  const size_t table = place(padded * columns), units = place(padded * columns);
  const size_t reach = place(columns), x_at = place(features * lanes);
  const size_t x_grad = place(features * lanes), sum_at = place(lanes), max_at = place(lanes);
  const size_t exponentials = place(plan.tile * padded * lanes);
  const size_t scaled = place(plan.tile * columns * lanes);
  const size_t sums = place(want_w ? padded * columns * lanes : 0);
  const size_t gradient = place(want_w ? padded * columns : 0);
  Scratch<T> scratch(size + 64);
  T* base = scratch.data();
  base += (64 - reinterpret_cast<uintptr_t>(base) % 64) % 64 / sizeof(T);
  plan.table = base + table;
  plan.units = base + units;
  plan.reach = base + reach;
  plan.x = base + x_at;
  plan.x_grad = base + x_grad;
  plan.exponentials = base + exponentials;
  plan.scaled = base + scaled;
  plan.sums = base + sums;
  plan.gradient = base + gradient;
  T* HWY_RESTRICT sum_lanes = base + sum_at;
  T* HWY_RESTRICT max_lanes = base + max_at;

  const size_t total_size = want_w && !gradients->per_pair ? padded * columns : 0;
  Scratch<double> total_scratch(total_size);
  double* HWY_RESTRICT total = total_scratch.data();
  std::fill_n(total, total_size, 0.0);

  for (size_t c = 0; c < padded; ++c) {
    T* HWY_RESTRICT row = plan.table + c * columns;
    if (c < plan.classes) {
      std::copy_n(inputs.weight + c * features, features, row);
      row[features] = inputs.bias[c];
    } else {
      std::fill_n(row, features, T{0});
      row[features] = -std::numeric_limits<T>::infinity();
    }
  }
  BoundedSum bounded_forward = nullptr, bounded_gradients = nullptr;
  if constexpr (sizeof(T) == 4) {
    bounded_forward = bounded_sum_of<false>(features);
    bounded_gradients = bounded_sum_of<true>(features);
    for (size_t j = 0; j < columns; ++j) {
      float largest = 0;
      bool legal = true;
      for (size_t c = 0; c < plan.classes; ++c) {
        const float w = plan.table[c * columns + j];
        largest = std::max(largest, std::abs(w));
        legal = legal && std::isfinite(w);
        plan.units[c * columns + j] = j < features ? w * kPerNat : std::fma(w, kPerNat, -kOne);
      }
      for (size_t c = plan.classes; c < padded; ++c) {
        plan.units[c * columns + j] = j < features ? 0 : -125 * kOne;
      }
      if (!legal || (j < features && largest > kLargeWeight)) {
        largest = std::numeric_limits<float>::infinity();
      }
      plan.reach[j] = largest * (kPerNat / kOne);
    }
  }
  plan.bounded = bounded_forward != nullptr;

  for (int64_t pair = begin; pair < end; ++pair) {
    const auto pair_index = static_cast<size_t>(pair);
    const size_t target_row =
        inputs.rows != nullptr ? static_cast<size_t>(inputs.rows[pair]) : pair_index;
    const int64_t* HWY_RESTRICT targets = inputs.targets + target_row * plan.positions;
    const T* HWY_RESTRICT x_pair = inputs.features + pair_index * plan.positions * features;
    const T g = gradients != nullptr && gradients->pair_weights != nullptr
                    ? gradients->pair_weights[pair]
                    : T{1};
    // The sum over positions and what its roundings lost.
    auto nll = hn::Zero(d), lost = hn::Zero(d);

    for (size_t first = 0; first < plan.vectors; first += plan.tile) {
      const size_t count = std::min(plan.tile, plan.vectors - first);
      for (size_t t = 0; t < count; ++t) {
        const size_t p = (first + t) * lanes;
        const size_t n = std::min(lanes, plan.positions - p);
        HWY_ALIGN TI offsets[HWY_MAX_BYTES / sizeof(T)];
        for (size_t i = 0; i < n; ++i) {
          offsets[i] = static_cast<TI>(targets[p + i] * static_cast<int64_t>(columns));
          const T* HWY_RESTRICT from = x_pair + (p + i) * features;
          for (size_t f = 0; f < features; ++f) plan.x[f * lanes + i] = from[f];
        }
        for (size_t i = n; i < lanes; ++i) {
          offsets[i] = 0;
          for (size_t f = 0; f < features; ++f) plan.x[f * lanes + i] = 0;
        }
        const auto offset = hn::Load(di, offsets);

        bool bounded = plan.bounded;
        if (bounded) {
          auto bound = hn::Set(d, plan.reach[features]);
          for (size_t f = 0; f < features; ++f) {
            bound = hn::MulAdd(hn::Abs(hn::Load(d, plan.x + f * lanes)), hn::Set(d, plan.reach[f]),
                               bound);
          }
          bounded = hn::AllTrue(d, hn::Le(bound, hn::Set(d, static_cast<T>(kReach))));
        }

        T* HWY_RESTRICT terms = plan.exponentials + t * kBlock * lanes;
        const T* HWY_RESTRICT used = bounded ? plan.units : plan.table;
        auto target = hn::GatherIndex(d, used + features, offset);
        if constexpr (sizeof(T) == 4) {
          if (bounded) {
            (gradients != nullptr ? bounded_gradients : bounded_forward)(plan, terms, sum_lanes);
          }
        }
        if (!bounded) any_sum(plan, gradients != nullptr, terms, sum_lanes, max_lanes);
        for (size_t f = 0; f < features; ++f) {
          target = hn::MulAdd(hn::Load(d, plan.x + f * lanes), hn::GatherIndex(d, used + f, offset),
                              target);
        }
        const auto sum = hn::Load(d, sum_lanes);
        auto here = hn::Zero(d);
        if constexpr (sizeof(T) == 4) {
          if (bounded) {
            // The target's term as it is in the sum: a probability next to 1 keeps its digits.
            const auto ratio = hn::Div(sum, power_of_two(d, target));
            // Beyond that it may overflow.
            const auto near = hn::Le(ratio, hn::Set(d, 0x1p100f));
            const auto log = hn::Log(d, hn::IfThenElse(near, ratio, sum));
            const auto score = hn::Mul(hn::Add(target, hn::Set(d, kOne)), hn::Set(d, 1 / kPerNat));
            here = hn::IfThenElse(near, log, hn::Sub(log, score));
          }
        }
        if (!bounded) {
          here = hn::Add(hn::Log(d, sum), hn::Sub(hn::Load(d, max_lanes), target));
          here = hn::IfThenElse(hn::IsNaN(sum), sum, here);  // Log does not pass NaN on
        }
        const auto valid = hn::FirstN(d, n);
        if (n < lanes) here = hn::IfThenElseZero(valid, here);
        const auto next = hn::Add(nll, here);
        const auto part = hn::Sub(next, nll);
        lost = hn::Add(lost, hn::Add(hn::Sub(nll, hn::Sub(next, part)), hn::Sub(here, part)));
        nll = next;
        if (gradients == nullptr) continue;

        auto inverse = hn::Div(hn::Set(d, T{1}), sum);
        if (n < lanes) inverse = hn::IfThenElseZero(valid, inverse);
        if (want_x) {
          const auto scale = hn::Set(d, bounded ? g * static_cast<T>(1 / kPerNat) : g);
          for (size_t f = 0; f < features; ++f) {
            const auto mean = hn::Mul(hn::Load(d, plan.x_grad + f * lanes), inverse);
            const auto w = hn::GatherIndex(d, used + f, offset);
            hn::Store(hn::Mul(hn::Sub(mean, w), scale), d, plan.x_grad + f * lanes);
          }
          T* HWY_RESTRICT to = gradients->features + (pair_index * plan.positions + p) * features;
          for (size_t i = 0; i < n; ++i) {
            for (size_t f = 0; f < features; ++f) to[i * features + f] = plan.x_grad[f * lanes + i];
          }
        }
        if (want_w) {
          T* HWY_RESTRICT scaled_t = plan.scaled + t * columns * lanes;
          for (size_t f = 0; f < features; ++f) {
            hn::Store(hn::Mul(hn::Load(d, plan.x + f * lanes), inverse), d, scaled_t + f * lanes);
          }
          hn::Store(inverse, d, scaled_t + features * lanes);
          // p_y − 1 is (e_y − Σe)/Σe.
          for (size_t i = 0; i < n; ++i) {
            const auto y = static_cast<size_t>(targets[p + i]);
            terms[(y / kBlock * plan.tile * kBlock + y % kBlock) * lanes + i] -= sum_lanes[i];
          }
        }
      }
      if (want_w) add_tile(plan, count, first == 0, first + count == plan.vectors);
    }

    if (nll_out != nullptr) {
      HWY_ALIGN T high[HWY_MAX_BYTES / sizeof(T)], low[HWY_MAX_BYTES / sizeof(T)];
      hn::Store(nll, d, high);
      hn::Store(lost, d, low);
      double sum = 0, rest = 0;
      for (size_t i = 0; i < lanes; ++i) {
        sum += static_cast<double>(high[i]);
        rest += static_cast<double>(low[i]);
      }
      nll_out[pair] = static_cast<T>(std::isfinite(sum) ? sum + rest : sum);
    }
    if (want_w) {
      if (plan.vectors == 0) std::fill_n(plan.gradient, padded * columns, T{0});
      const T* HWY_RESTRICT unit = plan.gradient;
      if (gradients->per_pair) {
        write_map(plan, unit, g, pair_index, *gradients);
      } else {
        for (size_t i = 0; i < total_size; ++i) {
          total[i] += static_cast<double>(g) * static_cast<double>(unit[i]);
        }
      }
    }
  }

  if (want_w && !gradients->per_pair) write_map(plan, total, 1.0, 0, *gradients);
}

void linear_cross_entropy_float(const LinearCrossEntropyShape& shape,
                                const LinearCrossEntropyInputs<float>& inputs,
                                const LinearCrossEntropyGradients<float>* gradients, int64_t begin,
                                int64_t end, float* nll) {
  run_pairs(shape, inputs, gradients, begin, end, nll);
}
void linear_cross_entropy_double(const LinearCrossEntropyShape& shape,
                                 const LinearCrossEntropyInputs<double>& inputs,
                                 const LinearCrossEntropyGradients<double>* gradients,
                                 int64_t begin, int64_t end, double* nll) {
  run_pairs(shape, inputs, gradients, begin, end, nll);
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparsum::kernels {

HWY_EXPORT(linear_cross_entropy_float);
HWY_EXPORT(linear_cross_entropy_double);

void linear_cross_entropy_forward(const LinearCrossEntropyShape& shape,
                                  const LinearCrossEntropyInputs<float>& inputs, int64_t begin,
                                  int64_t end, float* nll) {
  HWY_DYNAMIC_DISPATCH(linear_cross_entropy_float)(shape, inputs, nullptr, begin, end, nll);
}
void linear_cross_entropy_forward(const LinearCrossEntropyShape& shape,
                                  const LinearCrossEntropyInputs<double>& inputs, int64_t begin,
                                  int64_t end, double* nll) {
  HWY_DYNAMIC_DISPATCH(linear_cross_entropy_double)(shape, inputs, nullptr, begin, end, nll);
}

void linear_cross_entropy_gradients(const LinearCrossEntropyShape& shape,
                                    const LinearCrossEntropyInputs<float>& inputs,
                                    const LinearCrossEntropyGradients<float>& gradients,
                                    int64_t begin, int64_t end, float* nll) {
  HWY_DYNAMIC_DISPATCH(linear_cross_entropy_float)(shape, inputs, &gradients, begin, end, nll);
}
void linear_cross_entropy_gradients(const LinearCrossEntropyShape& shape,
                                    const LinearCrossEntropyInputs<double>& inputs,
                                    const LinearCrossEntropyGradients<double>& gradients,
                                    int64_t begin, int64_t end, double* nll) {
  HWY_DYNAMIC_DISPATCH(linear_cross_entropy_double)(shape, inputs, &gradients, begin, end, nll);
}

}  // namespace sparsum::kernels
#endif  // HWY_ONCE
