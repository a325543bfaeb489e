#pragma once

#include <cstdint>
#include <vector>

namespace sparsum::kernels {

/// Configurations of bits as differences from a first one: the flips of configuration i are the
/// next lengths[i] of `parts`, ascending.
struct FlipLists {
  std::vector<int64_t> lengths, parts;
};

/// When to stop listing configurations.
struct KBestLimit {
  int64_t k = 1;  ///< at most this many, ≥ 1
  /// Stop, before that, with the first one that gets no mass in the sparsemax of all of them: one
  /// whose score is ≤ the threshold τ of those before it. (Scores within rounding of τ go on.)
  bool until_exact = false;
};

/// The best configurations of each row of scores t [rows, bits], among those with `least` to `most`
/// bits on, by their score Σ_{i on} t_i, best first.
///
/// base [rows, bits]: the best one (1: on). counts [rows]: how many were listed, the best one
/// included. Appended to `flips`: for each of them, row after row, where it differs from the row's
/// best one. A score of −∞ forbids its bit: configurations that have it on are not listed.
/// Order among equal scores, any number of bits allowed (least = 0, most ≥ bits): the
/// lexicographically smallest list of flips. Otherwise: fewer bits on first, then the
/// lexicographically smallest list of the ranks of the bits that are on, where bits are ranked by
/// descending score, then by index. In the best one a bit with t = 0 is off unless `least` asks for
/// it, and among equal scores the lower indices are on.
/// Returns −1, or the first row with NaN, +∞ or fewer than `least` finite scores.
///
/// Cost: O(bits + k log k) a row, beyond the flips that are written: of c configurations each list
/// has at most log₂ c + 1 members, unless scores are 0 or tie.
/// Method: every other configuration flips a set F at cost Σ_{i in F} |t_i|; the k smallest subset
/// sums need the k − 1 smallest |t_i| only, and a heap over (set, last member) with the moves
/// "append the next" and "replace the last by the next" meets them in order. With bounds, one such
/// stream a size: the configuration as a list of ranks, whose members move right, the last one
/// first; the streams are opened from the best size outwards and share one heap.
int64_t k_best_bits(const float* scores, int64_t rows, int64_t bits, int64_t least, int64_t most,
                    const KBestLimit& limit, uint8_t* base, int64_t* counts, FlipLists& flips);
int64_t k_best_bits(const double* scores, int64_t rows, int64_t bits, int64_t least, int64_t most,
                    const KBestLimit& limit, uint8_t* base, int64_t* counts, FlipLists& flips);

}  // namespace sparsum::kernels
