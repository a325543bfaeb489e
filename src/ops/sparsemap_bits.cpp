#include "ops/bits.h"
#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/rows.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <sparsum/kernels/sparsemap_bits.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace sparsum::ops {
namespace {

// --- marginals -----------------------------------------------------------------------------------

constexpr const char* kMarginals = "sparsemap_marginals";
using Marginals = std::tuple<at::Tensor, at::Tensor>;

/// μ = clip(a·t + c − τ, 0, 1): both states of a bit regularised make the projected point (t +
/// 1)/2.
double slope(bool both_states) { return both_states ? 0.5 : 1.0; }
double offset(bool both_states) { return both_states ? 0.5 : 0.0; }

Marginals call_marginals(const at::Tensor& scores, int64_t least, int64_t most, bool both_states) {
  static const auto op =
      find_op<Marginals(const at::Tensor&, int64_t, int64_t, bool)>("sparsum::sparsemap_marginals");
  return op.call(scores, least, most, both_states);
}

at::Tensor call_marginals_backward(const at::Tensor& grad, const at::Tensor& marginals,
                                   const at::Tensor& tight, bool both_states) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool)>(
          "sparsum::sparsemap_marginals_backward");
  return op.call(grad, marginals, tight, both_states);
}

Marginals marginals_cpu(const at::Tensor& scores, int64_t least, int64_t most, bool both_states) {
  check_bits(kMarginals, scores, least, most);
  const at::Tensor input = scores.to(compute_type(scores.scalar_type())).contiguous();
  const int64_t rows = input.size(0), bits = input.size(1);
  const at::Tensor marginals = at::empty_like(input);
  const at::Tensor tight = at::empty({rows}, scores.options().dtype(at::kBool));
  bool* tight_data = tight.mutable_data_ptr<bool>();
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), kMarginals, [&] {
    const auto* t = input.const_data_ptr<scalar_t>();
    auto* mu = marginals.mutable_data_ptr<scalar_t>();
    const int64_t bad = parallel_rows(rows, bits, [&](int64_t begin, int64_t end) {
      return kernels::sparsemap_marginals(t + begin * bits, end - begin, bits, least, most,
                                          slope(both_states), offset(both_states),
                                          mu + begin * bits, tight_data + begin);
    });
    if (bad >= 0) throw_illegal_bits(kMarginals, input, bad, least);
  });
  return {marginals.to(scores.scalar_type()), tight};
}

void check_marginals_backward(const at::Tensor& grad, const at::Tensor& marginals,
                              const at::Tensor& tight) {
  constexpr const char* kName = "sparsemap_marginals_backward";
  check_floating(kName, "marginals", marginals);
  TORCH_CHECK(marginals.dim() == 2 && marginals.sym_size(1) >= 1, kName,
              ": expected marginals to be [B, D] with D >= 1, got ", marginals.sym_sizes());
  check_floating(kName, "grad", grad);
  check_shape(kName, "grad", grad, "[B, D]", marginals.sym_sizes());
  TORCH_CHECK_TYPE(tight.scalar_type() == at::kBool, kName, ": expected tight to be bool, got ",
                   tight.scalar_type());
  check_shape(kName, "tight", tight, "[B]", {marginals.sym_size(0)});
}

at::Tensor marginals_backward_cpu(const at::Tensor& grad, const at::Tensor& marginals,
                                  const at::Tensor& tight, bool both_states) {
  check_marginals_backward(grad, marginals, tight);
  const auto type = compute_type(marginals.scalar_type());
  const at::Tensor g = grad.to(type).contiguous(), mu = marginals.to(type).contiguous();
  const int64_t rows = mu.size(0), bits = mu.size(1);
  const at::Tensor result = at::empty_like(mu), tight_rows = tight.contiguous();
  const bool* tight_data = tight_rows.const_data_ptr<bool>();
  AT_DISPATCH_FLOATING_TYPES(type, "sparsemap_marginals_backward", [&] {
    const auto* g_data = g.const_data_ptr<scalar_t>();
    const auto* mu_data = mu.const_data_ptr<scalar_t>();
    auto* out = result.mutable_data_ptr<scalar_t>();
    parallel_rows(rows, bits, [&](int64_t begin, int64_t end) {
      kernels::sparsemap_marginals_backward(g_data + begin * bits, mu_data + begin * bits,
                                            tight_data + begin, end - begin, bits,
                                            slope(both_states), out + begin * bits);
      return int64_t{-1};
    });
  });
  return result.to(marginals.scalar_type());
}

