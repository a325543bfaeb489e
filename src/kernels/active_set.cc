#include "sparsum/kernels/active_set.h"

// What does not depend on the SIMD target; foreach_target includes this file once per target.
#ifndef SPARSUM_ACTIVE_SET_WORKSPACE_
#define SPARSUM_ACTIVE_SET_WORKSPACE_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <new>
#include <type_traits>
#include <utility>

namespace sparsum::kernels {
namespace {

// Elements beyond the last that vectors may read and write.
constexpr size_t kPad = 16;

// Loss of independence: a configuration counts as affinely dependent on the support when its
// squared pivot is below this fraction of its diagonal entry of K. Pivots of K that are not 0 are
// quotients of determinants of integer matrices, far above it in all supports met; the rounding of
// a zero pivot is far below.
constexpr double kDependent = 1e-10;

// A gap below kRounding·scale·V may be rounding; only if no step gets further is it accepted.
constexpr double kRounding = 1e-12;

// Weights up to that are rounding errors of 0; their configurations are not listed.
constexpr double kNothing = 1e-14;

// Newton steps of that length leave rounding errors in the weights that one more, at the end, takes
// away.
constexpr double kRough = 1e3;

constexpr size_t round_up(size_t n, size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Growing memory, aligned to cache lines, uninitialised.
template <typename T>
class Buffer {
 public:
  static_assert(std::is_trivial_v<T>);
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](size_t i) { return data_.get()[i]; }
  size_t size() const { return size_; }

  // At least `size` elements; keeps the first `keep`.
  void reserve(size_t size, size_t keep = 0) {
    if (size <= size_) return;
    Pointer larger(static_cast<T*>(::operator new (size * sizeof(T), std::align_val_t{64})));
    keep = std::min(keep, size_);
    if (keep > 0) std::memcpy(larger.get(), data_.get(), keep * sizeof(T));
    data_ = std::move(larger);
    size_ = size;
  }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  using Pointer = std::unique_ptr<T, Free>;
  Pointer data_;
  size_t size_ = 0;
};

// Eight indicators as the bits of a byte, the first lowest, and back. `ok` turns false where one is
// neither 0 nor 1.
uint8_t pack8(const uint8_t* in, size_t n, bool& ok) {
  constexpr uint64_t kOnes = 0x0101010101010101u;
  if (std::endian::native == std::endian::little && n == 8) {
    uint64_t x;
    std::memcpy(&x, in, 8);
    ok &= (x & ~kOnes) == 0;
    return static_cast<uint8_t>(((x & kOnes) * 0x0102040810204080u) >> 56);
  }
  unsigned bits = 0;
  for (size_t i = 0; i < n; ++i) {
    ok &= in[i] <= 1;
    bits |= (in[i] & 1u) << i;
  }
  return static_cast<uint8_t>(bits);
}

void unpack8(uint8_t bits, uint8_t* out, size_t n) {
  if (std::endian::native == std::endian::little && n == 8) {
    // Byte i keeps bit i alone, and any bit at all carries into the byte's highest.
    uint64_t x = (bits * uint64_t{0x0101010101010101u}) & 0x8040201008040201u;
    x = ((x + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
    std::memcpy(out, &x, 8);
    return;
  }
  for (size_t i = 0; i < n; ++i) out[i] = (bits >> i) & 1u;
}

uint64_t load_word(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  return word;
}

}  // namespace

// Parts are laid out with the variables from 0 and the additionals from `additional_begin`, both
// padded with parts that no configuration uses, so that every loop runs over whole vectors. A
// configuration is a row of bits in that layout.
//
// Rows and the factorisation are those of the set reflected at the configuration `origin`: a' = a
// xor origin, with r' = ±r. Reflecting changes neither the norm nor the QP; parts on which the
// whole support agrees with the origin drop out of K, and their marginals are exact.
struct ActiveSet::Workspace {
  ActiveSetSolution solution;

  size_t parts = 0, variables = 0;
  size_t variable_end = 0;                          // the variables, padded to 8
  size_t additional_begin = 0, additional_end = 0;  // multiple of 64; padded to 8
  size_t row_bytes = 0, variable_bytes = 0;         // multiples of 8
  bool any_forbidden = false;
  double scale = 1;

  Buffer<double> t, mu, r;            // by part; t and r are 0 at forbidden and padding parts
  Buffer<double> reflected;           // r' (refine), or scores to select from
  Buffer<uint8_t> origin, forbidden;  // bits
  Buffer<double> plain_scores;        // as the callback gets them
  Buffer<uint8_t> plain_bits;

  bool rough = false;  // large numbers went into the weights since they were last refined

  // The support. Row z of `inverse` is row z of L⁻¹, K = L Lᵀ: z + 1 entries, then at least kPad
  // zeros. All vectors over the support are followed by zeros too.
  size_t m = 0, capacity = 0, stride = 0;
  Buffer<uint8_t> rows;
  Buffer<int32_t> sizes;  // variables that are on in each reflected row
  Buffer<double> inverse;
  Buffer<double> xi;        // the weights, feasible
  Buffer<double> target;    // the QP's solution, its sum 1
  Buffer<double> ones;      // K⁻¹ 1
  Buffer<double> column;    // a right-hand side, e.g. a column of K
  Buffer<double> half;      // L⁻¹ column
  Buffer<double> whole;     // L⁻ᵀ half
  Buffer<double> rotation;  // working memory of a downdate: two rows
  Buffer<int64_t> kept;     // load_support: where each configuration of the support was

  uint8_t* row(size_t z) { return rows.data() + z * row_bytes; }
  double* inverse_row(size_t z) { return inverse.data() + z * stride; }
  size_t position(size_t part) const {
    return part < variables ? part : additional_begin + (part - variables);
  }

  void set_shape(size_t new_parts, size_t new_variables) {
    parts = new_parts;
    variables = new_variables;
    variable_end = round_up(variables, 8);
    additional_begin = round_up(variables, 64);
    additional_end = additional_begin + round_up(parts - variables, 8);
    variable_bytes = additional_begin / 8;
    row_bytes = round_up(additional_end, 64) / 8;
    const size_t padded = round_up(additional_end, 64) + kPad;
    t.reserve(padded);
    mu.reserve(padded);
    r.reserve(padded);
    reflected.reserve(padded);
    origin.reserve(row_bytes + kPad);
    forbidden.reserve(row_bytes + kPad);
    m = 0;
    capacity = rows.size() < kPad ? 0 : std::min(capacity, (rows.size() - kPad) / row_bytes);
    reserve_support(std::min<size_t>(variables + 1, 32));
  }

  // Room for `count` configurations and one candidate.
  void reserve_support(size_t count) {
    if (count + 1 <= capacity) return;
    const size_t used = rows.size() == 0 ? 0 : m + 1;
    capacity = round_up(std::max(count + 1, capacity * 2), 8);
    // Not a power of two, whose rows would compete for the same cache sets.
    const size_t new_stride = capacity + kPad + 8;
    rows.reserve(capacity * row_bytes + kPad, used * row_bytes);
    if (m == 0) {
      inverse.reserve(capacity * new_stride);
    } else {
      Buffer<double> moved;
      moved.reserve(capacity * new_stride);
      for (size_t z = 0; z < m; ++z) {
        std::memcpy(moved.data() + z * new_stride, inverse_row(z), (z + 1) * sizeof(double));
        std::fill_n(moved.data() + z * new_stride + z + 1, new_stride - z - 1, 0.0);
      }
      inverse = std::move(moved);
    }
    stride = new_stride;
    const size_t length = capacity + kPad;
    sizes.reserve(length, used);
    for (Buffer<double>* v : {&xi, &target, &ones, &column, &half, &whole}) {
      v->reserve(length, used);
      std::fill(v->data() + used, v->data() + length, 0.0);
    }
    rotation.reserve(2 * length);
  }

  // Packs indicators in the caller's layout. False if one is neither 0 nor 1.
  bool pack(const uint8_t* in, uint8_t* bits) const {
    bool ok = true;
    std::memset(bits, 0, row_bytes);
    for (size_t i = 0; i < variables; i += 8)
      bits[i / 8] = pack8(in + i, std::min<size_t>(8, variables - i), ok);
    for (size_t i = variables; i < parts; i += 8) {
      bits[(additional_begin + i - variables) / 8] =
          pack8(in + i, std::min<size_t>(8, parts - i), ok);
    }
    return ok;
  }

  bool uses_forbidden(const uint8_t* bits) {
    if (!any_forbidden) return false;
    uint64_t common = 0;
    for (size_t b = 0; b < row_bytes; b += 8)
      common |= load_word(bits + b) & load_word(forbidden.data() + b);
    return common != 0;
  }

  void reflect(uint8_t* bits) {
    for (size_t b = 0; b < row_bytes; b += 8) {
      const uint64_t word = load_word(bits + b) ^ load_word(origin.data() + b);
      std::memcpy(bits + b, &word, 8);
    }
  }

  // The support that is given, less what depends on earlier rows, and its factorisation.
  void load_support(const uint8_t* configurations, size_t count, size_t new_parts,
                    size_t new_variables);

  void set_origin(const uint8_t* bits) { std::memcpy(origin.data(), bits, row_bytes); }

  // False if a score is NaN or +∞.
  bool set_scores(const double* scores) {
    std::fill_n(t.data(), additional_end, 0.0);
    std::memset(forbidden.data(), 0, row_bytes);
    any_forbidden = false;
    double largest = 1, smallest = 0;
    bool legal = true;
    for (size_t i = 0; i < parts; ++i) {
      legal &= scores[i] <= std::numeric_limits<double>::max();
      smallest = std::min(smallest, scores[i]);
    }
    if (!legal) return false;
    std::memcpy(t.data(), scores, variables * sizeof(double));
    std::memcpy(t.data() + additional_begin, scores + variables,
                (parts - variables) * sizeof(double));
    if (smallest == -std::numeric_limits<double>::infinity()) {
      any_forbidden = true;
      for (size_t i = 0; i < parts; ++i) {
        if (scores[i] >= std::numeric_limits<double>::lowest()) continue;
        const size_t p = position(i);
        t[p] = 0;
        forbidden[p / 8] = static_cast<uint8_t>(forbidden[p / 8] | 1u << p % 8);
      }
    }
    for (size_t i = 0; i < additional_end; ++i) largest = std::max(largest, std::abs(t[i]));
    scale = largest;
    // The additionals' part of r never changes.
    std::copy(t.data() + additional_begin, t.data() + additional_end, r.data() + additional_begin);
    std::fill(r.data() + variable_end, r.data() + additional_begin, 0.0);
    return true;
  }

  void write_solution() {
    ActiveSetSolution& s = solution;
    if (s.status > ActiveSetStatus::kStalled) return;  // there is none
    s.scale = scale;
    s.weights.clear();
    s.marginals.resize(parts);
    std::copy_n(mu.data(), variables, s.marginals.data());
    std::copy_n(mu.data() + additional_begin, parts - variables, s.marginals.data() + variables);
    double squares = 0, linear = 0;
    for (size_t i = 0; i < variables; ++i) squares += r[i] * r[i];
    for (size_t i = additional_begin; i < additional_end; ++i) linear += mu[i] * t[i];
    s.objective = 0.5 * squares - linear;
    s.configurations.resize(m * parts);
    for (size_t z = 0; z < m; ++z) {
      if (xi[z] <= kNothing) continue;
      const uint8_t *bits = row(z), *from = origin.data();
      uint8_t* out = s.configurations.data() + s.weights.size() * parts;
      s.weights.push_back(xi[z]);
      for (size_t i = 0; i < variables; i += 8)
        unpack8(bits[i / 8] ^ from[i / 8], out + i, std::min<size_t>(8, variables - i));
      for (size_t i = variables; i < parts; i += 8) {
        const size_t b = (additional_begin + i - variables) / 8;
        unpack8(bits[b] ^ from[b], out + i, std::min<size_t>(8, parts - i));
      }
    }
    s.support = static_cast<int64_t>(s.weights.size());
    s.configurations.resize(s.weights.size() * parts);
  }
};

}  // namespace sparsum::kernels

#endif  // SPARSUM_ACTIVE_SET_WORKSPACE_

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/active_set.cc"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway requires.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Workspace = ActiveSet::Workspace;
// Padding is in units of 8.
using Doubles = hn::CappedTag<double, 8>;

// The mask of parts i, i + 1, …; i is a multiple of the vector's length.
HWY_INLINE hn::Mask<Doubles> mask_at(Doubles d, const uint8_t* bits, size_t i) {
  if (hn::Lanes(d) == 8) return hn::LoadMaskBits(d, bits + i / 8);
  const uint8_t byte[8] = {static_cast<uint8_t>(bits[i / 8] >> (i % 8))};
  return hn::LoadMaskBits(d, byte);
}

// Stores a mask at part i; parts come in ascending order.
HWY_INLINE void store_mask(Doubles d, hn::Mask<Doubles> mask, uint8_t* bits, size_t i) {
  uint8_t byte[8];
  hn::StoreMaskBits(d, mask, byte);
  if (hn::Lanes(d) == 8 || i % 8 == 0) {
    bits[i / 8] = byte[0];
  } else {
    bits[i / 8] = static_cast<uint8_t>(bits[i / 8] | byte[0] << (i % 8));
  }
}

HWY_INLINE double sum(Doubles d, hn::Vec<Doubles> v) { return hn::GetLane(hn::SumOfLanes(d, v)); }

HWY_INLINE double sum(Doubles d, const double* HWY_RESTRICT x, size_t m) {
  auto total = hn::Zero(d);
  for (size_t z = 0; z < m; z += hn::Lanes(d)) total = hn::Add(total, hn::Load(d, x + z));
  return sum(d, total);
}

// y += factor·x
HWY_INLINE void add_scaled(Doubles d, double factor, const double* HWY_RESTRICT x,
                           double* HWY_RESTRICT y, size_t m) {
  const auto f = hn::Set(d, factor);
  for (size_t z = 0; z < m; z += hn::Lanes(d))
    hn::Store(hn::MulAdd(f, hn::Load(d, x + z), hn::Load(d, y + z)), d, y + z);
}

// target += c·K⁻¹1 such that its sum becomes `total`.
HWY_INLINE void fix_sum(Doubles d, Workspace& ws, size_t m, double total) {
  double missing;
  int rounds = 0;
  do {
    missing = total - sum(d, ws.target.data(), m);
    add_scaled(d, missing / sum(d, ws.ones.data(), m), ws.ones.data(), ws.target.data(), m);
    // What a large correction rounds off is corrected in turn.
  } while (std::abs(missing) > 8 && ++rounds < 3);
}

// out = Σ_z xi_z · row z, for parts begin … end − 1, multiples of 8.
HWY_INLINE void mix_rows(Doubles d, Workspace& ws, size_t begin, size_t end, double* out) {
  const size_t lanes = hn::Lanes(d);
  const size_t stride = ws.row_bytes, m = ws.m;
  const double* HWY_RESTRICT xi = ws.xi.data();
  size_t i = begin;
  for (; i + 4 * lanes <= end; i += 4 * lanes) {
    auto a0 = hn::Zero(d), a1 = a0, a2 = a0, a3 = a0;
    const uint8_t* bits = ws.rows.data();
    for (size_t z = 0; z < m; ++z, bits += stride) {
      const auto w = hn::Set(d, xi[z]);
      a0 = hn::IfThenElse(mask_at(d, bits, i), hn::Add(a0, w), a0);
      a1 = hn::IfThenElse(mask_at(d, bits, i + lanes), hn::Add(a1, w), a1);
      a2 = hn::IfThenElse(mask_at(d, bits, i + 2 * lanes), hn::Add(a2, w), a2);
      a3 = hn::IfThenElse(mask_at(d, bits, i + 3 * lanes), hn::Add(a3, w), a3);
    }
    hn::Store(a0, d, out + i);
    hn::Store(a1, d, out + i + lanes);
    hn::Store(a2, d, out + i + 2 * lanes);
    hn::Store(a3, d, out + i + 3 * lanes);
  }
  for (; i < end; i += lanes) {
    auto a = hn::Zero(d);
    const uint8_t* bits = ws.rows.data();
    for (size_t z = 0; z < m; ++z, bits += stride)
      a = hn::IfThenElse(mask_at(d, bits, i), hn::Add(a, hn::Set(d, xi[z])), a);
    hn::Store(a, d, out + i);
  }
}

// mu = A xi and r = (t_u − mu_u, t_v).
void update_marginals(Workspace& ws) {
  const Doubles d;
  const uint8_t* origin = ws.origin.data();
  double* HWY_RESTRICT mu = ws.mu.data();
  const auto one = hn::Set(d, 1.0);
  mix_rows(d, ws, 0, ws.variable_end, mu);
  for (size_t i = 0; i < ws.variable_end; i += hn::Lanes(d)) {
    auto v = hn::Load(d, mu + i);
    v = hn::IfThenElse(mask_at(d, origin, i), hn::Sub(one, v), v);
    hn::Store(v, d, mu + i);
    hn::Store(hn::Sub(hn::Load(d, ws.t.data() + i), v), d, ws.r.data() + i);
  }
  if (ws.additional_end == ws.additional_begin) return;
  mix_rows(d, ws, ws.additional_begin, ws.additional_end, mu);
  for (size_t i = ws.additional_begin; i < ws.additional_end; i += hn::Lanes(d)) {
    const auto v = hn::Load(d, mu + i);
    hn::Store(hn::IfThenElse(mask_at(d, origin, i), hn::Sub(one, v), v), d, mu + i);
  }
}

// ⟨a − mu, r⟩. Term by term, so that parts that agree with mu contribute exactly 0.
double gain(Workspace& ws, const uint8_t* bits) {
  const Doubles d;
  const auto one = hn::Set(d, 1.0);
  auto total = hn::Zero(d);
  const auto add = [&](size_t begin, size_t end) HWY_ATTR {
    for (size_t i = begin; i < end; i += hn::Lanes(d)) {
      const auto a = hn::IfThenElseZero(mask_at(d, bits, i), one);
      const auto difference = hn::Sub(a, hn::Load(d, ws.mu.data() + i));
      total = hn::MulAdd(difference, hn::Load(d, ws.r.data() + i), total);
    }
  };
  add(0, ws.variable_end);
  add(ws.additional_begin, ws.additional_end);
  return sum(d, total);
}

// half = L⁻¹ column, whole = L⁻ᵀ half = K⁻¹ column; returns |half|².
double apply_inverse(Workspace& ws) {
  const Doubles d;
  const size_t lanes = hn::Lanes(d), m = ws.m, stride = ws.stride;
  const double* HWY_RESTRICT k = ws.column.data();
  double* HWY_RESTRICT half = ws.half.data();
  double* HWY_RESTRICT whole = ws.whole.data();
  size_t z = 0;
  for (; z + 4 <= m; z += 4) {
    const double* HWY_RESTRICT row = ws.inverse_row(z);
    auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    for (size_t c = 0; c < z + 4; c += lanes) {
      const auto kc = hn::Load(d, k + c);
      s0 = hn::MulAdd(hn::Load(d, row + c), kc, s0);
      s1 = hn::MulAdd(hn::Load(d, row + stride + c), kc, s1);
      s2 = hn::MulAdd(hn::Load(d, row + 2 * stride + c), kc, s2);
      s3 = hn::MulAdd(hn::Load(d, row + 3 * stride + c), kc, s3);
    }
    half[z] = sum(d, s0);
    half[z + 1] = sum(d, s1);
    half[z + 2] = sum(d, s2);
    half[z + 3] = sum(d, s3);
  }
  for (; z < m; ++z) {
    const double* HWY_RESTRICT row = ws.inverse_row(z);
    auto s = hn::Zero(d);
    for (size_t c = 0; c <= z; c += lanes)
      s = hn::MulAdd(hn::Load(d, row + c), hn::Load(d, k + c), s);
    half[z] = sum(d, s);
  }
  std::fill_n(half + m, round_up(m, 8) - m, 0.0);
  std::fill_n(whole + round_up(m, 8), 8, 0.0);
  auto squares = hn::Zero(d);
  for (size_t c = 0; c < m; c += lanes) {
    const double* HWY_RESTRICT row = ws.inverse_row(c) + c;
    auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    for (z = c; z + 4 <= m; z += 4, row += 4 * stride) {
      s0 = hn::MulAdd(hn::Load(d, row), hn::Set(d, half[z]), s0);
      s1 = hn::MulAdd(hn::Load(d, row + stride), hn::Set(d, half[z + 1]), s1);
      s2 = hn::MulAdd(hn::Load(d, row + 2 * stride), hn::Set(d, half[z + 2]), s2);
      s3 = hn::MulAdd(hn::Load(d, row + 3 * stride), hn::Set(d, half[z + 3]), s3);
    }
    for (; z < m; ++z, row += stride) s0 = hn::MulAdd(hn::Load(d, row), hn::Set(d, half[z]), s0);
    hn::Store(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), d, whole + c);
    const auto h = hn::Load(d, half + c);
    squares = hn::MulAdd(h, h, squares);
  }
  for (size_t c = round_up(m, lanes); c < round_up(m, 8); ++c) whole[c] = 0;
  return sum(d, squares);
}

// candidate_column for kWords words of variables, or for any number if that is 0.
template <size_t kWords>
size_t candidate_column_of(Workspace& ws) {
  const size_t m = ws.m, stride = ws.row_bytes;
  const size_t words = kWords > 0 ? kWords : ws.variable_bytes / 8;
  const uint8_t* candidate = ws.row(m);
  double* HWY_RESTRICT column = ws.column.data();
  int32_t* HWY_RESTRICT sizes = ws.sizes.data();
  int size = 0;
  for (size_t w = 0; w < words; ++w) size += std::popcount(load_word(candidate + 8 * w));
  sizes[m] = size;
  size_t same = m;
  const uint8_t* row = ws.rows.data();
  for (size_t z = 0; z < m; ++z, row += stride) {
    int common = 0;
    for (size_t w = 0; w < words; ++w)
      common += std::popcount(load_word(row + 8 * w) & load_word(candidate + 8 * w));
    column[z] = common + 1;
    if (common == size && common == sizes[z] && std::memcmp(row, candidate, stride) == 0) same = z;
  }
  std::fill_n(column + m, round_up(m, 8) + 8 - m, 0.0);
  return same;
}

// column = what the candidate, row m, adds to K. Returns the row it equals, or m.
size_t candidate_column(Workspace& ws) {
  if (ws.variable_bytes == 8) return candidate_column_of<1>(ws);
  if (ws.variable_bytes == 16) return candidate_column_of<2>(ws);
  return candidate_column_of<0>(ws);
}

// Appends the candidate, whose column, half and whole are at hand, to the factorisation.
void append(Workspace& ws, double squared_pivot) {
  const Doubles d;
  const size_t m = ws.m, lanes = hn::Lanes(d);
  const double inverse_pivot = 1 / std::sqrt(squared_pivot);
  double* HWY_RESTRICT row = ws.inverse_row(m);
  const double* HWY_RESTRICT whole = ws.whole.data();
  const double* HWY_RESTRICT column = ws.column.data();
  const double* HWY_RESTRICT ones = ws.ones.data();
  const auto factor = hn::Set(d, -inverse_pivot);
  const size_t end = round_up(m + 1, 8);
  auto dot = hn::Zero(d);
  for (size_t c = 0; c < end; c += lanes) {
    hn::Store(hn::Mul(factor, hn::Load(d, whole + c)), d, row + c);
    dot = hn::MulAdd(hn::Load(d, column + c), hn::Load(d, ones + c), dot);
  }
  row[m] = inverse_pivot;
  std::fill_n(row + end, kPad, 0.0);
  const double y = (1 - sum(d, dot)) * inverse_pivot;
  ws.m = m + 1;
  add_scaled(d, y, row, ws.ones.data(), m + 1);
}

void remove_entry(double* x, size_t j, size_t m) {
  std::memmove(x + j, x + j + 1, (m - 1 - j) * sizeof(double));
  x[m - 1] = 0;
}

// Takes configuration j out of the support and the factorisation: with Q orthogonal such that
// column j of Q L⁻¹ has a single entry, in the last row, the rest without that row and column is
// the inverse factor of the smaller K. That last row, K⁻¹ e_j up to scale, is what takes `ones` and
// `target` from the solutions with j to those without. Row m, the candidate, moves along.
void drop(Workspace& ws, size_t j, bool update_target) {
  const Doubles d;
  const size_t m = ws.m, lanes = hn::Lanes(d), stride = ws.stride;
  double* HWY_RESTRICT keep = ws.rotation.data();
  double* HWY_RESTRICT turn = keep + ws.capacity + kPad;
  double* HWY_RESTRICT last = ws.whole.data();
  double squares = ws.inverse_row(j)[j] * ws.inverse_row(j)[j];
  for (size_t i = j + 1; i < m; ++i) {
    const double entry = ws.inverse_row(i)[j];
    keep[i] = squares;
    squares += entry * entry;
    turn[i] = entry;
  }
  const double pivot = std::sqrt(squares);
  for (size_t i = j + 1; i < m; ++i) {
    const double total = keep[i] + turn[i] * turn[i];
    keep[i] = std::sqrt(keep[i] / total);
    turn[i] /= std::sqrt(total);
  }
  // Columns before j stay where they are; all rows after j have them.
  for (size_t c = 0; c < j; c += lanes) {
    const auto inside = hn::FirstN(d, std::min(lanes, j - c));
    auto carried = hn::Load(d, ws.inverse_row(j) + c);
    double* row = ws.inverse_row(j + 1) + c;
    for (size_t i = j + 1; i < m; ++i, row += stride) {
      const auto v = hn::Load(d, row), k = hn::Set(d, keep[i]), s = hn::Set(d, turn[i]);
      const auto rotated = hn::NegMulAdd(s, carried, hn::Mul(k, v));
      carried = hn::MulAdd(s, v, hn::Mul(k, carried));
      hn::BlendedStore(rotated, inside, d, row - stride);
    }
    hn::BlendedStore(carried, inside, d, last + c);
  }
  // The others move to the left; before row c they hold zeros.
  for (size_t c = j + 1; c < m; c += lanes) {
    auto carried = hn::Zero(d);
    double* row = ws.inverse_row(c) + c;
    for (size_t i = c; i < m; ++i, row += stride) {
      const auto v = hn::LoadU(d, row), k = hn::Set(d, keep[i]), s = hn::Set(d, turn[i]);
      const auto rotated = hn::NegMulAdd(s, carried, hn::Mul(k, v));
      carried = hn::MulAdd(s, v, hn::Mul(k, carried));
      hn::StoreU(rotated, d, row - stride - 1);
    }
    hn::StoreU(carried, d, last + c - 1);
  }
  std::fill_n(last + m - 1, kPad, 0.0);

  const double one = ws.ones[j], aim = ws.target[j];
  remove_entry(ws.xi.data(), j, m + 1);
  remove_entry(ws.ones.data(), j, m);
  remove_entry(ws.column.data(), j, m);
  std::memmove(ws.row(j), ws.row(j + 1), (m - j) * ws.row_bytes);
  std::memmove(ws.sizes.data() + j, ws.sizes.data() + j + 1, (m - j) * sizeof(int32_t));
  ws.m = m - 1;
  add_scaled(d, -one / pivot, last, ws.ones.data(), m - 1);
  if (update_target) {
    remove_entry(ws.target.data(), j, m);
    add_scaled(d, -aim / pivot, last, ws.target.data(), m - 1);
    fix_sum(d, ws, m - 1, 1);
  }
}

// Factorises the support made of rows 0 … count − 1, leaving out those that depend on earlier ones.
// `kept`, if not null, gets the original index of each that stays; xi follows.
void factorise(Workspace& ws, size_t count, int64_t* kept) {
  ws.m = 0;
  ws.reserve_support(count);
  std::fill_n(ws.ones.data(), ws.capacity + kPad, 0.0);
  for (size_t z = 0; z < count; ++z) {
    const size_t m = ws.m;
    if (m != z) std::memcpy(ws.row(m), ws.row(z), ws.row_bytes);
    candidate_column(ws);
    const double diagonal = ws.sizes[m] + 1;
    const double squared_pivot = diagonal - apply_inverse(ws);
    if (m > ws.variables || !(squared_pivot > kDependent * diagonal)) continue;
    ws.xi[m] = ws.xi[z];
    if (kept != nullptr) kept[m] = static_cast<int64_t>(z);
    append(ws, squared_pivot);
  }
  std::fill(ws.xi.data() + ws.m, ws.xi.data() + ws.capacity + kPad, 0.0);
}

// Moves xi to the QP's solution `target`, dropping the weights that reach 0. False if the target is
// not a number.
bool move_to_target(Workspace& ws) {
  const Doubles d;
  const size_t lanes = hn::Lanes(d);
  for (;;) {
    const size_t m = ws.m;
    double* HWY_RESTRICT xi = ws.xi.data();
    double* HWY_RESTRICT target = ws.target.data();
    size_t positive = 0;
    for (size_t z = 0; z < m; z += lanes)
      positive += hn::CountTrue(d, hn::Gt(hn::Load(d, target + z), hn::Zero(d)));
    if (positive == m) {
      if (!std::isfinite(sum(d, target, m))) return false;
      std::memcpy(xi, target, m * sizeof(double));
      return true;
    }
    double step = 2;
    size_t leaver = m;
    for (size_t z = 0; z < m; ++z) {
      if (target[z] > 0) continue;
      const double ratio = xi[z] / (xi[z] - target[z]);
      if (xi[z] == 0 && target[z] == 0) {  // the ratio is not a number
        step = 0;
        leaver = z;
      } else if (ratio < step) {
        step = ratio;
        leaver = z;
      }
    }
    if (leaver == m || m == 1) return false;
    for (size_t z = 0; z < m; ++z) {
      const double moved = xi[z] + step * (target[z] - xi[z]);
      xi[z] = moved > 0 ? moved : 0;
    }
    drop(ws, leaver, true);
  }
}

// column[z] = ⟨a'_z, r'⟩.
void values_of_support(Workspace& ws) {
  const Doubles d;
  const size_t lanes = hn::Lanes(d), m = ws.m;
  const auto reflect = [&](size_t begin, size_t end) HWY_ATTR {
    for (size_t i = begin; i < end; i += lanes) {
      const auto v = hn::Load(d, ws.r.data() + i);
      hn::Store(hn::IfThenElse(mask_at(d, ws.origin.data(), i), hn::Neg(v), v), d,
                ws.reflected.data() + i);
    }
  };
  reflect(0, ws.variable_end);
  reflect(ws.additional_begin, ws.additional_end);
  for (size_t z = 0; z < m; ++z) {
    auto total = hn::Zero(d);
    const uint8_t* bits = ws.row(z);
    const auto add = [&](size_t begin, size_t end) HWY_ATTR {
      for (size_t i = begin; i < end; i += lanes) {
        const auto v = hn::Load(d, ws.reflected.data() + i);
        total = hn::IfThenElse(mask_at(d, bits, i), hn::Add(total, v), total);
      }
    };
    add(0, ws.variable_end);
    add(ws.additional_begin, ws.additional_end);
    ws.column[z] = sum(d, total);
  }
}

// target = the exact Newton step from xi: the QP's solution, with all rounding errors so far
// corrected by residuals that come from xi alone.
void refine(Workspace& ws) {
  const Doubles d;
  const size_t m = ws.m;
  update_marginals(ws);
  values_of_support(ws);
  double tau = 0;
  for (size_t z = 0; z < m; ++z) tau += ws.xi[z] * ws.column[z];
  for (size_t z = 0; z < m; ++z) ws.column[z] -= tau;
  std::fill_n(ws.column.data() + m, round_up(m, 8) + 8 - m, 0.0);
  apply_inverse(ws);
  for (size_t z = 0; z < m; ++z) ws.target[z] = ws.xi[z] + ws.whole[z];
  std::fill_n(ws.target.data() + m, round_up(m, 8) + 8 - m, 0.0);
  fix_sum(d, ws, m, 1);
}

// xi scaled to sum 1 after configurations were left out.
void normalise(Workspace& ws) {
  double total = 0;
  for (size_t z = 0; z < ws.m; ++z) total += ws.xi[z];
  for (size_t z = 0; z < ws.m; ++z) ws.xi[z] /= total;
}

// Starts afresh from the support and its weights.
bool restart(Workspace& ws, size_t count) {
  factorise(ws, count, nullptr);
  normalise(ws);
  refine(ws);
  ws.rough = false;
  return move_to_target(ws);
}

// ---- Oracles: the best configuration for ws.r into `bits`, not reflected. --------------------

struct CallbackOracle {
  MapOracle& map;

