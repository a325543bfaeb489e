#include "estimators/relaxation.h"
#include "estimators/without_replacement.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace sparsum {
namespace {

constexpr int64_t kMost = 16;  // draws: the weights take 2^m sums an example

/// The ratios of an unordered set S of draws without replacement (Kool et al., 2020), where p^D(S)
/// is the probability that the first |S| draws from D are S:
///   first[s]      = R(S, s)          = p^{D∖s}(S∖s) / p^D(S),
///   second[s, s'] = R^{D∖s}(S, s')   = p^{D∖{s, s'}}(S∖{s, s'}) / p^{D∖s}(S∖s),   1 for s' = s.
/// With g(A) = p^{D∖(S∖A)}(A), all of them are ratios of
///   g(∅) = 1,   g(A) = Σ_{s in A} p_s g(A∖s) / (a + Σ_{s in A} p_s),   a the mass outside S:
/// sums of positive terms. p: m numbers; first: m; second: m × m.
void set_ratios(const double* p, int64_t m, double a, double* first, double* second,
                std::vector<double>& g, std::vector<double>& sums) {
  const size_t all = (size_t{1} << m) - 1;
  g[0] = 1;
  sums[0] = 0;
  for (size_t set = 1; set <= all; ++set) {
    const auto lowest = static_cast<size_t>(std::countr_zero(set));
    sums[set] = sums[set & (set - 1)] + p[lowest];
    double total = 0;
    for (size_t rest = set; rest != 0; rest &= rest - 1) {
      const auto s = static_cast<size_t>(std::countr_zero(rest));
      total += p[s] * g[set ^ (size_t{1} << s)];
    }
    g[set] = total / (a + sums[set]);
  }
  for (int64_t s = 0; s < m; ++s) {
    const size_t without = all ^ (size_t{1} << s);
    first[s] = g[without] / g[all];
    for (int64_t other = 0; other < m; ++other) {
      second[s * m + other] = other == s ? 1 : g[without ^ (size_t{1} << other)] / g[without];
    }
  }
}

struct SetRatios {
  at::Tensor first;   // [n]
  at::Tensor second;  // [B, m, m], rows and columns beyond an example's own pairs 0
};

/// log_prob: [n]; log_rest: [B], the mass outside each set.
SetRatios set_ratios(const Assignments& z, const at::Tensor& log_prob, const at::Tensor& log_rest) {
  // A probability that underflows keeps its place in the order.
  const at::Tensor p = log_prob.to(at::kCPU, at::kDouble).exp().clamp_min(1e-300).contiguous();
  const at::Tensor outside = log_rest.to(at::kCPU, at::kDouble).exp().contiguous();
  const at::Tensor splits = z.row_splits.cpu().contiguous();
  const int64_t batch = z.batch_size();
  const int64_t width = batch == 0 ? 0 : z.evaluations().max().item<int64_t>();
  const at::Tensor first = at::empty_like(p);
  const at::Tensor second = at::zeros({batch, width, width}, p.options());
  const auto* pairs = p.const_data_ptr<double>();
  const auto* rest = outside.const_data_ptr<double>();
  const auto* split = splits.const_data_ptr<int64_t>();
  auto* first_out = first.mutable_data_ptr<double>();
  auto* second_out = second.mutable_data_ptr<double>();
  const int64_t grain = std::max<int64_t>(1, 32768 / (width << width));
  at::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> g(size_t{1} << width), sums(size_t{1} << width);
    std::vector<double> table(static_cast<size_t>(width * width));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t m = split[b + 1] - split[b];
      set_ratios(pairs + split[b], m, rest[b], first_out + split[b], table.data(), g, sums);
      for (int64_t s = 0; s < m; ++s) {
        std::copy_n(table.data() + s * m, m, second_out + (b * width + s) * width);
      }
    }
  });
  return {first.to(log_prob.options()), second.to(log_prob.options())};
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
    problem.structure.check_scores(name().c_str(), problem.scores);
    const at::Generator draws = drawn_from(generator);
    const Gibbs q(problem.structure, problem.scores);
    const Assignments z =
        sample_without_replacement(problem.structure, problem.scores, samples_, draws);
    const Loss loss = evaluate(z, problem, draws);
    const at::Tensor log_prob = q.log_prob(z);
    const at::Tensor cost = loss.value.detach(), p = log_prob.detach().exp();
    const SetRatios ratios =
        set_ratios(z, log_prob.detach(), Rest(problem.structure, problem.scores, z).log_mass());

    const at::Tensor weight = p * ratios.first;
    at::Tensor advantage = cost;
    if (built_in_ && z.count() > 0) {
      const at::Tensor place =
          at::arange(z.count(), z.rows.options()) - z.row_splits.index_select(0, z.rows);
      const at::Tensor table = at::zeros({z.batch_size(), ratios.second.size(1)}, cost.options())
                                   .index_put({z.rows, place}, p * cost);
      const at::Tensor baseline =
          at::matmul(ratios.second.to(cost.scalar_type()), table.unsqueeze(2)).squeeze(2);
      advantage = cost - baseline.index({z.rows, place});
    }
    const at::Tensor per_pair = weight * (with_choice(loss) + gradient_term(advantage, log_prob));
    Estimate estimate =
        answer(problem, z.sum_per_example(per_pair), z.sum_per_example(weight * cost));
    estimate.evaluations = z.evaluations();
    return estimate;
  }

  at::Tensor evaluations(const Structure& structure, const at::Tensor& scores) const override {
    const at::Tensor all = GibbsEstimator::evaluations(structure, scores);
    return all.clamp_max(structure.size().value_or(samples_));
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