Marginals marginals_host(const at::Tensor& scores, int64_t least, int64_t most, bool both_states) {
  const auto [marginals, tight] = marginals_cpu(scores.cpu(), least, most, both_states);
  return {marginals.to(scores.device()), tight.to(scores.device())};
}

at::Tensor marginals_backward_generic(const at::Tensor& grad, const at::Tensor& marginals,
                                      const at::Tensor& tight, bool both_states) {
  check_marginals_backward(grad, marginals, tight);
  const at::Tensor inside = (marginals > 0).logical_and_(marginals < 1);
  const at::Tensor own = grad.masked_fill(inside.logical_not(), 0);
  const at::Tensor mean =
      own.sum(1, /*keepdim=*/true) / inside.sum(1, /*keepdim=*/true).clamp_min(1);
  const at::Tensor shift = (mean * tight.unsqueeze(1)).to(grad.scalar_type());
  return (own - inside * shift) * slope(both_states);
}

Marginals marginals_meta(const at::Tensor& scores, int64_t, int64_t, bool) {
  return {at::empty_like(scores),
          at::empty_symint({scores.sym_size(0)}, scores.options().dtype(at::kBool))};
}

at::Tensor marginals_backward_meta(const at::Tensor& grad, const at::Tensor& marginals,
                                   const at::Tensor& tight, bool) {
  check_marginals_backward(grad, marginals, tight);
  return at::empty_like(marginals);
}

struct MarginalsBackward : torch::autograd::Function<MarginalsBackward> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& grad,
                            const at::Tensor& marginals, const at::Tensor& tight,
                            bool both_states) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({marginals, tight});
    ctx->saved_data["both_states"] = both_states;
    return call_marginals_backward(grad, marginals, tight, both_states);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    // Linear in the gradient and symmetric; constant in the marginals between its corners.
    const auto saved = ctx->get_saved_variables();
    return {call_marginals_backward(grads[0], saved[0], saved[1],
                                    ctx->saved_data["both_states"].toBool()),
            {},
            {},
            {}};
  }
};

struct MarginalsFunction : torch::autograd::Function<MarginalsFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& scores, int64_t least,
                                                int64_t most, bool both_states) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [marginals, tight] = call_marginals(scores, least, most, both_states);
    ctx->save_for_backward({marginals, tight});
    ctx->mark_non_differentiable({tight});
    ctx->saved_data["both_states"] = both_states;
    return {marginals, tight};
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {call_marginals_backward(grads[0], saved[0].detach(), saved[1],
                                    ctx->saved_data["both_states"].toBool()),
            {},
            {},
            {}};
  }
};

