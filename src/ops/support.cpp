#include "ops/checks.h"
#include "ops/find_op.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <sparsum/support.h>
#include <torch/library.h>

namespace sparsum::ops {
namespace {

using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

void check(const at::Tensor& probs) {
  check_floating("support", "probs", probs);
  TORCH_CHECK(probs.dim() == 2, "support: expected probs to be [B, K], got shape ",
              probs.sym_sizes());
}

Result support_cpu(const at::Tensor& probs) {
  check(probs);
  const at::Tensor input = probs.contiguous();
  const int64_t batch = input.size(0), cols = input.size(1);
  const auto options = probs.options().dtype(at::kLong);
  const at::Tensor row_splits = at::empty({batch + 1}, options);
  int64_t* splits = row_splits.mutable_data_ptr<int64_t>();
  at::Tensor rows, indices;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "support", [&] {
    const auto* p = input.const_data_ptr<scalar_t>();
    splits[0] = 0;
    for (int64_t b = 0; b < batch; ++b) {
      int64_t count = 0;
      for (int64_t j = 0; j < cols; ++j) count += p[b * cols + j] > scalar_t(0);
      splits[b + 1] = splits[b] + count;
    }
    rows = at::empty({splits[batch]}, options);
    indices = at::empty({splits[batch]}, options);
    int64_t* row = rows.mutable_data_ptr<int64_t>();
    int64_t* index = indices.mutable_data_ptr<int64_t>();
    for (int64_t b = 0, i = 0; b < batch; ++b) {
      for (int64_t j = 0; i < splits[b + 1]; ++j) {
        if (!(p[b * cols + j] > scalar_t(0))) continue;
        row[i] = b;
        index[i++] = j;
      }
    }
  });
  return {row_splits, rows, indices};
}

Result support_generic(const at::Tensor& probs) {
  check(probs);
  const at::Tensor on = probs > 0;
  const at::Tensor pairs = on.nonzero();
  const at::Tensor counts = on.sum(1);
  return {at::cat({counts.new_zeros({1}), counts.cumsum(0)}), pairs.select(1, 0).contiguous(),
          pairs.select(1, 1).contiguous()};
}

TORCH_LIBRARY_IMPL(sparsum, CPU, m) { m.impl("support", &support_cpu); }
TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) { m.impl("support", &support_generic); }
// Its outputs are integers: nothing to differentiate.
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) {
  m.impl("support", torch::CppFunction::makeFallthrough());
}

}  // namespace
}  // namespace sparsum::ops

namespace sparsum {

std::tuple<at::Tensor, at::Tensor, at::Tensor> support(const at::Tensor& probs) {
  static const auto op = ops::find_op<ops::Result(const at::Tensor&)>("sparsum::support");
  return op.call(probs);
}

}  // namespace sparsum
