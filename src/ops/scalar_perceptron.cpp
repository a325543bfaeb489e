#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/rows.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <sparsum/kernels/scalar_perceptron.h>
#include <sparsum/scalar_perceptron.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

namespace sparsum::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "scalar_perceptron";
constexpr const char* kBackward = "scalar_perceptron_backward";
/// y; and σ'(a) and ∂a/∂e if wanted, else empty.
using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

at::Tensor call(const at::Tensor& e, const at::Tensor& u, const at::Tensor& w) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&)>(
          "sparsum::scalar_perceptron");
  return op.call(e, u, w);
}

Forward call_forward(const at::Tensor& e, const at::Tensor& u, const at::Tensor& w,
                     bool derivatives) {
  static const auto op =
      find_op<Forward(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool)>(
          "sparsum::scalar_perceptron_forward");
  return op.call(e, u, w, derivatives);
}

Gradients call_backward(const at::Tensor& grad, const at::Tensor& e, const at::Tensor& u,
                        const at::Tensor& w, const at::Tensor& outer, const at::Tensor& slopes,
                        bool parameters) {
  static const auto op =
      find_op<Gradients(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                        const at::Tensor&, const at::Tensor&, bool)>(
          "sparsum::scalar_perceptron_backward");
  return op.call(grad, e, u, w, outer, slopes, parameters);
}

void check(const char* op, const at::Tensor& e, const at::Tensor& u, const at::Tensor& w) {
  check_floating(op, "e", e);
  TORCH_CHECK(u.dim() == 1 && u.sym_size(0) >= 1, op, ": expected u to be [H] with H >= 1, got ",
              u.sym_sizes());
  check_shape(op, "w", w, "[H]", {u.sym_size(0)});
  for (const auto& [name, tensor] : {std::pair("u", u), std::pair("w", w)}) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == e.scalar_type(), op, ": expected ", name,
                     " to have the dtype of e, ", e.scalar_type(), ", got ", tensor.scalar_type());
  }
}

void check_backward(const at::Tensor& grad, const at::Tensor& e, const at::Tensor& u,
                    const at::Tensor& w, const at::Tensor& outer, const at::Tensor& slopes) {
  check(kBackward, e, u, w);
  check_floating(kBackward, "grad", grad);
  const auto type = compute_type(e.scalar_type());
  for (const auto& [name, tensor] : {std::pair("outer", outer), std::pair("slopes", slopes)}) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == type, kBackward, ": expected ", name, " to be ", type,
                     ", got ", tensor.scalar_type());
  }
  for (const auto& [name, tensor] :
       {std::pair("grad", grad), std::pair("outer", outer), std::pair("slopes", slopes)}) {
    check_shape(kBackward, name, tensor, "of e's shape", e.sym_sizes());
  }
}

void in_ranges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& f) {
  if (count > 0) at::parallel_for(0, count, grain, f);
}

/// The arguments as the kernel takes them.
struct Dense {
  Dense(const at::Tensor& e_in, const at::Tensor& u_in, const at::Tensor& w_in)
      : type(compute_type(e_in.scalar_type())),
        e(e_in.to(type).contiguous()),
        u(u_in.to(type).contiguous()),
        w(w_in.to(type).contiguous()) {}

  template <typename T>
  kernels::ScalarPerceptronInputs<T> inputs() const {
    return {e.const_data_ptr<T>(), e.numel(), u.const_data_ptr<T>(), w.const_data_ptr<T>(),
            u.numel()};
  }

  at::ScalarType type;
  at::Tensor e, u, w;
};

/// What both backward passes begin with: c = g σ'(a), dense in the type of x, and the gradient in
/// e, in e's own.
struct InputGradient {
  at::Tensor c, by_e;
};

InputGradient input_gradient(const Dense& x, const at::Tensor& grad, const at::Tensor& outer,
                             const at::Tensor& slopes, at::ScalarType own) {
  const at::Tensor c = at::mul(grad.to(x.type), outer).contiguous();
  return {c, at::mul(c, slopes).to(own)};
}

Forward forward_cpu(const at::Tensor& e, const at::Tensor& u, const at::Tensor& w,
                    bool derivatives) {
  check(kOp, e, u, w);
  const Dense x(e, u, w);
  const at::Tensor y = at::empty(e.sizes(), x.e.options());
  const at::Tensor outer = at::empty(derivatives ? e.sizes() : at::IntArrayRef{0}, y.options());
  const at::Tensor slopes = at::empty_like(outer);
  AT_DISPATCH_FLOATING_TYPES(x.type, kOp, [&] {
    kernels::scalar_perceptron_forward(x.inputs<scalar_t>(), in_ranges,
                                       y.mutable_data_ptr<scalar_t>(),
                                       derivatives ? outer.mutable_data_ptr<scalar_t>() : nullptr,
                                       derivatives ? slopes.mutable_data_ptr<scalar_t>() : nullptr);
  });
  return {y.to(e.scalar_type()), outer, slopes};
}

