#include "sparsum/kernels/sparsemap_bits.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <vector>

namespace sparsum::kernels {
namespace {

// --- marginals -----------------------------------------------------------------------------------

struct BoxSum {
  double sum = 0;          // Σ clip(x − τ, 0, 1)
  int64_t fractional = 0;  // how many are strictly between: minus the sum's slope in τ
};

BoxSum box_sum(const double* x, int64_t n, double tau) {
  BoxSum result;
  for (int64_t i = 0; i < n; ++i) {
    const double v = x[i] - tau;
    result.sum += std::min(std::max(v, 0.0), 1.0);
    result.fractional += (v > 0) & (v < 1);
  }
  return result;
}

/// The τ with Σ clip(x − τ, 0, 1) = target, 1 ≤ target ≤ number of finite x, where the target-th
/// largest x is 0. So −1 ≤ τ < 0: at −1 that one and all larger ones are on. Newton's steps
/// on a function that is linear between 2n corners, kept inside a bracket that every step shrinks.
double find_tau(const double* x, int64_t n, int64_t target) {
  double low = -2, high = 0, tau = -0.5;
  for (int iteration = 0; iteration < 200; ++iteration) {
    const BoxSum at = box_sum(x, n, tau);
    const double excess = at.sum - static_cast<double>(target);
    if (excess == 0) return tau;
    (excess > 0 ? low : high) = tau;
    double next = tau + excess / static_cast<double>(at.fractional);
    // Every fourth step halves the bracket: corners could catch Newton's in a circle.
    if (at.fractional == 0 || !(next > low && next < high) || iteration % 4 == 3) {
      next = low + (high - low) / 2;
    }
    if (next == tau || next == low || next == high) return next;
    tau = next;
  }
  return tau;
}

/// The `rank`-th largest of n numbers, 1 ≤ rank ≤ n.
template <typename T>
T largest(const T* t, int64_t n, int64_t rank, std::vector<T>& scratch) {
  scratch.assign(t, t + n);
  const auto place = scratch.begin() + (rank - 1);
  std::nth_element(scratch.begin(), place, scratch.end(), std::greater<>());
  return *place;
}

template <typename T>
int64_t marginals_of_rows(const T* scores, int64_t rows, int64_t bits, int64_t least, int64_t most,
                          double a, double c, T* marginals, bool* tight) {
  std::vector<double> x(static_cast<size_t>(bits));
  std::vector<T> scratch;
  for (int64_t row = 0; row < rows; ++row) {
    const T* t = scores + row * bits;
    T* mu = marginals + row * bits;
    int64_t finite = 0;
    int legal = 1;
    for (int64_t i = 0; i < bits; ++i) {
      legal &= t[i] < std::numeric_limits<T>::infinity();
      finite += t[i] > -std::numeric_limits<T>::infinity();
      x[static_cast<size_t>(i)] = a * static_cast<double>(t[i]) + c;
    }
    if (!legal || finite < least) return row;
    double tau = 0;
    tight[row] = false;
    if (least > 0 || most < bits) {
      const double sum = box_sum(x.data(), bits, 0).sum;
      const bool too_small = sum < static_cast<double>(least);
      if (too_small || sum > static_cast<double>(most)) {
        tight[row] = true;
        const int64_t target = too_small ? least : most;
        // Relative to the last score that is on where all bits are on or off: what decides are
        // differences of less than 1, which would be lost in a τ of the size of the scores.
        const T reference = largest(t, bits, std::max<int64_t>(target, 1), scratch);
        for (int64_t i = 0; i < bits; ++i) {
          x[static_cast<size_t>(i)] =
              a * (static_cast<double>(t[i]) - static_cast<double>(reference));
        }
        tau = target == 0 ? 0 : find_tau(x.data(), bits, target);
      } else if (least == most) {
        tight[row] = true;  // the sum is fixed, and τ = 0 by chance
      }
    }
    for (int64_t i = 0; i < bits; ++i) {
      mu[i] = static_cast<T>(std::min(std::max(x[static_cast<size_t>(i)] - tau, 0.0), 1.0));
    }
  }
  return -1;
}

template <typename T>
void marginals_backward(const T* grad, const T* marginals, const bool* tight, int64_t rows,
                        int64_t bits, double a, T* grad_scores) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* g = grad + row * bits;
    const T* mu = marginals + row * bits;
    T* out = grad_scores + row * bits;
    double mean = 0;
    if (tight[row]) {
      double sum = 0, count = 0;
      for (int64_t i = 0; i < bits; ++i) {
        const bool inside = (mu[i] > 0) & (mu[i] < 1);
        sum += inside ? static_cast<double>(g[i]) : 0.0;
        count += inside;
      }
      if (count > 0) mean = sum / count;
    }
    for (int64_t i = 0; i < bits; ++i) {
      const bool inside = (mu[i] > 0) & (mu[i] < 1);
      out[i] = inside ? static_cast<T>(a * (static_cast<double>(g[i]) - mean)) : T{0};
    }
  }
}

