#include "sparsum/kernels/active_set.h"

#include "kernels/active_set_workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/active_set.cc"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway requires.
#include "kernels/active_set_oracles-inl.h"
#include "kernels/active_set_support-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

HWY_BEFORE_NAMESPACE();
namespace sparsum::kernels::HWY_NAMESPACE {

// A gap below kRounding·scale·V may be rounding; only if no step gets further is it accepted.
constexpr double kRounding = 1e-12;

// Newton steps of that length leave rounding errors in the weights that one more, at the end, takes
// away.
constexpr double kRough = 1e3;

// Thins out the `count` rows of an earlier support, returns how many stay. Under the new scores the
// weights of the QP's solution differ from the earlier ones by about the spread of the rows' values
// divided by the squared distance of the rows from mu; smaller weights say nothing any more. Kept,
// they would turn negative and leave one by one, or stay and swell the support.
size_t thin_out(Workspace& ws, size_t count) {
  ws.m = count;
  std::fill_n(ws.xi.data() + count, round_up(count, 8) + 8 - count, 0.0);
  normalise(ws);
  update_marginals(ws);
  values_of_support(ws);
  ws.m = 0;
  double tau = 0, squares = 0, distance = 0, heaviest = 0;
  for (size_t z = 0; z < count; ++z) {
    tau += ws.xi[z] * ws.column[z];
    heaviest = std::max(heaviest, ws.xi[z]);
  }
  for (size_t z = 0; z < count; ++z) squares += (ws.column[z] - tau) * (ws.column[z] - tau);
  for (size_t i = 0; i < ws.variables; ++i) distance += ws.mu[i] * (1 - ws.mu[i]);
  const double change = std::sqrt(squares / static_cast<double>(count));
  const double least = distance > 0 ? std::min(2 * change / distance, heaviest) : 0;
  size_t kept = 0;
  for (size_t z = 0; z < count; ++z) {
    if (ws.xi[z] < least) continue;
    if (kept != z) std::memcpy(ws.row(kept), ws.row(z), ws.row_bytes);
    ws.xi[kept++] = ws.xi[z];
  }
  return kept;
}

// The first support and its weights; xi is then the QP's solution on what is left of it.
template <class Oracle>
ActiveSetStatus start(Workspace& ws, Oracle& oracle, const ActiveSetOptions& options) {
  const size_t offered = options.warm_configurations == nullptr
                             ? 0
                             : static_cast<size_t>(std::max<int64_t>(options.warm_count, 0));
  ws.reserve_support(std::max<size_t>(offered, 1));
  size_t count = 0;
  for (size_t z = 0; z < offered; ++z) {
    const double weight = options.warm_weights[z];
    if (!(weight > 0 && weight <= std::numeric_limits<double>::max())) continue;
    if (!ws.pack(options.warm_configurations + z * ws.parts, ws.row(count)))
      return ActiveSetStatus::kIllegalStart;
    if (ws.uses_forbidden(ws.row(count))) continue;
    const ActiveSetStatus legal = oracle.check_start(ws, ws.row(count));
    if (legal != ActiveSetStatus::kConverged) return legal;
    ws.xi[count++] = weight;
  }
  if (count > 0) {
    ws.set_origin(ws.row(0));
    for (size_t z = 0; z < count; ++z) ws.reflect(ws.row(z));
    count = thin_out(ws, count);
    if (restart(ws, count)) return ActiveSetStatus::kConverged;
  }
  if (options.initial != nullptr) {
    if (!ws.pack(options.initial, ws.row(0))) return ActiveSetStatus::kIllegalStart;
    const ActiveSetStatus legal = oracle.check_start(ws, ws.row(0));
    if (legal != ActiveSetStatus::kConverged) return legal;
  } else {
    std::copy_n(ws.t.data(), ws.variable_end, ws.r.data());
    const ActiveSetStatus found = oracle.best(ws, ws.row(0));
    if (found != ActiveSetStatus::kConverged) return found;
  }
  ws.set_origin(ws.row(0));
  ws.reflect(ws.row(0));
  ws.xi[0] = 1;
  factorise(ws, 1, nullptr);
  return ActiveSetStatus::kConverged;
}

// Takes the candidate, row m, whose column is at hand, into the support. False, with the support as
// it was or on a feasible point, if rounding forbids it.
bool enter(Workspace& ws, double gap) {
  const Doubles d;
  double weight = 0;
  double squared_pivot;
  for (;;) {
    const size_t m = ws.m;
    const double diagonal = ws.sizes[m] + 1;
    squared_pivot = diagonal - apply_inverse(ws);
    if (m <= ws.variables && squared_pivot > kDependent * diagonal) break;
    // a_u is the combination `whole` of the support's: weight goes over to the candidate, and mu_u
    // stays, until a configuration has none left.
    double step = std::numeric_limits<double>::infinity();
    size_t leaver = m;
    for (size_t z = 0; z < m; ++z) {
      if (ws.whole[z] > 1e-9 && ws.xi[z] < step * ws.whole[z]) {
        step = ws.xi[z] / ws.whole[z];
        leaver = z;
      }
    }
    if (leaver == m) {
      normalise(ws);
      return false;
    }
    for (size_t z = 0; z < m; ++z) ws.xi[z] = std::max(ws.xi[z] - step * ws.whole[z], 0.0);
    weight += step;
    drop(ws, leaver, false);
  }
  const size_t m = ws.m;
  append(ws, squared_pivot);
  // All configurations of the support have the same value under r, the candidate a value higher by
  // the gap: the Newton step is K⁻¹ e_m gap, and what keeps the sum.
  ws.xi[m] = weight;
  std::memcpy(ws.target.data(), ws.xi.data(), round_up(m + 1, 8) * sizeof(double));
  const double step = gap / std::sqrt(squared_pivot);
  ws.rough |= step > kRough;
  add_scaled(d, step, ws.inverse_row(m), ws.target.data(), m + 1);
  fix_sum(d, ws, m + 1, 1);
  if (ws.target[m] > 0) return true;
  std::memcpy(ws.target.data(), ws.xi.data(), round_up(m + 1, 8) * sizeof(double));
  if (weight == 0) drop(ws, m, false);
  return false;
}

template <class Oracle>
ActiveSetStatus iterate(Workspace& ws, Oracle& oracle, const ActiveSetOptions& options) {
  ActiveSetSolution& s = ws.solution;
  // Below that, members of the support differ in value by as much.
  const double floor = 4 * std::numeric_limits<double>::epsilon() * static_cast<double>(ws.parts);
  const double tolerance = std::max(options.tolerance, floor) * ws.scale;
  const double rounding = kRounding * ws.scale * static_cast<double>(ws.parts);
  const int64_t limit = options.max_iterations > 0 ? options.max_iterations
                                                   : 1000 + 20 * static_cast<int64_t>(ws.parts);
  const ActiveSetStatus begun = start(ws, oracle, options);
  if (begun != ActiveSetStatus::kConverged) return begun;

  bool restarted = false;  // since the last configuration came in
  bool at_end = false;     // neither a configuration nor a restart helps
  double least_gap = std::numeric_limits<double>::infinity();
  int without_progress = 0;
  for (;; ++s.iterations) {
    ws.reserve_support(ws.m + 1);
    update_marginals(ws);
    uint8_t* candidate = ws.row(ws.m);
    const ActiveSetStatus found = oracle.best(ws, candidate);
    if (found != ActiveSetStatus::kConverged) return found;
    const double gap = gain(ws, candidate);
    s.gap = std::max(gap, 0.0);
    const bool suboptimal = gap < -std::max(tolerance, rounding);
    if (gap <= tolerance && !suboptimal) {
      if (!ws.rough || at_end || s.iterations >= limit) return ActiveSetStatus::kConverged;
      at_end = !restart(ws, ws.m);
      continue;
    }
    // Among gaps of the size of rounding errors there is no more progress to be expected.
    if (suboptimal) {
      without_progress = 0;
    } else if (gap < least_gap) {
      least_gap = gap;
      without_progress = 0;
    } else if (least_gap <= 16 * floor * ws.scale && ++without_progress > 2 && gap <= rounding) {
      return ActiveSetStatus::kConverged;
    }
    const auto verdict = [&] {
      if (suboptimal) return ActiveSetStatus::kOracleSuboptimal;
      return gap <= rounding ? ActiveSetStatus::kConverged : ActiveSetStatus::kStalled;
    };
    if (at_end) return verdict();
    if (s.iterations >= limit) return ActiveSetStatus::kMaxIterations;

    bool touched = false;
    if (!suboptimal) {
      ws.reflect(candidate);
      if (candidate_column(ws) == ws.m) {
        if (enter(ws, gap) && move_to_target(ws)) {
          restarted = false;
          continue;
        }
        touched = true;
      }
    }
    // In exact arithmetic only a wrong oracle leads here.
    if (!restarted) {
      restarted = true;
      at_end = !restart(ws, ws.m);
    } else if (touched) {
      at_end = true;  // the weights are feasible, but the gap is of others
    } else {
      return verdict();
    }
  }
}

template <class Oracle>
void run(Workspace& ws, Oracle oracle, const ActiveSetOptions& options) {
  ws.solution.iterations = ws.solution.oracle_calls = 0;
  ws.solution.gap = 0;
  ws.rough = false;
  ws.solution.status = iterate(ws, oracle, options);
}

void run_callback(Workspace& ws, MapOracle& map, const ActiveSetOptions& options) {
  run(ws, CallbackOracle{map}, options);
}

void run_counts(Workspace& ws, size_t least, size_t most, const ActiveSetOptions& options) {
  run(ws, CountsOracle{least, most}, options);
}

// target = w with [G 1; 1ᵀ 0][w; ·] = [column; 0] on the factorised support.
void solve_homogeneous(Workspace& ws) {
  const Doubles d;
  const size_t m = ws.m;
  std::fill_n(ws.column.data() + m, round_up(m, 8) + 8 - m, 0.0);
  apply_inverse(ws);
  std::memcpy(ws.target.data(), ws.whole.data(), round_up(m, 8) * sizeof(double));
  fix_sum(d, ws, m, 0);
}

// mu = Σ_z xi_z a'_z.
void mix_support(Workspace& ws) {
  const Doubles d;
  mix_rows(d, ws, 0, ws.variable_end, ws.mu.data());
  mix_rows(d, ws, ws.additional_begin, ws.additional_end, ws.mu.data());
}

}  // namespace sparsum::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparsum::kernels {

