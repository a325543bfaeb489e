#include "estimators/relaxation.h"
#include "estimators/without_replacement.h"
#include "structures/regular.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace sparsum {
namespace {

constexpr int64_t kMost = 16;  // draws: the weights take 2^m sums an example

/// The weights of an unordered set S of draws without replacement (Kool et al., 2020), where p^D(S)
/// is the probability that the first |S| draws from D are S:
///   weight[s]        = p_s R(S, s),        R(S, s) = p^{D∖s}(S∖s) / p^D(S),
///   baseline[s, s']  = p_s' R^{D∖s}(S, s') = p_s' p^{D∖{s, s'}}(S∖{s, s'}) / p^{D∖s}(S∖s),   p_s
///   for s' = s.
/// With h(A) = p^{D∖(S∖A)}(A) / Π_{s in A} p_s all of them are ratios of h:
///   h(∅) = 1,   h(A) = Σ_{s in A} h(A∖s) / (a + Σ_{s in A} p_s),   a the mass outside S:
/// sums of positive terms, here in logarithms, so that nothing over- or underflows. log_p: m
/// numbers; weight: m; baseline: m × m; h, sums: 2^m.
void set_weights(const double* log_p, int64_t m, double log_a, double* weight, double* baseline,
                 std::vector<double>& h, std::vector<double>& sums) {
  const size_t all = (size_t{1} << m) - 1;
  h[0] = 0;
  sums[0] = log_a;
  for (size_t set = 1; set <= all; ++set) {
    const double one = log_p[std::countr_zero(set)], rest_mass = sums[set & (set - 1)];
    const double larger = std::max(one, rest_mass);
    sums[set] = larger + std::log1p(std::exp(std::min(one, rest_mass) - larger));
    double most = -INFINITY, total = 0;
    for (size_t rest = set; rest != 0; rest &= rest - 1) {
      most = std::max(most, h[set ^ (rest & -rest)]);
    }
    for (size_t rest = set; rest != 0; rest &= rest - 1) {
      total += std::exp(h[set ^ (rest & -rest)] - most);
    }
    h[set] = most + std::log(total) - sums[set];
  }
  for (int64_t s = 0; s < m; ++s) {
    const size_t without = all ^ (size_t{1} << s);
    weight[s] = std::exp(h[without] - h[all]);
    for (int64_t other = 0; other < m; ++other) {
      baseline[s * m + other] = other == s
                                    ? std::exp(log_p[s])
                                    : std::exp(h[without ^ (size_t{1} << other)] - h[without]);
    }
  }
}

struct SetWeights {
  at::Tensor weight;    // [n]
  at::Tensor baseline;  // [B, m, m], rows and columns beyond an example's own pairs 0
};

/// log_prob: [n], none −∞; log_rest: [B], the mass outside each set.
SetWeights set_weights(const Assignments& z, const at::Tensor& log_prob,
                       const at::Tensor& log_rest) {
  const at::Tensor log_p = log_prob.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor outside = log_rest.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor splits = z.row_splits.cpu().contiguous();
  const int64_t batch = z.batch_size();
  const int64_t width = batch == 0 ? 0 : z.evaluations().max().item<int64_t>();
  const at::Tensor weight = at::empty_like(log_p);
  const at::Tensor baseline = at::zeros({batch, width, width}, log_p.options());
  const auto* pairs = log_p.const_data_ptr<double>();
  const auto* rest = outside.const_data_ptr<double>();
  const auto* split = splits.const_data_ptr<int64_t>();
  auto* weight_out = weight.mutable_data_ptr<double>();
  auto* baseline_out = baseline.mutable_data_ptr<double>();
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, width << width));
  at::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> h(size_t{1} << width), sums(size_t{1} << width);
    std::vector<double> table(static_cast<size_t>(width * width));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t m = split[b + 1] - split[b];
      set_weights(pairs + split[b], m, rest[b], weight_out + split[b], table.data(), h, sums);
      for (int64_t s = 0; s < m; ++s) {
        std::copy_n(table.data() + s * m, m, baseline_out + (b * width + s) * width);
      }
    }
  });
  return {weight.to(log_prob.options()), baseline.to(log_prob.options())};
}

/// The unordered-set estimators (Kool, van Hoof and Welling, 2020): m outcomes S drawn without
/// replacement, their order forgotten, with R(S, s) as above,
///   Σ_{s in S} π(s) R(S, s) [∇ℓ(s) + (ℓ(s) − B_s) ∇log π(s)] − w ∇H(π),
///   B_s = Σ_{s' in S} π(s') R^{D∖s}(S, s') ℓ(s')   ("built-in"), or 0 ("none").
///
/// Unbiased, and exact where m outcomes are all there are. Costs m ≤ 16 (with B at least 2) loss
/// evaluations an example, all different, in one call of the loss, and 2^m sums; needs a
/// categorical or free bits, and a generator.
class UnorderedSet final : public GibbsEstimator {
 public:
  UnorderedSet(int64_t samples, bool built_in)
      : GibbsEstimator("unordered-set", samples), samples_(samples), built_in_(built_in) {}

  Estimate estimate(const Problem& problem, std::optional<at::Generator> generator) override {
    check(problem.structure);
    const at::Generator draws = start(problem, generator);
    const Problem wide = widened(problem);
    const Gibbs q(wide.structure, wide.scores);
    const Assignments z = sample_without_replacement(wide.structure, wide.scores, samples_, draws);
    const Loss loss = evaluate(z, wide, draws);
    const at::Tensor log_prob = q.log_prob(z);
    const at::Tensor cost = loss.value.detach();
    const auto [weight, coefficients] =
        set_weights(z, log_prob.detach(), Rest(wide.structure, wide.scores, z).log_mass());
    at::Tensor advantage = cost;
    if (built_in_ && z.count() > 0) {
      const at::Tensor place = place_in_example(z);
      const at::Tensor costs = cost.to(coefficients.scalar_type());
      const at::Tensor table = at::zeros({z.batch_size(), coefficients.size(1)}, costs.options())
                                   .index_put({z.rows, place}, costs);
      const at::Tensor baseline = at::matmul(coefficients, table.unsqueeze(2)).squeeze(2);
      advantage = cost - baseline.index({z.rows, place});
    }
    const at::Tensor per_pair = weight * (with_choice(loss) + gradient_term(advantage, log_prob));
    Estimate estimate = answer(wide, z.sum_per_example(per_pair), z.sum_per_example(weight * cost));
    estimate.evaluations = z.evaluations();
    return estimate;
  }

  at::Tensor evaluations(const Structure& structure, const at::Tensor& scores) const override {
    return allowed_outcomes(structure, scores, samples_);
  }

  void check(const Structure& structure) const override { check_relaxable(name(), structure); }

 private:
  int64_t samples_;
  bool built_in_;
};

}  // namespace

std::shared_ptr<Estimator> make_unordered_set(const Making& making) {
  const EstimatorOptions& options = making.options;
  const std::string baseline =
      own_baseline("unordered-set", options.baseline, {"built-in", "none"});
  const bool built_in = baseline == "built-in";  // made of the other draws
  const int64_t samples = own_samples("unordered-set", options.samples, 2, built_in ? 2 : 1);
  TORCH_CHECK(samples <= kMost, "estimator 'unordered-set': expected samples <= ", kMost, ", got ",
              samples);
  return std::make_shared<UnorderedSet>(samples, built_in);
}

}  // namespace sparsum