// --- configurations ------------------------------------------------------------------------------

constexpr double kShortest = 1e-12;

/// Where on [0, 1] the configuration changes, and by which bits.
struct Cut {
  double place;
  int32_t bit;   // whose cut it is
  int32_t next;  // on a line: the bit whose interval begins there, or −1
};

/// Sorts cuts that lie in [0, 1] by place, then by bit. Places that are spread out fall into
/// buckets of their own, which leaves little to insert.
class CutSorter {
 public:
  void sort(std::vector<Cut>& cuts) {
    const size_t n = cuts.size();
    const auto before = [](const Cut& x, const Cut& y) {
      return x.place != y.place ? x.place < y.place : x.bit < y.bit;
    };
    if (n < 24) {
      insert(cuts, before);
      return;
    }
    const auto bucket = [n](const Cut& cut) {
      return std::min(n - 1, static_cast<size_t>(cut.place * static_cast<double>(n)));
    };
    starts_.assign(n + 1, 0);
    uint32_t fullest = 0;
    for (const Cut& cut : cuts) fullest = std::max(fullest, ++starts_[bucket(cut) + 1]);
    if (fullest > 16) {
      std::sort(cuts.begin(), cuts.end(), before);
      return;
    }
    for (size_t i = 0; i < n; ++i) starts_[i + 1] += starts_[i];
    sorted_.resize(n);
    for (const Cut& cut : cuts) sorted_[starts_[bucket(cut)]++] = cut;
    cuts.swap(sorted_);
    insert(cuts, before);
  }

 private:
  template <class Before>
  static void insert(std::vector<Cut>& cuts, const Before& before) {
    for (size_t i = 1; i < cuts.size(); ++i) {
      const Cut cut = cuts[i];
      size_t j = i;
      for (; j > 0 && before(cut, cuts[j - 1]); --j) cuts[j] = cuts[j - 1];
      cuts[j] = cut;
    }
  }
  std::vector<uint32_t> starts_;
  std::vector<Cut> sorted_;
};

template <typename T>
class ConfigurationLister {
 public:
  ConfigurationLister(int64_t bits, int64_t least, int64_t most, BitConfigurations& out)
      : bits_(bits), least_(least), most_(most), out_(out) {}

