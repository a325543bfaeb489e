#include "ops/bits.h"

#include "ops/find_op.h"
#include "ops/rows.h"
#include "structures/flips.h"
#include "structures/regular.h"

#include <sparsum/bits.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace sparsum {
namespace {

/// C(n, k), if it fits.
std::optional<int64_t> binomial(int64_t n, int64_t k) {
  k = std::min(k, n - k);
  unsigned __int128 value = 1;
  for (int64_t i = 1; i <= k; ++i) {
    value = value * static_cast<unsigned __int128>(n - k + i) / static_cast<unsigned __int128>(i);
    if (value > static_cast<unsigned __int128>(std::numeric_limits<int64_t>::max())) return {};
  }
  return static_cast<int64_t>(value);
}

double log_binomial(int64_t n, int64_t k) {
  return std::lgamma(static_cast<double>(n + 1)) - std::lgamma(static_cast<double>(k + 1)) -
         std::lgamma(static_cast<double>(n - k + 1));
}

/// Throws, naming the first row with NaN, +∞ or fewer than `least` finite scores, on the CPU.
void check_rows(const std::string& caller, const at::Tensor& t, int64_t least) {
  // Reading values would synchronise, and under vmap there are none to be read.
  if (!t.is_cpu() || t.key_set().has(c10::DispatchKey::FuncTorchBatched)) return;
  const at::Tensor illegal = (t < INFINITY).all(1).logical_not();
  const at::Tensor too_few = t.isfinite().sum(1) < least;
  const at::Tensor rows = illegal.logical_or(too_few).nonzero();
  if (rows.size(0) > 0) {
    ops::throw_illegal_bits(caller.c_str(), t, rows[0].item<int64_t>(), least);
  }
}

/// The distribution of the number of bits on, for bits that are on independently with probability
/// p_i = σ(t_i − c): what the partition function and the marginals of a bounded number of bits are
/// sums of. The shift c moves the expected number to the bounds, so that nothing underflows; no
/// result depends on it. On the CPU rows without outcomes, or with NaN or +∞, are refused by name.
class Counts {
 public:
  Counts(const std::string& caller, const at::Tensor& scores, int64_t least, int64_t most)
      : scores_(scores.to(at::kDouble)), least_(least), most_(most) {
    check_rows(caller, scores_.detach(), least);
    const auto [reference, rest] = find_shift(scores_.detach(), least, most);
    // One after the other: the rest would be lost beside a large reference.
    const at::Tensor shifted = scores_ - reference.unsqueeze(1) - rest.unsqueeze(1);
    shift_ = reference + rest;
    p_ = shifted.sigmoid();
    log_free_ = at::softplus(shifted, 1, 40).sum(1);
    // Weight of ending with j bits on: e^{c·j} for allowed j, scaled by the largest of them.
    const at::Tensor sizes = at::arange(most + 2, p_.options());
    const at::Tensor anchor =
        at::where(shift_ > 0, static_cast<double>(most), static_cast<double>(least));
    at::Tensor weights = (shift_.unsqueeze(1) * (sizes - anchor.unsqueeze(1))).exp();
    weights = weights.masked_fill((sizes < least).logical_or(sizes > most).unsqueeze(0), 0);
    log_anchor_ = shift_ * anchor;
    // completions_[i][:, j]: what bits i … D − 1 add to j bits that are on already.
    completions_.resize(static_cast<size_t>(bits()) + 1);
    completions_.back() = weights;
    for (int64_t i = bits() - 1; i >= 0; --i) {
      const at::Tensor& after = completions_[static_cast<size_t>(i) + 1];
      const at::Tensor one_more = at::constant_pad_nd(after.slice(1, 1), {0, 1});
      completions_[static_cast<size_t>(i)] = after + p(i) * (one_more - after);
    }
  }

  int64_t bits() const { return scores_.size(1); }
  at::Tensor log_partition() const {
    return completions_.front().select(1, 0).log() + log_free_ + log_anchor_;
  }
  at::Tensor marginals() const {
    const at::Tensor total = completions_.front().select(1, 0);
    at::Tensor before = at::zeros_like(completions_.front());  // j of the bits before i are on
    before.select(1, 0).fill_(1);
    std::vector<at::Tensor> columns;
    for (int64_t i = 0; i < bits(); ++i) {
      const at::Tensor& after = completions_[static_cast<size_t>(i) + 1];
      const at::Tensor joint = (before.slice(1, 0, -1) * after.slice(1, 1)).sum(1);
      columns.push_back(p(i).squeeze(1) * joint / total);
      const at::Tensor one_fewer = at::constant_pad_nd(before.slice(1, 0, -1), {1, 0});
      before = before + p(i) * (one_fewer - before);
    }
    return at::stack(columns, 1);
  }
  /// [B·samples, D] bytes.
  at::Tensor sample(int64_t samples, at::Generator generator) const {
    const int64_t batch = scores_.size(0);
    at::Tensor on = at::zeros({batch, samples}, scores_.options().dtype(at::kLong));
    std::vector<at::Tensor> columns;
    for (int64_t i = 0; i < bits(); ++i) {
      const at::Tensor& here = completions_[static_cast<size_t>(i)];
      const at::Tensor& after = completions_[static_cast<size_t>(i) + 1];
      const at::Tensor probability = p(i) * after.gather(1, on + 1) / here.gather(1, on);
      const at::Tensor bit = at::rand(on.sizes(), generator, p_.options()) < probability;
      on = on + bit;
      columns.push_back(bit);
    }
    return at::stack(columns, 2).view({batch * samples, bits()}).to(at::kByte);
  }

