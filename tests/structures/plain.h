#pragma once

#include <sparsum/structure.h>

#include <cstdint>
#include <optional>
#include <string>

namespace sparsum_test {

/// Neither bits nor a user's own: a MAP oracle for batches alone.
class Plain : public sparsum::Structure {
 public:
  std::string name() const override { return "plain"; }
  int64_t parts() const override { return 3; }
  double log_size() const override { return 0; }
  std::optional<int64_t> size() const override { return 1; }
  sparsum::Assignments map(const at::Tensor&) const override { return {}; }
};

}  // namespace sparsum_test