  void list(const T* mu, bool tight, int64_t row, uint8_t* base) {
    cuts_.clear();
    const bool any_number = least_ == 0 && most_ >= bits_;
    any_number ? cut_nested(mu, base) : cut_line(mu, tight, base);
    sorter_.sort(cuts_);

    const int64_t first = row * bits_;
    int64_t count = 0, lower = -1;
    double from = 0;
    size_t flips = 0;  // of the configuration that begins at `from`
    const auto emit = [&](double to, int64_t upper) {
      out_.weights.push_back(to - from);
      out_.upper.push_back(upper);
      out_.lower.push_back(lower);
      out_.flips.lengths.push_back(static_cast<int64_t>(flips));
      if (flips > 1) {
        std::sort(out_.flips.parts.end() - static_cast<std::ptrdiff_t>(flips),
                  out_.flips.parts.end());
      }
      ++count;
      from = to;
      lower = upper;
      flips = 0;
    };
    const auto flip = [&](int64_t bit) {
      // A bit that two cuts at one place turn on and off again has not changed.
      auto& parts = out_.flips.parts;
      if (flips == 0) {
        parts.push_back(bit);
        ++flips;
        return;
      }
      const auto begin = parts.end() - static_cast<std::ptrdiff_t>(flips);
      const auto found = std::find(begin, parts.end(), bit);
      if (found != parts.end()) {
        parts.erase(found);
        --flips;
      } else {
        parts.push_back(bit);
        ++flips;
      }
    };
    for (const Cut& cut : cuts_) {
      if (cut.place - from > kShortest) {
        if (1 - cut.place <= kShortest) break;
        emit(cut.place, first + cut.bit);
      } else if (from == 0) {
        // A cut at 0 changes the first configuration itself.
        base[cut.bit] ^= 1;
        if (cut.next >= 0) base[cut.next] ^= 1;
        continue;
      }
      flip(cut.bit);
      if (cut.next >= 0) flip(cut.next);
    }
    emit(1, -1);
    out_.counts.push_back(count);
  }

 private:
  void cut_nested(const T* mu, uint8_t* base) {
    // Written without a branch: which marginals are fractional cannot be predicted.
    cuts_.resize(static_cast<size_t>(bits_));
    size_t count = 0;
    for (int64_t i = 0; i < bits_; ++i) {
      base[i] = mu[i] > 0;
      cuts_[count] = {static_cast<double>(mu[i]), static_cast<int32_t>(i), -1};
      count += (mu[i] > 0) & (mu[i] < 1);
    }
    cuts_.resize(count);
  }
  // Bits that are certainly on have intervals of length 1 and are on for every u: they stay off the
  // line. On it, places are multiples of 2⁻⁵³ and sums exact, so that no interval is longer than 1
  // and each configuration has ⌊total⌋ or ⌈total⌉ of its bits on.
  void cut_line(const T* mu, bool tight, uint8_t* base) {
    using Place = __int128;
    constexpr Place kOne = Place{1} << 53;
    const auto length = [](T m) { return std::lrint(static_cast<double>(m) * 0x1p53); };
    inside_.clear();
    int64_t certain = 0;
    Place total = 0;
    for (int64_t i = 0; i < bits_; ++i) {
      base[i] = mu[i] >= 1;
      certain += mu[i] >= 1;
      if (mu[i] > 0 && mu[i] < 1) {
        inside_.push_back(static_cast<int32_t>(i));
        total += length(mu[i]);
      }
    }
    const auto fractional = static_cast<int64_t>(inside_.size());
    // Marginals without such a distribution: the nearest number of bits.
    for (int64_t i = bits_ - 1; certain > most_; --i) {
      certain -= base[i];
      base[i] = 0;
    }
    for (int64_t i = 0; certain + fractional < least_; ++i) {
      if (mu[i] > 0) continue;
      base[i] = 1;
      ++certain;
    }
    const Place low = std::max<int64_t>(least_ - certain, 0) * kOne;
    const Place high = std::min(most_ - certain, fractional) * kOne;
    total = std::clamp(total, low, high);
    if (tight) total = total - low < high - total ? low : high;
    Place sum = 0;
    for (int64_t j = 0; j < fractional; ++j) {
      const int32_t bit = inside_[static_cast<size_t>(j)];
      const int64_t rest = fractional - 1 - j;
      const Place begin = sum;
      // What was clamped away from the total must not make the intervals to come longer than 1.
      sum = std::clamp(begin + length(mu[bit]), total - rest * kOne, total);
      // On at u = 0 where [begin, sum) contains an integer.
      if (((begin + kOne - 1) & -kOne) < sum) base[bit] = 1;
      const auto place = static_cast<int64_t>(sum & (kOne - 1));
      const int32_t next = rest == 0 ? -1 : inside_[static_cast<size_t>(j) + 1];
      if (place > 0) cuts_.push_back({static_cast<double>(place) * 0x1p-53, bit, next});
    }
  }

  int64_t bits_, least_, most_;
  BitConfigurations& out_;
  std::vector<Cut> cuts_;
  std::vector<int32_t> inside_;
  CutSorter sorter_;
};