Gradients backward_cpu(const at::Tensor& grad, const at::Tensor& e, const at::Tensor& u,
                       const at::Tensor& w, const at::Tensor& outer, const at::Tensor& slopes,
                       bool parameters) {
  check_backward(grad, e, u, w, outer, slopes);
  const auto own = e.scalar_type();
  const Dense x(e, u, w);
  const InputGradient in = input_gradient(x, grad, outer, slopes, own);
  const at::Tensor by_u = at::empty(parameters ? u.sizes() : at::IntArrayRef{0}, x.u.options());
  const at::Tensor by_w = at::empty_like(by_u);
  if (parameters) {
    AT_DISPATCH_FLOATING_TYPES(x.type, kBackward, [&] {
      kernels::scalar_perceptron_parameters(x.inputs<scalar_t>(), in.c.const_data_ptr<scalar_t>(),
                                            in_ranges, by_u.mutable_data_ptr<scalar_t>(),
                                            by_w.mutable_data_ptr<scalar_t>());
    });
  }
  return {in.by_e, by_u.to(own), by_w.to(own)};
}

// --- other devices -------------------------------------------------------------------------------

/// Calls f(begin, end) on ranges of numbers whose σ(u_j e) take some 64 MB.
template <class F>
void in_chunks(const at::Tensor& e, const at::Tensor& u, const F& f) {
  const int64_t chunk = std::max<int64_t>(1, (1 << 24) / u.numel());
  for (int64_t begin = 0; begin < e.numel(); begin += chunk) {
    f(begin, std::min(begin + chunk, e.numel()));
  }
}

Forward forward_generic(const at::Tensor& e, const at::Tensor& u, const at::Tensor& w,
                        bool derivatives) {
  check(kOp, e, u, w);
  const Dense x(e, u, w);
  const at::Tensor flat = x.e.view(-1), products = x.u * x.w;
  const at::Tensor y = at::empty_like(flat);
  const at::Tensor outer = derivatives ? at::empty_like(flat) : at::empty({0}, flat.options());
  const at::Tensor slopes = at::empty_like(outer);
  in_chunks(e, u, [&](int64_t begin, int64_t end) {
    at::Tensor s = at::outer(flat.slice(0, begin, end), x.u).sigmoid_();
    const at::Tensor a = at::mv(s, x.w), here = a.sigmoid();
    y.slice(0, begin, end).copy_(here);
    if (!derivatives) return;
    outer.slice(0, begin, end).copy_(here * a.neg().sigmoid());
    s = at::sigmoid_backward(at::ones({}, s.options()).expand_as(s), s);
    slopes.slice(0, begin, end).copy_(at::mv(s, products));
  });
  const auto shaped = [&](const at::Tensor& t) { return derivatives ? t.view(e.sizes()) : t; };
  return {y.view(e.sizes()).to(e.scalar_type()), shaped(outer), shaped(slopes)};
}

Gradients backward_generic(const at::Tensor& grad, const at::Tensor& e, const at::Tensor& u,
                           const at::Tensor& w, const at::Tensor& outer, const at::Tensor& slopes,
                           bool parameters) {
  check_backward(grad, e, u, w, outer, slopes);
  const auto own = e.scalar_type();
  const Dense x(e, u, w);
  const InputGradient in = input_gradient(x, grad, outer, slopes, own);
  if (!parameters) return {in.by_e, at::empty({0}, u.options()), at::empty({0}, w.options())};
  at::Tensor by_u = at::zeros_like(x.u), by_w = at::zeros_like(x.w);
  in_chunks(e, u, [&](int64_t begin, int64_t end) {
    const at::Tensor part = x.e.view(-1).slice(0, begin, end);
    const at::Tensor weights = in.c.view(-1).slice(0, begin, end);
    at::Tensor s = at::outer(part, x.u).sigmoid_();
    by_w += at::mv(s.t(), weights);
    s = at::sigmoid_backward(at::ones({}, s.options()).expand_as(s), s);
    by_u += at::mv(s.t(), weights * part);
  });
  return {in.by_e, (by_u * x.w).to(own), by_w.to(own)};
}

