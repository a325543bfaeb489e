#include "estimators/sparse.h"

#include <sparsum/top_k_sparsemax.h>
#include <torch/torch.h>

namespace sparsum {
namespace {

/// Sparse marginalization by top-k sparsemax (Correia, Niculae, Aziz and Martins, 2020, §4.1):
///   ξ = argmin_{p in Δ, ‖p‖₀ ≤ k} ‖p − s‖².
///
/// Exact for its own ξ, which is sparsemax's wherever at most k outcomes get mass there. Costs
/// ‖ξ‖₀ ≤ k loss evaluations an example. Needs a structure with k_best.
class TopK final : public SparseMarginalization {
 public:
  explicit TopK(int64_t k) : SparseMarginalization("top-k"), k_(k) {}

  void check(const Structure& structure) const override { check_k_best(structure); }

 protected:
  SparseDistribution map(const Structure& structure, const at::Tensor& scores) const override {
    return top_k_sparsemax(structure, scores, k_);
  }

 private:
  int64_t k_;
};

}  // namespace

std::shared_ptr<Estimator> make_top_k(const Making& making) {
  return std::make_shared<TopK>(own_k("top-k", making.options.k, 10));
}

}  // namespace sparsum
