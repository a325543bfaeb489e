#pragma once

#include <sparsum/structure.h>

#include <cstdint>
#include <span>
#include <vector>

namespace sparsum {

/// A structure of one's own: derive, say how many parts there are and which outcome is best for one
/// example. Batches, threads, top-k sparsemax, SparseMAP and gradients come from the library.
/// examples/custom_structure.cpp is a complete one.
///
/// best (and k_best_one) are called from several threads at once. What they return is checked, and
/// what is wrong an error that names the structure: an outcome that is no vector of V zeros and
/// ones, that uses a part whose score is −∞, or that is worse than one returned before; a list of
/// k_best_one that is out of order, empty, longer than k, shorter than min(k, |Z|) (where size() is
/// known and no score of the row is −∞), or holds an outcome twice. So are parts() < 1 and
/// variables() outside 0 … parts().
class SPARSUM_API CustomStructure : public Structure {
 public:
  /// The indicators of an outcome that maximises ⟨a_z, scores⟩: V bytes, 0 or 1. scores: V numbers,
  /// finite or −∞ (no outcome that uses such a part may be returned).
  virtual std::vector<uint8_t> best(std::span<const double> scores) const = 0;

  /// The min(k, |Z|) best outcomes, best first, each as from best() and none twice; k is at most
  /// 2^V, and at most size() where that is known. Needed for top-k sparsemax only; as declared
  /// here, not available.
  virtual std::vector<std::vector<uint8_t>> k_best_one(std::span<const double> scores,
                                                       int64_t k) const;

  /// Not needed by sparse marginalization; as declared here, log_size is not available and size is
  /// unknown.
  double log_size() const override;
  std::optional<int64_t> size() const override { return {}; }

  Assignments map(const at::Tensor& scores) const final;
  Assignments k_best(const at::Tensor& scores, int64_t k) const final;

  /// best(), checked: throws, naming the structure and what is wrong. (Forbidden parts are left to
  /// the caller.)
  std::vector<uint8_t> checked_best(std::span<const double> scores) const;

  /// Throws, naming the structure and `caller`, unless 1 ≤ parts() and 0 ≤ variables() ≤ parts().
  void check_parts(const char* caller) const;

 private:
  void check_allowed(const char* oracle, std::span<const double> scores, int64_t row,
                     const std::vector<uint8_t>& outcome) const;
  void check_outcome(const char* oracle, const std::vector<uint8_t>& outcome) const;
};

}  // namespace sparsum
