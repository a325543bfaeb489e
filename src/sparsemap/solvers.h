#pragma once

#include <sparsum/bits.h>
#include <sparsum/custom_structure.h>
#include <sparsum/sparsemap.h>

namespace sparsum {

// The ways SparseMAP is solved, which solve_sparsemap chooses between.

/// By sorting: every marginal in closed form, and a distribution that has them. diagnostics:
/// whether to fill in what is not the distribution or the marginals; it takes longer than the
/// solution.
SparsemapResult solve_closed_form(const Bits& bits, const at::Tensor& scores,
                                  const SparsemapOptions& options, bool diagnostics);

/// By the active-set method, over bits and over a structure of the user's own.
SparsemapResult solve_active_set(const Bits& bits, const at::Tensor& scores,
                                 const SparsemapOptions& options);
SparsemapResult solve_active_set(const CustomStructure& structure, const at::Tensor& scores,
                                 const SparsemapOptions& options);

/// The closed form's marginals [B, D], differentiable, and whether a bound is active [B].
std::pair<at::Tensor, at::Tensor> bit_marginals(const Bits& bits, const at::Tensor& scores,
                                                Encoding encoding);

/// The objective at marginals μ of bits: [B] float64, detached.
at::Tensor bit_objective(const at::Tensor& scores, const at::Tensor& marginals, Encoding encoding);

}  // namespace sparsum
