#include "tests/estimators/toy.h"
#include "tests/structures/errors.h"

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sparsum/categorical.h>
#include <sparsum/estimator.h>
#include <sparsum/expectation.h>
#include <sparsum/sparsemax.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>

namespace sparsum {
namespace {

using sparsum_test::error_of;
using sparsum_test::exact;
using sparsum_test::largest_difference;
using sparsum_test::normal;
using sparsum_test::seeded;
using sparsum_test::sparsemax_map;
using sparsum_test::take_gradients;
using sparsum_test::Toy;

at::Tensor state(const at::Generator& generator) { return generator.get_state(); }

TEST(Expectation, CallsTheLossOnceWithTheSupportOnly) {
  const at::Tensor probs =
      at::tensor({0., 1., 0., .5, 0., .5}).view({2, 3}).set_requires_grad(true);
  const SparseDistribution q = SparseDistribution::from_dense(probs);
  int calls = 0;
  const at::Tensor value = expectation(q, [&](const Assignments& z) {
    ++calls;
    EXPECT_TRUE(z.indices.equal(at::tensor({1, 0, 2}, at::kLong)));
    EXPECT_TRUE(z.rows.equal(at::tensor({0, 1, 1}, at::kLong)));
    return at::tensor({7., 10., 20.});
  });
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(value.equal(at::tensor({7., 15.})));
  value.sum().backward();
  EXPECT_TRUE(probs.grad().equal(at::tensor({0., 7., 0., 10., 0., 20.}).view({2, 3})));
}

TEST(Expectation, ChunksAreNoLargerThanAskedAndCoverEveryPairInOrder) {
  const Toy toy(9, 6, 1);
  const SparseDistribution q = sparsemax(Categorical(6), toy.scores);
  const int64_t pairs = q.support().count();
  for (const int64_t limit : {int64_t{1}, int64_t{4}, pairs - 1, pairs, pairs + 1}) {
    std::vector<at::Tensor> seen;
    const LossFn loss = [&](const Assignments& z, const std::vector<at::Tensor>& shared) {
      EXPECT_LE(z.count(), limit);
      EXPECT_EQ(z.batch_size(), 9);
      EXPECT_TRUE(z.evaluations().sum().item<int64_t>() == z.count());
      seen.push_back(at::stack({z.rows, z.indices}));
      return toy.loss()(z, shared);
    };
    const at::Tensor value = expectation(q, loss, {toy.embedding()}, {limit, {}});
    const at::Tensor all = at::stack({q.support().rows, q.support().indices});
    EXPECT_TRUE(at::cat(seen, 1).equal(all));
    seen.clear();
    value.sum().backward({}, /*retain_graph=*/true);
    EXPECT_TRUE(at::cat(seen, 1).equal(all));
  }
}

/// Toy's loss with multiplicative noise drawn inside, one number a pair. at::rand draws one number
/// after the other, so that the noise does not depend on how pairs are cut into calls.
LossFn noisy(const Toy& toy, at::Generator generator) {
  return
      [loss = toy.loss(), generator](const Assignments& z, const std::vector<at::Tensor>& shared) {
        const at::Tensor noise = at::rand({z.count()}, generator, at::TensorOptions(at::kDouble));
        return loss(z, shared).value * (1 + noise);
      };
}

TEST(Expectation, ChunkedEqualsUnchunkedForANoisyLoss) {
  const Toy toy(20, 6, 2);
  const auto run = [&](int64_t limit, at::Generator generator) {
    const SparseDistribution q = sparsemax(Categorical(6), toy.scores);
    // Drawn between forward and backward, so that a replay from the generator's present state
    // fails.
    const at::Tensor value =
        expectation(q, noisy(toy, generator), {toy.embedding()}, {limit, generator});
    const at::Tensor upstream = at::rand({20}, generator, at::TensorOptions(at::kDouble));
    const at::Tensor before = state(generator);
    value.backward(upstream);
    EXPECT_TRUE(state(generator).equal(before));
    std::vector<at::Tensor> all = take_gradients(toy.leaves());
    all.push_back(value.detach());
    return std::pair(all, before);
  };
  const auto [expected, final_state] = run(0, seeded(3));
  for (const int64_t limit : {1, 3, 7, 1000}) {
    SCOPED_TRACE(limit);
    const auto [got, got_state] = run(limit, seeded(3));
    EXPECT_LT(largest_difference(got, expected), 1e-12);
    EXPECT_TRUE(got_state.equal(final_state)) << "forward leaves the generator elsewhere";
  }
}

TEST(Expectation, ChunksCollectTheGradientsOfParametersAlone) {
  // Neither the distribution nor anything shared needs a gradient.
  const Toy toy(5, 4, 4);
  const SparseDistribution q = sparsemax(Categorical(4), toy.scores.detach());
  expectation(q, toy.loss(), {toy.embedding().detach()}, {3, {}}).sum().backward();
  const auto got = take_gradients(toy.leaves());
  const auto expected = exact(toy, sparsemax_map(), 0).gradients;
  EXPECT_LT(largest_difference({got[1], got[2]}, {expected[1], expected[2]}), 1e-12);
  EXPECT_EQ(got[0].abs().max().item<double>(), 0);
}

TEST(Expectation, ChunksWithoutGradients) {
  const at::NoGradGuard no_grad;
  const Toy toy(5, 4, 4);
  const SparseDistribution q = sparsemax(Categorical(4), toy.scores);
  const at::Tensor whole = expectation(q, toy.loss(), {toy.embedding()});
  const at::Tensor chunked = expectation(q, toy.loss(), {toy.embedding()}, {3, {}});
  EXPECT_TRUE(chunked.allclose(whole, 1e-12, 1e-12));
  EXPECT_FALSE(chunked.requires_grad());
}

TEST(Expectation, ChunksInsideChunks) {
  // Two latent variables, one inside the other's loss.
  const Categorical structure(4);
  const auto run = [&](int64_t limit) {
    const Toy toy(5, 4, 5);
    const SparseDistribution q = sparsemax(structure, toy.scores);
    const LossFn outer = [&](const Assignments& z, const std::vector<at::Tensor>& shared) {
      const at::Tensor inner_scores = z.embed(toy.a.unsqueeze(1) * at::arange(4, at::kDouble));
      const SparseDistribution inner = sparsemax(structure, inner_scores);
      const at::Tensor embedding = z.gather(shared[0]);
      return expectation(inner, toy.loss(), {embedding}, {limit, {}});
    };
    expectation(q, outer, {toy.embedding()}, {limit, {}}).sum().backward();
    return take_gradients(toy.leaves());
  };
  const auto expected = run(0);
  EXPECT_GT(expected[1].abs().max().item<double>(), 1e-3);
  EXPECT_LT(largest_difference(run(3), expected), 1e-12);
}

TEST(Expectation, RelaxedIndicatorsGetTheirGradientFromChunks) {
  const auto run = [&](int64_t limit) {
    Assignments z;
    z.rows = at::arange(6);
    z.row_splits = at::arange(7);
    z.parts = 3;
    z.indicators = normal({6, 3}, seeded(6)).softmax(1).set_requires_grad(true);
    const at::Tensor table = normal({3, 1}, seeded(7));
    const LossFn loss = [&](const Assignments& part, const std::vector<at::Tensor>&) {
      return part.embed(table).squeeze(1).sin();
    };
    const SparseDistribution q(z, at::ones({6}, at::kDouble));
    expectation(q, loss, {}, {limit, {}}).sum().backward();
    return z.indicators.grad().clone();
  };
  EXPECT_TRUE(run(4).allclose(run(0), 1e-12, 1e-12));
}

/// A loss that makes a choice r in {0, 1} with P(r = 1 | z) = σ(w_z) and costs[z][r]: what is
/// chosen is given, so that all choices can be gone through.
struct Receiver {
  at::Tensor w = normal({4}, seeded(8)).set_requires_grad(true);
  at::Tensor costs = normal({4, 2}, seeded(9));

