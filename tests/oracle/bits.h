#pragma once

// Sets of bits, listed by counting in binary.

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace sparsum::oracle {

/// Every configuration that `admits` lets in.
template <typename Bit = uint8_t, typename Admits>
std::vector<std::vector<Bit>> all_bits(size_t bits, const Admits& admits) {
  std::vector<std::vector<Bit>> members;
  for (size_t code = 0; code < size_t{1} << bits; ++code) {
    std::vector<Bit> z(bits);
    for (size_t i = 0; i < bits; ++i) z[i] = static_cast<Bit>(code >> i & 1);
    if (admits(z)) members.push_back(z);
  }
  return members;
}

/// Every configuration of a BitVector, Budget or Subset.
template <typename Bit = uint8_t, typename Bits>
std::vector<std::vector<Bit>> members_of(const Bits& set) {
  return all_bits<Bit>(static_cast<size_t>(set.parts()), [&](const std::vector<Bit>& z) {
    const int64_t on = std::accumulate(z.begin(), z.end(), int64_t{0});
    return on >= set.least() && on <= set.most();
  });
}

/// The sum of the scores of the bits that are on.
template <typename Bit>
double score(const std::vector<Bit>& z, const std::vector<double>& scores) {
  double sum = 0;
  for (size_t i = 0; i < z.size(); ++i) {
    if (z[i]) sum += scores[i];
  }
  return sum;
}

}  // namespace sparsum::oracle
