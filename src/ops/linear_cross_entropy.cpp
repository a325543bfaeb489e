#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/rows.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <sparsum/kernels/linear_cross_entropy.h>
#include <sparsum/linear_cross_entropy.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace sparsum::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "linear_cross_entropy";
using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

/// What the forward pass leaves for the backward pass.
enum Eager : int64_t { kNothing = 0, kFeatures = 1, kParameters = 2 };

at::Tensor call(const at::Tensor& features, const at::Tensor& weight, const at::Tensor& bias,
                const at::Tensor& targets, const at::Tensor& rows) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         const at::Tensor&)>("sparsum::linear_cross_entropy");
  return op.call(features, weight, bias, targets, rows);
}

Forward call_forward(const at::Tensor& features, const at::Tensor& weight, const at::Tensor& bias,
                     const at::Tensor& targets, const at::Tensor& rows, int64_t eager) {
  static const auto op =
      find_op<Forward(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                      const at::Tensor&, int64_t)>("sparsum::linear_cross_entropy_forward");
  return op.call(features, weight, bias, targets, rows, eager);
}

Gradients call_backward(const at::Tensor& grad, const at::Tensor& features,
                        const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& targets,
                        const at::Tensor& rows) {
  static const auto op =
      find_op<Gradients(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                        const at::Tensor&, const at::Tensor&)>(
          "sparsum::linear_cross_entropy_backward");
  return op.call(grad, features, weight, bias, targets, rows);
}

void check(const char* op, const at::Tensor& features, const at::Tensor& weight,
           const at::Tensor& bias, const at::Tensor& targets, const at::Tensor& rows) {
  check_floating(op, "features", features);
  TORCH_CHECK(features.dim() == 3, op, ": expected features to be [n, P, F], got ",
              features.sym_sizes());
  TORCH_CHECK(
      weight.dim() == 2 && weight.sym_size(1) == features.sym_size(2) && weight.sym_size(0) >= 1,
      op, ": expected weight to be [C, F] with F = ", features.sym_size(2), " and C >= 1, got ",
      weight.sym_sizes());
  TORCH_CHECK(bias.dim() == 1 && bias.sym_size(0) == weight.sym_size(0), op,
              ": expected bias to be [C] = [", weight.sym_size(0), "], got ", bias.sym_sizes());
  for (const auto& [name, tensor] : {std::pair("weight", weight), std::pair("bias", bias)}) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == features.scalar_type(), op, ": expected ", name,
                     " to have the features' dtype ", features.scalar_type(), ", got ",
                     tensor.scalar_type());
  }
  TORCH_CHECK_TYPE(at::isIntegralType(targets.scalar_type(), /*includeBool=*/false), op,
                   ": expected targets to be integers, got ", targets.scalar_type());
  TORCH_CHECK(targets.dim() == 2 && targets.sym_size(1) == features.sym_size(1), op,
              ": expected targets to be [B, P] with P = ", features.sym_size(1), ", got ",
              targets.sym_sizes());
  TORCH_CHECK_TYPE(rows.scalar_type() == at::kLong, op, ": expected rows to be int64, got ",
                   rows.scalar_type());
  TORCH_CHECK(rows.dim() == 1 && rows.sym_size(0) == features.sym_size(0), op,
              ": expected rows to be [n] = [", features.sym_size(0), "], got ", rows.sym_sizes());
}

void check_range(const char* op, const char* what, const at::Tensor& values, int64_t end) {
  if (values.numel() == 0) return;
  const auto [least, most] = at::aminmax(values);
  const int64_t low = least.item<int64_t>(), high = most.item<int64_t>();
  TORCH_CHECK_INDEX(low >= 0 && high < end, op, ": expected ", what, " in 0 … ", end - 1, ", got ",
                    low < 0 ? low : high);
}

/// Throws unless targets are classes and rows are rows of targets. Reads values: for the CPU only.
void check_ranges(const char* op, const at::Tensor& weight, const at::Tensor& targets,
                  const at::Tensor& rows) {
  check_range(op, "targets", targets, weight.size(0));
  check_range(op, "rows", rows, targets.size(0));
}