  /// picks: [n], the choice made for each of all n pairs, in their order.
  LossFn loss(const at::Tensor& picks) const {
    return [*this, picks](const Assignments& z, const std::vector<at::Tensor>& shared) {
      const at::Tensor pick = picks.index_select(0, shared[0].index_select(0, z.indices));
      const at::Tensor own = w.index_select(0, z.indices);
      const at::Tensor log_prob = at::where(pick == 1, own, -own).sigmoid().log();
      return Loss(costs.index({z.indices, pick}), log_prob);
    };
  }
  /// Σ_z p_z Σ_r P(r | z) cost, written out.
  at::Tensor expected(const at::Tensor& probs) const {
    const at::Tensor one = w.sigmoid();
    return (probs * (one * costs.select(1, 1) + (1 - one) * costs.select(1, 0))).sum();
  }
};

TEST(Expectation, ALossesOwnChoiceIsDifferentiatedToo) {
  const Receiver receiver;
  const at::Tensor scores = at::tensor({.3, -.2, .1, -3.}).view({1, 4}).set_requires_grad(true);
  const std::vector<at::Tensor> leaves = {scores, receiver.w};
  receiver.expected(sparsemax(scores)[0]).backward();
  const auto expected = take_gradients(leaves);

  for (const int64_t limit : {0, 2}) {
    const SparseDistribution support = sparsemax(Categorical(4), scores);
    const int64_t pairs = support.support().count();
    ASSERT_EQ(pairs, 3);
    const at::Tensor position =
        at::zeros({4}, at::kLong).index_put({support.support().indices}, at::arange(pairs));
    std::vector<at::Tensor> total = {at::zeros_like(scores), at::zeros({4}, at::kDouble)};
    const at::Tensor one = receiver.w.detach().sigmoid();
    for (int64_t code = 0; code < (1 << pairs); ++code) {
      const at::Tensor picks = at::arange(pairs).mul(0).add(code).__rshift__(at::arange(pairs)) & 1;
      const at::Tensor p = one.index_select(0, support.support().indices);
      const double probability = at::where(picks == 1, p, 1 - p).prod().item<double>();
      const SparseDistribution q = sparsemax(Categorical(4), scores);
      const at::Tensor value = expectation(q, receiver.loss(picks), {position}, {limit, {}});
      // The value is that of the choices made.
      const at::Tensor made = receiver.costs.index({q.support().indices, picks});
      EXPECT_NEAR(value.item<double>(), (q.probs() * made).sum().item<double>(), 1e-14);
      value.sum().backward();
      const auto got = take_gradients(leaves);
      for (size_t i = 0; i < total.size(); ++i) total[i] += probability * got[i];
    }
    EXPECT_LT(largest_difference(total, expected), 1e-12);
  }
}

TEST(Expectation, HalfPrecisionProbabilities) {
  const at::Tensor probs = at::tensor({.5, .5, 0., 1.}).view({2, 2}).to(at::kBFloat16);
  const at::Tensor value = expectation(SparseDistribution::from_dense(probs),
                                       [](const auto& z) { return z.indices.to(at::kFloat); });
  EXPECT_TRUE(value.equal(at::tensor({.5f, 1.f})));
}

// ---- errors

SparseDistribution uniform(int64_t batch, int64_t values) {
  return SparseDistribution::from_dense(
      at::full({batch, values}, 1.0 / static_cast<double>(values), at::kDouble));
}

TEST(Expectation, LossesOfTheWrongShapeAreNamed) {
  const SparseDistribution q = uniform(2, 37);
  EXPECT_EQ(error_of([&] { expectation(q, [](const auto&) { return at::zeros({64}); }); }),
            "expectation: expected the loss to be [n] = [74], got [64]");
  EXPECT_EQ(error_of([&] { expectation(q, [](const auto&) {
                             return at::zeros({74, 1});
                           }); }),
            "expectation: expected the loss to be [n] = [74], got [74, 1]");
  EXPECT_EQ(error_of([&] { expectation(q, [](const auto&) { return at::Tensor(); }); }),
            "expectation: expected the loss to be [n] = [74], got an undefined tensor");
  EXPECT_EQ(error_of([&] { expectation(q, [](const auto& z) { return z.indices; }); }),
            "expectation: expected the loss to be floating point, got Long");
  const LossFn choice = [](const Assignments&, const std::vector<at::Tensor>&) {
    return Loss(at::zeros({74}), at::zeros({64}));
  };
  EXPECT_EQ(error_of([&] { expectation(q, choice); }),
            "expectation: expected the loss's log_prob to be [n] = [74], got [64]");
  EXPECT_EQ(error_of([&] { expectation(q, LossFn()); }),
            "expectation: expected a loss, got an empty function");
  EXPECT_EQ(error_of([&] {
              expectation(q, choice, {}, {-1, {}});
            }),
            "expectation: expected max_evaluations_per_chunk >= 0, got -1");
  EXPECT_EQ(error_of([&] {
              expectation(q, choice, {at::zeros({1}), at::Tensor()});
            }),
            "expectation: shared[1] is an undefined tensor");
}

TEST(Expectation, ACapturedTensorWithAHistoryIsRefusedWithChunks) {
  const at::Tensor weight = at::ones({3, 3}, at::kDouble).set_requires_grad(true);
  const at::Tensor input = at::ones({2, 3}, at::kDouble);
  const at::Tensor embedding = at::addmm(at::zeros({3}, at::kDouble), input, weight);
  const LossFn captured = [&](const Assignments& z, const std::vector<at::Tensor>&) {
    return z.gather(embedding).sum(1);
  };
  EXPECT_EQ(error_of([&] {
              expectation(uniform(2, 3), captured, {}, {2, {}}).sum().backward();
            }),
            "expectation: the loss reads a tensor made by AddmmBackward0 outside it; pass it in "
            "`shared`");
  EXPECT_FALSE(weight.grad().defined());
  // Shared, or without chunks, it is right; parameters may be captured in any case.
  const LossFn shared = [&](const Assignments& z, const std::vector<at::Tensor>& tensors) {
    return z.gather(tensors[0]).sum(1) * weight.sum();
  };
  expectation(uniform(2, 3), shared, {embedding}, {2, {}}).sum().backward();
  const at::Tensor chunked = take_gradients({weight})[0];
  const at::Tensor again = at::addmm(at::zeros({3}, at::kDouble), input, weight);
  expectation(uniform(2, 3),
              [&](const Assignments& z) { return z.gather(again).sum(1) * weight.sum(); })
      .sum()
      .backward();
  EXPECT_TRUE(chunked.allclose(weight.grad(), 1e-12, 1e-12));
}

TEST(Expectation, GradIsRefusedWithChunks) {
  const Toy toy(3, 4, 10);
  const SparseDistribution q = sparsemax(Categorical(4), toy.scores);
  const at::Tensor value = expectation(q, toy.loss(), {toy.embedding()}, {2, {}}).sum();
  EXPECT_EQ(error_of([&] {
              torch::autograd::grad({value}, {toy.scores, toy.u});
            }),
            "expectation: with max_evaluations_per_chunk > 0 use backward() without `inputs`, not "
            "torch::autograd::grad: the gradients of the loss's parameters would be missed");
}

TEST(Expectation, DoubleBackwardIsRefusedWithChunksAndRightWithout) {
  const Toy toy(3, 4, 11);
  const SparseDistribution q = sparsemax(Categorical(4), toy.scores);
  const at::Tensor value = expectation(q, toy.loss(), {toy.embedding()}, {2, {}}).sum();
  EXPECT_EQ(error_of([&] { value.backward({}, /*retain_graph=*/true, /*create_graph=*/true); }),
            "expectation: double backward (create_graph) is not available with "
            "max_evaluations_per_chunk > 0");
  // Σ_z p(z) θ³, twice differentiated: 6θ for each example.
  const at::Tensor theta = at::full({}, 2.0, at::kDouble).set_requires_grad(true);
  const at::Tensor plain = expectation(uniform(3, 4), [&](const Assignments& z) {
                             return theta.pow(3).expand({z.count()});
                           }).sum();
  const auto first = torch::autograd::grad({plain}, {theta}, {}, {}, /*create_graph=*/true);
  const auto second = torch::autograd::grad({first[0]}, {theta});
  EXPECT_NEAR(second[0].item<double>(), 36, 1e-10);
}

TEST(Expectation, ALossThatChangesWhenRecomputedIsRefused) {
  const Toy toy(5, 4, 12);
  at::Generator generator = seeded(13);
  const SparseDistribution q = sparsemax(Categorical(4), toy.scores);
  // The loss draws from a generator that the options do not name.
  const at::Tensor value = expectation(q, noisy(toy, generator), {toy.embedding()}, {3, {}}).sum();
  EXPECT_EQ(error_of([&] { value.backward(); }),
            "expectation: the loss gave other values when it was recomputed in the backward pass: "
            "it must draw from the generator in the options only, and neither it nor what it reads "
            "may change in between");
}

TEST(Expectation, AnErrorInTheBackwardPassLeavesTheGeneratorAsItWas) {
  const Toy toy(5, 4, 14);
  at::Generator generator = seeded(15);
  bool fail = false;
  const LossFn loss = [&](const Assignments& z, const std::vector<at::Tensor>& shared) {
    const at::Tensor value = noisy(toy, generator)(z, shared).value;
    TORCH_CHECK(!fail, "out of luck");
    return value;
  };
  const SparseDistribution q = sparsemax(Categorical(4), toy.scores);
  const at::Tensor value = expectation(q, loss, {toy.embedding()}, {3, generator}).sum();
  const at::Tensor before = state(generator);
  fail = true;
  EXPECT_EQ(error_of([&] { value.backward(); }), "out of luck");
  EXPECT_TRUE(state(generator).equal(before));
}

TEST(Expectation, ForwardModeRaises) {
  const Toy toy(3, 4, 16);
  const SparseDistribution q = uniform(3, 4);
  const auto level = torch::autograd::forward_ad::enter_dual_level();
  const at::Tensor dual =
      at::_make_dual(toy.embedding().detach(), at::ones({3}, at::kDouble), level);
  const std::string error = error_of([&] { expectation(q, toy.loss(), {dual}, {2, {}}); });
  torch::autograd::forward_ad::exit_dual_level(level);
  EXPECT_NE(error.find("jvp is not implemented"), std::string::npos) << error;
}

// ---- memory

/// The CPU allocator with a count of the bytes in use and their peak.
class CountingAllocator final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    void* data = std::aligned_alloc(64, (std::max<size_t>(bytes, 1) + 63) / 64 * 64);
    in_use += static_cast<int64_t>(malloc_usable_size(data));
    peak = std::max(peak.load(), in_use.load());
    return {data, data, &release, at::DeviceType::CPU};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  static inline std::atomic<int64_t> in_use{0}, peak{0};

