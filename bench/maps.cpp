// Maps onto the simplex against torch.softmax and against a sort-based ATen sparsemax.

#include "bench/sorted_sparsemax.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <sparsum/entmax.h>
#include <sparsum/sparsemax.h>
#include <sparsum/top_k_sparsemax.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace sparsum::bench {
namespace {

struct Method {
  std::string name;
  std::function<at::Tensor(const at::Tensor&)> forward;
  std::function<at::Tensor(const at::Tensor& grad, const at::Tensor& probs)> backward;
  std::function<at::Tensor(const at::Tensor&)> differentiable;  // through autograd
};

template <class Signature>
c10::TypedOperatorHandle<Signature> op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

std::vector<Method> methods() {
  using Backward = at::Tensor(const at::Tensor&, const at::Tensor&, int64_t);
  using EntmaxBackward = at::Tensor(const at::Tensor&, const at::Tensor&, double, int64_t);
  static const auto sparsemax_backward = op<Backward>("sparsum::sparsemax_backward");
  static const auto entmax_backward = op<EntmaxBackward>("sparsum::entmax_backward");
  const auto backward = [](const at::Tensor& g, const at::Tensor& p) {
    return sparsemax_backward.call(g, p, -1);
  };
  const auto top_k = [](const at::Tensor& s) { return std::get<0>(top_k_sparsemax(s, 10)); };
  const auto sparse = [](const at::Tensor& s) { return sparsemax(s); };
  const auto fifteen = [](const at::Tensor& s) { return entmax(s, 1.5); };
  return {
      {"softmax", [](const at::Tensor& s) { return at::_softmax(s, -1, false); },
       [](const at::Tensor& g, const at::Tensor& p) {
         return at::_softmax_backward_data(g, p, -1, p.scalar_type());
       },
       [](const at::Tensor& s) { return at::softmax(s, -1); }},
      {"sorted", sorted_sparsemax, sorted_sparsemax_backward, nullptr},
      {"sparsemax", sparse, backward, sparse},
      {"entmax15", fifteen,
       [](const at::Tensor& g, const at::Tensor& p) { return entmax_backward.call(g, p, 1.5, -1); },
       fifteen},
      {"top_10_sparsemax", top_k, backward, top_k},
  };
}

void fail(const std::string& what) {
  std::fprintf(stderr, "verification failed: %s\n", what.c_str());
  std::exit(1);
}

void verify(const Method& method, const at::Tensor& scores, const std::string& name) {
  const at::Tensor probs = method.forward(scores);
  if ((probs.sum(-1) - 1).abs().max().item<double>() > 1e-4 || (probs < 0).any().item<bool>())
    fail(name);
  const at::Tensor exact = sorted_sparsemax(scores.to(at::kDouble));
  if (method.name == "sparsemax" && (probs - exact).abs().max().item<double>() > 1e-5) fail(name);
  if (method.name == "top_10_sparsemax") {
    const at::Tensor best = std::get<0>(scores.topk(std::min<int64_t>(10, scores.size(1)), -1));
    const at::Tensor expected = sorted_sparsemax(best.to(at::kDouble));
    if ((std::get<0>(probs.sort(-1, true)).narrow(1, 0, best.size(1)) - expected)
            .abs()
            .max()
            .item<double>() > 1e-5)
      fail(name);
  }
  if (method.name == "entmax15") {  // √p + τ is affine in s on the support, with slope 1/2
    const at::Tensor residual = at::where(probs > 0, probs.sqrt() - scores / 2, 0);
    const at::Tensor at_max = residual.gather(1, scores.argmax(1, true));
    if (at::where(probs > 0, residual - at_max, 0).abs().max().item<double>() > 1e-4) fail(name);
  }
}

struct Shape {
  int64_t rows, cols;
};

void add(const Method& method, const Shape& shape, double deviation, int threads) {
  auto generator = at::detail::createCPUGenerator(1);
  const at::Tensor scores = at::randn({shape.rows, shape.cols}, generator, at::kFloat) * deviation;
  const at::Tensor grad = at::randn({shape.rows, shape.cols}, generator, at::kFloat);
  std::ostringstream label;
  label << method.name << "/" << shape.rows << "x" << shape.cols << "/std" << deviation
        << "/threads" << threads;
  const std::string name = label.str();
  verify(method, scores, name);
  const double bytes = 4.0 * static_cast<double>(shape.rows * shape.cols);
  const auto measure = [=](const std::string& group, double moved, auto&& body) {
    benchmark::RegisterBenchmark((group + "/" + name).c_str(),
                                 [=](benchmark::State& state) {
                                   at::set_num_threads(threads);
                                   for (auto _ : state) benchmark::DoNotOptimize(body());
                                   state.counters["bytes"] = benchmark::Counter(
                                       moved, benchmark::Counter::kIsIterationInvariantRate,
                                       benchmark::Counter::kIs1024);
                                 })
        ->Unit(benchmark::kMicrosecond)
        ->UseRealTime();
  };
  measure("forward", 2 * bytes, [=] { return method.forward(scores); });
  if (method.name == "sorted" && shape.cols > 1000) return;
  const at::Tensor probs = method.forward(scores);
  measure("backward", 3 * bytes, [=] { return method.backward(grad, probs); });
  measure("both", 5 * bytes, [=] { return method.backward(grad, method.forward(scores)); });
  if (!method.differentiable) return;
  const at::Tensor leaf = scores.clone().requires_grad_();
  measure("autograd", 5 * bytes,
          [=] { return torch::autograd::grad({method.differentiable(leaf)}, {leaf}, {grad})[0]; });
}

const bool registered = [] {
  for (const Shape& shape : {Shape{64, 10}, {64, 256}, {1024, 1000}, {128, 32000}}) {
    for (double deviation : {1.0, 5.0}) {
      for (int threads : {1, 2}) {
        for (const Method& method : methods()) add(method, shape, deviation, threads);
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace sparsum::bench
