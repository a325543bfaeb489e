#include "ops/active_set.h"
#include "ops/bits.h"
#include "ops/checks.h"
#include "ops/find_op.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

namespace sparsum::ops {
namespace {

constexpr const char* kOp = "sparsemap_active_set";
using kernels::ActiveSetStatus;

/// The solutions of one share of the rows.
struct Share {
  std::vector<int64_t> counts, iterations, oracle_calls;
  std::vector<uint8_t> configurations;
  std::vector<double> probs, objective, gap;
  std::vector<uint8_t> converged;

  void add(const kernels::ActiveSetSolution& solution, int64_t parts) {
    const auto m = static_cast<std::ptrdiff_t>(solution.support);
    counts.push_back(solution.support);
    iterations.push_back(solution.iterations);
    oracle_calls.push_back(solution.oracle_calls);
    configurations.insert(configurations.end(), solution.configurations.begin(),
                          solution.configurations.begin() + m * parts);
    probs.insert(probs.end(), solution.weights.begin(), solution.weights.begin() + m);
    objective.push_back(solution.objective);
    gap.push_back(solution.gap);
    converged.push_back(solution.status == ActiveSetStatus::kConverged);
  }
};

bool has_solution(ActiveSetStatus status) {
  return status == ActiveSetStatus::kConverged || status == ActiveSetStatus::kMaxIterations ||
         status == ActiveSetStatus::kStalled;
}

}  // namespace

ActiveSets solve_active_sets(
    const char* op, const ActiveSetBatch& batch,
    const std::function<const kernels::ActiveSetSolution&(
        kernels::ActiveSet&, const double*, int64_t, const kernels::ActiveSetOptions&)>& solve) {
  const int64_t rows = batch.scores.size(0), parts = batch.scores.size(1);
  const double* scores = batch.scores.const_data_ptr<double>();
  const auto data = [](const at::Tensor& t) {
    return t.defined() ? t.const_data_ptr<uint8_t>() : nullptr;
  };
  const uint8_t* initial = data(batch.initial);
  const uint8_t* warm = data(batch.warm_configurations);
  const int64_t* warm_splits = warm ? batch.warm_row_splits.const_data_ptr<int64_t>() : nullptr;
  const double* warm_probs = warm ? batch.warm_probs.const_data_ptr<double>() : nullptr;
  std::vector<ActiveSetStatus> failures(static_cast<size_t>(rows), ActiveSetStatus::kConverged);
  Shares<Share> shares(rows, std::max<int64_t>(1, 512 / parts));
  const int64_t bad = shares.run([&](int64_t begin, int64_t end, Share& out) {
    kernels::ActiveSet solver;
    for (int64_t row = begin; row < end; ++row) {
      kernels::ActiveSetOptions options;
      options.tolerance = batch.tolerance;
      options.max_iterations = batch.max_iterations;
      if (initial) options.initial = initial + row * parts;
      if (warm) {
        options.warm_configurations = warm + warm_splits[row] * parts;
        options.warm_weights = warm_probs + warm_splits[row];
        options.warm_count = warm_splits[row + 1] - warm_splits[row];
      }
      const auto& solution = solve(solver, scores + row * parts, row, options);
      if (!has_solution(solution.status)) {
        failures[static_cast<size_t>(row)] = solution.status;
        return row - begin;
      }
      out.add(solution, parts);
    }
    return int64_t{-1};
  });
  if (bad >= 0) {
    const auto status = failures[static_cast<size_t>(bad)];
    if (status == ActiveSetStatus::kIllegalScores) throw_illegal_row(op, batch.scores, bad);
    TORCH_CHECK_VALUE(false, op, ": row ", bad, ": ", kernels::describe(status));
  }
  const auto& list = shares.parts();
  const auto options = batch.scores.options();
  const auto integers = [&](std::vector<int64_t> Share::*member) {
    return join(
        list, [member](const Share& s) -> const auto& { return s.*member; },
        options.dtype(at::kLong));
  };
  const auto doubles = [&](std::vector<double> Share::*member) {
    return join(
        list, [member](const Share& s) -> const auto& { return s.*member; }, options);
  };
  const auto bytes = [&](std::vector<uint8_t> Share::*member) {
    return join(
        list, [member](const Share& s) -> const auto& { return s.*member; },
        options.dtype(at::kByte));
  };
  return {splits_of(integers(&Share::counts)),
          bytes(&Share::configurations).view({-1, parts}),
          doubles(&Share::probs),
          doubles(&Share::objective),
          doubles(&Share::gap),
          integers(&Share::iterations),
          integers(&Share::oracle_calls),
          bytes(&Share::converged).to(at::kBool)};
}

namespace {

// --- bits ----------------------------------------------------------------------------------------

using Solutions = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                             at::Tensor, at::Tensor>;

bool is_given(const std::optional<at::Tensor>& tensor) { return tensor && tensor->defined(); }

at::Tensor dense(const std::optional<at::Tensor>& tensor, at::ScalarType type) {
  return is_given(tensor) ? tensor->to(at::kCPU, type).contiguous() : at::Tensor();
}

void check_indicators(const char* op, const char* argument, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kByte || type == at::kBool, op, ": expected ", argument,
                   " to be uint8 or bool, got ", type);
}

/// Throws unless there are all or none of a warm start's tensors, and they describe one of the
/// scores' shape.
void check_warm_start(const at::Tensor& scores, const std::optional<at::Tensor>& row_splits,
                      const std::optional<at::Tensor>& configurations,
                      const std::optional<at::Tensor>& probs) {
  const bool any = is_given(row_splits) || is_given(configurations) || is_given(probs);
  if (!any) return;
  TORCH_CHECK(is_given(row_splits) && is_given(configurations) && is_given(probs), kOp,
              ": expected all of warm_row_splits, warm_configurations and warm_probs, or none");
  check_indicators(kOp, "warm_configurations", *configurations);
  TORCH_CHECK(configurations->dim() == 2, kOp, ": expected warm_configurations to be [n, D], got ",
              configurations->sizes());
  const int64_t n = configurations->size(0);
  check_shape(kOp, "warm_configurations", *configurations, "[n, D]", {n, scores.size(1)});
  check_floating(kOp, "warm_probs", *probs);
  check_shape(kOp, "warm_probs", *probs, "[n]", {n});
  check_splits(kOp, "warm_row_splits", row_splits->cpu(), n);
  check_shape(kOp, "warm_row_splits", *row_splits, "[B + 1]", {scores.size(0) + 1});
}

Solutions sparsemap_active_set(const at::Tensor& scores, int64_t least, int64_t most,
                               bool both_states, double tolerance, int64_t max_iterations,
                               const std::optional<at::Tensor>& initial,
                               const std::optional<at::Tensor>& warm_row_splits,
                               const std::optional<at::Tensor>& warm_configurations,
                               const std::optional<at::Tensor>& warm_probs) {
  check_bits(kOp, scores, least, most);
  TORCH_CHECK_VALUE(tolerance > 0 && std::isfinite(tolerance), kOp,
                    ": expected a finite tolerance > 0, got ", tolerance);
  TORCH_CHECK_VALUE(max_iterations >= 0, kOp, ": expected max_iterations >= 0, got ",
                    max_iterations);
  if (is_given(initial)) {
    check_indicators(kOp, "initial", *initial);
    check_shape(kOp, "initial", *initial, "[B, D]", scores.sym_sizes());
  }
  check_warm_start(scores, warm_row_splits, warm_configurations, warm_probs);
  ActiveSetBatch batch;
  const at::Tensor t = dense(scores, at::kDouble);
  // Regularising both states of a bit doubles the problem of the point (t + 1)/2.
  batch.scores = both_states ? (t + 1).div_(2) : t;
  batch.initial = dense(initial, at::kByte);
  batch.warm_row_splits = dense(warm_row_splits, at::kLong);
  batch.warm_configurations = dense(warm_configurations, at::kByte);
  batch.warm_probs = dense(warm_probs, at::kDouble);
  batch.tolerance = both_states ? tolerance / 2 : tolerance;
  batch.max_iterations = max_iterations;
  const kernels::BitCounts counts{least, most};
  const int64_t bits = scores.size(1);
  ActiveSets s = solve_active_sets(
      kOp, batch,
      [&](kernels::ActiveSet& solver, const double* row, int64_t,
          const kernels::ActiveSetOptions& options) -> const kernels::ActiveSetSolution& {
        return solver.solve(row, bits, counts, options);
      });
  if (both_states) {
    const at::Tensor constant =
        (t.square() + 1 - 2 * batch.scores.square()).masked_fill(t == -INFINITY, 0).sum(1) / 2;
    s.objective = 2 * s.objective + constant;
    s.gap = 2 * s.gap;
  }
  const auto device = scores.device();
  return {s.row_splits.to(device),
          s.configurations.to(device),
          s.probs.to(device, scores.scalar_type()),
          s.objective.to(device),
          s.gap.to(device),
          s.iterations.to(device),
          s.oracle_calls.to(device),
          s.converged.to(device)};
}

// --- gradients through the weights on a fixed support
// ---------------------------------------------

using Vjp = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t);