 private:
  static void release(void* data) {
    in_use -= static_cast<int64_t>(malloc_usable_size(data));
    std::free(data);
  }
};

/// Peak bytes of forward and backward over `pairs` pairs of a loss with 3 hidden activations of
/// 64 floats a pair.
int64_t peak_bytes(int64_t pairs, int64_t limit) {
  const int64_t values = 50;
  const at::Tensor table = at::full({values, 64}, .1f).set_requires_grad(true);
  const at::Tensor scores = at::zeros({pairs / values, values}).set_requires_grad(true);
  const LossFn loss = [&](const Assignments& z, const std::vector<at::Tensor>&) {
    return z.embed(table).sin().tanh().sum(1);
  };
  const int64_t before = CountingAllocator::in_use;
  CountingAllocator::peak = before;
  const SparseDistribution q = sparsemax(Categorical(values), scores);
  EXPECT_EQ(q.support().count(), pairs);
  expectation(q, loss, {}, {limit, {}}).sum().backward();
  return CountingAllocator::peak - before;
}

TEST(Expectation, MemoryOfChunksDoesNotGrowWithTheirNumber) {
  static CountingAllocator counting;
  at::Allocator* const usual = c10::GetCPUAllocator();
  c10::SetCPUAllocator(&counting, 100);
  peak_bytes(1000, 100);
  const auto bytes_per_pair = [](int64_t limit) {
    return static_cast<double>(peak_bytes(32000, limit) - peak_bytes(1000, limit)) / 31000;
  };
  const double chunked = bytes_per_pair(100), whole = bytes_per_pair(0);
  c10::SetCPUAllocator(usual, 100);
  // 64 floats are 256 bytes: the distribution itself, its losses and their gradients are far fewer.
  EXPECT_LT(chunked, 120);
  EXPECT_GT(whole, 3 * 256);
}

}  // namespace
}  // namespace sparsum
