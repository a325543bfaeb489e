#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <string>

namespace sparsum::lab {

class Checkpoint;

/// A list of indices that is walked through in random order, over and over, with a new order each
/// time it comes to its end: every index is seen once before any is seen again.
class ShuffledCycle {
 public:
  /// indices: [n] int64, n ≥ 1.
  ShuffledCycle(at::Tensor indices, at::Generator generator);

  /// The next `count` indices: [count] int64.
  at::Tensor next(int64_t count);

  /// Order, place and generator, under names that begin with `name`.
  void save(Checkpoint& checkpoint, const std::string& name) const;
  void load(const Checkpoint& checkpoint, const std::string& name);

 private:
  at::Tensor indices_, order_;
  int64_t place_;
  at::Generator generator_;
};

}  // namespace sparsum::lab