at::Tensor call_vjp(const at::Tensor& grad, const at::Tensor& row_splits,
                    const at::Tensor& configurations, int64_t variables) {
  static const auto op = find_op<Vjp>("sparsum::sparsemap_vjp");
  return op.call(grad, row_splits, configurations, variables);
}
at::Tensor call_vjp_transpose(const at::Tensor& tangent, const at::Tensor& row_splits,
                              const at::Tensor& configurations, int64_t variables) {
  static const auto op = find_op<Vjp>("sparsum::sparsemap_vjp_transpose");
  return op.call(tangent, row_splits, configurations, variables);
}

/// Throws unless they are the configurations of a support, of V parts of which so many are
/// variables. `splits` may be the row splits on another device.
void check_support(const char* op, const at::Tensor& splits, const at::Tensor& configurations,
                   int64_t variables) {
  check_indicators(op, "configurations", configurations);
  TORCH_CHECK(configurations.dim() == 2 && configurations.sym_size(1) >= 1, op,
              ": expected configurations to be [n, V] with V >= 1, got ",
              configurations.sym_sizes());
  TORCH_CHECK_VALUE(variables >= 0 && configurations.sym_size(1) >= variables, op,
                    ": expected 0 <= variables <= V = ", configurations.sym_size(1), ", got ",
                    variables);
  check_splits(op, "row_splits", splits, configurations.sym_size(0));
}

