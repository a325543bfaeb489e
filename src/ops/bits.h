#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <sparsum/kernels/k_best_bits.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace sparsum::ops {

// What the operators over bit vectors have in common.

/// Throws, naming the op, unless scores are [B, D], floating point, and 0 ≤ least ≤ most ≤ D.
void check_bits(const char* op, const at::Tensor& scores, int64_t least, int64_t most);

/// Throws, naming the op, the row and what is wrong with it: NaN, +∞, or fewer than `least` finite
/// scores.
[[noreturn]] void throw_illegal_bits(const char* op, const at::Tensor& scores, int64_t row,
                                     int64_t least);

/// How many rows of `nanoseconds` each are worth a thread.
inline int64_t row_grain(int64_t nanoseconds) {
  return std::max<int64_t>(1, 20000 / std::max<int64_t>(nanoseconds, 1));
}

/// [n] -> [n + 1]: 0 and the running sums.
at::Tensor splits_of(const at::Tensor& counts);

/// The row of each of n members, by the rows' splits [B + 1]: [n].
at::Tensor rows_of(const at::Tensor& splits);

/// Rows in fixed shares, worked on in parallel, each with an output of its own whose length nobody
/// knows beforehand. The shares do not depend on the number of threads.
template <class Output>
class Shares {
 public:
  Shares(int64_t rows, int64_t grain)
      : rows_(rows), grain_(grain), parts_(static_cast<size_t>((rows + grain - 1) / grain)) {}

  /// Calls f(begin, end, output) for each share; f returns −1 or the first illegal row relative to
  /// `begin`. Returns the first illegal row of all, or −1.
  template <class F>
  int64_t run(const F& f) {
    const auto count = static_cast<int64_t>(parts_.size());
    std::vector<int64_t> bad(parts_.size(), -1);
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto share = static_cast<size_t>(i);
        const int64_t row = f(i * grain_, std::min(rows_, (i + 1) * grain_), parts_[share]);
        if (row >= 0) bad[share] = i * grain_ + row;
      }
    });
    for (const int64_t row : bad) {
      if (row >= 0) return row;
    }
    return -1;
  }
  const std::vector<Output>& parts() const { return parts_; }

 private:
  int64_t rows_, grain_;
  std::vector<Output> parts_;
};

/// Concatenated lists, as a tensor.
template <class Share, class Member>
at::Tensor join(const std::vector<Share>& shares, const Member& member,
                const at::TensorOptions& options) {
  using T = typename std::decay_t<decltype(member(shares.front()))>::value_type;
  int64_t count = 0;
  for (const Share& share : shares) count += static_cast<int64_t>(member(share).size());
  at::Tensor joined = at::empty({count}, options);
  T* out = joined.mutable_data_ptr<T>();
  for (const Share& share : shares)
    out = std::copy(member(share).begin(), member(share).end(), out);
  return joined;
}

/// Concatenated flip lists as tensors: (splits [n + 1], parts).
template <class Share, class Member>
std::pair<at::Tensor, at::Tensor> join_flips(const std::vector<Share>& shares, const Member& member,
                                             const at::TensorOptions& options) {
  const at::Tensor lengths = join(
      shares, [&](const Share& s) -> const std::vector<int64_t>& { return member(s).lengths; },
      options);
  const at::Tensor parts = join(
      shares, [&](const Share& s) -> const std::vector<int64_t>& { return member(s).parts; },
      options);
  return {splits_of(lengths), parts};
}

}  // namespace sparsum::ops
