// The support of the active-set method: its factorisation, and the QP on it.
// Included once per SIMD target; see the Highway quick reference for the pattern.

#if defined(SPARSUM_ACTIVE_SET_SUPPORT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSUM_ACTIVE_SET_SUPPORT_INL_H_
#undef SPARSUM_ACTIVE_SET_SUPPORT_INL_H_
#else
#define SPARSUM_ACTIVE_SET_SUPPORT_INL_H_
#endif

#include "kernels/active_set_workspace.h"

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Loss of independence: a configuration counts as affinely dependent on the support when its
// squared pivot is below this fraction of its diagonal entry of K. Pivots of K that are not 0 are
// quotients of determinants of integer matrices, far above it in all supports met; the rounding of
// a zero pivot is far below.
constexpr double kDependent = 1e-10;

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

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // SPARSUM_ACTIVE_SET_SUPPORT_INL_H_
