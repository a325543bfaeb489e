#include "ops/bits.h"
#include "ops/checks.h"
#include "ops/find_op.h"
#include "ops/rows.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <sparsum/kernels/k_best_bits.h>
#include <torch/library.h>

#include <algorithm>

namespace sparsum::ops {
namespace {

constexpr const char* kOp = "k_best_bits";
using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Result k_best_bits_cpu(const at::Tensor& scores, int64_t least, int64_t most, int64_t k,
                       bool until_exact) {
  check_bits(kOp, scores, least, most);
  TORCH_CHECK_VALUE(k >= 1, kOp, ": expected k >= 1, got ", k);
  const at::Tensor input = scores.to(compute_type(scores.scalar_type())).contiguous();
  const int64_t rows = input.size(0), bits = input.size(1);
  const at::Tensor base = at::empty({rows, bits}, scores.options().dtype(at::kByte));
  const at::Tensor counts = at::empty({rows}, scores.options().dtype(at::kLong));
  auto* base_data = base.mutable_data_ptr<uint8_t>();
  auto* counts_data = counts.mutable_data_ptr<int64_t>();
  const kernels::KBestLimit limit{k, until_exact};
  // A row costs about 3 ns a bit and 60 ns a configuration.
  const int64_t grain = row_grain(3 * bits + 60 * std::min<int64_t>(k, 1 << 20));
  Shares<kernels::FlipLists> shares(rows, grain);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), kOp, [&] {
    const auto* t = input.const_data_ptr<scalar_t>();
    const int64_t bad = shares.run([&](int64_t begin, int64_t end, kernels::FlipLists& flips) {
      return kernels::k_best_bits(t + begin * bits, end - begin, bits, least, most, limit,
                                  base_data + begin * bits, counts_data + begin, flips);
    });
    if (bad >= 0) throw_illegal_bits(kOp, input, bad, least);
  });
  const auto [flip_splits, flips] = join_flips(
      shares.parts(), [](const kernels::FlipLists& f) -> const kernels::FlipLists& { return f; },
      counts.options());
  const at::Tensor row_splits = splits_of(counts);
  return {row_splits, rows_of(row_splits), base, flip_splits, flips};
}

/// Structured solvers go through the host.
Result k_best_bits_host(const at::Tensor& scores, int64_t least, int64_t most, int64_t k,
                        bool until_exact) {
  const auto [row_splits, rows, base, flip_splits, flips] =
      k_best_bits_cpu(scores.cpu(), least, most, k, until_exact);
  const auto device = scores.device();
  return {row_splits.to(device), rows.to(device), base.to(device), flip_splits.to(device),
          flips.to(device)};
}

TORCH_LIBRARY_IMPL(sparsum, CPU, m) { m.impl("k_best_bits", &k_best_bits_cpu); }
TORCH_LIBRARY_IMPL(sparsum, CompositeExplicitAutograd, m) {
  m.impl("k_best_bits", &k_best_bits_host);
}
// Its outputs are discrete: nothing to differentiate.
TORCH_LIBRARY_IMPL(sparsum, Autograd, m) {
  m.impl("k_best_bits", torch::CppFunction::makeFallthrough());
}

}  // namespace
}  // namespace sparsum::ops