constexpr const char* kBackward = "linear_cross_entropy_backward";

void check_backward(const at::Tensor& grad, const at::Tensor& features, const at::Tensor& weight,
                    const at::Tensor& bias, const at::Tensor& targets, const at::Tensor& rows) {
  check(kBackward, features, weight, bias, targets, rows);
  check_floating(kBackward, "grad", grad);
  check_shape(kBackward, "grad", grad, "[n]", {features.sym_size(0)});
}

/// The arguments as the kernel takes them.
struct Dense {
  Dense(const at::Tensor& f, const at::Tensor& w, const at::Tensor& b, const at::Tensor& t,
        const at::Tensor& r)
      : type(compute_type(f.scalar_type())),
        features(f.to(type).contiguous()),
        weight(w.to(type).contiguous()),
        bias(b.to(type).contiguous()),
        targets(t.to(at::kLong).contiguous()),
        rows(r.contiguous()) {}

  kernels::LinearCrossEntropyShape shape() const {
    return {features.size(1), features.size(2), weight.size(0)};
  }
  template <typename T>
  kernels::LinearCrossEntropyInputs<T> inputs() const {
    return {features.const_data_ptr<T>(), weight.const_data_ptr<T>(), bias.const_data_ptr<T>(),
            targets.const_data_ptr<int64_t>(), rows.const_data_ptr<int64_t>()};
  }
  /// Pairs that are worth a thread: some 20 µs.
  int64_t grain() const {
    return std::max<int64_t>(1, 200000 / std::max<int64_t>(1, features.size(1) * weight.size(0)));
  }

  at::ScalarType type;
  at::Tensor features, weight, bias, targets, rows;
};

Forward forward_cpu(const at::Tensor& features, const at::Tensor& weight, const at::Tensor& bias,
                    const at::Tensor& targets, const at::Tensor& rows, int64_t eager) {
  check(kOp, features, weight, bias, targets, rows);
  check_ranges(kOp, weight, targets, rows);
  const Dense x(features, weight, bias, targets, rows);
  const int64_t pairs = features.size(0);
  const auto options = x.features.options();
  const at::Tensor nll = at::empty({pairs}, options);
  at::Tensor by_features = at::empty({0}, options), by_weight = at::empty({0}, options),
             by_bias = at::empty({0}, options);
  if (eager & kFeatures) by_features = at::empty_like(x.features);
  if (eager & kParameters) {
    by_weight = at::empty({pairs, weight.size(0), weight.size(1)}, options);
    by_bias = at::empty({pairs, weight.size(0)}, options);
  }
  AT_DISPATCH_FLOATING_TYPES(x.type, kOp, [&] {
    const auto inputs = x.inputs<scalar_t>();
    auto* out = nll.mutable_data_ptr<scalar_t>();
    kernels::LinearCrossEntropyGradients<scalar_t> gradients{};
    if (eager & kFeatures) gradients.features = by_features.mutable_data_ptr<scalar_t>();
    if (eager & kParameters) {
      gradients.weight = by_weight.mutable_data_ptr<scalar_t>();
      gradients.bias = by_bias.mutable_data_ptr<scalar_t>();
    }
    gradients.per_pair = true;
    at::parallel_for(0, pairs, x.grain(), [&](int64_t begin, int64_t end) {
      if (eager == kNothing) {
        kernels::linear_cross_entropy_forward(x.shape(), inputs, begin, end, out);
      } else {
        kernels::linear_cross_entropy_gradients(x.shape(), inputs, gradients, begin, end, out);
      }
    });
  });
  return {nll.to(features.scalar_type()), by_features, by_weight, by_bias};
}

