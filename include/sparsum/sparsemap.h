#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <sparsum/export.h>
#include <sparsum/sparse_distribution.h>
#include <sparsum/structure.h>

#include <cstdint>
#include <optional>

namespace sparsum {

/// Which parts of a bit stand in the problem (and are regularised): the indicator that it is on,
/// with score t; or both that and the indicator that it is off, with score 0. The first gives
/// marginals clip(t, 0, 1), the second clip((t + 1)/2, 0, 1), symmetric around t = 0.
enum class Encoding { kOneState, kBothStates };

/// How the distribution is found. Both give the same marginals and objective, not the same
/// distribution (see sparsemap).
enum class SparsemapAlgorithm { kActiveSet, kClosedForm };

/// What the active-set method starts from: the best configuration of the scores, or that of random
/// scores.
enum class SparsemapInit { kMap, kRandom };

struct SparsemapOptions {
  Encoding encoding = Encoding::kOneState;
  SparsemapAlgorithm algorithm = SparsemapAlgorithm::kActiveSet;

  // Of the active-set method:
  /// It stops when the duality gap is at most tolerance · max(1, max_i |t_i|); > 0. Less than 4ε·V
  /// (8ε·V with both states), ε = 2⁻⁵² whatever the dtype, is taken as that.
  double tolerance = 1e-9;
  int64_t max_iterations = 0;  ///< of each example; 0: 1000 + 20·V
  SparsemapInit init = SparsemapInit::kMap;
  std::optional<at::Generator> generator;  ///< for SparsemapInit::kRandom
  /// An earlier solution over the same structure and batch size, to start from instead of `init`.
  /// Borrowed for the call.
  const SparseDistribution* warm_start = nullptr;
};

/// SparseMAP's solution and how it was found, per example. Everything but the distribution and the
/// marginals is detached.
struct SparsemapResult {
  SparseDistribution distribution;
  at::Tensor marginals;     ///< [B, V] E[a_z], differentiable in the scores by itself
  at::Tensor objective;     ///< [B] ½‖A_u ξ − t_u‖² − ⟨A_v ξ, t_v⟩, float64
  at::Tensor gap;           ///< [B] duality gap: an upper bound on what is missing, float64
  at::Tensor iterations;    ///< [B] int64; 0 for the closed form
  at::Tensor oracle_calls;  ///< [B] int64
  /// [B] bool: the gap is within the tolerance, no less than 4ε·V · max(1, max_i |t_i|); or
  /// rounding allows no further step and it is at most 10⁻¹² · V · max(1, max_i |t_i|) (both twice
  /// as much with both states). Also distribution.exact().
  at::Tensor converged;
};

/// SparseMAP (Niculae et al., 2018): a sparse distribution over the outcomes of a structure whose
/// marginals are the scores' projection onto the convex hull of the outcomes,
///   ξ ∈ argmin_{ξ in Δ^|Z|} ½‖A_u ξ − t_u‖² − ⟨A_v ξ, t_v⟩,
/// u the structure's variables and v its other parts.
///
/// structure: Bits (BitVector, Budget, Subset), a Categorical (where it is sparsemax), or any
///   CustomStructure; the closed form and Encoding::kBothStates are for Bits.
/// scores t: [B, V]. A score of −∞ forbids its part.
/// Returns: the distribution, at most variables + 1 outcomes an example, and its marginals.
///   The marginals and the objective are unique, the distribution is not. The active-set method's
///   has few outcomes with weights that decay; the closed form's spans the whole face: as many
///   outcomes as there are fractional marginals, plus one.
/// Vector-Jacobian product: through `distribution`, that of its weights with the support held fixed
///   (active set) or of the closed form; through `marginals`, that of the projection: for Bits
///   independent of the algorithm, for other structures by way of the support, exact where that
///   spans its face. Second derivatives are those of piecewise linear functions.
/// Cost: active set: about one oracle call and O(|support|² + V·|support|) an outcome; closed form:
///   O(V log V). float64 inside. On other devices the solvers go through the host.
/// Errors: a structure without a solver; options out of range; a row with NaN, +∞ or no outcome; a
///   user's oracle that returns a suboptimal configuration, named. An example that stops at
///   max_iterations is not an error: `converged` says so.
/// Source: Niculae, Martins, Blondel and Cardie, 2018; Correia et al., 2020, §4.2.
SPARSUM_API SparsemapResult solve_sparsemap(const Structure& structure, const at::Tensor& scores,
                                            const SparsemapOptions& options = {});

/// solve_sparsemap's distribution.
SPARSUM_API SparseDistribution sparsemap(const Structure& structure, const at::Tensor& scores,
                                         const SparsemapOptions& options = {});

/// SparseMAP's marginals μ = A ξ alone: [B, V], by the closed form where there is one.
SPARSUM_API at::Tensor sparsemap_marginals(const Structure& structure, const at::Tensor& scores,
                                           const SparsemapOptions& options = {});

/// The Fenchel–Young loss of SparseMAP,
///   L(t; y) = max_μ (⟨t, μ⟩ − Ω(μ)) + Ω(y) − ⟨t, y⟩ ≥ 0,   Ω(μ) = ½‖μ_u‖²,
/// zero if and only if y is the solution for t; its gradient is μ(t) − y. With
/// Encoding::kBothStates Ω(μ) = ½‖μ‖² + ½‖1 − μ‖²: both indicators of a bit are regularised.
/// target y: [B, V], the indicators of an outcome of each example, or any point of the hull.
/// Returns: [B]. What rounding makes negative is clamped to 0, its gradient left alone. Target mass
/// on a score of −∞ gives +∞.
SPARSUM_API at::Tensor sparsemap_loss(const Structure& structure, const at::Tensor& scores,
                                      const at::Tensor& target,
                                      const SparsemapOptions& options = {});

}  // namespace sparsum
