#pragma once

#include <sparsum/structure.h>

namespace sparsum {

/// One variable with K values: V = K parts, outcome z = part z, in the order 0 … K − 1.
/// Every oracle is exact; assignments carry `indices`. Ties go to the lower index. A score of −∞ is
/// never sampled; k_best lists such outcomes last. map, k_best and sample refuse, on the CPU, a row
/// with NaN, +∞ or no finite score, naming it (on CUDA that check would synchronise). Costs are
/// O(K) a row, k_best O(K + k log k), sampling O(K) for the first draw of a row and O(log K) for
/// each further one.
class SPARSUM_API Categorical final : public Structure {
 public:
  /// K ≥ 1, the number of values.
  explicit Categorical(int64_t values);

  std::string name() const override;
  int64_t parts() const override { return values_; }
  double log_size() const override;
  std::optional<int64_t> size() const override { return values_; }

  Assignments enumerate(int64_t batch, const at::Device& device,
                        int64_t limit = 1 << 16) const override;
  Assignments map(const at::Tensor& scores) const override;
  Assignments k_best(const at::Tensor& scores, int64_t k) const override;
  Assignments sample(const at::Tensor& scores, int64_t samples,
                     at::Generator generator) const override;
  at::Tensor score(const at::Tensor& scores, const Assignments& z) const override;
  at::Tensor log_partition(const at::Tensor& scores) const override;
  at::Tensor marginals(const at::Tensor& scores) const override;
  at::Tensor entropy(const at::Tensor& scores) const override;

 private:
  int64_t values_;
};

}  // namespace sparsum
