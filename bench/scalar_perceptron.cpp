// The perceptron of one number against ATen's own operations, forward and backward: n = 64·256
// numbers, H = 512 hidden units, for ranges of numbers from the narrow one of a game's first steps
// to one too wide to interpolate.
//
//   bench_scalar_perceptron [THREADS]
//
// Values and gradients are compared first.

#include "bench/timing.h"

#include <ATen/Parallel.h>
#include <sparsum/kernels/scalar_perceptron.h>
#include <sparsum/scalar_perceptron.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>

namespace {

using namespace sparsum;

struct Problem {
  explicit Problem(double size) {
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{1});
    e = (at::randn({64, 256}, generator) * size).requires_grad_();
    u = (at::rand({512}, generator) * 2 - 1).requires_grad_();
    w = ((at::rand({512}, generator) * 2 - 1) / 22).requires_grad_();
    upstream = at::randn({64, 256}, generator);
  }
  std::vector<at::Tensor> gradients(const at::Tensor& y) const {
    for (at::Tensor t : {e, u, w}) t.mutable_grad().reset();
    y.backward(upstream);
    return {y.detach(), e.grad(), u.grad(), w.grad()};
  }
  at::Tensor e, u, w, upstream;
};

at::Tensor fused(const Problem& p) { return scalar_perceptron(p.e, p.u, p.w); }
at::Tensor composite(const Problem& p) {
  return at::matmul((p.e.unsqueeze(-1) * p.u).sigmoid(), p.w).sigmoid();
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  at::set_num_threads(threads);
  std::printf("%d threads, n = 16384, H = 512, float32, ms\n", threads);
  std::printf("%10s %6s %10s %10s %12s %10s\n", "size of e", "grid", "forward", "fwd + bwd",
              "ATen f + b", "/ fused");
  for (const double size : {0.01, 1.0, 10.0, 100.0, 1000.0}) {
    const Problem p(size);
    const auto got = p.gradients(fused(p)), expected = p.gradients(composite(p));
    for (size_t i = 0; i < got.size(); ++i) {
      if (((got[i] - expected[i]).abs().max() / expected[i].abs().max()).item<double>() > 1e-4) {
        std::fprintf(stderr, "fused and ATen differ in output %zu\n", i);
        return 1;
      }
    }
    const bool grid = kernels::scalar_perceptron_interpolates(
        {p.e.const_data_ptr<float>(), p.e.numel(), p.u.const_data_ptr<float>(),
         p.w.const_data_ptr<float>(), p.u.numel()});
    std::vector<bench::Timed> timed = {{"forward",
                                        [&p] {
                                          const at::NoGradGuard no_grad;
                                          fused(p);
                                        },
                                        5},
                                       {"fused", [&p] { p.gradients(fused(p)); }, 5},
                                       {"composite", [&p] { p.gradients(composite(p)); }}};
    bench::take_turns(timed, 9);
    const double own = bench::median(timed[1].times), other = bench::median(timed[2].times);
    std::printf("%10g %6s %10.3f %10.3f %12.1f %10.1f\n", size, grid ? "yes" : "no",
                bench::median(timed[0].times), own, other, other / own);
  }
}
