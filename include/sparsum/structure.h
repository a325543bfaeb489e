#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <sparsum/assignments.h>
#include <sparsum/export.h>

#include <cstdint>
#include <optional>
#include <string>

namespace sparsum {

/// A finite set Z of outcomes, described by parts: outcome z has the indicator vector a_z in
/// {0,1}^V, and scores t in R^V give it the score s_z = ⟨a_z, t⟩. The Gibbs distribution is π(z) ∝
/// exp(s_z).
///
/// Batched oracles take scores [B, V] (floating point, finite or −∞; −∞ forbids every outcome with
/// that part) and are deterministic: ties go to the outcome that comes first in the structure's
/// order, which each structure states. An oracle that a structure does not have throws, naming
/// both. Objects are immutable; every member may be called from several threads at once.
class SPARSUM_API Structure {
 public:
  virtual ~Structure() = default;

  /// For messages and logs, e.g. "categorical(10)".
  virtual std::string name() const = 0;
  /// V, the number of parts: the width of the scores.
  virtual int64_t parts() const = 0;
  /// U ≤ V: the first U parts are the variables, which SparseMAP regularises; as declared here,
  /// all.
  virtual int64_t variables() const { return parts(); }
  /// log |Z|, in nats: minus the log-probability of an outcome under the uniform prior.
  virtual double log_size() const = 0;
  /// |Z| if it is at most 2⁶³ − 1.
  virtual std::optional<int64_t> size() const = 0;

  /// All of Z for each of `batch` examples, in the structure's order. Throws, naming the size, if
  /// |Z| > limit.
  virtual Assignments enumerate(int64_t batch, const at::Device& device,
                                int64_t limit = 1 << 16) const;

  /// The best outcome of each example: argmax_z ⟨a_z, t⟩.
  virtual Assignments map(const at::Tensor& scores) const = 0;
  /// The min(k, |Z|) best outcomes of each example, best first.
  virtual Assignments k_best(const at::Tensor& scores, int64_t k) const;
  /// `samples` independent draws per example from the Gibbs distribution: B·samples pairs.
  virtual Assignments sample(const at::Tensor& scores, int64_t samples,
                             at::Generator generator) const;

  /// s_z of each pair: [n], differentiable in the scores (and in relaxed indicators).
  virtual at::Tensor score(const at::Tensor& scores, const Assignments& z) const;
  /// log Σ_z exp(s_z): [B] in nats, differentiable.
  virtual at::Tensor log_partition(const at::Tensor& scores) const;
  /// E_π[a_z]: [B, V], differentiable.
  virtual at::Tensor marginals(const at::Tensor& scores) const;
  /// H(π): [B] in nats, differentiable.
  virtual at::Tensor entropy(const at::Tensor& scores) const;

  /// Throws unless scores are [B, V] and floating point; `caller` names the function in the
  /// message.
  void check_scores(const char* caller, const at::Tensor& scores) const;

 protected:
  /// Throws "<name()>: <oracle> is not available".
  [[noreturn]] void not_available(const char* oracle) const;
};

}  // namespace sparsum