Marginals marginals_autograd(const at::Tensor& scores, int64_t least, int64_t most,
                             bool both_states) {
  refuse_forward_mode(kMarginals, scores);
  if (needs_graph(scores)) {
    const auto outputs = MarginalsFunction::apply(scores, least, most, both_states);
    return {outputs[0], outputs[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_marginals(scores, least, most, both_states);
}

at::Tensor marginals_backward_autograd(const at::Tensor& grad, const at::Tensor& marginals,
                                       const at::Tensor& tight, bool both_states) {
  if (needs_graph(grad)) return MarginalsBackward::apply(grad, marginals, tight, both_states);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_marginals_backward(grad, marginals, tight, both_states);
}

// --- configurations ------------------------------------------------------------------------------

constexpr const char* kConfigurations = "sparsemap_configurations";
using Configurations = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                  at::Tensor, at::Tensor, at::Tensor>;

Configurations call_configurations(const at::Tensor& marginals, const at::Tensor& tight,
                                   int64_t least, int64_t most) {
  static const auto op =
      find_op<Configurations(const at::Tensor&, const at::Tensor&, int64_t, int64_t)>(
          "sparsum::sparsemap_configurations");
  return op.call(marginals, tight, least, most);
}

Configurations configurations_cpu(const at::Tensor& marginals, const at::Tensor& tight,
                                  int64_t least, int64_t most) {
  check_floating(kConfigurations, "marginals", marginals);
  TORCH_CHECK(marginals.dim() == 2 && marginals.size(1) >= 1, kConfigurations,
              ": expected marginals to be [B, D] with D >= 1, got ", marginals.sizes());
  TORCH_CHECK_VALUE(0 <= least && least <= most && most <= marginals.size(1), kConfigurations,
                    ": expected 0 <= least <= most <= D = ", marginals.size(1),
                    ", got least = ", least, ", most = ", most);
  TORCH_CHECK(
      tight.dim() == 1 && tight.size(0) == marginals.size(0) && tight.scalar_type() == at::kBool,
      kConfigurations, ": expected tight to be bool, one for each of ", marginals.size(0),
      " rows, got ", tight.scalar_type(), " ", tight.sizes());
  const at::Tensor input = marginals.to(compute_type(marginals.scalar_type())).contiguous();
  const int64_t rows = input.size(0), bits = input.size(1);
  const auto longs = marginals.options().dtype(at::kLong);
  const at::Tensor base = at::empty({rows, bits}, marginals.options().dtype(at::kByte));
  auto* base_data = base.mutable_data_ptr<uint8_t>();
  const at::Tensor tight_rows = tight.contiguous();
  const bool* tight_data = tight_rows.const_data_ptr<bool>();
  Shares<kernels::BitConfigurations> shares(rows, row_grain(20 * bits));
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), kConfigurations, [&] {
    const auto* mu = input.const_data_ptr<scalar_t>();
    shares.run([&](int64_t begin, int64_t end, kernels::BitConfigurations& out) {
      kernels::sparsemap_configurations(mu + begin * bits, tight_data + begin, end - begin, bits,
                                        least, most, base_data + begin * bits, out);
      // Cuts were counted from the share's own first row.
      for (auto* cuts : {&out.upper, &out.lower}) {
        for (int64_t& cut : *cuts) cut += cut < 0 ? 0 : begin * bits;
      }
      return int64_t{-1};
    });
  });
  const auto& parts = shares.parts();
  using Share = kernels::BitConfigurations;
  const auto integers = [&](std::vector<int64_t> Share::*member) {
    return join(
        parts, [member](const Share& s) -> const auto& { return s.*member; }, longs);
  };
  const auto [flip_splits, flips] = join_flips(
      parts, [](const Share& s) -> const auto& { return s.flips; }, longs);
  const at::Tensor weights = join(
      parts, [](const Share& s) -> const auto& { return s.weights; }, longs.dtype(at::kDouble));
  const at::Tensor row_splits = splits_of(integers(&Share::counts));
  return {row_splits,
          rows_of(row_splits),
          base,
          flip_splits,
          flips,
          weights.to(marginals.scalar_type()),
          integers(&Share::upper),
          integers(&Share::lower)};
}

Configurations configurations_host(const at::Tensor& marginals, const at::Tensor& tight,
                                   int64_t least, int64_t most) {
  const auto r = configurations_cpu(marginals.cpu(), tight.cpu(), least, most);
  const auto device = marginals.device();
  return {std::get<0>(r).to(device), std::get<1>(r).to(device), std::get<2>(r).to(device),
          std::get<3>(r).to(device), std::get<4>(r).to(device), std::get<5>(r).to(device),
          std::get<6>(r).to(device), std::get<7>(r).to(device)};
}

// The gradient of the weights in the marginals. A cut at 0 or 1 is nobody's.

constexpr const char* kConfigurationsBackward = "sparsemap_configurations_backward";

at::Tensor call_configurations_backward(const at::Tensor& grad, const at::Tensor& marginals,
                                        const at::Tensor& row_splits, const at::Tensor& upper,
                                        const at::Tensor& lower, bool on_line) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         const at::Tensor&, bool)>("sparsum::sparsemap_configurations_backward");
  return op.call(grad, marginals, row_splits, upper, lower, on_line);
}

