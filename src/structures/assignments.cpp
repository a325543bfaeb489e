#include "structures/regular.h"

#include <ATen/Parallel.h>
#include <sparsum/assignments.h>
#include <torch/torch.h>

#include <algorithm>

namespace sparsum {
namespace {

/// [B, …] -> [B·K, …], every row K times. Its gradient is a plain sum over K.
at::Tensor repeat_rows(const at::Tensor& t, int64_t times) {
  std::vector<int64_t> shape = t.sizes().vec();
  shape.insert(shape.begin() + 1, times);
  return t.unsqueeze(1).expand(shape).flatten(0, 1);
}

/// The rows [n, V] that flip lists describe, as bytes.
at::Tensor apply_flips(const Assignments& z) {
  const at::Device device = z.rows.device();
  const at::Tensor base = z.base.cpu().contiguous(), row_splits = z.row_splits.cpu().contiguous();
  const at::Tensor splits = z.flip_splits.cpu().contiguous(), flips = z.flips.cpu().contiguous();
  const int64_t width = z.parts;
  at::Tensor result = at::empty({z.count(), width}, base.options());
  const auto* from = base.const_data_ptr<uint8_t>();
  const auto* row_split = row_splits.const_data_ptr<int64_t>();
  const auto* split = splits.const_data_ptr<int64_t>();
  const auto* flip = flips.const_data_ptr<int64_t>();
  auto* out = result.mutable_data_ptr<uint8_t>();
  const int64_t pairs_per_example = z.count() / std::max<int64_t>(1, z.batch_size()) + 1;
  const int64_t grain = std::max<int64_t>(1, 65536 / (pairs_per_example * width + 1));
  at::parallel_for(0, z.batch_size(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const uint8_t* before = from + b * width;
      for (int64_t i = row_split[b]; i < row_split[b + 1]; ++i) {
        uint8_t* row = out + i * width;
        std::copy_n(before, width, row);
        for (int64_t j = split[i]; j < split[i + 1]; ++j) row[flip[j]] ^= 1;
        if (z.chained) before = row;
      }
    }
  });
  return result.to(device);
}

/// The lists numbered `which` of ragged lists: (splits, members).
std::pair<at::Tensor, at::Tensor> select_lists(const at::Tensor& splits, const at::Tensor& members,
                                               const at::Tensor& which) {
  const at::Tensor begin = splits.index_select(0, which);
  const at::Tensor lengths = splits.index_select(0, which + 1) - begin;
  const at::Tensor new_splits = at::constant_pad_nd(lengths.cumsum(0), {1, 0});
  const at::Tensor shift = at::repeat_interleave(begin - new_splits.slice(0, 0, -1), lengths);
  const at::Tensor place = shift + at::arange(shift.size(0), shift.options());
  return {new_splits, members.index_select(0, place)};
}

}  // namespace

at::Tensor Assignments::evaluations() const {
  return row_splits.slice(0, 1) - row_splits.slice(0, 0, -1);
}

at::Tensor Assignments::values(at::ScalarType dtype) const {
  if (indicators.defined()) return indicators.to(dtype);
  if (base.defined()) return apply_flips(*this).to(dtype);
  return at::zeros({count(), parts}, indices.options().dtype(dtype))
      .scatter_(1, indices.unsqueeze(1), 1);
}

at::Tensor Assignments::embed(const at::Tensor& table) const {
  TORCH_CHECK(table.dim() == 2 && table.size(0) == parts,
              "embed: expected a table [V, H] with V = ", parts, " parts, got ", table.sizes());
  if (!indices.defined()) return at::matmul(values(table.scalar_type()), table);
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

Assignments Assignments::select(const at::Tensor& pairs, const at::Tensor& new_rows,
                                const at::Tensor& new_row_splits) const {
  Assignments chosen;
  chosen.rows = new_rows;
  chosen.row_splits = new_row_splits;
  chosen.parts = parts;
  if (indices.defined()) chosen.indices = indices.index_select(0, pairs);
  if (indicators.defined()) chosen.indicators = indicators.index_select(0, pairs);
  if (base.defined() && chained) {
    chosen.indicators = values(at::kByte).index_select(0, pairs);
  } else if (base.defined()) {
    chosen.base = base;
    std::tie(chosen.flip_splits, chosen.flips) = select_lists(flip_splits, flips, pairs);
  }
  return chosen;
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
  if (base.defined()) {
    const at::Tensor bounds = flip_splits.slice(0, begin, end + 1);
    const int64_t first = bounds[0].item<int64_t>(), last = bounds[-1].item<int64_t>();
    part.base = base;
    part.flip_splits = bounds - first;
    part.flips = flips.slice(0, first, last);
    part.chained = chained;
    if (chained && begin > 0 && end > begin) {
      const int64_t row = rows[begin].item<int64_t>();
      if (row_splits[row].item<int64_t>() < begin) {  // goes on from the pair that was cut off
        const int64_t own = row_splits[row].item<int64_t>();
        Assignments before = slice(own, begin);
        part.base = base.clone();
        part.base[row].copy_(before.values(at::kByte)[-1]);
      }
    }
  }
  part.full_grid = full_grid && begin == 0 && end == count();
  return part;
}

Assignments one_per_example(const at::Tensor& outcomes, int64_t parts) {
  const bool indices = outcomes.dim() == 1 && outcomes.scalar_type() == at::kLong;
  TORCH_CHECK(indices || (outcomes.dim() == 2 && outcomes.size(1) == parts),
              "one_per_example: expected outcomes to be [B] int64 or [B, V] with V = ", parts,
              " parts, got ", outcomes.scalar_type(), " ", outcomes.sizes());
  Assignments z = regular_assignments(outcomes.size(0), 1, parts, outcomes.device());
  (indices ? z.indices : z.indicators) = outcomes;
  return z;
}

}  // namespace sparsum
