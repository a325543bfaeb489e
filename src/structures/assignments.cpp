#include <sparsum/assignments.h>
#include <torch/torch.h>

namespace sparsum {
namespace {

/// [B, …] -> [B·K, …], every row K times. Its gradient is a plain sum over K.
at::Tensor repeat_rows(const at::Tensor& t, int64_t times) {
  std::vector<int64_t> shape = t.sizes().vec();
  shape.insert(shape.begin() + 1, times);
  return t.unsqueeze(1).expand(shape).flatten(0, 1);
}

}  // namespace

at::Tensor Assignments::evaluations() const {
  return row_splits.slice(0, 1) - row_splits.slice(0, 0, -1);
}

at::Tensor Assignments::values(at::ScalarType dtype) const {
  if (indicators.defined()) return indicators.to(dtype);
  return at::zeros({count(), parts}, indices.options().dtype(dtype))
      .scatter_(1, indices.unsqueeze(1), 1);
}

at::Tensor Assignments::embed(const at::Tensor& table) const {
  TORCH_CHECK(table.dim() == 2 && table.size(0) == parts,
              "embed: expected a table [V, H] with V = ", parts, " parts, got ", table.sizes());
  if (indicators.defined()) return at::matmul(indicators.to(table.scalar_type()), table);
  if (full_grid) {
    return table.unsqueeze(0).expand({batch_size(), parts, table.size(1)}).flatten(0, 1);
  }
  return table.index_select(0, indices);
}

at::Tensor Assignments::gather(const at::Tensor& per_example) const {
  TORCH_CHECK(per_example.dim() >= 1 && per_example.size(0) == batch_size(),
              "gather: expected one entry for each of B = ", batch_size(), " examples, got ",
              per_example.sizes());
  if (full_grid) return repeat_rows(per_example, parts);
  return per_example.index_select(0, rows);
}

at::Tensor Assignments::sum_per_example(const at::Tensor& per_pair) const {
  TORCH_CHECK(per_pair.dim() >= 1 && per_pair.size(0) == count(),
              "sum_per_example: expected one entry for each of n = ", count(), " pairs, got ",
              per_pair.sizes());
  if (full_grid) return per_pair.unflatten(0, {batch_size(), parts}).sum(1);
  std::vector<int64_t> shape = per_pair.sizes().vec();
  shape[0] = batch_size();
  const at::Tensor zeros = at::zeros(shape, per_pair.options());
  // On the CPU index_add is a loop in the order of the pairs; on CUDA it adds atomically, in any
  // order, while an accumulating index_put sorts first.
  if (per_pair.is_cuda()) return zeros.index_put({rows}, per_pair, /*accumulate=*/true);
  return zeros.index_add(0, rows, per_pair);
}

Assignments Assignments::slice(int64_t begin, int64_t end) const {
  TORCH_CHECK(0 <= begin && begin <= end && end <= count(),
              "slice: expected 0 <= begin <= end <= ", count(), " pairs, got ", begin, " and ",
              end);
  Assignments part;
  part.rows = rows.slice(0, begin, end);
  part.row_splits = row_splits.clamp(begin, end) - begin;
  part.parts = parts;
  if (indices.defined()) part.indices = indices.slice(0, begin, end);
  if (indicators.defined()) part.indicators = indicators.slice(0, begin, end);
  part.full_grid = full_grid && begin == 0 && end == count();
  return part;
}

}  // namespace sparsum