Gradients backward_cpu(const at::Tensor& grad, const at::Tensor& features, const at::Tensor& weight,
                       const at::Tensor& bias, const at::Tensor& targets, const at::Tensor& rows) {
  check_backward(grad, features, weight, bias, targets, rows);
  check_ranges(kBackward, weight, targets, rows);
  const Dense x(features, weight, bias, targets, rows);
  const at::Tensor g = grad.to(x.type).contiguous();
  const int64_t pairs = features.size(0);
  const at::Tensor by_features = at::empty_like(x.features);
  // Shares of a fixed size, added in their order: the same sum for any number of threads.
  const int64_t share = std::max(x.grain(), (pairs + 31) / 32);
  const int64_t shares = (pairs + share - 1) / share;
  const auto options = x.features.options();
  const at::Tensor by_weight = at::zeros({shares, weight.size(0), weight.size(1)}, options);
  const at::Tensor by_bias = at::zeros({shares, weight.size(0)}, options);
  AT_DISPATCH_FLOATING_TYPES(x.type, kOp, [&] {
    const auto inputs = x.inputs<scalar_t>();
    auto* weights = by_weight.mutable_data_ptr<scalar_t>();
    auto* biases = by_bias.mutable_data_ptr<scalar_t>();
    kernels::LinearCrossEntropyGradients<scalar_t> whole{};
    whole.pair_weights = g.const_data_ptr<scalar_t>();
    whole.features = by_features.mutable_data_ptr<scalar_t>();
    whole.per_pair = false;
    at::parallel_for(0, shares, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        auto own = whole;
        own.weight = weights + i * weight.numel();
        own.bias = biases + i * weight.size(0);
        kernels::linear_cross_entropy_gradients(x.shape(), inputs, own, i * share,
                                                std::min(pairs, (i + 1) * share), nullptr);
      }
    });
  });
  return {by_features.to(features.scalar_type()), by_weight.sum(0).to(features.scalar_type()),
          by_bias.sum(0).to(features.scalar_type())};
}

// --- other devices -------------------------------------------------------------------------------

/// Calls f(begin, end) on ranges of pairs whose scores take some 64 MB.
template <class F>
void in_chunks(const at::Tensor& features, const at::Tensor& weight, const F& f) {
  const int64_t scores = std::max<int64_t>(1, features.size(1) * weight.size(0));
  const int64_t chunk = std::max<int64_t>(1, (1 << 24) / scores);
  for (int64_t begin = 0; begin < features.size(0); begin += chunk) {
    f(begin, std::min(begin + chunk, features.size(0)));
  }
}

at::Tensor scores_of(const at::Tensor& features, const at::Tensor& weight, const at::Tensor& bias) {
  return at::matmul(features, weight.t()) + bias;
}

Forward forward_generic(const at::Tensor& features, const at::Tensor& weight,
                        const at::Tensor& bias, const at::Tensor& targets, const at::Tensor& rows,
                        int64_t) {
  check(kOp, features, weight, bias, targets, rows);
  const auto type = compute_type(features.scalar_type());
  const at::Tensor w = weight.to(type), b = bias.to(type);
  const at::Tensor nll = at::empty({features.size(0)}, features.options());
  in_chunks(features, weight, [&](int64_t begin, int64_t end) {
    const at::Tensor scores = scores_of(features.slice(0, begin, end).to(type), w, b);
    const at::Tensor classes =
        targets.to(at::kLong).index_select(0, rows.slice(0, begin, end)).unsqueeze(2);
    nll.slice(0, begin, end)
        .copy_((scores.logsumexp(2) - scores.gather(2, classes).squeeze(2)).sum(1));
  });
  // Tensors of their own: outputs of an op must not share memory.
  const auto none = [&] { return at::empty({0}, features.options()); };
  return {nll, none(), none(), none()};
}