Forward forward_meta(const at::Tensor& e, const at::Tensor& u, const at::Tensor& w,
                     bool derivatives) {
  check(kOp, e, u, w);
  const auto options = e.options().dtype(compute_type(e.scalar_type()));
  const auto saved = [&] {
    return derivatives ? at::empty_symint(e.sym_sizes(), options) : at::empty({0}, options);
  };
  return {at::empty_symint(e.sym_sizes(), e.options()), saved(), saved()};
}

Gradients backward_meta(const at::Tensor& grad, const at::Tensor& e, const at::Tensor& u,
                        const at::Tensor& w, const at::Tensor& outer, const at::Tensor& slopes,
                        bool parameters) {
  check_backward(grad, e, u, w, outer, slopes);
  const auto parameter = [&] {
    return parameters ? at::empty_symint(u.sym_sizes(), u.options()) : at::empty({0}, u.options());
  };
  return {at::empty_symint(e.sym_sizes(), e.options()), parameter(), parameter()};
}

// --- autograd ------------------------------------------------------------------------------------

/// The gradients by operations that have derivatives themselves.
variable_list differentiable_gradients(const at::Tensor& grad, const at::Tensor& e,
                                       const at::Tensor& u_in, const at::Tensor& w_in) {
  const auto own = e.scalar_type(), type = compute_type(own);
  const at::Tensor flat = e.to(type).reshape(-1), u = u_in.to(type), w = w_in.to(type);
  const at::Tensor s = at::outer(flat, u).sigmoid(), r = s * (1 - s);
  const at::Tensor a = at::mv(s, w);
  const at::Tensor c = grad.to(type).reshape(-1) * a.sigmoid() * a.neg().sigmoid();
  return {(c * at::mv(r, u * w)).reshape(e.sizes()).to(own), (w * at::mv(r.t(), c * flat)).to(own),
          at::mv(s.t(), c).to(own)};
}

struct ScalarPerceptron : torch::autograd::Function<ScalarPerceptron> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& e, const at::Tensor& u,
                            const at::Tensor& w) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [y, outer, slopes] = call_forward(e, u, w, /*derivatives=*/true);
    ctx->save_for_backward({e, u, w, outer, slopes});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &e = saved[0], &u = saved[1], &w = saved[2];
    variable_list all;
    if (at::GradMode::is_enabled()) {
      all = differentiable_gradients(grads[0], e, u, w);
    } else {
      const bool parameters = ctx->needs_input_grad(1) || ctx->needs_input_grad(2);
      auto [by_e, by_u, by_w] = call_backward(grads[0], e, u, w, saved[3], saved[4], parameters);
      all = {by_e, by_u, by_w};
    }
    for (size_t i = 0; i < 3; ++i) {
      if (!ctx->needs_input_grad(i)) all[i].reset();
    }
    return all;
  }
};

at::Tensor scalar_perceptron_autograd(const at::Tensor& e, const at::Tensor& u,
                                      const at::Tensor& w) {
  for (const at::Tensor& t : {e, u, w}) refuse_forward_mode(kOp, t);
  if (needs_graph(e, u, w)) return ScalarPerceptron::apply(e, u, w);
  at::AutoDispatchBelowADInplaceOrView below;
  return call(e, u, w);
}

at::Tensor scalar_perceptron_values(const at::Tensor& e, const at::Tensor& u, const at::Tensor& w) {
  return std::get<0>(call_forward(e, u, w, /*derivatives=*/false));
}

TORCH_LIBRARY_IMPL(sparsum, CPU, m) {
  m.impl("scalar_perceptron_forward", &forward_cpu);
  m.impl("scalar_perceptron_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("scalar_perceptron", &scalar_perceptron_values);
  m.impl("scalar_perceptron_forward", &forward_generic);
  m.impl("scalar_perceptron_backward", &backward_generic);
}
TORCH_LIBRARY_IMPL(sparsum, Meta, m) {
  m.impl("scalar_perceptron_forward", &forward_meta);
  m.impl("scalar_perceptron_backward", &backward_meta);
}
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) {
  m.impl("scalar_perceptron", &scalar_perceptron_autograd);
  m.impl("scalar_perceptron_forward", torch::CppFunction::makeFallthrough());
  m.impl("scalar_perceptron_backward", torch::CppFunction::makeFallthrough());
}

}  // namespace
}  // namespace sparsum::ops

namespace sparsum {

at::Tensor scalar_perceptron(const at::Tensor& e, const at::Tensor& u, const at::Tensor& w) {
  return ops::call(e, u, w);
}

}  // namespace sparsum