void check_configurations_backward(const at::Tensor& grad, const at::Tensor& marginals,
                                   const at::Tensor& row_splits, const at::Tensor& upper,
                                   const at::Tensor& lower) {
  constexpr const char* kName = kConfigurationsBackward;
  check_floating(kName, "marginals", marginals);
  TORCH_CHECK(marginals.dim() == 2 && marginals.sym_size(1) >= 1, kName,
              ": expected marginals to be [B, D] with D >= 1, got ", marginals.sym_sizes());
  check_floating(kName, "grad", grad);
  TORCH_CHECK(grad.dim() == 1, kName, ": expected grad to be [n], got ", grad.sym_sizes());
  TORCH_CHECK(row_splits.dim() == 1 && row_splits.sym_size(0) == marginals.sym_size(0) + 1, kName,
              ": expected row_splits to be [B + 1] = [", marginals.sym_size(0) + 1, "], got ",
              row_splits.sym_sizes());
  check_splits(kName, "row_splits", row_splits, grad.sym_size(0));
  for (const auto& [name, cut] : {std::pair("upper", &upper), std::pair("lower", &lower)}) {
    TORCH_CHECK_TYPE(cut->scalar_type() == at::kLong, kName, ": expected ", name,
                     " to be int64, got ", cut->scalar_type());
    check_shape(kName, name, *cut, "[n]", grad.sym_sizes());
  }
}

/// Throws unless each cut is −1 or a place among its own row's marginals.
void check_cuts(const char* name, const int64_t* cuts, const int64_t* splits, int64_t rows,
                int64_t bits) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = splits[row]; i < splits[row + 1]; ++i) {
      TORCH_CHECK_INDEX(cuts[i] == -1 || (cuts[i] >= row * bits && cuts[i] < (row + 1) * bits),
                        kConfigurationsBackward, ": expected ", name, " of row ", row,
                        " to be -1 or in ", row * bits, " ... ", (row + 1) * bits - 1, ", got ",
                        cuts[i]);
    }
  }
}

at::Tensor configurations_backward_cpu(const at::Tensor& grad, const at::Tensor& marginals,
                                       const at::Tensor& row_splits, const at::Tensor& upper,
                                       const at::Tensor& lower, bool on_line) {
  check_configurations_backward(grad, marginals, row_splits, upper, lower);
  const auto type = compute_type(marginals.scalar_type());
  const at::Tensor g = grad.to(type).contiguous(), mu = marginals.to(type).contiguous();
  const at::Tensor splits = row_splits.contiguous(), uppers = upper.contiguous(),
                   lowers = lower.contiguous(), result = at::empty_like(mu);
  const int64_t rows = mu.size(0), bits = mu.size(1);
  const auto* splits_data = splits.const_data_ptr<int64_t>();
  const auto* uppers_data = uppers.const_data_ptr<int64_t>();
  const auto* lowers_data = lowers.const_data_ptr<int64_t>();
  check_cuts("upper", uppers_data, splits_data, rows, bits);
  check_cuts("lower", lowers_data, splits_data, rows, bits);
  AT_DISPATCH_FLOATING_TYPES(type, kConfigurationsBackward, [&] {
    const auto* g_data = g.const_data_ptr<scalar_t>();
    const auto* mu_data = mu.const_data_ptr<scalar_t>();
    auto* out = result.mutable_data_ptr<scalar_t>();
    parallel_rows(rows, 2 * bits, [&](int64_t begin, int64_t end) {
      kernels::sparsemap_configurations_backward(g_data, mu_data, splits_data, uppers_data,
                                                 lowers_data, on_line, begin, end, bits, out);
      return int64_t{-1};
    });
  });
  return result.to(marginals.scalar_type());
}

at::Tensor configurations_backward_generic(const at::Tensor& grad, const at::Tensor& marginals,
                                           const at::Tensor& row_splits, const at::Tensor& upper,
                                           const at::Tensor& lower, bool on_line) {
  check_configurations_backward(grad, marginals, row_splits, upper, lower);
  const at::Tensor g = grad.to(marginals.scalar_type());
  // One place in front takes what belongs to the cuts at 0 and 1.
  const at::Tensor by_cut = at::zeros({marginals.numel() + 1}, g.options())
                                .index_add(0, upper + 1, g)
                                .index_add(0, lower + 1, g, -1)
                                .slice(0, 1)
                                .view(marginals.sizes());
  if (!on_line) return by_cut.clone();
  const at::Tensor inside = (marginals > 0).logical_and_(marginals < 1);
  return by_cut.flip(1).cumsum(1).flip(1).masked_fill(inside.logical_not(), 0);
}

at::Tensor configurations_backward_meta(const at::Tensor& grad, const at::Tensor& marginals,
                                        const at::Tensor& row_splits, const at::Tensor& upper,
                                        const at::Tensor& lower, bool) {
  check_configurations_backward(grad, marginals, row_splits, upper, lower);
  return at::empty_like(marginals);
}

