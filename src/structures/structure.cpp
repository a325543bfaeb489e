#include "structures/regular.h"

#include <sparsum/structure.h>
#include <torch/torch.h>

#include <cmath>

namespace sparsum {

Assignments regular_assignments(int64_t batch, int64_t per_example, int64_t parts,
                                const at::Device& device) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(device);
  Assignments z;
  z.rows = at::arange(batch, options);
  if (per_example != 1) {
    z.rows = z.rows.unsqueeze(1).expand({batch, per_example}).reshape(batch * per_example);
  }
  z.row_splits = at::arange(batch + 1, options);
  if (per_example != 1) z.row_splits.mul_(per_example);
  z.parts = parts;
  return z;
}

at::Tensor place_in_example(const Assignments& z) {
  return at::arange(z.count(), z.rows.options()) - z.row_splits.index_select(0, z.rows);
}

void Structure::not_available(const char* oracle) const {
  TORCH_CHECK(false, name(), ": ", oracle, " is not available");
}

void Structure::check_scores(const char* caller, const at::Tensor& scores) const {
  TORCH_CHECK(scores.defined(), caller, ": expected scores for ", name(),
              ", got an undefined tensor");
  TORCH_CHECK(at::isFloatingType(scores.scalar_type()), caller,
              ": expected scores to be floating point, got ", scores.scalar_type());
  TORCH_CHECK(scores.dim() == 2 && scores.size(1) == parts(), caller,
              ": expected scores to be [B, V] with V = ", parts(), " for ", name(), ", got ",
              scores.sizes());
}

Assignments Structure::enumerate(int64_t, const at::Device&, int64_t) const {
  not_available("enumerate");
}

Assignments Structure::k_best(const at::Tensor&, int64_t) const { not_available("k_best"); }

Assignments Structure::sample(const at::Tensor&, int64_t, at::Generator) const {
  not_available("sample");
}

at::Tensor Structure::score(const at::Tensor& scores, const Assignments& z) const {
  check_scores("score", scores);
  const at::Tensor values = z.values(scores.scalar_type());
  const at::Tensor own = z.gather(scores);
  // A part that is off contributes 0 though its score be −∞.
  const at::Tensor forbidden = own == -INFINITY;
  return (values * own.masked_fill(forbidden & (values == 0), 0)).sum(1);
}

at::Tensor Structure::log_partition(const at::Tensor&) const { not_available("log_partition"); }

at::Tensor Structure::marginals(const at::Tensor&) const { not_available("marginals"); }

at::Tensor Structure::entropy(const at::Tensor& scores) const {
  // H = log Z − ⟨E[a_z], t⟩; a forbidden part has marginal 0, and 0·∞ is 0 here.
  const at::Tensor finite = scores.masked_fill(scores == -INFINITY, 0);
  return log_partition(scores) - (marginals(scores) * finite).sum(1);
}

}  // namespace sparsum
