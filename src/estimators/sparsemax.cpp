#include "estimators/sparse.h"

#include <sparsum/sparsemax.h>
#include <torch/torch.h>

namespace sparsum {
namespace {

/// Sparse marginalization by sparsemax (Martins and Astudillo, 2016):
///   ξ = argmin_{p in Δ} ‖p − s‖².
///
/// Exact for its own ξ. Costs ‖ξ‖₀ loss evaluations an example: several at first, one when the
/// model is sure. Needs a categorical structure.
class Sparsemax final : public SparseMarginalization {
 public:
  Sparsemax() : SparseMarginalization("sparsemax") {}

 protected:
  SparseDistribution map(const Structure& structure, const at::Tensor& scores) const override {
    return sparsemax(structure, scores);
  }
};

}  // namespace

std::shared_ptr<Estimator> make_sparsemax(const Making&) { return std::make_shared<Sparsemax>(); }

}  // namespace sparsum
