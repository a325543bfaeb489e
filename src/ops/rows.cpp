#include "ops/rows.h"

#include <ATen/ATen.h>

namespace sparsum::ops {

at::Tensor to_rows(const at::Tensor& tensor, int64_t dim, at::ScalarType type) {
  const bool last = dim == tensor.dim() - 1;
  const at::Tensor moved = (last ? tensor : tensor.movedim(dim, -1)).to(type).contiguous();
  return moved.dim() == 2 ? moved : moved.view({-1, moved.size(-1)});
}

at::Tensor from_rows(const at::Tensor& rows, const at::Tensor& like, int64_t dim) {
  if (like.dim() == 2 && dim == 1) return rows.to(like.scalar_type());
  const bool last = dim == like.dim() - 1;
  at::DimVector sizes(like.sizes().begin(), like.sizes().end());
  if (!last) {
    sizes.erase(sizes.begin() + dim);
    sizes.push_back(like.size(dim));
  }
  const at::Tensor shaped = rows.view(sizes).to(like.scalar_type());
  return last ? shaped : shaped.movedim(-1, dim).contiguous();
}

at::SymDimVector sizes_without(const at::Tensor& like, int64_t dim) {
  const auto all = like.sym_sizes();
  at::SymDimVector sizes(all.begin(), all.end());
  sizes.erase(sizes.begin() + dim);
  return sizes;
}

}  // namespace sparsum::ops
