#include "estimators/evaluate.h"

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <sparsum/expectation.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/torch.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>

namespace sparsum {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Node;
using torch::autograd::variable_list;

Loss call_loss(const LossFn& loss, const Assignments& z, const std::vector<at::Tensor>& shared) {
  Loss answer = loss(z, shared);
  const auto check = [&](const at::Tensor& t, const char* what) {
    TORCH_CHECK(t.defined(), "expectation: expected ", what, " to be [n] = [", z.count(),
                "], got an undefined tensor");
    TORCH_CHECK(at::isFloatingType(t.scalar_type()), "expectation: expected ", what,
                " to be floating point, got ", t.scalar_type());
    TORCH_CHECK(t.dim() == 1 && t.size(0) == z.count(), "expectation: expected ", what,
                " to be [n] = [", z.count(), "], got ", t.sizes());
  };
  check(answer.value, "the loss");
  if (answer.log_prob.defined()) check(answer.log_prob, "the loss's log_prob");
  return answer;
}

/// Puts a generator into an earlier state for the life of this object.
class ReplayGenerator {
 public:
  ReplayGenerator(std::optional<at::Generator> generator, const at::Tensor& state)
      : generator_(std::move(generator)) {
    if (!generator_) return;
    before_ = state_of(*generator_);
    set_state(*generator_, state);
  }
  ~ReplayGenerator() {
    if (generator_) set_state(*generator_, before_);
  }
  ReplayGenerator(const ReplayGenerator&) = delete;
  ReplayGenerator& operator=(const ReplayGenerator&) = delete;

 private:
  std::optional<at::Generator> generator_;
  at::Tensor before_;
};

/// Throws if the graph above `outputs` holds a node that was made before `first`, this thread's
/// sequence number when the loss was called, or by another thread: backward would go on into a
/// graph that is not the loss's own, once per chunk.
void refuse_outside_nodes(const variable_list& outputs, uint64_t first) {
  const uint64_t thread = at::RecordFunction::currentThreadId();
  std::vector<Node*> open;
  std::unordered_set<Node*> seen;
  const auto visit = [&](Node* node) {
    if (node != nullptr && seen.insert(node).second) open.push_back(node);
  };
  for (const at::Tensor& output : outputs) visit(output.grad_fn().get());
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    // Parameters: an AccumulateGrad has the largest number and is made whenever first asked for.
    if (node->sequence_nr() == UINT64_MAX) continue;
    TORCH_CHECK(node->sequence_nr() >= first && node->thread_id() == thread,
                "expectation: the loss reads a tensor made by ", node->name(),
                " outside it; pass it in `shared`");
    for (const auto& edge : node->next_edges()) visit(edge.function.get());
  }
}

/// What a chunked evaluation keeps for its backward pass, tensors with gradient apart.
struct Call : torch::CustomClassHolder {
  LossFn loss;
  Assignments z;  // without relaxed indicators
  int64_t chunk = 0;
  std::optional<at::Generator> generator;
  at::Tensor generator_state;  // before the first chunk: chunks are replayed in the same order
};

/// Calls visit(begin, end) for every chunk; for one of no pairs if there are none.
template <typename Visit>
void for_each_chunk(int64_t pairs, int64_t chunk, const Visit& visit) {
  int64_t begin = 0;
  do {
    const int64_t end = std::min(pairs, begin + chunk);
    visit(begin, end);
    begin = end;
  } while (begin < pairs);
}

