#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <utility>

namespace sparsum::lab {

/// −log Π_j Bernoulli(x_j | σ(l_j)) = Σ_j softplus(l_j) − x_j l_j, in nats, for n pairs that share
/// B targets.
///
/// logits: [n, P]; targets: [B, P] in [0, 1], no gradient; rows: [n] int64, the target of each
/// pair. Returns: [n]. Finite for every finite logit. Gradient in the logits: σ(l) − x.
at::Tensor bernoulli_nll(const at::Tensor& logits, const at::Tensor& targets,
                         const at::Tensor& rows);

/// One reparameterised draw of N(μ, diag σ²) a row, and that distribution's divergence from N(0,
/// I).
///
/// mean_and_log_sigma: [n, 2·D], the means before the logarithms of σ.
/// Returns: h = μ + σ ⊙ ε, [n, D], ε from `generator`; KL = ½ Σ (μ² + σ² − 1) − log σ, [n], in
/// nats.
std::pair<at::Tensor, at::Tensor> sample_gaussian(const at::Tensor& mean_and_log_sigma,
                                                  at::Generator generator);
/// The same with ε given: noise [n, D].
std::pair<at::Tensor, at::Tensor> shift_gaussian(const at::Tensor& mean_and_log_sigma,
                                                 const at::Tensor& noise);

}  // namespace sparsum::lab
