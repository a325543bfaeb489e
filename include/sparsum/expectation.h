#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <sparsum/assignments.h>
#include <sparsum/export.h>
#include <sparsum/sparse_distribution.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace sparsum {

/// What a loss says of n pairs.
struct Loss {
  at::Tensor value;  ///< [n], without log q(z)
  /// [n] or undefined: log-probability of the loss's own random choice (say, a receiver's sampled
  /// pick), if it makes one and `value` depends on it without a gradient.
  at::Tensor log_prob;

  Loss(at::Tensor v)
      : value(std::move(v)) {}  // NOLINT(google-explicit-constructor): a plain loss is the rule
  Loss(at::Tensor v, at::Tensor lp) : value(std::move(v)), log_prob(std::move(lp)) {}
};

/// A loss evaluated on the pairs `z`. `shared` are the tensors of Problem::shared (or
/// expectation's), the same shape, to be used in place of the originals: that is what lets chunks
/// be recomputed.
using LossFn = std::function<Loss(const Assignments& z, const std::vector<at::Tensor>& shared)>;

struct ExpectationOptions {
  /// 0: one call with all n pairs. Otherwise at most this many pairs a call, each chunk's
  /// activations being dropped and recomputed in the backward pass, so that memory beyond the
  /// distribution itself does not grow with n. Chunks may split an example.
  int64_t max_evaluations_per_chunk = 0;
  /// The generator that the loss draws from, if it does. With chunks its state is saved before the
  /// first one and replayed, chunk after chunk, in the backward pass, which leaves the generator as
  /// it found it.
  std::optional<at::Generator> generator;
};

/// The exact expectation of a loss under sparse distributions, evaluated on their supports only:
///   E_q[ℓ(z)] = Σ_{z : q(z) > 0} q(z) ℓ(z), per example.
///
/// loss: called once, or chunk by chunk, with exactly Σ_b |support_b| pairs in total. With chunks
/// it
///   is kept until the backward pass: what it captures by reference must live as long.
/// shared: tensors that are not leaves (or are, as you like) and that the loss reads, e.g. an
/// embedding of
///   the input computed once per example. Needed with chunks: reading such a tensor directly would
///   send the gradient into the outer graph once per chunk; that is detected and refused.
/// Returns: [B], differentiable in q.probs() (∂/∂q(z) = ℓ(z)), in `shared` and in whatever
/// parameters the loss
///   reads. With a Loss::log_prob the gradient of the choice, Σ_z q(z) ℓ(z) ∇log_prob, is included,
///   and the value is unchanged.
/// Errors: a loss of another shape than [n], named; with chunks: a captured non-leaf tensor,
///   torch::autograd::grad instead of backward() (the loss's parameters would be missed), double
///   backward, and (on the CPU) a loss whose values are others when it is recomputed.
/// Cost: n evaluations of the loss; with chunks 2n forward.
SPARSUM_API at::Tensor expectation(const SparseDistribution& q, const LossFn& loss,
                                   const std::vector<at::Tensor>& shared = {},
                                   const ExpectationOptions& options = {});

/// The same for a loss that shares nothing and makes no choice of its own.
SPARSUM_API at::Tensor expectation(const SparseDistribution& q,
                                   const std::function<at::Tensor(const Assignments&)>& loss);

}  // namespace sparsum
