// Peak memory of one sparse expectation, forward and backward, by the number n of pairs: with a
// limit of 512 evaluations a chunk, and without one.
//
//   bench_expectation_memory
//
// A process for each measurement, since a peak never falls; the peak of the same process without
// the loss is subtracted.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <sparsum/categorical.h>
#include <sparsum/expectation.h>
#include <sparsum/sparse_distribution.h>
#include <sparsum/sparsemax.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/csrc/autograd/variable.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace {

using namespace sparsum;

// A loss with 1,024 hidden units: about 8 kB of activations a pair.
void run(int64_t n, int64_t chunk, bool with_loss) {
  constexpr int64_t kOutcomes = 100, kHidden = 1024, kFeatures = 16;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const at::Tensor scores = at::zeros({n / kOutcomes, kOutcomes}).requires_grad_();
  const at::Tensor features = at::randn({n / kOutcomes, kFeatures}, generator).requires_grad_();
  const at::Tensor table = at::randn({kOutcomes, kHidden}, generator).requires_grad_();
  const at::Tensor weight = at::randn({kFeatures, kHidden}, generator).requires_grad_();
  const Categorical structure(kOutcomes);
  // All scores are equal: all outcomes are in the support.
  const SparseDistribution q = sparsemax(structure, scores);
  if (!with_loss) return;
  const LossFn loss = [&](const Assignments& z, const std::vector<at::Tensor>& shared) {
    return (z.gather(shared[0]).matmul(weight) + z.embed(table)).tanh().square().sum(1);
  };
  expectation(q, loss, {features}, {chunk, {}}).sum().backward();
}

long peak_kb(int64_t n, int64_t chunk, bool with_loss) {
  const pid_t child = fork();
  if (child == 0) {
    run(n, chunk, with_loss);
    std::_Exit(0);
  }
  int status = 0;
  rusage usage{};
  if (child < 0 || wait4(child, &status, 0, &usage) < 0 || status != 0) {
    std::fprintf(stderr, "the measurement of n = %lld failed\n", static_cast<long long>(n));
    std::exit(1);
  }
  return usage.ru_maxrss;
}

}  // namespace

int main() {
  std::printf("%8s %22s %22s\n", "pairs", "chunks of 512, MB", "no limit, MB");
  for (const int64_t n : {1000, 2000, 4000, 8000, 16000, 32000}) {
    const auto megabytes = [&](int64_t chunk) {
      return static_cast<double>(peak_kb(n, chunk, true) - peak_kb(n, chunk, false)) / 1024;
    };
    std::printf("%8lld %22.1f %22.1f\n", static_cast<long long>(n), megabytes(512), megabytes(0));
  }
}