Gradients backward_generic(const at::Tensor& grad, const at::Tensor& features,
                           const at::Tensor& weight, const at::Tensor& bias,
                           const at::Tensor& targets, const at::Tensor& rows) {
  check_backward(grad, features, weight, bias, targets, rows);
  const auto type = compute_type(features.scalar_type());
  const at::Tensor w = weight.to(type), b = bias.to(type), g = grad.to(type);
  const at::Tensor by_features = at::empty_like(features);
  at::Tensor by_weight = at::zeros_like(w), by_bias = at::zeros_like(b);
  in_chunks(features, weight, [&](int64_t begin, int64_t end) {
    const at::Tensor x = features.slice(0, begin, end).to(type);
    at::Tensor residual = scores_of(x, w, b).softmax(2);
    const at::Tensor classes =
        targets.to(at::kLong).index_select(0, rows.slice(0, begin, end)).unsqueeze(2);
    residual.scatter_add_(2, classes, at::full({}, -1, residual.options()).expand(classes.sizes()));
    residual.mul_(g.slice(0, begin, end).view({-1, 1, 1}));
    by_features.slice(0, begin, end).copy_(at::matmul(residual, w));
    by_weight += at::matmul(residual.flatten(0, 1).t(), x.flatten(0, 1));
    by_bias += residual.sum({0, 1});
  });
  const auto own = features.scalar_type();
  return {by_features, by_weight.to(own), by_bias.to(own)};
}

Forward forward_meta(const at::Tensor& features, const at::Tensor& weight, const at::Tensor&,
                     const at::Tensor&, const at::Tensor&, int64_t eager) {
  const auto n = features.sym_size(0);
  const auto none = [&] { return at::empty_symint({0}, features.options()); };
  const bool parameters = eager & kParameters;
  return {at::empty_symint({n}, features.options()),
          eager & kFeatures ? at::empty_like(features) : none(),
          parameters
              ? at::empty_symint({n, weight.sym_size(0), weight.sym_size(1)}, features.options())
              : none(),
          parameters ? at::empty_symint({n, weight.sym_size(0)}, features.options()) : none()};
}

Gradients backward_meta(const at::Tensor& grad, const at::Tensor& features,
                        const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& targets,
                        const at::Tensor& rows) {
  check_backward(grad, features, weight, bias, targets, rows);
  return {at::empty_like(features), at::empty_like(weight), at::empty_like(bias)};
}

// --- autograd ------------------------------------------------------------------------------------

/// Σ_i g_i rows[i], added in the order of the rows: a product of matrices may add in another one
/// for another number of threads.
at::Tensor weighted_sum(const at::Tensor& g, const at::Tensor& rows) {
  const int64_t n = rows.size(0), columns = rows.size(1);
  const at::Tensor weights = g.contiguous();
  at::Tensor sum = at::zeros({columns}, rows.options());
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), kOp, [&] {
    const auto* w = weights.const_data_ptr<scalar_t>();
    const auto* in = rows.const_data_ptr<scalar_t>();
    auto* out = sum.mutable_data_ptr<scalar_t>();
    const int64_t grain = std::max<int64_t>(64, 65536 / std::max<int64_t>(n, 1));
    at::parallel_for(0, columns, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < n; ++i) {
        const scalar_t* row = in + i * columns;
        for (int64_t j = begin; j < end; ++j) out[j] += w[i] * row[j];
      }
    });
  });
  return sum;
}

/// Gradients as they are, with a node behind them that says that there is no derivative of them.
struct OnceDifferentiable : torch::autograd::Function<OnceDifferentiable> {
  static variable_list forward(AutogradContext*, const at::Tensor& by_features,
                               const at::Tensor& by_weight, const at::Tensor& by_bias,
                               const at::Tensor&, const at::Tensor&, const at::Tensor&,
                               const at::Tensor&) {
    return {by_features.alias(), by_weight.alias(), by_bias.alias()};
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, kOp, ": double backward is not implemented");
  }
};

struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& features,
                            const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& targets, const at::Tensor& rows) {
    at::AutoDispatchBelowADInplaceOrView below;
    int64_t eager = kNothing;
    // One gradient of the parameters a pair is little beside the scores only if they are many.
    if (features.is_cpu() && features.size(1) >= 4 * (features.size(2) + 1)) {
      if (features.requires_grad()) eager |= kFeatures;
      if (weight.requires_grad() || bias.requires_grad()) eager |= kParameters;
    }
    const auto [nll, by_features, by_weight, by_bias] =
        call_forward(features, weight, bias, targets, rows, eager);
    ctx->saved_data["eager"] = eager;
    ctx->save_for_backward(
        {features, weight, bias, targets, rows, by_features, by_weight, by_bias});
    return nll;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& features = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor& bias = saved[2];
    const int64_t eager = ctx->saved_data["eager"].toInt();
    at::Tensor by_features, by_weight, by_bias;
    {
      const at::NoGradGuard no_grad;
      const auto type = features.scalar_type();
      if (eager == kNothing) {
        std::tie(by_features, by_weight, by_bias) =
            call_backward(grads[0], features, weight, bias, saved[3], saved[4]);
      } else {
        const at::Tensor g = grads[0].to(compute_type(type));
        if (eager & kFeatures) by_features = saved[5].mul(g.view({-1, 1, 1})).to(type);
        if (eager & kParameters) {
          by_weight = weighted_sum(g, saved[6].flatten(1)).view_as(weight).to(type);
          by_bias = weighted_sum(g, saved[7]).to(type);
        }
      }
    }
    if (at::GradMode::is_enabled()) {
      const auto or_empty = [&](const at::Tensor& t) {
        return t.defined() ? t : at::empty({0}, features.options().requires_grad(false));
      };
      const auto guarded =
          OnceDifferentiable::apply(or_empty(by_features), or_empty(by_weight), or_empty(by_bias),
                                    grads[0], features, weight, bias);
      if (by_features.defined()) by_features = guarded[0];
      if (by_weight.defined()) by_weight = guarded[1];
      if (by_bias.defined()) by_bias = guarded[2];
    }
    return {by_features, by_weight, by_bias, {}, {}};
  }
};

at::Tensor linear_cross_entropy_autograd(const at::Tensor& features, const at::Tensor& weight,
                                         const at::Tensor& bias, const at::Tensor& targets,
                                         const at::Tensor& rows) {
  for (const at::Tensor& t : {features, weight, bias}) refuse_forward_mode(kOp, t);
  if (needs_graph(features, weight, bias)) {
    check(kOp, features, weight, bias, targets, rows);
    return LinearCrossEntropy::apply(features, weight, bias, targets, rows);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call(features, weight, bias, targets, rows);
}

at::Tensor linear_cross_entropy_values(const at::Tensor& features, const at::Tensor& weight,
                                       const at::Tensor& bias, const at::Tensor& targets,
                                       const at::Tensor& rows) {
  return std::get<0>(call_forward(features, weight, bias, targets, rows, kNothing));
}

TORCH_LIBRARY_IMPL(sparsum, CPU, m) {
  m.impl("linear_cross_entropy_forward", &forward_cpu);
  m.impl("linear_cross_entropy_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("linear_cross_entropy", &linear_cross_entropy_values);
  m.impl("linear_cross_entropy_forward", &forward_generic);
  m.impl("linear_cross_entropy_backward", &backward_generic);
}
TORCH_LIBRARY_IMPL(sparsum, Meta, m) {
  m.impl("linear_cross_entropy_forward", &forward_meta);
  m.impl("linear_cross_entropy_backward", &backward_meta);
}
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) {
  m.impl("linear_cross_entropy", &linear_cross_entropy_autograd);
  m.impl("linear_cross_entropy_forward", torch::CppFunction::makeFallthrough());
  m.impl("linear_cross_entropy_backward", torch::CppFunction::makeFallthrough());
}

}  // namespace
}  // namespace sparsum::ops

namespace sparsum {

at::Tensor linear_cross_entropy(const at::Tensor& features, const at::Tensor& weight,
                                const at::Tensor& bias, const at::Tensor& targets,
                                const at::Tensor& rows) {
  return ops::call(features, weight, bias, targets, rows);
}

}  // namespace sparsum
