#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace sparsum::kernels {

// SparseMAP by an active-set method, one example at a time:
//
//   ξ* ∈ argmin_{ξ ∈ Δ^{|Z|}} ½‖A_u ξ − t_u‖² − ⟨A_v ξ, t_v⟩
//
// Z is a finite set of configurations; column a_z ∈ {0,1}^V of A holds the indicators of the parts
// of configuration z. The first U parts are the variables u, the others the additionals v. Only a
// MAP oracle for Z is needed.

/// What is known of Z: its best configuration for any scores of the parts.
class MapOracle {
 public:
  virtual ~MapOracle() = default;

  /// Writes the indicators (0 or 1) of a configuration z of Z that maximises ⟨a_z, scores⟩.
  /// scores, configuration: [V]. A score of −∞ forbids its part; the others are finite. Whatever it
  /// throws passes through the solver, which can be used again afterwards.
  virtual void best(const double* scores, uint8_t* configuration) = 0;
};

/// The set of D bits of which at least `least` and at most `most` are on. Bits: {0, D}; a budget of
/// B: {0, B}; subsets of size B: {B, B}. Its MAP switches on the bits with positive scores (0 is
/// off), or, if those are too many or too few, the `most` or the `least` largest; ties go to the
/// lower index.
struct BitCounts {
  int64_t least = 0;
  int64_t most = std::numeric_limits<int64_t>::max();
};

enum class ActiveSetStatus {
  kConverged,         // gap ≤ tolerance·scale, or nothing but rounding is left of it
  kMaxIterations,     // a feasible ξ, but its gap is too large
  kStalled,           // likewise: rounding allows no further step
  kOracleNotBinary,   // the oracle wrote something other than 0 and 1
  kOracleForbidden,   // the oracle used a part whose score is −∞
  kOracleSuboptimal,  // the oracle's configuration is worse than one it returned before
  kIllegalScores,     // a score is NaN or +∞
  kIllegalStart,      // the start is not 0/1, uses a forbidden part or has a wrong number of bits
  kNoConfiguration,   // BitCounts and the forbidden parts leave nothing to choose
};

/// One sentence for an error message.
const char* describe(ActiveSetStatus status);

/// Where to start and when to stop.
struct ActiveSetOptions {
  /// Stops when the duality gap is ≤ tolerance·scale, with scale = max(1, max finite |t_i|). Less
  /// than V·2⁻⁵⁰ is taken as that: the rest would be rounding.
  double tolerance = 1e-9;
  /// Bounds the oracle's calls too, to one more (two more if it has to find the start); 0 means
  /// 1000 + 20·V.
  int64_t max_iterations = 0;
  /// The configuration to start from, [V]; default the MAP of t.
  const uint8_t* initial = nullptr;
  /// Warm start, instead of `initial`: an earlier support, [warm_count, V], and its weights. Rows
  /// that use a forbidden part, whose weight is not positive, or smaller than the change of scores
  /// explains, or that are affinely dependent on earlier ones are left out and the other weights
  /// scaled to sum 1; nothing left is a cold start. Pays where the oracle is costly or the scores
  /// hardly changed; with the built-in oracle a cold start is often as fast or faster: weights
  /// decay geometrically, so that after a change of 1e-2 in the scores most of them have to be
  /// found anew.
  const uint8_t* warm_configurations = nullptr;
  const double* warm_weights = nullptr;
  int64_t warm_count = 0;
};

struct ActiveSetSolution {
  ActiveSetStatus status = ActiveSetStatus::kConverged;
  int64_t support = 0;                  // m ≤ U + 1, affinely independent in u
  std::vector<uint8_t> configurations;  // [m, V]
  std::vector<double> weights;          // [m], ξ on the support: > 0, sum 1 to rounding
  std::vector<double> marginals;  // [V], μ = A ξ; exactly 0 or 1 where the whole support agrees
  /// ½‖A_u ξ − t_u‖² − ⟨A_v ξ, t_v⟩; variables with t_i = −∞ are left out of the norm.
  double objective = 0;
  /// The duality gap by the oracle's word: max_z ⟨a_z, r⟩ − ⟨μ, r⟩ ≥ 0 with r = (t_u − μ_u, t_v).
  /// It bounds the objective's distance from the optimum, and ‖μ_u − μ_u*‖².
  double gap = 0;
  double scale = 1;
  int64_t iterations = 0;    // configurations added, and restarts of the factorisation
  int64_t oracle_calls = 0;  // also of built-in oracles
};

