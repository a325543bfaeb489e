#include "ops/generic_entmax.h"

#include "ops/sorted_sparsemax.h"

#include <ATen/ATen.h>

#include <limits>

namespace sparsum::ops {
namespace {

// (eʸ − 1)/y and (eʸ − 1 − y)/y², accurate near 0.
at::Tensor phi1(const at::Tensor& y) {
  const at::Tensor safe = at::where(y == 0, 1, y);
  return at::where(y == 0, 1, safe.expm1() / safe);
}
at::Tensor phi2(const at::Tensor& y) {
  const at::Tensor small = y.clamp(-0.5, 0.5);
  at::Tensor term = at::full_like(y, 0.5), sum = at::zeros_like(y);
  for (int n = 3; n < 20; ++n) {
    sum = sum + term;
    term = term * small / n;
  }
  const at::Tensor large = at::where(y.abs() > 0.5, y, 1);
  return at::where(y.abs() > 0.5, (large.expm1() - large) / (large * large), sum);
}

}  // namespace

at::Tensor generic_entmax(const at::Tensor& scores, const at::Tensor& alpha, int64_t dim) {
  // p = exp(log1p(δ(w − t))/δ), δ = α − 1 (see the kernel); δ = 10⁻¹² stands for the limit softmax,
  // from which it differs by less than float64 can show. Bisection in t: a fixed number of steps,
  // no synchronisation.
  const at::Tensor delta = (alpha.to(at::kDouble) - 1).clamp_min(1e-12);
  const at::Tensor w = (scores - scores.amax(dim, true)).to(at::kDouble);
  const auto probs_at = [&](const at::Tensor& t) {
    const at::Tensor x = delta * (w - t);
    const at::Tensor on = x > -1;
    return at::where(on, (at::where(on, x, 0).log1p() / delta).exp(), 0);
  };
  const double log_count = std::log(static_cast<double>(scores.size(dim)));
  at::Tensor low = at::zeros_like(w.amax(dim, true));
  at::Tensor high = (-(-delta * log_count).expm1() / delta).expand_as(low);
  for (int i = 0; i < 60; ++i) {
    const at::Tensor middle = (low + high) / 2;
    const at::Tensor above = probs_at(middle).sum(dim, true) >= 1;
    low = at::where(above, middle, low);
    high = at::where(above, high, middle);
  }
  const at::Tensor p = probs_at(low);
  return (p / p.sum(dim, true)).to(scores.scalar_type());
}

at::Tensor generic_entmax(const at::Tensor& scores, double alpha, int64_t dim) {
  if (alpha == 1) return scores.softmax(dim);
  if (alpha == 2) return sorted_sparsemax(scores, dim);
  return generic_entmax(scores, at::scalar_tensor(alpha, scores.options().dtype(at::kDouble)), dim);
}

at::Tensor generic_entmax_backward(const at::Tensor& grad, const at::Tensor& probs,
                                   const at::Tensor& alpha, int64_t dim) {
  const at::Tensor power = 2 - alpha.to(probs.scalar_type());
  const at::Tensor on = probs > 0;
  const at::Tensor p = at::where(on, probs, 1);
  // For α > 2 powers of small probabilities overflow: the mean uses them divided by their maximum.
  const at::Tensor least = at::where(power < 0, p.amin(dim, true), at::ones_like(power));
  const at::Tensor scaled = at::where(on, (p / least).pow(power), 0);
  const at::Tensor g = at::where(on, grad, 0);
  const at::Tensor mean = (scaled * g).sum(dim, true) / scaled.sum(dim, true);
  return at::where(on, p.pow(power) * (g - mean), 0);
}

at::Tensor generic_entmax_backward(const at::Tensor& grad, const at::Tensor& probs, double alpha,
                                   int64_t dim) {
  return generic_entmax_backward(grad, probs, at::scalar_tensor(alpha, probs.options()), dim);
}

at::Tensor generic_entmax_backward_alpha(const at::Tensor& grad, const at::Tensor& probs,
                                         const at::Tensor& alpha, int64_t dim) {
  // The two forms of the kernel, chosen by α; see there.
  const at::Tensor delta = alpha - 1;
  const at::Tensor on = probs > 0;
  const at::Tensor p = at::where(on, probs, 0);
  const at::Tensor l = at::where(on, probs, 1).log();
  const at::Tensor g = at::where(on, grad, 0);
  const at::Tensor entropy = -(p * l).sum(dim, true);

  const at::Tensor y = -delta.clamp_max(1) * l;
  const at::Tensor mean_e = -(p * l * phi1(y)).sum(dim, true);
  const at::Tensor mean_second = (p * l * l * phi2(y)).sum(dim, true);
  const at::Tensor z = 1 + delta.clamp_max(1) * mean_e;
  const at::Tensor bracket = mean_second - l * l * phi2(y) - l * mean_e + entropy * l * phi1(y);
  const at::Tensor series = (g * p * bracket).sum(dim, true) / z;

  const at::Tensor steep = delta.clamp_min(1);
  const at::Tensor u =
      at::where(on, ((1 - steep) * (l - at::where(on, l, 0).amin(dim, true))).exp(), 0);
  const at::Tensor tilted = u / u.sum(dim, true);
  const at::Tensor quotient =
      (g * ((p - tilted) / (steep * steep) + (-p * l - tilted * entropy) / steep)).sum(dim, true);
  return at::where(delta <= 1, series, quotient);
}

at::Tensor generic_tsallis_entropy(const at::Tensor& probs, double alpha, int64_t dim) {
  const at::Tensor l = at::where(probs > 0, probs, 1).log();
  return -(probs * l * phi1((alpha - 1) * l)).sum(dim) / alpha;
}

}  // namespace sparsum::ops
