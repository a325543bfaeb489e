#pragma once

#include <sparsum/assignments.h>

namespace sparsum {

/// Assignments in which each of `batch` examples has `per_example` pairs: rows and row_splits are
/// filled in, what the pairs hold is the caller's.
Assignments regular_assignments(int64_t batch, int64_t per_example, int64_t parts,
                                const at::Device& device);

/// The place of each pair among its example's own, 0 the first: [n] int64.
at::Tensor place_in_example(const Assignments& z);

}  // namespace sparsum