/// The solver with its memory and its last solution. One per thread; examples of any shape may
/// follow each other, and memory is only ever acquired for one larger than those before.
///
/// Method: Wolfe's min-norm-point algorithm. On the support S the equality-constrained QP is solved
/// through K = G + 11ᵀ, G = A_uSᵀ A_uS, which is positive definite if and only if the support is
/// affinely independent in u. The inverse of its Cholesky factor is kept: a new configuration adds
/// a row (two products of that triangle with a vector), one that leaves is rotated out (one pass).
/// After each addition the weights move towards the QP's solution; the first that would become
/// negative leaves, until none does. A configuration that depends affinely on the support (only
/// with additionals) takes over along the null direction until a weight is 0. Finite in exact
/// arithmetic.
///
/// The result is deterministic for one SIMD target; across targets the last bits of ξ differ, and
/// where scores tie the support may.
/// Cost of an iteration: O(m² + m(V/64 + U)) plus the oracle; memory O(m² + mV/8 + V).
/// Source: P. Wolfe (1976), "Finding the nearest point in a polytope"; V. Niculae et al. (2018),
/// "SparseMAP", appendix; J. Nocedal and S. Wright (2006), section 16.5.
class ActiveSet {
 public:
  ActiveSet();
  ~ActiveSet();
  ActiveSet(ActiveSet&&) noexcept;
  ActiveSet& operator=(ActiveSet&&) noexcept;

  /// SparseMAP over the oracle's set. scores t: [parts], the first `variables` ≤ parts of them
  /// regularised, parts ≥ 1. t_i = −∞ forbids part i: its marginal is 0. Problems are reported in
  /// the solution's status; after one other than kConverged, kMaxIterations and kStalled the other
  /// fields do not matter. The reference stays valid until the next solve.
  const ActiveSetSolution& solve(const double* scores, int64_t parts, int64_t variables,
                                 MapOracle& oracle, const ActiveSetOptions& options = {});

  /// SparseMAP over D = `bits` variables of which between counts.least and counts.most are on. Its
  /// oracle costs O(D) and stays inside the solver.
  const ActiveSetSolution& solve(const double* scores, int64_t bits, BitCounts counts,
                                 const ActiveSetOptions& options = {});

  const ActiveSetSolution& solution() const;

  /// grad_scores = A_S w with w the solution of [G 1; 1ᵀ 0][w; ·] = [grad_weights; 0]: the
  /// vector-Jacobian product of ξ with respect to t, the support held fixed.
  /// configurations: [m, parts] of 0 and 1 (not checked), m ≥ 1; grad_weights: [m]; grad_scores:
  /// [parts]. Where configurations are affinely dependent in u the system is singular: those that
  /// depend on earlier ones have w = 0, as if their weights were constants. (The gradient through
  /// μ_u is the same whichever are chosen.) Leaves the solution alone. Cost: O(m³ + m²U/64 + mV).
  void vjp(const uint8_t* configurations, int64_t m, int64_t parts, int64_t variables,
           const double* grad_weights, double* grad_scores);

  /// The transpose of vjp, and so the Jacobian-vector product: out = w with right-hand side [A_Sᵀ
  /// h; 0]. h: [parts]; out: [m]. ⟨vjp(g), h⟩ = ⟨g, vjp_transpose(h)⟩.
  void vjp_transpose(const uint8_t* configurations, int64_t m, int64_t parts, int64_t variables,
                     const double* h, double* out);

  struct Workspace;

 private:
  std::unique_ptr<Workspace> workspace_;
};

}  // namespace sparsum::kernels
