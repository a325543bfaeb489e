#include "estimators/relaxation.h"

#include "estimators/noise.h"
#include "ops/rows.h"
#include "structures/regular.h"

#include <sparsum/bits.h>
#include <sparsum/categorical.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

namespace sparsum {

Perturbed::Perturbed(const Structure& structure, const at::Tensor& scores, int64_t samples,
                     const at::Generator& generator)
    : categorical_(dynamic_cast<const Categorical*>(&structure) != nullptr) {
  const at::Tensor wide = ops::widened(scores);
  const std::vector<int64_t> shape = {scores.size(0), samples, scores.size(1)};
  const auto gumbel = [&] {
    return fill_gumbel(at::empty(shape, wide.options().requires_grad(false)), generator);
  };
  at::Tensor noise = gumbel();
  if (categorical_) {
    scores_ = wide.log_softmax(1).clamp_min(kLowest).unsqueeze(1);
  } else {
    noise.sub_(gumbel());
    scores_ = wide.clamp_min(kLowest).unsqueeze(1);
  }
  u_ = scores_ + noise;
}

Assignments Perturbed::pairs(const at::Tensor& values) const {
  const int64_t batch = values.size(0), samples = values.size(1), parts = values.size(2);
  Assignments z = regular_assignments(batch, samples, parts, values.device());
  z.indicators = values.reshape({batch * samples, parts});
  return z;
}

Assignments Perturbed::outcomes() const {
  if (!categorical_) return pairs(u_.detach() > 0);
  Assignments z = pairs(u_.detach());
  z.indices = std::exchange(z.indicators, {}).argmax(1);
  return z;
}

at::Tensor Perturbed::hard() const {
  const at::Tensor u = u_.detach();
  if (!categorical_) return (u > 0).to(u.scalar_type());
  return at::zeros_like(u).scatter_(2, u.argmax(2, /*keepdim=*/true), 1);
}

at::Tensor Perturbed::relaxed(double temperature) const {
  const at::Tensor tempered = u_ / temperature;
  return categorical_ ? tempered.softmax(2) : tempered.sigmoid();
}

at::Tensor Perturbed::score() const {
  const at::Tensor scores = scores_.detach();
  return hard() - (categorical_ ? scores.exp() : scores.sigmoid());
}

at::Tensor Perturbed::control_variate(const at::Tensor& value, const at::Tensor& gradient,
                                      double temperature) const {
  const at::Tensor u = u_.detach(), scores = scores_.detach();
  const at::Tensor likelihood = value.unsqueeze(2) * score();
  const at::Tensor zeta = relaxed(temperature).detach();
  if (categorical_) {
    const at::Tensor mean = (zeta * gradient).sum(2, /*keepdim=*/true);
    const at::Tensor r = (u - u.amax(2, /*keepdim=*/true)).exp();
    const at::Tensor in_log_probs = zeta * (gradient - mean) * r / temperature;
    return in_log_probs - scores.exp() * in_log_probs.sum(2, /*keepdim=*/true) - likelihood;
  }
  const at::Tensor sign = hard() * 2 - 1;
  const at::Tensor r =
      (at::log_sigmoid(-sign * scores) - at::log_sigmoid(sign * (u - scores))).exp();
  return zeta * (1 - zeta) * gradient * r / temperature - likelihood;
}

void check_relaxable(const std::string& estimator, const Structure& structure) {
  const auto* bits = dynamic_cast<const Bits*>(&structure);
  TORCH_CHECK(dynamic_cast<const Categorical*>(&structure) || (bits && bits->free()), "estimator '",
              estimator, "' is for categorical structures and bit vectors without a bound; got ",
              structure.name());
}

void check_free_bits(const std::string& estimator, const Structure& structure) {
  const auto* bits = dynamic_cast<const Bits*>(&structure);
  TORCH_CHECK(bits && bits->free(), "estimator '", estimator,
              "' is for bit vectors without a bound; got ", structure.name());
}

RelaxedLoss relaxed_loss(const std::string& estimator, const Assignments& z,
                         const Problem& problem) {
  std::vector<at::Tensor> shared;
  for (const at::Tensor& t : problem.shared) shared.push_back(t.detach());
  const int64_t n = z.count();
  const int64_t chunk =
      problem.max_evaluations_per_chunk > 0 ? problem.max_evaluations_per_chunk : n;
  std::vector<at::Tensor> values, gradients;
  int64_t begin = 0;
  do {
    const int64_t end = std::min(n, begin + chunk);
    Assignments part = begin == 0 && end == n ? z : z.slice(begin, end);
    part.indicators = part.indicators.detach().set_requires_grad(true);
    const at::AutoGradMode enable(true);
    const Loss loss = problem.loss(part, shared);
    const at::Tensor& value = loss.value;
    TORCH_CHECK(value.defined() && value.dim() == 1 && value.size(0) == part.count(), "estimator '",
                estimator, "': expected the loss to be [n] = [", part.count(), "], got ",
                value.defined() ? c10::str(value.sizes()) : "an undefined tensor");
    const at::Tensor attached = with_choice(loss);
    at::Tensor gradient;
    if (attached.requires_grad()) {
      gradient = torch::autograd::grad({attached.sum()}, {part.indicators}, {}, std::nullopt, false,
                                       /*allow_unused=*/true)[0];
    }
    TORCH_CHECK(gradient.defined(), "estimator '", estimator,
                "' needs a loss with a gradient in relaxed indicators; this one has none");
    values.push_back(value.detach());
    gradients.push_back(gradient);
    begin = end;
  } while (begin < n);
  if (values.size() == 1) return {values.front(), gradients.front()};
  return {at::cat(values), at::cat(gradients)};
}

void check_control(const char* name, const EstimatorOptions& options) {
  TORCH_CHECK(options.temperature > 0 && std::isfinite(options.temperature), "estimator '", name,
              "': expected a finite temperature > 0, got ", options.temperature);
  TORCH_CHECK(std::isfinite(options.control_scale), "estimator '", name,
              "': expected a finite control_scale, got ", options.control_scale);
}

Temperature::Temperature(const char* name, const EstimatorOptions& options)
    : torch::nn::Module("temperature"),
      start_(options.temperature),
      decay_(options.temperature_decay),
      least_(options.temperature_min),
      every_(options.temperature_every),
      step_(register_buffer("step", at::zeros({}, at::kLong))) {
  TORCH_CHECK(start_ > 0 && std::isfinite(start_), "estimator '", name,
              "': expected a finite temperature > 0, got ", start_);
  TORCH_CHECK(decay_ >= 0 && std::isfinite(decay_), "estimator '", name,
              "': expected a finite temperature_decay >= 0, got ", decay_);
  TORCH_CHECK(every_ >= 1, "estimator '", name, "': expected temperature_every >= 1, got ", every_);
  TORCH_CHECK(least_ > 0 && (decay_ == 0 || least_ <= start_), "estimator '", name,
              "': expected temperature_min > 0 and at most the temperature = ", start_, ", got ",
              least_);
}

double Temperature::now() const {
  if (decay_ == 0) return start_;
  const int64_t counted = step_.item<int64_t>() / every_ * every_;
  return std::max(least_, start_ * std::exp(-decay_ * static_cast<double>(counted)));
}

void Temperature::count() {
  const at::NoGradGuard no_grad;
  step_.add_(1);
}

}  // namespace sparsum
