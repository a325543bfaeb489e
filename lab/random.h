#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string_view>

namespace sparsum::lab {

/// The seed of one named stream of random numbers: a hash of both, so that streams of one run are
/// unrelated and drawing more from one leaves the others alone.
uint64_t stream_seed(int64_t seed, std::string_view stream);

/// A fresh generator on `device` that is seeded with stream_seed(seed, stream).
at::Generator make_generator(int64_t seed, std::string_view stream,
                             const c10::Device& device = c10::kCPU);

}  // namespace sparsum::lab
