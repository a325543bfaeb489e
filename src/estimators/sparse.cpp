#include "estimators/sparse.h"

#include <sparsum/categorical.h>
#include <sparsum/entmax_loss.h>
#include <sparsum/sparsemap.h>
#include <torch/torch.h>

namespace sparsum {

Estimate SparseMarginalization::estimate(const Problem& problem,
                                         std::optional<at::Generator> generator) {
  return marginalize(map(problem.structure, problem.scores), problem, generator);
}

std::unique_ptr<Distribution> SparseMarginalization::distribution(const Structure& structure,
                                                                  const at::Tensor& scores) const {
  return std::make_unique<SparseDistribution>(map(structure, scores));
}

at::Tensor SparseMarginalization::supervised_loss(const at::Tensor& scores,
                                                  const at::Tensor& target) const {
  LossOptions options;
  options.reduction = Reduction::kNone;
  return sparsemax_loss(scores, target, options);
}

void SparseMarginalization::check(const Structure& structure) const {
  TORCH_CHECK(dynamic_cast<const Categorical*>(&structure) != nullptr, "estimator '", name_,
              "' is for categorical structures; got ", structure.name());
}

void SparseMarginalization::check_k_best(const Structure& structure) const {
  // An oracle that does not exist says so for an empty batch as well.
  try {
    structure.k_best(at::empty({0, structure.parts()}), 1);
  } catch (const c10::Error& error) {
    TORCH_CHECK(false, "estimator '", name_, "' is for structures with k_best; ",
                error.what_without_backtrace());
  }
}

void SparseMarginalization::check_sparsemap(const Structure& structure) const {
  try {
    sparsemap(structure, at::empty({0, structure.parts()}));
  } catch (const c10::Error& error) {
    TORCH_CHECK(false, "estimator '", name_, "' is for structures that SparseMAP is solved over; ",
                error.what_without_backtrace());
  }
}

}  // namespace sparsum
