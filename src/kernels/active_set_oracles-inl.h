// Oracles of the active-set method: the best configuration for ws.r, as bits that are not
// reflected. Included once per SIMD target; see the Highway quick reference for the pattern.

#if defined(SPARSUM_ACTIVE_SET_ORACLES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSUM_ACTIVE_SET_ORACLES_INL_H_
#undef SPARSUM_ACTIVE_SET_ORACLES_INL_H_
#else
#define SPARSUM_ACTIVE_SET_ORACLES_INL_H_
#endif

#include "kernels/active_set_support-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {

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

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // SPARSUM_ACTIVE_SET_ORACLES_INL_H_
