#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace sparsum::lab {

/// Mean and quartiles of a sample, by linear interpolation between order statistics (NumPy's
/// default).
struct Quartiles {
  double mean = 0, q25 = 0, median = 0, q75 = 0;
};

/// Of any numeric tensor with at least one element.
Quartiles quartiles(const at::Tensor& values);

}  // namespace sparsum::lab
