#include "lab/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace sparsum::lab {

namespace {

double quantile(const std::vector<double>& sorted, double q) {
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto index = static_cast<size_t>(position);
  const double t = position - static_cast<double>(index);
  const double a = sorted[index];
  const double b = index + 1 < sorted.size() ? sorted[index + 1] : a;
  if (t == 0 || a == b) return a;  // also keeps equal infinities
  // From the nearer end, as NumPy does: the result never leaves [a, b].
  return t < 0.5 ? a + (b - a) * t : b - (b - a) * (1 - t);
}

}  // namespace

Quartiles quartiles(const at::Tensor& values) {
  TORCH_CHECK(values.numel() > 0, "quartiles: expected at least one value, got shape ",
              values.sizes());
  TORCH_CHECK(!values.is_complex(), "quartiles: expected real numbers, got ", values.scalar_type());
  const at::Tensor flat = values.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* data = flat.const_data_ptr<double>();
  std::vector<double> sorted(data, data + flat.numel());

  Quartiles result;
  result.mean =
      std::accumulate(sorted.begin(), sorted.end(), 0.0) / static_cast<double>(sorted.size());
  if (std::any_of(sorted.begin(), sorted.end(), [](double v) { return std::isnan(v); })) {
    result.q25 = result.median = result.q75 = std::numeric_limits<double>::quiet_NaN();
    return result;
  }
  std::sort(sorted.begin(), sorted.end());
  result.q25 = quantile(sorted, 0.25);
  result.median = quantile(sorted, 0.5);
  result.q75 = quantile(sorted, 0.75);
  return result;
}

}  // namespace sparsum::lab
