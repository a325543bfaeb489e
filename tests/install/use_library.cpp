// An installed sparsum::sparsum: a map, a sparse distribution, an expectation and its gradient.
#include <sparsum/sparsum.h>
#include <torch/torch.h>

#include <iostream>

namespace {

int failures = 0;

void expect_close(const char* what, const at::Tensor& found, const at::Tensor& expected) {
  if (at::allclose(found, expected)) return;
  std::cerr << what << ": expected\n" << expected << "\nfound\n" << found << "\n";
  ++failures;
}

}  // namespace

int main() {
  const auto options = at::dtype(at::kDouble);
  // By hand: τ = (1 + 0.5 − 1)/2 = 0.25 in the first row; the second row's best score leads by more
  // than 1.
  at::Tensor scores = at::tensor({1.0, 0.5, -1.0, 0.0, 3.0, 1.5}, options).view({2, 3});
  scores.requires_grad_();
  const at::Tensor probs = at::tensor({0.75, 0.25, 0.0, 0.0, 1.0, 0.0}, options).view({2, 3});
  expect_close("sparsemax", sparsum::sparsemax(scores), probs);

  const sparsum::Categorical structure(3);
  const sparsum::SparseDistribution q = sparsum::sparsemax(structure, scores);
  expect_close("to_dense", q.to_dense(), probs);
  expect_close("evaluations", q.evaluations(), at::tensor({2, 1}, at::kLong));

  const at::Tensor table = at::tensor({3.0, 1.0, 100.0}, options);
  const at::Tensor value = sparsum::expectation(
      q, [&](const sparsum::Assignments& z) { return table.index_select(0, z.indices); });
  expect_close("expectation", value, at::tensor({0.75 * 3 + 0.25 * 1, 1.0}, options));

  value.sum().backward();
  // On the support the loss less its mean there, elsewhere 0.
  expect_close("gradient", scores.grad(),
               at::tensor({1.0, -1.0, 0.0, 0.0, 0.0, 0.0}, options).view({2, 3}));
  return failures == 0 ? 0 : 1;
}