void check_vjp(const at::Tensor& grad, const at::Tensor& row_splits,
               const at::Tensor& configurations, int64_t variables) {
  constexpr const char* kName = "sparsemap_vjp";
  check_support(kName, row_splits, configurations, variables);
  check_floating(kName, "grad", grad);
  check_shape(kName, "grad", grad, "[n]", {configurations.sym_size(0)});
}

void check_vjp_transpose(const at::Tensor& tangent, const at::Tensor& row_splits,
                         const at::Tensor& configurations, int64_t variables) {
  constexpr const char* kName = "sparsemap_vjp_transpose";
  check_support(kName, row_splits, configurations, variables);
  check_floating(kName, "tangent", tangent);
  check_shape(kName, "tangent", tangent, "[B, V]",
              {row_splits.sym_size(0) - 1, configurations.sym_size(1)});
}

/// Calls f(solver, example, its first pair, number of pairs) for every example.
template <class F>
void for_each_support(const at::Tensor& row_splits, int64_t parts, const F& f) {
  const int64_t* splits = row_splits.const_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(1, 512 / std::max<int64_t>(1, parts));
  at::parallel_for(0, row_splits.size(0) - 1, grain, [&](int64_t begin, int64_t end) {
    kernels::ActiveSet solver;
    for (int64_t b = begin; b < end; ++b) {
      if (splits[b + 1] > splits[b]) f(solver, b, splits[b], splits[b + 1] - splits[b]);
    }
  });
}

at::Tensor sparsemap_vjp(const at::Tensor& grad, const at::Tensor& row_splits,
                         const at::Tensor& configurations, int64_t variables) {
  check_vjp(grad, row_splits.cpu(), configurations, variables);
  const int64_t batch = row_splits.size(0) - 1, parts = configurations.size(1);
  const at::Tensor g = dense(grad, at::kDouble), splits = dense(row_splits, at::kLong),
                   z = dense(configurations, at::kByte);
  const at::Tensor result = at::zeros({batch, parts}, g.options());
  const double* g_data = g.const_data_ptr<double>();
  const auto* z_data = z.const_data_ptr<uint8_t>();
  double* out = result.mutable_data_ptr<double>();
  for_each_support(splits, parts,
                   [&](kernels::ActiveSet& solver, int64_t b, int64_t first, int64_t count) {
                     solver.vjp(z_data + first * parts, count, parts, variables, g_data + first,
                                out + b * parts);
                   });
  return result.to(grad.device(), grad.scalar_type());
}

at::Tensor sparsemap_vjp_transpose(const at::Tensor& tangent, const at::Tensor& row_splits,
                                   const at::Tensor& configurations, int64_t variables) {
  check_vjp_transpose(tangent, row_splits.cpu(), configurations, variables);
  const int64_t parts = configurations.size(1);
  const at::Tensor h = dense(tangent, at::kDouble), splits = dense(row_splits, at::kLong),
                   z = dense(configurations, at::kByte);
  const at::Tensor result = at::zeros({configurations.size(0)}, h.options());
  const double* h_data = h.const_data_ptr<double>();
  const auto* z_data = z.const_data_ptr<uint8_t>();
  double* out = result.mutable_data_ptr<double>();
  for_each_support(splits, parts,
                   [&](kernels::ActiveSet& solver, int64_t b, int64_t first, int64_t count) {
                     solver.vjp_transpose(z_data + first * parts, count, parts, variables,
                                          h_data + b * parts, out + first);
                   });
  return result.to(tangent.device(), tangent.scalar_type());
}