 private:
  at::Tensor p(int64_t i) const { return p_.slice(1, i, i + 1); }

  /// c with Σ σ(t − c) near the nearest allowed number of bits, as a score and what is to be added
  /// to it: bisection, coarse on purpose, around the score of that rank. Those above it are on and
  /// those below it off as soon as c is far enough from it, whatever their spread.
  static std::pair<at::Tensor, at::Tensor> find_shift(const at::Tensor& t, int64_t least,
                                                      int64_t most) {
    const at::Tensor expected = t.sigmoid().sum(1);
    const at::Tensor too_few = expected < static_cast<double>(least);
    const at::Tensor inside =
        (expected <= static_cast<double>(most)).logical_and_(too_few.logical_not());
    const int64_t bits = t.size(1);
    const at::Tensor bound =
        at::where(too_few, static_cast<double>(least), static_cast<double>(most));
    const at::Tensor target = bound.clamp(0.5, std::max(0.5, static_cast<double>(bits) - 0.5));
    const at::Tensor place = bound.to(at::kLong).clamp(1, bits) - 1;
    const at::Tensor sorted = std::get<0>(t.sort(1, /*descending=*/true));
    const at::Tensor reference =
        sorted.gather(1, place.unsqueeze(1)).squeeze(1).masked_fill(inside, 0);
    const at::Tensor relative = t - reference.unsqueeze(1);
    at::Tensor high = at::full_like(reference, 50 + std::log(static_cast<double>(bits)));
    at::Tensor low = -high;
    for (int step = 0; step < 40; ++step) {
      const at::Tensor middle = (low + high) / 2;
      const at::Tensor above = (relative - middle.unsqueeze(1)).sigmoid().sum(1) > target;
      low = at::where(above, middle, low);
      high = at::where(above, high, middle);
    }
    return {reference, ((low + high) / 2).masked_fill(inside, 0)};
  }

  at::Tensor scores_, shift_, p_, log_free_, log_anchor_;
  int64_t least_, most_;
  std::vector<at::Tensor> completions_;
};

}  // namespace

at::Tensor flip_scores(const at::Tensor& scores, const Assignments& z) {
  const at::Tensor pairs =
      at::repeat_interleave(z.flip_splits.slice(0, 1) - z.flip_splits.slice(0, 0, -1));
  const at::Tensor place = at::add(z.flips, z.rows.index_select(0, pairs), z.parts);
  const at::Tensor was_on = z.base.reshape(-1).index_select(0, place).to(scores.scalar_type());
  const at::Tensor change = scores.reshape(-1).index_select(0, place) * (1 - 2 * was_on);
  return at::zeros({z.count()}, scores.options()).index_add(0, pairs, change);
}

Bits::Bits(const char* name, int64_t bits, int64_t least, int64_t most)
    : bits_(bits), least_(least), most_(most) {
  TORCH_CHECK(bits >= 1, name, ": expected at least 1 bit, got ", bits);
  TORCH_CHECK(0 <= most && most <= bits, name, ": expected 0 <= B <= D = ", bits,
              " bits on, got B = ", most);
}

double Bits::log_size() const {
  if (free()) return static_cast<double>(bits_) * std::log(2.0);
  double most = -INFINITY, sum = 0;
  for (int64_t j = least_; j <= most_; ++j) most = std::max(most, log_binomial(bits_, j));
  for (int64_t j = least_; j <= most_; ++j) sum += std::exp(log_binomial(bits_, j) - most);
  return most + std::log(sum);
}

std::optional<int64_t> Bits::size() const {
  int64_t total = 0;
  for (int64_t j = least_; j <= most_; ++j) {
    const auto count = binomial(bits_, j);
    if (!count || *count > std::numeric_limits<int64_t>::max() - total) return {};
    total += *count;
  }
  return total;
}

