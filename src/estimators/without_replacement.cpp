#include "estimators/without_replacement.h"

#include "estimators/noise.h"
#include "ops/rows.h"
#include "structures/regular.h"

#include <sparsum/bits.h>
#include <sparsum/categorical.h>
#include <torch/torch.h>

#include <algorithm>

namespace sparsum {
namespace {

bool is_categorical(const Structure& structure) {
  return dynamic_cast<const Bits*>(&structure) == nullptr;
}

/// Rows of `table` [n, V] that belong to the same example side by side: [B, width, V], padded with
/// the example's first.
at::Tensor pad(const Assignments& z, const at::Tensor& table) {
  const int64_t batch = z.batch_size(), n = z.count();
  const int64_t width =
      batch == 0 ? 1 : std::max<int64_t>(1, z.evaluations().max().item<int64_t>());
  if (n == batch * width) return table.view({batch, width, z.parts});
  at::Tensor padded =
      table.index_select(0, z.row_splits.slice(0, 0, -1)).unsqueeze(1).repeat({1, width, 1});
  return padded.index_put_({z.rows, place_in_example(z)}, table);
}

/// log P(z_d = bit) of free bits with scores t.
at::Tensor log_bernoulli(const at::Tensor& t, const at::Tensor& on) {
  return at::log_sigmoid(at::where(on, t, -t));
}

at::Tensor gumbel_like(const at::Tensor& t, const at::Generator& generator) {
  return fill_gumbel(at::empty_like(t), generator);
}

}  // namespace

Rest::Rest(const Structure& structure, const at::Tensor& scores, const Assignments& taken)
    : structure_(structure), scores_(scores.detach()) {
  if (is_categorical(structure)) {
    const at::Tensor place = taken.rows * scores_.size(1) + taken.indices;
    left_ = scores_.reshape(-1).index_fill(0, place, -INFINITY).view_as(scores_);
    log_mass_ = left_.logsumexp(1) - scores_.logsumexp(1);
    return;
  }
  const int64_t bits = scores_.size(1);
  prefixes_ = pad(taken, taken.values(at::kBool));
  const int64_t k = prefixes_.size(1);
  const at::Tensor t = scores_.unsqueeze(1);  // [B, 1, D]
  // Subtree (s, d): the first d bits of outcome s, then bit d flipped, then anything.
  const at::Tensor stays = log_bernoulli(t, prefixes_);
  const at::Tensor before = at::constant_pad_nd(stays.slice(2, 0, -1).cumsum(2), {1, 0});
  const at::Tensor mass = before + log_bernoulli(t, prefixes_.logical_not());
  // It is one of the rest if no outcome taken goes that way, and counted once among those that
  // share the prefix.
  std::vector<at::Tensor> with_each;  // [B, k] lengths of the prefix shared with outcome s
  for (int64_t s = 0; s < k; ++s) {
    const at::Tensor same = prefixes_.eq(prefixes_.slice(1, s, s + 1));
    with_each.push_back(same.to(at::kByte).cumprod(2, at::kByte).sum(2));
  }
  const at::Tensor shared = at::stack(with_each, 2);  // [B, k, k], D on the diagonal
  const at::Tensor taken_there =
      at::zeros({prefixes_.size(0), k, bits + 1}, prefixes_.options()).scatter_(2, shared, 1);
  const at::Tensor earlier = at::ones({k, k}, prefixes_.options()).tril(-1);
  const at::Tensor covered = shared.masked_fill(earlier.logical_not(), 0).amax(2, true);
  const at::Tensor depth = at::arange(bits, shared.options());
  const at::Tensor blocked = taken_there.slice(2, 0, bits).logical_or(depth < covered);
  left_ = mass.masked_fill(blocked, -INFINITY).flatten(1);
  log_mass_ = left_.logsumexp(1);
}

Assignments Rest::sample(int64_t samples, const at::Generator& generator) const {
  const at::Tensor nothing = (log_mass_ == -INFINITY).unsqueeze(1);
  if (!prefixes_.defined()) {
    return structure_.sample(at::where(nothing, scores_, left_), samples, generator);
  }
  const int64_t batch = scores_.size(0), bits = scores_.size(1);
  Assignments z = regular_assignments(batch, samples, bits, scores_.device());
  if (batch == 0) {
    z.indicators = at::empty({0, bits}, scores_.options().dtype(at::kByte));
    return z;
  }
  const at::Tensor subtree = Categorical(left_.size(1))
                                 .sample(left_.masked_fill(nothing, 0), samples, generator)
                                 .indices.view({batch, samples});
  const at::Tensor outcome = subtree.div(bits, "floor"), depth = subtree.remainder(bits);
  const at::Tensor prefix =
      prefixes_.gather(1, outcome.unsqueeze(2).expand({batch, samples, bits}));
  const at::Tensor at = at::arange(bits, depth.options());
  const at::Tensor fresh = at::rand({batch, samples, bits}, generator, scores_.options()) <
                           scores_.sigmoid().unsqueeze(1);
  const at::Tensor d = depth.unsqueeze(2);
  z.indicators = at::where(at < d, prefix, at::where(at == d, prefix.logical_not(), fresh))
                     .view({batch * samples, bits})
                     .to(at::kByte);
  return z;
}

Assignments sample_without_replacement(const Structure& structure, const at::Tensor& scores,
                                       int64_t samples, const at::Generator& generator) {
  const at::Tensor t = scores.detach();
  const int64_t batch = t.size(0);
  if (is_categorical(structure)) {
    const int64_t m = std::min(samples, t.size(1));
    const at::Tensor best = std::get<1>((t.log_softmax(1) + gumbel_like(t, generator)).topk(m, 1));
    Assignments z = regular_assignments(batch, m, t.size(1), t.device());
    z.indices = best.reshape(-1);
    return filter(z, t.gather(1, best).reshape(-1) > -INFINITY);
  }
  // Stochastic beam search (Kool, van Hoof and Welling, 2019): each prefix has the log-probability
  // of its subtree and the largest perturbed log-probability in it; the children's, given their
  // parent's.
  at::Tensor log_prob = at::zeros({batch, 1}, t.options()), largest = log_prob;
  std::vector<at::Tensor> steps;  // of each level: twice the place of the parent, plus the bit
  const at::Tensor off = at::log_sigmoid(-t).clamp_min(kLowest);
  const at::Tensor on = at::log_sigmoid(t).clamp_min(kLowest);
  for (int64_t d = 0; d < t.size(1); ++d) {
    const at::Tensor children =
        log_prob.unsqueeze(2) + at::stack({off.select(1, d), on.select(1, d)}, 1).unsqueeze(1);
    const at::Tensor free = children + gumbel_like(children, generator);
    const at::Tensor bound = free.amax(2, /*keepdim=*/true), parent = largest.unsqueeze(2);
    // −log(e^−parent − e^−bound + e^−free), without overflow; the larger child gets its parent's.
    const at::Tensor v = parent - free + at::log(-at::expm1(free - bound));
    const at::Tensor given = parent - v.clamp_min(0) - at::log1p(at::exp(-v.abs()));
    const int64_t width = std::min(samples, 2 * log_prob.size(1));
    const auto [kept, which] = given.flatten(1).topk(width, 1);
    steps.push_back(which);
    log_prob = children.flatten(1).gather(1, which);
    largest = kept;
  }
  // The codes, from their last bits back to the first.
  const int64_t width = log_prob.size(1);
  at::Tensor codes = at::empty({batch, width, t.size(1)}, t.options().dtype(at::kByte));
  at::Tensor step = at::arange(width, steps.back().options()).expand({batch, width});
  for (int64_t d = t.size(1) - 1; d >= 0; --d) {
    step = steps[static_cast<size_t>(d)].gather(1, step);
    codes.select(2, d).copy_(step.bitwise_and(1));
    step = step.bitwise_right_shift(1);
  }
  Assignments z = regular_assignments(batch, width, t.size(1), t.device());
  z.indicators = codes.flatten(0, 1);
  return filter(z, log_prob.reshape(-1) > kLowest / 2);
}

at::Tensor allowed_outcomes(const Structure& structure, const at::Tensor& scores, int64_t limit) {
  const at::Tensor finite = (scores.detach() > -INFINITY).sum(1);
  if (is_categorical(structure)) return finite.clamp_max(limit);
  return at::pow(2, finite.clamp_max(62)).clamp_max(limit);
}

Problem widened(const Problem& problem) {
  Problem wide = problem;
  wide.scores = ops::widened(problem.scores);
  return wide;
}

std::pair<Assignments, at::Tensor> join(const Assignments& a, const Assignments& b) {
  Assignments both;
  const at::Tensor order =
      std::get<1>(at::cat({a.rows, b.rows}).sort(/*stable=*/true, 0, /*descending=*/false));
  both.rows = at::cat({a.rows, b.rows}).index_select(0, order);
  both.row_splits = a.row_splits + b.row_splits;
  both.parts = a.parts;
  if (a.indices.defined() && b.indices.defined()) {
    both.indices = at::cat({a.indices, b.indices}).index_select(0, order);
  } else {
    both.indicators = at::cat({a.values(at::kByte), b.values(at::kByte)}).index_select(0, order);
  }
  return {both, order};
}

Assignments filter(const Assignments& z, const at::Tensor& kept) {
  if (kept.all().item<bool>()) return z;
  const at::Tensor pairs = kept.nonzero().squeeze(1);
  const at::Tensor rows = z.rows.index_select(0, pairs);
  return z.select(pairs, rows,
                  at::searchsorted(rows, at::arange(z.batch_size() + 1, rows.options())));
}

}  // namespace sparsum
