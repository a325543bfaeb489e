#pragma once

#include <string>
#include <vector>

namespace sparsum::kernels {

/// The SIMD instruction set that the kernels use on this processor, as Highway names it, e.g.
/// "AVX3". Chosen at the first call of a kernel from those this processor and this build have.
const char* active_target();

/// Every SIMD instruction set that this processor and this build have, best first.
std::vector<std::string> available_targets();

/// Makes the kernels use the target of that name from now on, for tests and benchmarks; "" goes
/// back to the best. Returns false, changing nothing, if it is not available. Not to be called
/// while a kernel runs.
bool force_target(const std::string& name);

}  // namespace sparsum::kernels