/// value (and log_prob) of all pairs, from chunks whose activations are dropped and recomputed.
class ChunkedLoss : public torch::autograd::Function<ChunkedLoss> {
 public:
  /// anchor: requires a gradient, so that backward is called for the sake of the loss's parameters
  /// even when no other input does.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& anchor,
                               const std::optional<at::Tensor>& indicators, at::TensorList shared,
                               const c10::intrusive_ptr<Call>& call) {
    const std::vector<at::Tensor> inputs = shared.vec();
    Assignments z = call->z;
    if (indicators) z.indicators = *indicators;
    if (call->generator) call->generator_state = state_of(*call->generator);
    std::vector<at::Tensor> values, log_probs;
    for_each_chunk(z.count(), call->chunk, [&](int64_t begin, int64_t end) {
      Loss part = call_loss(call->loss, z.slice(begin, end), inputs);
      TORCH_CHECK(begin == 0 || part.log_prob.defined() == !log_probs.empty(),
                  "expectation: the loss gave a log_prob for some chunks and none for others");
      values.push_back(part.value.detach());
      if (part.log_prob.defined()) log_probs.push_back(part.log_prob.detach());
    });
    variable_list outputs = {at::cat(values)};
    if (!log_probs.empty()) outputs.push_back(at::cat(log_probs));

    variable_list saved = {outputs[0]};
    if (indicators) saved.push_back(*indicators);
    saved.insert(saved.end(), inputs.begin(), inputs.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["call"] = at::IValue::make_capsule(call);
    ctx->saved_data["relaxed"] = indicators.has_value();
    ctx->set_materialize_grads(false);
    (void)anchor;
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "expectation: double backward (create_graph) is not available with "
                "max_evaluations_per_chunk > 0");
    TORCH_CHECK(
        torch::autograd::Engine::get_default_engine().is_checkpoint_valid(),
        "expectation: with max_evaluations_per_chunk > 0 use backward() without `inputs`, "
        "not torch::autograd::grad: the gradients of the loss's parameters would be missed");
    const auto call = c10::static_intrusive_pointer_cast<Call>(ctx->saved_data["call"].toCapsule());
    const bool last = !torch::autograd::get_current_graph_task_keep_graph();
    const bool relaxed = ctx->saved_data["relaxed"].toBool();
    variable_list saved = ctx->get_saved_variables();
    const at::Tensor first_values = saved[0];

    // Leaves that take the place of the originals and collect the gradients of all chunks.
    std::vector<at::Tensor> leaves(saved.begin() + 1, saved.end());
    for (at::Tensor& leaf : leaves) {
      const bool attached = leaf.requires_grad();
      leaf = leaf.detach().set_requires_grad(attached);
    }
    const std::vector<at::Tensor> shared(leaves.begin() + (relaxed ? 1 : 0), leaves.end());
    Assignments z = call->z;
    if (relaxed) z.indicators = leaves[0];

    const ReplayGenerator replay(call->generator, call->generator_state);
    for_each_chunk(z.count(), call->chunk, [&](int64_t begin, int64_t end) {
      const at::AutoGradMode enable(true);
      const uint64_t first_node = at::sequence_number::peek();
      const Loss part = call_loss(call->loss, z.slice(begin, end), shared);
      const at::Tensor expected = first_values.slice(0, begin, end);
      // On CUDA the comparison would synchronise.
      TORCH_CHECK(!expected.is_cpu() ||
                      at::allclose(part.value.detach(), expected, 1e-3, 1e-5, /*equal_nan=*/true),
                  "expectation: the loss gave other values when it was recomputed in the backward "
                  "pass: it must draw from the generator in the options only, and neither it nor "
                  "what it reads may change in between");
      variable_list outputs, upstream;
      const auto add = [&](const at::Tensor& output, const at::Tensor& grad) {
        if (!output.defined() || !grad.defined() || !output.requires_grad()) return;
        outputs.push_back(output);
        upstream.push_back(grad.slice(0, begin, end));
      };
      add(part.value, grads[0]);
      if (grads.size() > 1) add(part.log_prob, grads[1]);
      if (outputs.empty()) return;
      refuse_outside_nodes(outputs, first_node);
      torch::autograd::backward(outputs, upstream);
    });

    // Let go with the saved tensors: who keeps the outputs does not keep what the loss refers to,
    // and a loss that refers to the outputs does not keep itself.
    if (last) call->loss = nullptr;

    variable_list result(1 + (relaxed ? 0 : 1));  // none for the anchor, nor for missing indicators
    for (const at::Tensor& leaf : leaves) result.push_back(leaf.grad());
    result.emplace_back();  // the call
    return result;
  }
};

}  // namespace

Loss evaluate(const Assignments& z, const LossFn& loss, const std::vector<at::Tensor>& shared,
              const ExpectationOptions& options) {
  TORCH_CHECK(loss, "expectation: expected a loss, got an empty function");
  TORCH_CHECK(options.max_evaluations_per_chunk >= 0,
              "expectation: expected max_evaluations_per_chunk >= 0, got ",
              options.max_evaluations_per_chunk);
  for (size_t i = 0; i < shared.size(); ++i) {
    TORCH_CHECK(shared[i].defined(), "expectation: shared[", i, "] is an undefined tensor");
  }
  if (options.max_evaluations_per_chunk == 0) return call_loss(loss, z, shared);

  auto call = c10::make_intrusive<Call>();
  call->loss = loss;
  call->z = z;
  call->chunk = options.max_evaluations_per_chunk;
  call->generator = options.generator;
  std::optional<at::Tensor> relaxed;
  if (z.indicators.defined() && z.indicators.requires_grad()) {
    relaxed = z.indicators;
    call->z.indicators.reset();
  }
  const at::Tensor anchor =
      at::empty({0}, z.rows.options().dtype(at::kFloat)).set_requires_grad(true);
  variable_list outputs = ChunkedLoss::apply(anchor, relaxed, at::TensorList(shared), call);
  return Loss(outputs[0], outputs.size() > 1 ? outputs[1] : at::Tensor());
}

at::Tensor with_choice(const Loss& loss) {
  if (!loss.log_prob.defined()) return loss.value;
  return loss.value + (loss.log_prob - loss.log_prob.detach()) * loss.value.detach();
}

at::Tensor state_of(at::Generator generator) {
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_state(at::Generator generator, const at::Tensor& state) {
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

at::Tensor expectation(const SparseDistribution& q, const LossFn& loss,
                       const std::vector<at::Tensor>& shared, const ExpectationOptions& options) {
  const Assignments& z = q.support();
  return z.sum_per_example(q.probs() * with_choice(evaluate(z, loss, shared, options)));
}

at::Tensor expectation(const SparseDistribution& q,
                       const std::function<at::Tensor(const Assignments&)>& loss) {
  TORCH_CHECK(loss, "expectation: expected a loss, got an empty function");
  return expectation(
      q, [&loss](const Assignments& z, const std::vector<at::Tensor>&) { return loss(z); });
}

}  // namespace sparsum
