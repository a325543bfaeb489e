#pragma once

#include <sparsum/structure.h>

namespace sparsum {

/// Vectors of D bits of which between `least` and `most` are on; part i is "bit i is on", so V = D.
/// Scores t give a vector z the score Σ_{i on} t_i.
///
/// Order of enumerate(): by Σ_i z_i 2^i, those with too few or too many bits on left out.
///   O(|Z|·D) for any D.
/// map: the bits with t_i > 0, or, where these are too many or too few, as many as allowed of the
///   largest scores; a bit with t_i = 0 is off unless it is needed, and among equal scores the
///   lower indices are on.
/// k_best: as flips of the map (Assignments::flips), in the order that
///   sparsum/kernels/k_best_bits.h states; configurations that −∞ forbids are left out. Any k up to
///   |Z|, O(D + k log k); a larger one is as |Z|.
/// sample, log_partition, marginals, entropy: exact. Without bounds, products of Bernoullis, O(D).
///   With bounds, by the distribution of the number of bits on, O(D·most) in float64 and D steps;
///   gradients of any order.
/// Errors: a row with NaN, +∞ or fewer than `least` finite scores, named: of map and k_best, on the
/// CPU of sample, and with bounds and on the CPU of log_partition, marginals and entropy.
/// On other devices map and k_best go through the host.
class SPARSUM_API Bits : public Structure {
 public:
  int64_t parts() const override { return bits_; }
  /// The least and the most bits that are on.
  int64_t least() const { return least_; }
  int64_t most() const { return most_; }
  /// Whether every vector of D bits is allowed.
  bool free() const { return least_ == 0 && most_ == bits_; }

  double log_size() const override;
  std::optional<int64_t> size() const override;

  Assignments enumerate(int64_t batch, const at::Device& device,
                        int64_t limit = 1 << 16) const override;
  Assignments map(const at::Tensor& scores) const override;
  Assignments k_best(const at::Tensor& scores, int64_t k) const override;
  /// The best configurations up to and with the first one that gets no mass in the sparsemax of all
  /// of Z, at most k: one by one, so that k bounds the work and does not start it.
  Assignments best_until_exact(const at::Tensor& scores, int64_t k) const;
  Assignments sample(const at::Tensor& scores, int64_t samples,
                     at::Generator generator) const override;
  at::Tensor score(const at::Tensor& scores, const Assignments& z) const override;
  at::Tensor log_partition(const at::Tensor& scores) const override;
  at::Tensor marginals(const at::Tensor& scores) const override;
  at::Tensor entropy(const at::Tensor& scores) const override;

 protected:
  Bits(const char* name, int64_t bits, int64_t least, int64_t most);

 private:
  Assignments list(const at::Tensor& scores, int64_t k, bool until_exact) const;

  int64_t bits_, least_, most_;
};

/// All vectors of D ≥ 1 bits.
class SPARSUM_API BitVector final : public Bits {
 public:
  explicit BitVector(int64_t bits);
  std::string name() const override;
};

/// Vectors of D ≥ 1 bits with at most B on, 0 ≤ B ≤ D.
class SPARSUM_API Budget final : public Bits {
 public:
  Budget(int64_t bits, int64_t budget);
  std::string name() const override;
};

/// Vectors of D ≥ 1 bits with exactly B on, 0 ≤ B ≤ D.
class SPARSUM_API Subset final : public Bits {
 public:
  Subset(int64_t bits, int64_t size);
  std::string name() const override;
};

}  // namespace sparsum
