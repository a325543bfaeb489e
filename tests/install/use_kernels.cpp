// An installed sparsum::kernels, used on plain arrays.
#include <sparsum/kernels/sparsemax.h>
#include <sparsum/kernels/targets.h>

#include <cmath>
#include <cstdint>
#include <iostream>
#include <limits>

namespace {

int failures = 0;

void expect_close(const char* what, const float* found, const float* expected, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (std::abs(found[i] - expected[i]) <= 1e-6f) continue;
    std::cerr << what << '[' << i << "]: expected " << expected[i] << ", found " << found[i]
              << '\n';
    ++failures;
  }
}

}  // namespace

int main() {
  const float scores[] = {1.0f, 0.5f, -1.0f, 0.0f, 3.0f, 1.5f};
  const float probs[] = {0.75f, 0.25f, 0.0f, 0.0f, 1.0f, 0.0f};
  const float grad[] = {3.0f, 1.0f, 100.0f, 3.0f, 1.0f, 100.0f};
  const float grad_scores[] = {1.0f, -1.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  float found[6];

  const int64_t bad_row = sparsum::kernels::sparsemax_forward(scores, found, 2, 3);
  if (bad_row != -1) {
    std::cerr << "sparsemax_forward: expected -1, found " << bad_row << '\n';
    ++failures;
  }
  expect_close("probs", found, probs, 6);

  sparsum::kernels::sparsemax_backward(grad, probs, found, 2, 3);
  expect_close("grad_scores", found, grad_scores, 6);

  const float bad_scores[] = {0.0f, 1.0f, 2.0f, 0.0f, std::numeric_limits<float>::quiet_NaN(),
                              0.0f};
  const int64_t nan_row = sparsum::kernels::sparsemax_forward(bad_scores, found, 2, 3);
  if (nan_row != 1) {
    std::cerr << "sparsemax_forward: expected row 1 to be refused, found " << nan_row << '\n';
    ++failures;
  }
  std::cout << "SIMD target: " << sparsum::kernels::active_target() << '\n';
  return failures == 0 ? 0 : 1;
}
