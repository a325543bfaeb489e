// Structured maps, timed on batches of 64 examples with scores N(0, 1): k best configurations of
// bits, SparseMAP by the closed form and by the active-set method (both-states encoding), cold and
// from the last solution after a small step.
//
//   bench_structured [THREADS]
//
// Results are checked before they are timed.

#include "bench/timing.h"

#include <ATen/Parallel.h>
#include <malloc.h>
#include <sparsum/bits.h>
#include <sparsum/sparsemap.h>
#include <sparsum/top_k_sparsemax.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>

namespace {

using namespace sparsum;

at::Tensor normal(int64_t batch, int64_t bits, uint64_t seed) {
  return at::randn({batch, bits}, at::make_generator<at::CPUGeneratorImpl>(seed));
}

void require(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "wrong: %s\n", what);
  std::exit(1);
}

double time_of(const std::function<void()>& f, int calls, int turns = 15) {
  std::vector<bench::Timed> one = {{"", f, calls}};
  bench::take_turns(one, turns);
  return bench::median(one[0].times);
}

void k_best() {
  std::printf("\nk best of bits, batch 64, milliseconds\n%8s %6s %10s %14s %18s\n", "D", "k",
              "flips", "dense rows", "ns / (D + k log k)");
  for (const int64_t bits : {32, 128, 1000, 10000, 100000}) {
    for (const int64_t k : {10, 100, 1000}) {
      const BitVector structure(bits);
      const at::Tensor scores = normal(64, bits, 1);
      const Assignments z = structure.k_best(scores, k);
      require(z.count() == 64 * k, "the number of configurations");
      const int calls = bits * k > 100000 ? 1 : 10;
      const double flips = time_of([&] { structure.k_best(scores, k); }, calls);
      const bool fits = 64 * k * bits <= 100'000'000;
      const double dense = fits ? time_of([&] { z.values(); }, calls, 5) : 0;
      const double unit =
          static_cast<double>(bits) + static_cast<double>(k) * std::log2(static_cast<double>(k));
      std::printf("%8lld %6lld %10.3f %14s %18.2f\n", static_cast<long long>(bits),
                  static_cast<long long>(k), flips,
                  fits ? std::to_string(dense).substr(0, 7).c_str() : "-", flips * 1e6 / 64 / unit);
    }
  }
}

struct Row {
  const char* name;
  const Bits& structure;
  SparsemapAlgorithm algorithm;
};

void sparse_map() {
  std::printf("\nSparseMAP, batch 64, both-states encoding, milliseconds\n");
  std::printf("%5s %-10s %-12s %9s %9s %12s %9s %9s %9s %9s\n", "D", "structure", "algorithm",
              "forward", "+ backward", "marginals", "warm", "support", "calls", "gap");
  for (const int64_t bits : {32, 128, 1000}) {
    const BitVector all(bits);
    const Budget budget(bits, bits / 2);
    const Subset subset(bits, bits / 2);
    for (const Row& row : {Row{"bits", all, SparsemapAlgorithm::kClosedForm},
                           Row{"bits", all, SparsemapAlgorithm::kActiveSet},
                           Row{"budget", budget, SparsemapAlgorithm::kClosedForm},
                           Row{"budget", budget, SparsemapAlgorithm::kActiveSet},
                           Row{"subset", subset, SparsemapAlgorithm::kClosedForm},
                           Row{"subset", subset, SparsemapAlgorithm::kActiveSet}}) {
      SparsemapOptions options;
      options.encoding = Encoding::kBothStates;
      options.algorithm = row.algorithm;
      at::Tensor scores = normal(64, bits, 2).requires_grad_();
      const SparsemapResult result = solve_sparsemap(row.structure, scores, options);
      const at::Tensor marginals = result.distribution.marginals();
      require(marginals.allclose(result.marginals, 1e-3, 1e-3), "the marginals");
      require(result.converged.all().item<bool>(), "convergence");
      const at::Tensor upstream = at::randn({result.distribution.support().count()},
                                            at::make_generator<at::CPUGeneratorImpl>(uint64_t{3}));
      const auto backward = [&](const SparseDistribution& q) {
        torch::autograd::grad({q.probs()}, {scores}, {upstream});
      };
      const int calls = bits > 500 ? 2 : 20;
      const double forward = time_of([&] { sparsemap(row.structure, scores, options); }, calls);
      const double both =
          time_of([&] { backward(sparsemap(row.structure, scores, options)); }, calls);
      const at::Tensor g = at::ones_like(scores);
      const double closed = time_of(
          [&] {
            const at::Tensor mu = sparsemap_marginals(row.structure, scores, options);
            torch::autograd::grad({mu}, {scores}, {g});
          },
          calls);
      SparsemapOptions warm = options;
      warm.warm_start = &result.distribution;
      const at::Tensor near = scores.detach() + 0.01 * normal(64, bits, 4);
      const double again = time_of([&] { sparsemap(row.structure, near, warm); }, calls);
      std::printf("%5lld %-10s %-12s %9.3f %9.3f %12.3f %9.3f %9.1f %9.1f %9.1e\n",
                  static_cast<long long>(bits), row.name,
                  row.algorithm == SparsemapAlgorithm::kActiveSet ? "active-set" : "closed-form",
                  forward, both, closed,
                  row.algorithm == SparsemapAlgorithm::kActiveSet ? again : 0.0,
                  static_cast<double>(result.distribution.support().count()) / 64,
                  result.oracle_calls.to(at::kDouble).mean().item<double>(),
                  result.gap.max().item<double>());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);  // as the program does
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  at::set_num_threads(argc > 1 ? std::atoi(argv[1]) : 2);
  std::printf("%d threads\n", at::get_num_threads());
  k_best();
  sparse_map();
}