Assignments Bits::enumerate(int64_t batch, const at::Device& device, int64_t limit) const {
  const auto count = size();
  TORCH_CHECK(count && *count <= limit, name(), ": enumerate: ",
              count ? std::to_string(*count) : "2^" + std::to_string(log_size() / std::log(2.0)),
              " outcomes are more than the limit of ", limit);
  const at::Tensor table = at::empty({*count, bits_}, at::kByte);
  auto* row = table.mutable_data_ptr<uint8_t>();
  std::fill(row, row + bits_, uint8_t{0});
  std::fill(row, row + least_, uint8_t{1});
  for (int64_t n = 1, on = least_; n < *count; ++n, row += bits_) {
    uint8_t* next = row + bits_;
    std::copy_n(row, bits_, next);
    // The next larger number switches on the first bit that may be, and the fewest and lowest below
    // it that are needed.
    int64_t i = 0, above = on;
    while (next[i] == 1 || above + 1 > most_ || above + 1 + i < least_) above -= next[i++];
    next[i] = 1;
    const int64_t below = std::max<int64_t>(0, least_ - above - 1);
    std::fill(next, next + below, uint8_t{1});
    std::fill(next + below, next + i, uint8_t{0});
    on = above + 1 + below;
  }
  Assignments z = regular_assignments(batch, *count, bits_, device);
  z.indicators = table.to(device).repeat({batch, 1});
  return z;
}

Assignments Bits::list(const at::Tensor& scores, int64_t k, bool until_exact) const {
  static const auto op =
      ops::find_op<std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
          const at::Tensor&, int64_t, int64_t, int64_t, bool)>("sparsum::k_best_bits");
  const at::NoGradGuard no_grad;
  Assignments z;
  std::tie(z.row_splits, z.rows, z.base, z.flip_splits, z.flips) =
      op.call(scores.detach(), least_, most_, k, until_exact);
  z.parts = bits_;
  return z;
}

Assignments Bits::map(const at::Tensor& scores) const {
  check_scores("map", scores);
  const Assignments best = list(scores, 1, false);
  return one_per_example(best.base, bits_);
}

Assignments Bits::k_best(const at::Tensor& scores, int64_t k) const {
  check_scores("k_best", scores);
  TORCH_CHECK(k >= 1, name(), ": k_best: expected k >= 1, got ", k);
  return list(scores, k, false);
}

Assignments Bits::best_until_exact(const at::Tensor& scores, int64_t k) const {
  check_scores("best_until_exact", scores);
  TORCH_CHECK(k >= 1, name(), ": best_until_exact: expected k >= 1, got ", k);
  return list(scores, k, true);
}

Assignments Bits::sample(const at::Tensor& scores, int64_t samples, at::Generator generator) const {
  check_scores("sample", scores);
  TORCH_CHECK(samples >= 1, name(), ": sample: expected at least 1 sample, got ", samples);
  const at::NoGradGuard no_grad;
  Assignments z = regular_assignments(scores.size(0), samples, bits_, scores.device());
  if (free()) {
    check_rows(name() + ": sample", scores, 0);
    // Noise of half precision could not be below a small probability as rarely as it should.
    const at::Tensor p = ops::widened(scores).sigmoid().unsqueeze(1);
    const at::Tensor noise = at::rand({scores.size(0), samples, bits_}, generator, p.options());
    z.indicators = (noise < p).view({scores.size(0) * samples, bits_}).to(at::kByte);
  } else {
    z.indicators =
        Counts(name() + ": sample", scores, least_, most_).sample(samples, std::move(generator));
  }
  return z;
}

at::Tensor Bits::score(const at::Tensor& scores, const Assignments& z) const {
  if (!z.base.defined() || z.chained) return Structure::score(scores, z);
  check_scores("score", scores);
  const at::Tensor of_base = Structure::score(scores, one_per_example(z.base, bits_));
  return z.gather(of_base) + flip_scores(scores, z);
}

at::Tensor Bits::log_partition(const at::Tensor& scores) const {
  check_scores("log_partition", scores);
  if (free()) return at::softplus(scores, 1, 40).sum(1);
  return Counts(name() + ": log_partition", scores, least_, most_)
      .log_partition()
      .to(scores.scalar_type());
}

at::Tensor Bits::marginals(const at::Tensor& scores) const {
  check_scores("marginals", scores);
  if (free()) return scores.sigmoid();
  return Counts(name() + ": marginals", scores, least_, most_).marginals().to(scores.scalar_type());
}

at::Tensor Bits::entropy(const at::Tensor& scores) const {
  check_scores("entropy", scores);
  if (!free()) return Structure::entropy(scores);
  // Σ log(1 + e^t) − σ(t)·t; both forbidden and certain bits contribute 0.
  const at::Tensor finite = scores.masked_fill(scores == -INFINITY, 0);
  return (at::softplus(scores, 1, 40) - scores.sigmoid() * finite).sum(1);
}

BitVector::BitVector(int64_t bits) : Bits("BitVector", bits, 0, bits) {}
std::string BitVector::name() const { return "bit-vector(" + std::to_string(parts()) + ")"; }

Budget::Budget(int64_t bits, int64_t budget) : Bits("Budget", bits, 0, budget) {}
std::string Budget::name() const {
  return "budget(" + std::to_string(parts()) + ", " + std::to_string(most()) + ")";
}

Subset::Subset(int64_t bits, int64_t size) : Bits("Subset", bits, size, size) {}
std::string Subset::name() const {
  return "subset(" + std::to_string(parts()) + ", " + std::to_string(most()) + ")";
}

}  // namespace sparsum
