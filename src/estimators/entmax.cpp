#include "estimators/sparse.h"

#include <sparsum/entmax.h>
#include <sparsum/entmax_loss.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum {
namespace {

/// Sparse marginalization by α-entmax (Peters, Niculae and Martins, 2019):
///   ξ = argmax_{p in Δ} ⟨p, s⟩ + H_α(p),
/// from softmax (α = 1: dense) through 1.5 to sparsemax (α = 2) and beyond: the larger α, the fewer
/// outcomes.
///
/// Exact for its own ξ. Costs ‖ξ‖₀ loss evaluations an example. Needs a categorical structure.
class Entmax final : public SparseMarginalization {
 public:
  explicit Entmax(double alpha) : SparseMarginalization("entmax"), alpha_(alpha) {}

  at::Tensor supervised_loss(const at::Tensor& scores, const at::Tensor& target) const override {
    LossOptions options;
    options.reduction = Reduction::kNone;
    return entmax_loss(scores, target, alpha_, options);
  }

 protected:
  SparseDistribution map(const Structure& structure, const at::Tensor& scores) const override {
    return entmax(structure, scores, alpha_);
  }

 private:
  double alpha_;
};

}  // namespace

std::shared_ptr<Estimator> make_entmax(const Making& making) {
  const EstimatorOptions& options = making.options;
  TORCH_CHECK(options.alpha >= 1 && std::isfinite(options.alpha),
              "estimator 'entmax': expected a finite alpha >= 1, got ", options.alpha);
  return std::make_shared<Entmax>(options.alpha);
}

}  // namespace sparsum