  ActiveSetStatus check_start(Workspace& ws, const uint8_t* bits) const {
    return ws.uses_forbidden(bits) ? ActiveSetStatus::kIllegalStart : ActiveSetStatus::kConverged;
  }

  ActiveSetStatus best(Workspace& ws, uint8_t* bits) {
    ++ws.solution.oracle_calls;
    double* scores = ws.r.data();
    if (ws.any_forbidden || (ws.parts > ws.variables && ws.variables != ws.additional_begin)) {
      ws.plain_scores.reserve(ws.parts);
      scores = ws.plain_scores.data();
      std::copy_n(ws.r.data(), ws.variables, scores);
      std::copy_n(ws.r.data() + ws.additional_begin, ws.parts - ws.variables,
                  scores + ws.variables);
      for (size_t i = 0; ws.any_forbidden && i < ws.parts; ++i) {
        const size_t p = ws.position(i);
        if (ws.forbidden[p / 8] >> p % 8 & 1) scores[i] = -std::numeric_limits<double>::infinity();
      }
    }
    ws.plain_bits.reserve(ws.parts);
    // An oracle that writes nothing is found out.
    std::memset(ws.plain_bits.data(), 0xff, ws.parts);
    map.best(scores, ws.plain_bits.data());
    if (!ws.pack(ws.plain_bits.data(), bits)) return ActiveSetStatus::kOracleNotBinary;
    if (ws.uses_forbidden(bits)) return ActiveSetStatus::kOracleForbidden;
    return ActiveSetStatus::kConverged;
  }
};

// The k-th largest of n > 0 values, which it permutes and cuts down; spare: as long as values, and
// both have kPad elements more. Quickselect, without branches on single values.
double kth_largest(Doubles d, double* values, double* spare, size_t n, size_t k) {
  const size_t lanes = hn::Lanes(d);
  for (int round = 0; n > lanes && round < 64; ++round) {
    const double a = values[0], b = values[n / 2], c = values[n - 1];
    const double pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    const auto p = hn::Set(d, pivot);
    size_t above = 0, below = 0;
    for (size_t i = 0; i < n; i += lanes) {
      const auto v = hn::LoadU(d, values + i);
      const auto valid = hn::FirstN(d, std::min(lanes, n - i));
      above += hn::CompressStore(v, hn::And(valid, hn::Gt(v, p)), d, spare + above);
      // Never beyond what has been read.
      below += hn::CompressStore(v, hn::And(valid, hn::Lt(v, p)), d, values + below);
    }
    if (k <= above) {
      std::swap(values, spare);
      n = above;
    } else if (k <= n - below) {
      return pivot;
    } else {
      k -= n - below;
      n = below;
    }
  }
  std::nth_element(values, values + (k - 1), values + n, std::greater<>());
  return values[k - 1];
}

struct CountsOracle {
  size_t least, most;

