#include "sparsum/kernels/binarize.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/binarize.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V hash(D d, V counter, V key0, V key1) {
  V x = hn::Xor(counter, key0);
  x = hn::Xor(x, hn::ShiftRight<16>(x));
  x = hn::Mul(x, hn::Set(d, 0x21f0aaadu));
  x = hn::Xor(x, hn::ShiftRight<15>(x));
  x = hn::Xor(x, key1);
  x = hn::Mul(x, hn::Set(d, 0xd35a2d97u));
  return hn::Xor(x, hn::ShiftRight<15>(x));
}

// Lanes(d) elements with the low index words `counter`.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void binarize_vector(D d, const uint8_t* HWY_RESTRICT grey, float* HWY_RESTRICT out,
                                V counter, V key0, V key1) {
  const hn::Rebind<uint8_t, D> d8;
  const hn::Rebind<float, D> df;
  const auto level = hn::PromoteTo(d, hn::LoadU(d8, grey));
  // 2³² = 255·0x01010101 + 1, so h < level·2³²/255 is h ≤ level·0x01010101, except that level 0
  // admits nothing. The product is the byte repeated, and shifts beat a 32-bit multiplication.
  const auto pair = hn::Or(level, hn::ShiftLeft<8>(level));
  const auto limit = hn::Or(pair, hn::ShiftLeft<16>(pair));
  const auto above = hn::Gt(hash(d, counter, key0, key1), limit);
  const auto one = hn::BitCast(d, hn::Set(df, 1.0f));
  const auto bits = hn::IfThenZeroElse(above, hn::IfThenElseZero(hn::Ne(level, hn::Zero(d)), one));
  hn::StoreU(hn::BitCast(df, bits), df, out);
}

// One range whose indices share the high word.
void binarize_range(const uint8_t* HWY_RESTRICT grey, float* HWY_RESTRICT out, size_t n,
                    uint32_t counter, uint32_t key0, uint32_t key1) {
  const hn::ScalableTag<uint32_t> d;
  const size_t lanes = hn::Lanes(d);
  const auto v0 = hn::Set(d, key0), v1 = hn::Set(d, key1);
  const auto first = hn::Add(hn::Iota(d, 0), hn::Set(d, counter));
  // Carried along: GCC builds an Iota inside the loop lane by lane, at eight times the cost.
  const auto step = hn::Set(d, static_cast<uint32_t>(lanes));
  auto counters = first;
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    binarize_vector(d, grey + i, out + i, counters, v0, v1);
    counters = hn::Add(counters, step);
  }
  if (i == n) return;
  if (n >= lanes) {
    // The last vector overlaps the one before it and repeats its draws.
    i = n - lanes;
    counters = hn::Add(first, hn::Set(d, static_cast<uint32_t>(i)));
    binarize_vector(d, grey + i, out + i, counters, v0, v1);
    return;
  }
  const hn::CappedTag<uint32_t, 1> d1;
  for (; i < n; ++i) {
    binarize_vector(d1, grey + i, out + i, hn::Set(d1, counter + static_cast<uint32_t>(i)),
                    hn::Set(d1, key0), hn::Set(d1, key1));
  }
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparsum::kernels {

HWY_EXPORT(binarize_range);

namespace {

// SplitMix64's output function (Steele, Lea and Flood, 2014).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

void binarize(const uint8_t* grey, float* out, int64_t begin, int64_t end, uint64_t seed) {
  while (begin < end) {
    const uint64_t high = static_cast<uint64_t>(begin) >> 32;
    const int64_t stop = std::min(end, static_cast<int64_t>((high + 1) << 32));
    const uint64_t key = mix(seed + (high + 1) * 0x9e3779b97f4a7c15u);
    HWY_DYNAMIC_DISPATCH(binarize_range)
    (grey + begin, out + begin, static_cast<size_t>(stop - begin), static_cast<uint32_t>(begin),
     static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
    begin = stop;
  }
}

}  // namespace sparsum::kernels
#endif  // HWY_ONCE
