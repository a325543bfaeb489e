#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/kernels/active_set.h>

#include <functional>

namespace sparsum::ops {

/// Solutions of the active-set method, example after example, on the CPU.
struct ActiveSets {
  at::Tensor row_splits;                ///< [B + 1] int64
  at::Tensor configurations;            ///< [n, V] uint8
  at::Tensor probs;                     ///< [n] float64
  at::Tensor objective, gap;            ///< [B] float64
  at::Tensor iterations, oracle_calls;  ///< [B] int64
  at::Tensor converged;                 ///< [B] bool
};

/// What every example of a batch is solved with. Tensors are on the CPU and dense, or undefined.
struct ActiveSetBatch {
  at::Tensor scores;   ///< [B, V] float64
  at::Tensor initial;  ///< [B, V] uint8: where to start
  at::Tensor warm_row_splits, warm_configurations,
      warm_probs;  ///< an earlier solution to start from
  double tolerance = 1e-9;
  int64_t max_iterations = 0;
};

/// Solves the examples in parallel, in shares that do not depend on the number of threads.
/// solve(solver, scores of the example, its index, options): one example. Throws, naming `op`, the
/// row and why, if one has no solution; one that has not converged is no error.
ActiveSets solve_active_sets(
    const char* op, const ActiveSetBatch& batch,
    const std::function<const kernels::ActiveSetSolution&(
        kernels::ActiveSet&, const double*, int64_t, const kernels::ActiveSetOptions&)>& solve);

}  // namespace sparsum::ops