  static size_t count(const Workspace& ws, const uint8_t* bits) {
    int on = 0;
    for (size_t b = 0; b < ws.row_bytes; b += 8) on += std::popcount(load_word(bits + b));
    return static_cast<size_t>(on);
  }

  ActiveSetStatus check_start(Workspace& ws, const uint8_t* bits) const {
    const size_t on = count(ws, bits);
    return ws.uses_forbidden(bits) || on < least || on > most ? ActiveSetStatus::kIllegalStart
                                                              : ActiveSetStatus::kConverged;
  }

  ActiveSetStatus best(Workspace& ws, uint8_t* bits) {
    const Doubles d;
    ++ws.solution.oracle_calls;
    std::memset(bits, 0, ws.row_bytes);
    // Forbidden and padding parts have r = 0.
    for (size_t i = 0; i < ws.variable_end; i += hn::Lanes(d))
      store_mask(d, hn::Gt(hn::Load(d, ws.r.data() + i), hn::Zero(d)), bits, i);
    const size_t on = count(ws, bits);
    if (on < least) return select(ws, bits, least);
    if (on > most) return select(ws, bits, most);
    return ActiveSetStatus::kConverged;
  }

  // The `wanted` largest.
  ActiveSetStatus select(Workspace& ws, uint8_t* bits, size_t wanted) {
    std::memset(bits, 0, ws.row_bytes);
    if (wanted == 0) return ActiveSetStatus::kConverged;
    const double* r = ws.r.data();
    double* values = ws.reflected.data();
    size_t n = ws.variables;
    if (!ws.any_forbidden) {
      std::copy_n(r, n, values);
    } else {
      n = 0;
      for (size_t i = 0; i < ws.variables; ++i) {
        values[n] = r[i];
        n += ~ws.forbidden[i / 8] >> i % 8 & 1;
      }
    }
    if (n < wanted) return ActiveSetStatus::kNoConfiguration;
    const Doubles d;
    ws.plain_scores.reserve(n + kPad);
    const double last = kth_largest(d, values, ws.plain_scores.data(), n, wanted);
    const auto bound = hn::Set(d, last);
    for (size_t i = 0; i < ws.variable_end; i += hn::Lanes(d))
      store_mask(d, hn::Gt(hn::Load(d, r + i), bound), bits, i);
    if (last < 0) {  // then forbidden and padding parts, at 0, were taken for large ones
      for (size_t b = 0; b < ws.row_bytes; ++b)
        bits[b] = static_cast<uint8_t>(bits[b] & ~ws.forbidden[b]);
      for (size_t i = ws.variables; i < ws.variable_end; ++i)
        bits[i / 8] = static_cast<uint8_t>(bits[i / 8] & ~(1u << i % 8));
    }
    for (size_t i = 0, ties = wanted - count(ws, bits); ties > 0; ++i) {
      if (r[i] != last || (ws.forbidden[i / 8] >> i % 8 & 1)) continue;
      bits[i / 8] = static_cast<uint8_t>(bits[i / 8] | 1u << i % 8);
      --ties;
    }
    return ActiveSetStatus::kConverged;
  }
};

// Thins out the `count` rows of an earlier support, returns how many stay. Under the new scores the
// weights of the QP's solution differ from the earlier ones by about the spread of the rows' values
// divided by the squared distance of the rows from mu; smaller weights say nothing any more. Kept,
// they would turn negative and leave one by one, or stay and swell the support.
size_t thin_out(Workspace& ws, size_t count) {
  ws.m = count;
  std::fill_n(ws.xi.data() + count, round_up(count, 8) + 8 - count, 0.0);
  normalise(ws);
  update_marginals(ws);
  values_of_support(ws);
  ws.m = 0;
  double tau = 0, squares = 0, distance = 0, heaviest = 0;
  for (size_t z = 0; z < count; ++z) {
    tau += ws.xi[z] * ws.column[z];
    heaviest = std::max(heaviest, ws.xi[z]);
  }
  for (size_t z = 0; z < count; ++z) squares += (ws.column[z] - tau) * (ws.column[z] - tau);
  for (size_t i = 0; i < ws.variables; ++i) distance += ws.mu[i] * (1 - ws.mu[i]);
  const double change = std::sqrt(squares / static_cast<double>(count));
  const double least = distance > 0 ? std::min(2 * change / distance, heaviest) : 0;
  size_t kept = 0;
  for (size_t z = 0; z < count; ++z) {
    if (ws.xi[z] < least) continue;
    if (kept != z) std::memcpy(ws.row(kept), ws.row(z), ws.row_bytes);
    ws.xi[kept++] = ws.xi[z];
  }
  return kept;
}

// ---- The method ------------------------------------------------------------------------------

// The first support and its weights; xi is then the QP's solution on what is left of it.
template <class Oracle>
ActiveSetStatus start(Workspace& ws, Oracle& oracle, const ActiveSetOptions& options) {
  const size_t offered = options.warm_configurations == nullptr
                             ? 0
                             : static_cast<size_t>(std::max<int64_t>(options.warm_count, 0));
  ws.reserve_support(std::max<size_t>(offered, 1));
  size_t count = 0;
  for (size_t z = 0; z < offered; ++z) {
    const double weight = options.warm_weights[z];
    if (!(weight > 0 && weight <= std::numeric_limits<double>::max())) continue;
    if (!ws.pack(options.warm_configurations + z * ws.parts, ws.row(count)))
      return ActiveSetStatus::kIllegalStart;
    if (ws.uses_forbidden(ws.row(count))) continue;
    const ActiveSetStatus legal = oracle.check_start(ws, ws.row(count));
    if (legal != ActiveSetStatus::kConverged) return legal;
    ws.xi[count++] = weight;
  }
  if (count > 0) {
    ws.set_origin(ws.row(0));
    for (size_t z = 0; z < count; ++z) ws.reflect(ws.row(z));
    count = thin_out(ws, count);
    if (restart(ws, count)) return ActiveSetStatus::kConverged;
  }
  if (options.initial != nullptr) {
    if (!ws.pack(options.initial, ws.row(0))) return ActiveSetStatus::kIllegalStart;
    const ActiveSetStatus legal = oracle.check_start(ws, ws.row(0));
    if (legal != ActiveSetStatus::kConverged) return legal;
  } else {
    std::copy_n(ws.t.data(), ws.variable_end, ws.r.data());
    const ActiveSetStatus found = oracle.best(ws, ws.row(0));
    if (found != ActiveSetStatus::kConverged) return found;
  }
  ws.set_origin(ws.row(0));
  ws.reflect(ws.row(0));
  ws.xi[0] = 1;
  factorise(ws, 1, nullptr);
  return ActiveSetStatus::kConverged;
}

// Takes the candidate, row m, whose column is at hand, into the support. False, with the support as
// it was or on a feasible point, if rounding forbids it.
bool enter(Workspace& ws, double gap) {
  const Doubles d;
  double weight = 0;
  double squared_pivot;
  for (;;) {
    const size_t m = ws.m;
    const double diagonal = ws.sizes[m] + 1;
    squared_pivot = diagonal - apply_inverse(ws);
    if (m <= ws.variables && squared_pivot > kDependent * diagonal) break;
    // a_u is the combination `whole` of the support's: weight goes over to the candidate, and mu_u
    // stays, until a configuration has none left.
    double step = std::numeric_limits<double>::infinity();
    size_t leaver = m;
    for (size_t z = 0; z < m; ++z) {
      if (ws.whole[z] > 1e-9 && ws.xi[z] < step * ws.whole[z]) {
        step = ws.xi[z] / ws.whole[z];
        leaver = z;
      }
    }
    if (leaver == m) {
      normalise(ws);
      return false;
    }
    for (size_t z = 0; z < m; ++z) ws.xi[z] = std::max(ws.xi[z] - step * ws.whole[z], 0.0);
    weight += step;
    drop(ws, leaver, false);
  }
  const size_t m = ws.m;
  append(ws, squared_pivot);
  // All configurations of the support have the same value under r, the candidate a value higher by
  // the gap: the Newton step is K⁻¹ e_m gap, and what keeps the sum.
  ws.xi[m] = weight;
  std::memcpy(ws.target.data(), ws.xi.data(), round_up(m + 1, 8) * sizeof(double));
  const double step = gap / std::sqrt(squared_pivot);
  ws.rough |= step > kRough;
  add_scaled(d, step, ws.inverse_row(m), ws.target.data(), m + 1);
  fix_sum(d, ws, m + 1, 1);
  if (ws.target[m] > 0) return true;
  std::memcpy(ws.target.data(), ws.xi.data(), round_up(m + 1, 8) * sizeof(double));
  if (weight == 0) drop(ws, m, false);
  return false;
}

template <class Oracle>
ActiveSetStatus iterate(Workspace& ws, Oracle& oracle, const ActiveSetOptions& options) {
  ActiveSetSolution& s = ws.solution;
  // Below that, members of the support differ in value by as much.
  const double floor = 4 * std::numeric_limits<double>::epsilon() * static_cast<double>(ws.parts);
  const double tolerance = std::max(options.tolerance, floor) * ws.scale;
  const double rounding = kRounding * ws.scale * static_cast<double>(ws.parts);
  const int64_t limit = options.max_iterations > 0 ? options.max_iterations
                                                   : 1000 + 20 * static_cast<int64_t>(ws.parts);
  const ActiveSetStatus begun = start(ws, oracle, options);
  if (begun != ActiveSetStatus::kConverged) return begun;

  bool restarted = false;  // since the last configuration came in
  bool at_end = false;     // neither a configuration nor a restart helps
  double least_gap = std::numeric_limits<double>::infinity();
  int without_progress = 0;
  for (;; ++s.iterations) {
    ws.reserve_support(ws.m + 1);
    update_marginals(ws);
    uint8_t* candidate = ws.row(ws.m);
    const ActiveSetStatus found = oracle.best(ws, candidate);
    if (found != ActiveSetStatus::kConverged) return found;
    const double gap = gain(ws, candidate);
    s.gap = std::max(gap, 0.0);
    const bool suboptimal = gap < -std::max(tolerance, rounding);
    if (gap <= tolerance && !suboptimal) {
      if (!ws.rough || at_end || s.iterations >= limit) return ActiveSetStatus::kConverged;
      at_end = !restart(ws, ws.m);
      continue;
    }
    // Among gaps of the size of rounding errors there is no more progress to be expected.
    if (suboptimal) {
      without_progress = 0;
    } else if (gap < least_gap) {
      least_gap = gap;
      without_progress = 0;
    } else if (least_gap <= 16 * floor * ws.scale && ++without_progress > 2 && gap <= rounding) {
      return ActiveSetStatus::kConverged;
    }
    const auto verdict = [&] {
      if (suboptimal) return ActiveSetStatus::kOracleSuboptimal;
      return gap <= rounding ? ActiveSetStatus::kConverged : ActiveSetStatus::kStalled;
    };
    if (at_end) return verdict();
    if (s.iterations >= limit) return ActiveSetStatus::kMaxIterations;

    bool touched = false;
    if (!suboptimal) {
      ws.reflect(candidate);
      if (candidate_column(ws) == ws.m) {
        if (enter(ws, gap) && move_to_target(ws)) {
          restarted = false;
          continue;
        }
        touched = true;
      }
    }
    // In exact arithmetic only a wrong oracle leads here.
    if (!restarted) {
      restarted = true;
      at_end = !restart(ws, ws.m);
    } else if (touched) {
      at_end = true;  // the weights are feasible, but the gap is of others
    } else {
      return verdict();
    }
  }
}

template <class Oracle>
void run(Workspace& ws, Oracle oracle, const ActiveSetOptions& options) {
  ws.solution.iterations = ws.solution.oracle_calls = 0;
  ws.solution.gap = 0;
  ws.rough = false;
  ws.solution.status = iterate(ws, oracle, options);
}

void run_callback(Workspace& ws, MapOracle& map, const ActiveSetOptions& options) {
  run(ws, CallbackOracle{map}, options);
}

void run_counts(Workspace& ws, size_t least, size_t most, const ActiveSetOptions& options) {
  run(ws, CountsOracle{least, most}, options);
}

// target = w with [G 1; 1ᵀ 0][w; ·] = [column; 0] on the factorised support.
void solve_homogeneous(Workspace& ws) {
  const Doubles d;
  const size_t m = ws.m;
  std::fill_n(ws.column.data() + m, round_up(m, 8) + 8 - m, 0.0);
  apply_inverse(ws);
  std::memcpy(ws.target.data(), ws.whole.data(), round_up(m, 8) * sizeof(double));
  fix_sum(d, ws, m, 0);
}

// mu = Σ_z xi_z a'_z.
void mix_support(Workspace& ws) {
  const Doubles d;
  mix_rows(d, ws, 0, ws.variable_end, ws.mu.data());
  mix_rows(d, ws, ws.additional_begin, ws.additional_end, ws.mu.data());
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparsum::kernels {

HWY_EXPORT(run_callback);
HWY_EXPORT(run_counts);
HWY_EXPORT(factorise);
HWY_EXPORT(mix_support);
HWY_EXPORT(solve_homogeneous);
HWY_EXPORT(values_of_support);

const char* describe(ActiveSetStatus status) {
  switch (status) {
    case ActiveSetStatus::kConverged:
      return "converged";
    case ActiveSetStatus::kMaxIterations:
      return "stopped at the largest number of iterations, before the gap was small enough";
    case ActiveSetStatus::kStalled:
      return "stalled: rounding allows no further step, and the gap is not small enough";
    case ActiveSetStatus::kOracleNotBinary:
      return "the MAP oracle wrote a value other than 0 and 1";
    case ActiveSetStatus::kOracleForbidden:
      return "the MAP oracle used a part whose score is -inf";
    case ActiveSetStatus::kOracleSuboptimal:
      return "the MAP oracle returned a configuration worse than an earlier one";
    case ActiveSetStatus::kIllegalScores:
      return "a score is NaN or +inf";
    case ActiveSetStatus::kIllegalStart:
      return "the starting configurations are not in the set";
    case ActiveSetStatus::kNoConfiguration:
      return "no configuration is left";
  }
  return "";
}

ActiveSet::ActiveSet() : workspace_(std::make_unique<Workspace>()) {}
ActiveSet::~ActiveSet() = default;
ActiveSet::ActiveSet(ActiveSet&&) noexcept = default;
ActiveSet& ActiveSet::operator=(ActiveSet&&) noexcept = default;

const ActiveSetSolution& ActiveSet::solution() const { return workspace_->solution; }

const ActiveSetSolution& ActiveSet::solve(const double* scores, int64_t parts, int64_t variables,
                                          MapOracle& oracle, const ActiveSetOptions& options) {
  Workspace& ws = *workspace_;
  ws.set_shape(static_cast<size_t>(parts), static_cast<size_t>(variables));
  if (!ws.set_scores(scores)) {
    ws.solution.status = ActiveSetStatus::kIllegalScores;
    return ws.solution;
  }
  HWY_DYNAMIC_DISPATCH(run_callback)(ws, oracle, options);
  ws.write_solution();
  return ws.solution;
}

const ActiveSetSolution& ActiveSet::solve(const double* scores, int64_t bits, BitCounts counts,
                                          const ActiveSetOptions& options) {
  Workspace& ws = *workspace_;
  const int64_t least = std::max<int64_t>(counts.least, 0), most = std::min(counts.most, bits);
  ws.set_shape(static_cast<size_t>(bits), static_cast<size_t>(bits));
  if (!ws.set_scores(scores)) {
    ws.solution.status = ActiveSetStatus::kIllegalScores;
    return ws.solution;
  }
  if (least > most) {
    ws.solution.status = ActiveSetStatus::kNoConfiguration;
    return ws.solution;
  }
  HWY_DYNAMIC_DISPATCH(run_counts)
  (ws, static_cast<size_t>(least), static_cast<size_t>(most), options);
  ws.write_solution();
  return ws.solution;
}

void ActiveSet::Workspace::load_support(const uint8_t* configurations, size_t count,
                                        size_t new_parts, size_t new_variables) {
  set_shape(new_parts, new_variables);
  reserve_support(count);
  kept.reserve(capacity);
  for (size_t z = 0; z < count; ++z) pack(configurations + z * parts, row(z));
  set_origin(row(0));
  for (size_t z = 0; z < count; ++z) reflect(row(z));
  std::fill_n(xi.data(), count, 0.0);
  HWY_DYNAMIC_DISPATCH(factorise)(*this, count, kept.data());
}

void ActiveSet::vjp(const uint8_t* configurations, int64_t m, int64_t parts, int64_t variables,
                    const double* grad_weights, double* grad_scores) {
  Workspace& ws = *workspace_;
  ws.load_support(configurations, static_cast<size_t>(m), static_cast<size_t>(parts),
                  static_cast<size_t>(variables));
  for (size_t z = 0; z < ws.m; ++z) ws.column[z] = grad_weights[ws.kept[z]];
  HWY_DYNAMIC_DISPATCH(solve_homogeneous)(ws);
  // A w, and the reflected rows give ±A w, since w sums to 0.
  std::copy_n(ws.target.data(), ws.m, ws.xi.data());
  HWY_DYNAMIC_DISPATCH(mix_support)(ws);
  for (size_t i = 0; i < ws.parts; ++i) {
    const size_t p = ws.position(i);
    grad_scores[i] = ws.origin[p / 8] >> p % 8 & 1 ? -ws.mu[p] : ws.mu[p];
  }
}

void ActiveSet::vjp_transpose(const uint8_t* configurations, int64_t m, int64_t parts,
                              int64_t variables, const double* h, double* out) {
  Workspace& ws = *workspace_;
  ws.load_support(configurations, static_cast<size_t>(m), static_cast<size_t>(parts),
                  static_cast<size_t>(variables));
  // ⟨a' , h'⟩ differs from ⟨a, h⟩ by the same for all configurations, which does not matter.
  std::fill_n(ws.r.data(), ws.additional_end, 0.0);
  for (size_t i = 0; i < ws.parts; ++i) ws.r[ws.position(i)] = h[i];
  HWY_DYNAMIC_DISPATCH(values_of_support)(ws);
  HWY_DYNAMIC_DISPATCH(solve_homogeneous)(ws);
  std::fill_n(out, m, 0.0);
  for (size_t z = 0; z < ws.m; ++z) out[ws.kept[z]] = ws.target[z];
}

}  // namespace sparsum::kernels
#endif  // HWY_ONCE