template <typename T>
void configurations_of_rows(const T* marginals, const bool* tight, int64_t rows, int64_t bits,
                            int64_t least, int64_t most, uint8_t* base, BitConfigurations& out) {
  ConfigurationLister<T> lister(bits, least, most, out);
  const auto expected = static_cast<size_t>(std::min<int64_t>(rows * (bits + 1), 1 << 20));
  for (auto* numbers : {&out.upper, &out.lower, &out.flips.lengths, &out.flips.parts}) {
    numbers->reserve(expected);
  }
  out.weights.reserve(expected);
  for (int64_t row = 0; row < rows; ++row) {
    lister.list(marginals + row * bits, tight[row], row, base + row * bits);
  }
}

template <typename T>
void configurations_backward(const T* grad, const T* marginals, const int64_t* splits,
                             const int64_t* upper, const int64_t* lower, bool on_line,
                             int64_t begin, int64_t end, int64_t bits, T* grad_marginals) {
  for (int64_t row = begin; row < end; ++row) {
    const T* mu = marginals + row * bits;
    T* out = grad_marginals + row * bits;
    std::fill_n(out, bits, T{0});
    for (int64_t i = splits[row]; i < splits[row + 1]; ++i) {
      if (upper[i] >= 0) grad_marginals[upper[i]] += grad[i];
      if (lower[i] >= 0) grad_marginals[lower[i]] -= grad[i];
    }
    if (!on_line) continue;
    double sum = 0;
    for (int64_t i = bits - 1; i >= 0; --i) {
      sum += static_cast<double>(out[i]);
      out[i] = mu[i] > 0 && mu[i] < 1 ? static_cast<T>(sum) : T{0};
    }
  }
}

}  // namespace

int64_t sparsemap_marginals(const float* scores, int64_t rows, int64_t bits, int64_t least,
                            int64_t most, double a, double c, float* marginals, bool* tight) {
  return marginals_of_rows(scores, rows, bits, least, most, a, c, marginals, tight);
}
int64_t sparsemap_marginals(const double* scores, int64_t rows, int64_t bits, int64_t least,
                            int64_t most, double a, double c, double* marginals, bool* tight) {
  return marginals_of_rows(scores, rows, bits, least, most, a, c, marginals, tight);
}

void sparsemap_marginals_backward(const float* grad, const float* marginals, const bool* tight,
                                  int64_t rows, int64_t bits, double a, float* grad_scores) {
  marginals_backward(grad, marginals, tight, rows, bits, a, grad_scores);
}
void sparsemap_marginals_backward(const double* grad, const double* marginals, const bool* tight,
                                  int64_t rows, int64_t bits, double a, double* grad_scores) {
  marginals_backward(grad, marginals, tight, rows, bits, a, grad_scores);
}

void sparsemap_configurations(const float* marginals, const bool* tight, int64_t rows, int64_t bits,
                              int64_t least, int64_t most, uint8_t* base, BitConfigurations& out) {
  configurations_of_rows(marginals, tight, rows, bits, least, most, base, out);
}
void sparsemap_configurations(const double* marginals, const bool* tight, int64_t rows,
                              int64_t bits, int64_t least, int64_t most, uint8_t* base,
                              BitConfigurations& out) {
  configurations_of_rows(marginals, tight, rows, bits, least, most, base, out);
}

void sparsemap_configurations_backward(const float* grad, const float* marginals,
                                       const int64_t* splits, const int64_t* upper,
                                       const int64_t* lower, bool on_line, int64_t begin,
                                       int64_t end, int64_t bits, float* grad_marginals) {
  configurations_backward(grad, marginals, splits, upper, lower, on_line, begin, end, bits,
                          grad_marginals);
}
void sparsemap_configurations_backward(const double* grad, const double* marginals,
                                       const int64_t* splits, const int64_t* upper,
                                       const int64_t* lower, bool on_line, int64_t begin,
                                       int64_t end, int64_t bits, double* grad_marginals) {
  configurations_backward(grad, marginals, splits, upper, lower, on_line, begin, end, bits,
                          grad_marginals);
}

}  // namespace sparsum::kernels
