#pragma once

#include <sparsum/assignments.h>

namespace sparsum {

/// ⟨a_z − base, t⟩ of each pair of assignments that are unchained flips: [n], differentiable in the
/// scores [B, V]. What the score of a configuration differs by from the base's: exact to rounding
/// of a few terms, whatever the number of parts.
at::Tensor flip_scores(const at::Tensor& scores, const Assignments& z);

}  // namespace sparsum