HWY_EXPORT(run_callback);
HWY_EXPORT(run_counts);
HWY_EXPORT(factorise);
HWY_EXPORT(mix_support);
HWY_EXPORT(solve_homogeneous);
HWY_EXPORT(values_of_support);

const char* describe(ActiveSetStatus status) {
  switch (status) {
    case ActiveSetStatus::kConverged:
      return "converged";
    case ActiveSetStatus::kMaxIterations:
      return "stopped at the largest number of iterations, before the gap was small enough";
    case ActiveSetStatus::kStalled:
      return "stalled: rounding allows no further step, and the gap is not small enough";
    case ActiveSetStatus::kOracleNotBinary:
      return "the MAP oracle wrote a value other than 0 and 1";
    case ActiveSetStatus::kOracleForbidden:
      return "the MAP oracle used a part whose score is -inf";
    case ActiveSetStatus::kOracleSuboptimal:
      return "the MAP oracle returned a configuration worse than an earlier one";
    case ActiveSetStatus::kIllegalScores:
      return "a score is NaN or +inf";
    case ActiveSetStatus::kIllegalStart:
      return "the starting configurations are not in the set";
    case ActiveSetStatus::kNoConfiguration:
      return "no configuration is left";
  }
  return "";
}

ActiveSet::ActiveSet() : workspace_(std::make_unique<Workspace>()) {}
ActiveSet::~ActiveSet() = default;
ActiveSet::ActiveSet(ActiveSet&&) noexcept = default;
ActiveSet& ActiveSet::operator=(ActiveSet&&) noexcept = default;

