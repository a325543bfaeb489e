#include "estimators/sparse.h"

#include <sparsum/top_k_sparsemax.h>
#include <torch/torch.h>

namespace sparsum {
namespace {

/// Sparse marginalization by sparsemax over a whole structure, its best outcomes listed until the
/// certificate of exactness holds:
///   ξ = argmin_{p in Δ^|Z|} ‖p − s‖²,   s_z = ⟨a_z, t⟩,
/// unless more than max_k outcomes have mass: then top-k sparsemax with k = max_k.
///
/// Exact for its own ξ. Costs ‖ξ‖₀ ≤ max_k loss evaluations an example: many while scores are small
/// (all 2^D configurations of D bits have mass where all scores are 0), few when the model is sure.
/// Needs a structure with k_best.
class TopKAdaptive final : public SparseMarginalization {
 public:
  TopKAdaptive(int64_t k, int64_t max_k)
      : SparseMarginalization("top-k-adaptive"), k_(k), max_k_(max_k) {}

  void check(const Structure& structure) const override { check_k_best(structure); }

 protected:
  SparseDistribution map(const Structure& structure, const at::Tensor& scores) const override {
    return adaptive_top_k_sparsemax(structure, scores, k_, max_k_);
  }

 private:
  int64_t k_, max_k_;
};

}  // namespace

std::shared_ptr<Estimator> make_top_k_adaptive(const Making& making) {
  const EstimatorOptions& options = making.options;
  const int64_t k = own_k("top-k-adaptive", options.k, 10);
  TORCH_CHECK(options.max_k >= k, "estimator 'top-k-adaptive': expected max_k >= k = ", k, ", got ",
              options.max_k);
  return std::make_shared<TopKAdaptive>(k, options.max_k);
}

}  // namespace sparsum