at::Tensor vjp_meta(const at::Tensor& grad, const at::Tensor& row_splits,
                    const at::Tensor& configurations, int64_t variables) {
  check_vjp(grad, row_splits, configurations, variables);
  return at::empty_symint({row_splits.sym_size(0) - 1, configurations.sym_size(1)}, grad.options());
}
at::Tensor vjp_transpose_meta(const at::Tensor& tangent, const at::Tensor& row_splits,
                              const at::Tensor& configurations, int64_t variables) {
  check_vjp_transpose(tangent, row_splits, configurations, variables);
  return at::empty_symint({configurations.sym_size(0)}, tangent.options());
}

/// Each is linear in its first argument, and each the other's transpose: all derivatives there are.
template <Vjp& kForward, Vjp& kTranspose>
struct Linear : torch::autograd::Function<Linear<kForward, kTranspose>> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& argument,
                            const at::Tensor& row_splits, const at::Tensor& configurations,
                            int64_t variables) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({row_splits, configurations});
    ctx->saved_data["variables"] = variables;
    return kForward(argument, row_splits, configurations, variables);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {
        kTranspose(grads[0], saved[0], saved[1], ctx->saved_data["variables"].toInt()), {}, {}, {}};
  }
};

template <Vjp& kForward, Vjp& kTranspose>
at::Tensor linear_autograd(const at::Tensor& argument, const at::Tensor& row_splits,
                           const at::Tensor& configurations, int64_t variables) {
  if (needs_graph(argument)) {
    return Linear<kForward, kTranspose>::apply(argument, row_splits, configurations, variables);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return kForward(argument, row_splits, configurations, variables);
}

at::Tensor call_weights(const at::Tensor& scores, const at::Tensor& probs,
                        const at::Tensor& row_splits, const at::Tensor& configurations,
                        int64_t variables, double slope) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         int64_t, double)>("sparsum::sparsemap_weights");
  return op.call(scores, probs, row_splits, configurations, variables, slope);
}

/// The weights that were found, as a function of the scores.
struct Weights : torch::autograd::Function<Weights> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& scores,
                            const at::Tensor& probs, const at::Tensor& row_splits,
                            const at::Tensor& configurations, int64_t variables, double slope) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({row_splits, configurations});
    ctx->saved_data["variables"] = variables;
    ctx->saved_data["slope"] = slope;
    return call_weights(scores, probs, row_splits, configurations, variables, slope);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const double slope = ctx->saved_data["slope"].toDouble();
    const at::Tensor grad =
        call_vjp(grads[0], saved[0], saved[1], ctx->saved_data["variables"].toInt());
    return {slope == 1 ? grad : grad * slope, {}, {}, {}, {}, {}};
  }
};

at::Tensor weights_values(const at::Tensor& scores, const at::Tensor& probs,
                          const at::Tensor& row_splits, const at::Tensor& configurations,
                          int64_t variables, double) {
  constexpr const char* kName = "sparsemap_weights";
  check_support(kName, row_splits, configurations, variables);
  check_floating(kName, "scores", scores);
  check_shape(kName, "scores", scores, "[B, V]",
              {row_splits.sym_size(0) - 1, configurations.sym_size(1)});
  check_floating(kName, "probs", probs);
  check_shape(kName, "probs", probs, "[n]", {configurations.sym_size(0)});
  return probs.clone();
}

at::Tensor weights_autograd(const at::Tensor& scores, const at::Tensor& probs,
                            const at::Tensor& row_splits, const at::Tensor& configurations,
                            int64_t variables, double slope) {
  refuse_forward_mode("sparsemap_weights", scores);
  if (needs_graph(scores)) {
    return Weights::apply(scores, probs, row_splits, configurations, variables, slope);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_weights(scores, probs, row_splits, configurations, variables, slope);
}

TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("sparsemap_active_set", &sparsemap_active_set);
  m.impl("sparsemap_weights", &weights_values);
  m.impl("sparsemap_vjp", &sparsemap_vjp);
  m.impl("sparsemap_vjp_transpose", &sparsemap_vjp_transpose);
}
TORCH_LIBRARY_IMPL(sparsum, Meta, m) {
  m.impl("sparsemap_vjp", &vjp_meta);
  m.impl("sparsemap_vjp_transpose", &vjp_transpose_meta);
}
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) {
  // What it finds has no gradient; sparsemap_weights gives it one.
  m.impl("sparsemap_active_set", torch::CppFunction::makeFallthrough());
  m.impl("sparsemap_weights", &weights_autograd);
  m.impl("sparsemap_vjp", &linear_autograd<call_vjp, call_vjp_transpose>);
  m.impl("sparsemap_vjp_transpose", &linear_autograd<call_vjp_transpose, call_vjp>);
}

}  // namespace
}  // namespace sparsum::ops
