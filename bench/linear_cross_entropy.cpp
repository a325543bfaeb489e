// The fused likelihood against ATen's own operations, forward and backward, in time and in peak
// memory: n = 640 pairs, P = 784 positions, F = 5 features, C = 256 classes.
//
//   bench_linear_cross_entropy [THREADS]
//
// naive: scores of all pairs at once, cross_entropy over the class dimension in the middle, as
// written by hand. best: the class dimension last, one score tensor, log-softmax in place of it.
// Values and gradients are compared first; peaks are taken in processes of their own.

#include "bench/timing.h"

#include <ATen/Parallel.h>
#include <malloc.h>
#include <sparsum/linear_cross_entropy.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace {

using namespace sparsum;

struct Problem {
  explicit Problem(int64_t n) {
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{1});
    features = at::randn({n, 784, 5}, generator).requires_grad_();
    weight = (at::randn({256, 5}, generator) * 0.5).requires_grad_();
    bias = at::randn({256}, generator).requires_grad_();
    targets = at::randint(0, 256, {64, 784}, generator, at::kLong);
    rows = at::arange(n, at::kLong).floor_divide(n / 64);
    upstream = at::rand({n}, generator);
  }
  void clear() {
    for (at::Tensor t : {features, weight, bias}) t.mutable_grad().reset();
  }
  at::Tensor features, weight, bias, targets, rows, upstream;
};

at::Tensor fused(const Problem& p) {
  return linear_cross_entropy(p.features, p.weight, p.bias, p.targets, p.rows);
}
at::Tensor naive(const Problem& p) {
  const at::Tensor scores = at::linear(p.features, p.weight, p.bias).transpose(1, 2);
  return at::cross_entropy_loss(scores, p.targets.index_select(0, p.rows), {}, at::Reduction::None)
      .sum(1);
}
at::Tensor best(const Problem& p) {
  const at::Tensor scores = at::addmm(p.bias, p.features.flatten(0, 1), p.weight.t());
  const at::Tensor classes = p.targets.index_select(0, p.rows).flatten();
  return at::cross_entropy_loss(scores, classes, {}, at::Reduction::None).view({-1, 784}).sum(1);
}

using Method = at::Tensor (*)(const Problem&);

double peak_megabytes(Method method) {
  const pid_t child = fork();
  if (child == 0) {
    Problem p(640);
    if (method) method(p).backward(p.upstream);
    std::_Exit(0);
  }
  int status = 0;
  rusage usage{};
  if (child < 0 || wait4(child, &status, 0, &usage) < 0 || status != 0) {
    std::fprintf(stderr, "a measurement of memory failed\n");
    std::exit(1);
  }
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const std::pair<const char*, Method> methods[] = {
      {"fused", fused}, {"naive", naive}, {"best ATen", best}};
  // Before any thread is started.
  const double nothing = peak_megabytes(nullptr);
  std::vector<double> peaks;
  for (const auto& [name, method] : methods) peaks.push_back(peak_megabytes(method) - nothing);

  at::set_num_threads(threads);
  mallopt(M_MMAP_THRESHOLD, 1 << 30);  // as the program does: good for ATen's big tensors, too
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  Problem p(640);
  std::vector<at::Tensor> expected;
  for (const auto& [name, method] : methods) {
    p.clear();
    const at::Tensor nll = method(p);
    nll.backward(p.upstream);
    const std::vector<at::Tensor> got = {nll.detach(), p.features.grad().clone(),
                                         p.weight.grad().clone(), p.bias.grad().clone()};
    if (expected.empty()) expected = got;
    for (size_t i = 0; i < got.size(); ++i) {
      if (difference(expected[i], got[i]) > 1e-4) {
        std::fprintf(stderr, "%s differs from fused in output %zu\n", name, i);
        return 1;
      }
    }
  }

  std::vector<bench::Timed> timed;
  for (const auto& [name, method] : methods) {
    timed.push_back({name, [&p, method = method] {
                       p.clear();
                       method(p).backward(p.upstream);
                     }});
  }
  timed.push_back({"fused, forward", [&p] {
                     const at::NoGradGuard no_grad;
                     fused(p);
                   }});
  bench::take_turns(timed, 7);
  const double own = bench::median(timed[0].times);
  const double exponentials = 640.0 * 784 * 256;
  std::printf("%d threads, n = 640, P = 784, F = 5, C = 256, forward + backward\n", threads);
  std::printf("%-16s %10s %10s %12s %12s %12s\n", "", "ms", "/ fused", "peak MB", "/ fused",
              "ns per exp");
  for (size_t i = 0; i < timed.size(); ++i) {
    const double ms = bench::median(timed[i].times);
    std::printf("%-16s %10.1f %10.1f", timed[i].name.c_str(), ms, ms / own);
    if (i < peaks.size()) std::printf(" %12.0f %12.1f", peaks[i], peaks[i] / peaks[0]);
    if (i >= peaks.size()) std::printf(" %12s %12s", "", "");
    std::printf(" %12.3f\n", ms * 1e6 / exponentials);
  }
}
