#pragma once

#include <sparsum/expectation.h>

namespace sparsum {

/// The loss of each pair: value [n] and log_prob ([n] or undefined), both attached to `shared`, to
/// the indicators of `z` when they are relaxed, and to whatever parameters the loss reads.
///
/// What every estimator is built on: with options.max_evaluations_per_chunk the loss is called
/// chunk by chunk, and recomputed so in the backward pass, and no estimator need know. Errors:
/// those of expectation.
Loss evaluate(const Assignments& z, const LossFn& loss, const std::vector<at::Tensor>& shared,
              const ExpectationOptions& options);

/// The loss's values with the gradient of its own random choice:
///   ∇ = ∇value + value ∇log_prob;
/// the values themselves are unchanged.
at::Tensor with_choice(const Loss& loss);

/// A generator's state, and putting one back, under its lock.
at::Tensor state_of(at::Generator generator);
void set_state(at::Generator generator, const at::Tensor& state);

}  // namespace sparsum
