#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace sparsum::lab {

/// Dynamic binarisation: each pixel is 1 with probability grey/255, independently, drawn afresh at
/// each call. images: uint8, any shape, contiguous, on the CPU. Returns: float32, the same shape,
/// in {0, 1}; 0 stays 0 and 255 becomes 1 always. One 64-bit seed is drawn from `generator`; the
/// bits are a counter-based hash of it, so the result does not depend on the number of threads.
at::Tensor binarize(const at::Tensor& images, at::Generator generator);

}  // namespace sparsum::lab
