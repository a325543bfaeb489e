#pragma once

// The memory that active_set.cc works in: what does not depend on the SIMD target.

#include "sparsum/kernels/active_set.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace sparsum::kernels {

// Elements beyond the last that vectors may read and write.
inline constexpr size_t kPad = 16;

// Weights up to that are rounding errors of 0; their configurations are not listed.
inline constexpr double kNothing = 1e-14;

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
inline uint8_t pack8(const uint8_t* in, size_t n, bool& ok) {
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

inline void unpack8(uint8_t bits, uint8_t* out, size_t n) {
  if (std::endian::native == std::endian::little && n == 8) {
    // Byte i keeps bit i alone, and any bit at all carries into the byte's highest.
    uint64_t x = (bits * uint64_t{0x0101010101010101u}) & 0x8040201008040201u;
    x = ((x + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
    std::memcpy(out, &x, 8);
    return;
  }
  for (size_t i = 0; i < n; ++i) out[i] = (bits >> i) & 1u;
}

inline uint64_t load_word(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  return word;
}

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
