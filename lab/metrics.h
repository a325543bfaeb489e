#pragma once

#include "lab/experiment.h"
#include "lab/statistics.h"

namespace sparsum::lab {

/// {"mean", "median", "q25", "q75"}.
Json to_json(const Quartiles& quartiles);

/// Throws NonFiniteError "<what> are not finite" if one of the values is NaN or infinite.
void require_finite(const char* what, const at::Tensor& values);

}  // namespace sparsum::lab
