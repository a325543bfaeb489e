#include "ops/active_set.h"

#include "ops/find_op.h"
#include "sparsemap/solvers.h"

#include <torch/torch.h>

#include <algorithm>

namespace sparsum {
namespace {

constexpr const char* kName = "sparsemap";

at::Tensor weights(const at::Tensor& scores, const at::Tensor& probs, const at::Tensor& row_splits,
                   const at::Tensor& configurations, int64_t variables, double slope) {
  static const auto op =
      ops::find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                              const at::Tensor&, int64_t, double)>("sparsum::sparsemap_weights");
  return op.call(scores, probs, row_splits, configurations, variables, slope);
}

/// Where the examples start: the best configuration of the scores, or of random ones.
at::Tensor start(const Structure& structure, const at::Tensor& scores,
                 const SparsemapOptions& options) {
  if (options.init == SparsemapInit::kMap) return structure.map(scores.detach()).values(at::kByte);
  TORCH_CHECK(options.generator && options.generator->defined(), kName,
              ": expected a generator for SparsemapInit::kRandom");
  // Forbidden parts stay so.
  const at::Tensor noise =
      at::randn(scores.sizes(), *options.generator, scores.options().requires_grad(false));
  return structure.map(noise.masked_fill(scores == -INFINITY, -INFINITY)).values(at::kByte);
}

/// An earlier solution as the solver takes it.
struct WarmStart {
  WarmStart(const Structure& structure, int64_t batch, const SparsemapOptions& options) {
    if (options.warm_start == nullptr) return;
    const SparseDistribution& q = *options.warm_start;
    TORCH_CHECK(q.batch_size() == batch && q.support().parts == structure.parts(), kName,
                ": expected a warm start of ", batch, " examples and ", structure.parts(),
                " parts, got ", q.batch_size(), " and ", q.support().parts);
    row_splits = q.support().row_splits.to(at::kCPU, at::kLong).contiguous();
    configurations = q.support().values(at::kByte).cpu().contiguous();
    probs = q.probs().detach().to(at::kCPU, at::kDouble).contiguous();
  }
  at::Tensor row_splits, configurations, probs;
};

Assignments support_of(const at::Tensor& row_splits, const at::Tensor& configurations) {
  Assignments z;
  z.row_splits = row_splits;
  z.rows = at::repeat_interleave(z.evaluations());
  z.parts = configurations.size(1);
  z.indicators = configurations;
  return z;
}

std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

/// A user's structure as the solver sees it.
class Oracle final : public kernels::MapOracle {
 public:
  explicit Oracle(const CustomStructure& structure) : structure_(structure) {}
  void best(const double* scores, uint8_t* configuration) override {
    const auto outcome = structure_.checked_best({scores, static_cast<size_t>(structure_.parts())});
    std::copy(outcome.begin(), outcome.end(), configuration);
  }

 private:
  const CustomStructure& structure_;
};

}  // namespace

SparsemapResult solve_active_set(const Bits& bits, const at::Tensor& scores,
                                 const SparsemapOptions& options) {
  using Solutions = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                               at::Tensor, at::Tensor, at::Tensor>;
  using Tensors = const std::optional<at::Tensor>&;
  static const auto op =
      ops::find_op<Solutions(const at::Tensor&, int64_t, int64_t, bool, double, int64_t, Tensors,
                             Tensors, Tensors, Tensors)>("sparsum::sparsemap_active_set");
  const bool both_states = options.encoding == Encoding::kBothStates;
  const WarmStart warm(bits, scores.size(0), options);
  const at::Tensor initial =
      options.warm_start == nullptr ? start(bits, scores, options) : at::Tensor();
  const auto [row_splits, configurations, probs, objective, gap, iterations, calls, converged] =
      op.call(scores.detach(), bits.least(), bits.most(), both_states, options.tolerance,
              options.max_iterations, if_defined(initial), if_defined(warm.row_splits),
              if_defined(warm.configurations), if_defined(warm.probs));
  const at::Tensor attached =
      weights(scores, probs, row_splits, configurations, bits.parts(), both_states ? 0.5 : 1.0);
  return {SparseDistribution(support_of(row_splits, configurations), attached, converged),
          bit_marginals(bits, scores, options.encoding).first,
          objective,
          gap,
          iterations,
          calls,
          converged};
}

SparsemapResult solve_active_set(const CustomStructure& structure, const at::Tensor& scores,
                                 const SparsemapOptions& options) {
  const WarmStart warm(structure, scores.size(0), options);
  ops::ActiveSetBatch batch;
  batch.scores = scores.detach().to(at::kCPU, at::kDouble).contiguous();
  if (options.init == SparsemapInit::kRandom && options.warm_start == nullptr) {
    batch.initial = start(structure, scores, options).cpu().contiguous();
  }
  batch.warm_row_splits = warm.row_splits;
  batch.warm_configurations = warm.configurations;
  batch.warm_probs = warm.probs;
  batch.tolerance = options.tolerance;
  batch.max_iterations = options.max_iterations;
  const std::string name = std::string(kName) + ": " + structure.name();
  ops::ActiveSets s = ops::solve_active_sets(
      name.c_str(), batch,
      [&](kernels::ActiveSet& solver, const double* row, int64_t,
          const kernels::ActiveSetOptions& solver_options) -> const kernels::ActiveSetSolution& {
        Oracle oracle(structure);
        return solver.solve(row, structure.parts(), structure.variables(), oracle, solver_options);
      });
  const auto device = scores.device();
  const at::Tensor row_splits = s.row_splits.to(device);
  const at::Tensor configurations = s.configurations.to(device);
  const at::Tensor attached = weights(scores, s.probs.to(device, scores.scalar_type()), row_splits,
                                      configurations, structure.variables(), 1);
  SparseDistribution q(support_of(row_splits, configurations), attached, s.converged.to(device));
  const at::Tensor marginals = q.marginals();
  return {std::move(q),
          marginals,
          s.objective.to(device),
          s.gap.to(device),
          s.iterations.to(device),
          s.oracle_calls.to(device),
          s.converged.to(device)};
}

}  // namespace sparsum
