#pragma once

#include <ATen/core/Tensor.h>
#include <sparsum/export.h>

namespace sparsum {

/// n (example, assignment) pairs: the outcomes of a latent variable at which a loss is evaluated.
///
/// Pairs are sorted by example. `rows` and `row_splits` say the same thing in two ways: pair i
/// belongs to example rows[i]; example b owns pairs row_splits[b] … row_splits[b+1] − 1 (possibly
/// none). Assignments are held in one of three ways: as indices (hard outcomes of a Categorical),
/// as rows of part indicators, or as lists of flips, which say where a configuration differs from
/// the first one of its example: the form in which many configurations of very many parts fit in
/// memory.
struct SPARSUM_API Assignments {
  at::Tensor rows;        ///< [n] int64, ascending
  at::Tensor row_splits;  ///< [B+1] int64
  int64_t parts = 0;      ///< V: the number of parts of the structure
  at::Tensor indices;     ///< [n] int64, or undefined: hard outcomes of a Categorical
  /// [n, V] or undefined: indicators in {0, 1}, of any dtype, or relaxed values with gradient.
  at::Tensor indicators;
  /// [B, V] uint8 or undefined: a configuration of each example. Pair i flips the parts
  /// flips[flip_splits[i]] … flips[flip_splits[i+1] − 1] of it (or, if `chained`, of the pair
  /// before it in the same example, the first pair of the base).
  at::Tensor base;
  at::Tensor flip_splits;  ///< [n+1] int64, with `base`
  at::Tensor flips;        ///< [m] int64: parts, ascending within a pair
  bool chained = false;
  /// Every example lists all K outcomes of a Categorical in order, so n = B·K and pair b·K + j is
  /// outcome j of example b: a loss may then use one batched product instead of gathering.
  bool full_grid = false;

  /// n, the number of pairs.
  int64_t count() const { return rows.size(0); }
  /// B, the number of examples.
  int64_t batch_size() const { return row_splits.size(0) - 1; }
  /// Pairs per example: [B] int64.
  at::Tensor evaluations() const;

  /// The indicator rows a_z, made on demand from `indices` or `flips` when need be: [n, V] of
  /// `dtype`, on the device of `rows`. Relaxed values keep their gradient.
  at::Tensor values(at::ScalarType dtype = at::kFloat) const;

  /// Σ_v a_z[v]·table[v]: the first layer of a network that reads z, [V, H] -> [n, H]. A row lookup
  /// when the outcomes are indices, a product when they are indicators (relaxed ones get their
  /// gradient).
  at::Tensor embed(const at::Tensor& table) const;

  /// What each pair's own example says: [B, …] -> [n, …].
  at::Tensor gather(const at::Tensor& per_example) const;

  /// Sums over each example's pairs: [n] -> [B]. In a fixed order: the same input gives the same
  /// bytes.
  at::Tensor sum_per_example(const at::Tensor& per_pair) const;

  /// The pairs numbered `pairs` [m] int64 (in that order, repeats allowed) as Assignments over the
  /// examples that `new_rows` [m] and `new_row_splits` say, the rows being those of the same B
  /// examples.
  Assignments select(const at::Tensor& pairs, const at::Tensor& new_rows,
                     const at::Tensor& new_row_splits) const;

  /// Pairs begin … end − 1 as Assignments over the same B examples (for evaluation chunk by chunk).
  Assignments slice(int64_t begin, int64_t end) const;
};

/// Assignments in which example b has the single pair b.
///
/// outcomes: [B] int64, indices of a Categorical's outcomes (in 0 … V − 1, not checked); or [B, V],
///   indicators as in Assignments::indicators. Held as they are, with their gradient. parts: V.
/// Errors: a shape or dtype that is neither.
SPARSUM_API Assignments one_per_example(const at::Tensor& outcomes, int64_t parts);

}  // namespace sparsum
