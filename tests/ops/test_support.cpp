#include <gtest/gtest.h>
#include <sparsum/sparsemax.h>
#include <sparsum/support.h>
#include <torch/torch.h>

namespace sparsum {
namespace {

TEST(Support, ListsTheNonZerosRowByRow) {
  const at::Tensor probs =
      torch::tensor({{0.0, 0.5, 0.5}, {1.0, 0.0, 0.0}, {0.0, 0.0, 0.0}, {0.2, 0.3, 0.5}});
  const auto [row_splits, rows, indices] = support(probs);
  EXPECT_TRUE(row_splits.equal(torch::tensor({0, 2, 3, 3, 6})));
  EXPECT_TRUE(rows.equal(torch::tensor({0, 0, 1, 3, 3, 3})));
  EXPECT_TRUE(indices.equal(torch::tensor({1, 2, 0, 0, 1, 2})));
}

TEST(Support, IsNonzeroForEveryDtypeAndDevicePath) {
  auto generator = at::detail::createCPUGenerator(5);
  const at::Tensor probs = sparsemax(at::randn({40, 30}, generator, at::kDouble) * 2);
  using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("sparsum::support", "")
                      .typed<Result(const at::Tensor&)>();
  for (at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
    const auto [row_splits, rows, indices] = support(probs.to(type));
    const at::Tensor expected = probs.to(type).nonzero();
    EXPECT_TRUE(rows.equal(expected.select(1, 0)));
    EXPECT_TRUE(indices.equal(expected.select(1, 1)));
    EXPECT_EQ(row_splits[40].item<int64_t>(), expected.size(0));
    const auto generic = op.redispatch(c10::DispatchKeySet(c10::DispatchKey::CUDA), probs.to(type));
    EXPECT_TRUE(std::get<0>(generic).equal(row_splits));
    EXPECT_TRUE(std::get<1>(generic).equal(rows));
    EXPECT_TRUE(std::get<2>(generic).equal(indices));
  }
}

TEST(Support, TakesStridesAndEmptyBatches) {
  const at::Tensor probs = torch::tensor({{0.0, 1.0}, {0.5, 0.5}, {0.25, 0.0}});
  const auto [row_splits, rows, indices] = support(probs.t());
  EXPECT_TRUE(row_splits.equal(torch::tensor({0, 2, 4})));
  EXPECT_TRUE(indices.equal(torch::tensor({1, 2, 0, 1})));
  const auto empty = support(at::empty({0, 3}));
  EXPECT_TRUE(std::get<0>(empty).equal(at::zeros({1}, at::kLong)));
  EXPECT_EQ(std::get<1>(empty).size(0), 0);
}

TEST(Support, ErrorsNameTheShapeAndTheDtype) {
  const auto error_of = [](const at::Tensor& probs) -> std::string {
    try {
      support(probs);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  };
  EXPECT_EQ(error_of(at::ones({3})), "support: expected probs to be [B, K], got shape [3]");
  EXPECT_EQ(error_of(at::ones({3, 2}, at::kLong)),
            "support: expected probs to be floating point, got Long");
}

}  // namespace
}  // namespace sparsum
