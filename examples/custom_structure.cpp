// A structure of one's own: bit vectors in which no two neighbouring bits are on. All it takes is
// the best configuration of one example; SparseMAP, batches, threads and gradients come from the
// library. (With the k best ones, too, top-k sparsemax would work as well.)

#include <sparsum/sparsum.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

class NoNeighbours final : public sparsum::CustomStructure {
 public:
  explicit NoNeighbours(int64_t bits) : bits_(bits) {}

  std::string name() const override { return "no-neighbours(" + std::to_string(bits_) + ")"; }
  int64_t parts() const override { return bits_; }

  /// Dynamic programming from the right: on[i] and off[i] are the best scores of bits i … D − 1
  /// with bit i on, and with it off.
  std::vector<uint8_t> best(std::span<const double> scores) const override {
    const size_t n = scores.size();
    std::vector<double> on(n + 1, 0), off(n + 1, 0);
    for (size_t i = n; i-- > 0;) {
      on[i] = scores[i] + off[i + 1];
      off[i] = std::max(on[i + 1], off[i + 1]);
    }
    std::vector<uint8_t> z(n, 0);
    for (size_t i = 0; i < n; ++i) {
      const bool free = i == 0 || z[i - 1] == 0;
      z[i] = free && on[i] > off[i];
    }
    return z;
  }

 private:
  int64_t bits_;
};

int main() {
  const NoNeighbours structure(8);
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{7});
  const at::Tensor scores = at::randn({3, 8}, generator).set_requires_grad(true);

  // Few configurations of each example, with their probabilities.
  const sparsum::SparseDistribution q = sparsum::sparsemap(structure, scores);
  const at::Tensor values = q.support().values();

  // A loss that no sum over parts could write: how far the number of bits on is from 2, squared.
  const at::Tensor loss = sparsum::expectation(
      q, [](const sparsum::Assignments& z) { return (z.values().sum(1) - 2).square(); });
  (loss - q.entropy()).mean().backward();

  for (int64_t i = 0; i < q.support().count(); ++i) {
    std::printf("example %d  p = %.3f  ", static_cast<int>(q.support().rows[i].item<int64_t>()),
                q.probs()[i].item<float>());
    for (int64_t j = 0; j < 8; ++j) std::printf("%d", values[i][j].item<float>() > 0 ? 1 : 0);
    std::printf("\n");
  }
  const bool allowed = (values.slice(1, 1) * values.slice(1, 0, -1)).sum().item<float>() == 0;
  const bool sums_to_one =
      q.support().sum_per_example(q.probs()).allclose(at::ones({3}), 1e-5, 1e-5);
  const bool has_gradient = scores.grad().defined() && scores.grad().abs().sum().item<float>() > 0;
  std::printf("loss %.3f; gradient of the scores %s\n", loss.mean().item<float>(),
              has_gradient ? "there" : "missing");
  return allowed && sums_to_one && has_gradient ? 0 : 1;
}