const ActiveSetSolution& ActiveSet::solution() const { return workspace_->solution; }

const ActiveSetSolution& ActiveSet::solve(const double* scores, int64_t parts, int64_t variables,
                                          MapOracle& oracle, const ActiveSetOptions& options) {
  Workspace& ws = *workspace_;
  ws.set_shape(static_cast<size_t>(parts), static_cast<size_t>(variables));
  if (!ws.set_scores(scores)) {
    ws.solution.status = ActiveSetStatus::kIllegalScores;
    return ws.solution;
  }
  HWY_DYNAMIC_DISPATCH(run_callback)(ws, oracle, options);
  ws.write_solution();
  return ws.solution;
}

const ActiveSetSolution& ActiveSet::solve(const double* scores, int64_t bits, BitCounts counts,
                                          const ActiveSetOptions& options) {
  Workspace& ws = *workspace_;
  const int64_t least = std::max<int64_t>(counts.least, 0), most = std::min(counts.most, bits);
  ws.set_shape(static_cast<size_t>(bits), static_cast<size_t>(bits));
  if (!ws.set_scores(scores)) {
    ws.solution.status = ActiveSetStatus::kIllegalScores;
    return ws.solution;
  }
  if (least > most) {
    ws.solution.status = ActiveSetStatus::kNoConfiguration;
    return ws.solution;
  }
  HWY_DYNAMIC_DISPATCH(run_counts)
  (ws, static_cast<size_t>(least), static_cast<size_t>(most), options);
  ws.write_solution();
  return ws.solution;
}