/// Linear in the gradient; constant in the marginals between places where cuts meet.
struct ConfigurationsBackward : torch::autograd::Function<ConfigurationsBackward> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& grad,
                            const at::Tensor& marginals, const at::Tensor& row_splits,
                            const at::Tensor& upper, const at::Tensor& lower, bool on_line) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({marginals, upper, lower});
    ctx->saved_data["on_line"] = on_line;
    return call_configurations_backward(grad, marginals, row_splits, upper, lower, on_line);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor marginals = saved[0].detach();
    at::Tensor cuts = grads[0];
    if (ctx->saved_data["on_line"].toBool()) {
      const at::Tensor inside = (marginals > 0).logical_and_(marginals < 1);
      cuts = cuts.masked_fill(inside.logical_not(), 0).cumsum(1);
    }
    cuts = at::cat({at::zeros({1}, cuts.options()), cuts.flatten()});
    return {cuts.index_select(0, saved[1] + 1) - cuts.index_select(0, saved[2] + 1),
            {},
            {},
            {},
            {},
            {}};
  }
};

struct ConfigurationsFunction : torch::autograd::Function<ConfigurationsFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& marginals,
                                                const at::Tensor& tight, int64_t least,
                                                int64_t most) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [row_splits, rows, base, flip_splits, flips, probs, upper, lower] =
        call_configurations(marginals, tight, least, most);
    ctx->save_for_backward({marginals, row_splits, upper, lower});
    ctx->mark_non_differentiable({row_splits, rows, base, flip_splits, flips, upper, lower});
    ctx->set_materialize_grads(false);
    ctx->saved_data["on_line"] = least > 0 || most < marginals.size(1);
    return {row_splits, rows, base, flip_splits, flips, probs, upper, lower};
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    if (!grads[5].defined()) return {{}, {}, {}, {}};
    const auto saved = ctx->get_saved_variables();
    return {call_configurations_backward(grads[5], saved[0].detach(), saved[1], saved[2], saved[3],
                                         ctx->saved_data["on_line"].toBool()),
            {},
            {},
            {}};
  }
};

Configurations configurations_autograd(const at::Tensor& marginals, const at::Tensor& tight,
                                       int64_t least, int64_t most) {
  refuse_forward_mode(kConfigurations, marginals);
  if (needs_graph(marginals)) {
    const auto o = ConfigurationsFunction::apply(marginals, tight, least, most);
    return {o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_configurations(marginals, tight, least, most);
}

at::Tensor configurations_backward_autograd(const at::Tensor& grad, const at::Tensor& marginals,
                                            const at::Tensor& row_splits, const at::Tensor& upper,
                                            const at::Tensor& lower, bool on_line) {
  if (needs_graph(grad)) {
    return ConfigurationsBackward::apply(grad, marginals, row_splits, upper, lower, on_line);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_configurations_backward(grad, marginals, row_splits, upper, lower, on_line);
}

TORCH_LIBRARY_IMPL(sparsum, CPU, m) {
  m.impl("sparsemap_marginals", &marginals_cpu);
  m.impl("sparsemap_marginals_backward", &marginals_backward_cpu);
  m.impl("sparsemap_configurations", &configurations_cpu);
  m.impl("sparsemap_configurations_backward", &configurations_backward_cpu);
}
TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("sparsemap_marginals", &marginals_host);
  m.impl("sparsemap_marginals_backward", &marginals_backward_generic);
  m.impl("sparsemap_configurations", &configurations_host);
  m.impl("sparsemap_configurations_backward", &configurations_backward_generic);
}
TORCH_LIBRARY_IMPL(sparsum, Meta, m) {
  m.impl("sparsemap_marginals", &marginals_meta);
  m.impl("sparsemap_marginals_backward", &marginals_backward_meta);
  m.impl("sparsemap_configurations_backward", &configurations_backward_meta);
}
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) {
  m.impl("sparsemap_marginals", &marginals_autograd);
  m.impl("sparsemap_marginals_backward", &marginals_backward_autograd);
  m.impl("sparsemap_configurations", &configurations_autograd);
  m.impl("sparsemap_configurations_backward", &configurations_backward_autograd);
}

}  // namespace
}  // namespace sparsum::ops
