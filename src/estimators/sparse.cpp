#include "estimators/sparse.h"

#include <sparsum/categorical.h>
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

void SparseMarginalization::check(const Structure& structure) const {
  TORCH_CHECK(dynamic_cast<const Categorical*>(&structure) != nullptr, "estimator '", name_,
              "' is for categorical structures; got ", structure.name());
}

}  // namespace sparsum