void ActiveSet::Workspace::load_support(const uint8_t* configurations, size_t count,
                                        size_t new_parts, size_t new_variables) {
  set_shape(new_parts, new_variables);
  reserve_support(count);
  kept.reserve(capacity);
  for (size_t z = 0; z < count; ++z) pack(configurations + z * parts, row(z));
  set_origin(row(0));
  for (size_t z = 0; z < count; ++z) reflect(row(z));
  std::fill_n(xi.data(), count, 0.0);
  HWY_DYNAMIC_DISPATCH(factorise)(*this, count, kept.data());
}

void ActiveSet::vjp(const uint8_t* configurations, int64_t m, int64_t parts, int64_t variables,
                    const double* grad_weights, double* grad_scores) {
  Workspace& ws = *workspace_;
  ws.load_support(configurations, static_cast<size_t>(m), static_cast<size_t>(parts),
                  static_cast<size_t>(variables));
  for (size_t z = 0; z < ws.m; ++z) ws.column[z] = grad_weights[ws.kept[z]];
  HWY_DYNAMIC_DISPATCH(solve_homogeneous)(ws);
  // A w, and the reflected rows give ±A w, since w sums to 0.
  std::copy_n(ws.target.data(), ws.m, ws.xi.data());
  HWY_DYNAMIC_DISPATCH(mix_support)(ws);
  for (size_t i = 0; i < ws.parts; ++i) {
    const size_t p = ws.position(i);
    grad_scores[i] = ws.origin[p / 8] >> p % 8 & 1 ? -ws.mu[p] : ws.mu[p];
  }
}

void ActiveSet::vjp_transpose(const uint8_t* configurations, int64_t m, int64_t parts,
                              int64_t variables, const double* h, double* out) {
  Workspace& ws = *workspace_;
  ws.load_support(configurations, static_cast<size_t>(m), static_cast<size_t>(parts),
                  static_cast<size_t>(variables));
  // ⟨a' , h'⟩ differs from ⟨a, h⟩ by the same for all configurations, which does not matter.
  std::fill_n(ws.r.data(), ws.additional_end, 0.0);
  for (size_t i = 0; i < ws.parts; ++i) ws.r[ws.position(i)] = h[i];
  HWY_DYNAMIC_DISPATCH(values_of_support)(ws);
  HWY_DYNAMIC_DISPATCH(solve_homogeneous)(ws);
  std::fill_n(out, m, 0.0);
  for (size_t z = 0; z < ws.m; ++z) out[ws.kept[z]] = ws.target[z];
}

}  // namespace sparsum::kernels
#endif  // HWY_ONCE
