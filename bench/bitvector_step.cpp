// A training step of the bit-vector model on random images, split into its parts, at the support
// sizes of scores that are N(0, 1): those of the first steps of training.
//
//   bench_bitvector_step [THREADS]
//
// Each part is run and differentiated by itself; "step" is their sum, without drawing a batch.

#include "bench/timing.h"
#include "lab/adam.h"
#include "lab/experiments/bitvector.h"
#include "lab/random.h"

#include <ATen/Parallel.h>
#include <malloc.h>
#include <sparsum/linear_cross_entropy.h>
#include <sys/resource.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <map>

namespace {

using namespace sparsum;

constexpr int64_t kBatch = 64;
const std::vector<std::string> kParts = {"encoder", "inference", "decoder", "likelihood",
                                         "optimiser"};

class Step {
 public:
  Step(const std::string& estimator, int64_t bits)
      : structure_(bits),
        encoder_({784, 128, bits}, generator_),
        code_(bits, 128, generator_),
        pixel_features_(128, 784 * 5, generator_),
        levels_(5, 256, generator_) {
    EstimatorOptions options;
    options.encoding = "both-states";
    estimator_ = make_estimator(estimator, options);
    images_ = at::randint(0, 256, {kBatch, 784}, generator_, at::kLong);
    noise_ = at::randn({kBatch, bits}, generator_, at::kFloat);
    lab::Adam::Parameters parameters;
    int index = 0;
    for (torch::nn::Module* m :
         std::initializer_list<torch::nn::Module*>{&encoder_, &code_, &pixel_features_, &levels_}) {
      for (const auto& p : m->parameters()) parameters.emplace_back(std::to_string(index++), p);
    }
    adam_ =
        std::make_unique<lab::Adam>(std::move(parameters), lab::AdamOptions{.learning_rate = 0});
  }

  /// Milliseconds of each part.
  std::map<std::string, double> run() {
    std::map<std::string, double> times;
    const auto part = [&](const char* name, const std::function<void()>& f) {
      times[name] += bench::milliseconds(f);
    };
    const auto leaf = [](const at::Tensor& t) { return t.detach().requires_grad_(); };
    at::Tensor encoded, scores, features, features_leaf, nll, probs, entropy;
    std::unique_ptr<Distribution> q;
    Assignments z;
    part("encoder", [&] { encoded = encoder_.forward(images_.to(at::kFloat).div_(255)); });
    scores = leaf(encoded.detach() * 0.1 + noise_);
    part("inference", [&] {
      q = estimator_->distribution(structure_, scores);
      if (const auto* sparse = dynamic_cast<SparseDistribution*>(q.get())) {
        z = sparse->support();
        probs = sparse->probs();
      } else {
        z = q->sample(1, generator_);
        probs = q->log_prob(z);
      }
      entropy = q->entropy();
    });
    evaluations_ = static_cast<double>(z.count()) / kBatch;
    part("decoder", [&] {
      features = pixel_features_.forward(code_.forward(z).relu_()).view({-1, 784, 5});
    });
    features_leaf = leaf(features);
    part("likelihood", [&] {
      nll = linear_cross_entropy(features_leaf, levels_.weight(), levels_.bias(), images_, z.rows);
      nll.backward(probs.detach().abs());
    });
    part("decoder", [&] { features.backward(features_leaf.grad()); });
    part("inference",
         [&] { (z.sum_per_example(probs * nll.detach()) - entropy).mean().backward(); });
    part("encoder", [&] { encoded.backward(scores.grad()); });
    part("optimiser", [&] {
      adam_->step();
      adam_->zero_grad();
    });
    return times;
  }
  double evaluations() const { return evaluations_; }

 private:
  at::Generator generator_ = lab::make_generator(0, "bench");
  BitVector structure_;
  lab::Mlp encoder_;
  lab::AssignmentEmbedding code_;
  lab::Linear pixel_features_, levels_;
  std::shared_ptr<Estimator> estimator_;
  std::unique_ptr<lab::Adam> adam_;
  at::Tensor images_, noise_;
  double evaluations_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);  // as the program does
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
  at::set_num_threads(argc > 1 ? std::atoi(argv[1]) : 2);
  std::printf("%d threads, batch %lld, milliseconds\n", at::get_num_threads(),
              static_cast<long long>(kBatch));
  std::printf("%5s %-18s %8s %8s", "D", "estimator", "calls", "step");
  for (const auto& part : kParts) std::printf(" %11s", part.c_str());
  std::printf(" %10s %9s\n", "inference", "peak MB");
  for (const int64_t bits : {32, 128}) {
    for (const char* estimator :
         {"sfe", "top-k", "top-k-adaptive", "sparsemap", "sparsemap-budget"}) {
      Step step(estimator, bits);
      std::map<std::string, std::vector<double>> times;
      for (int i = -2; i < 15; ++i) {
        for (const auto& [part, time] : step.run()) {
          if (i >= 0) times[part].push_back(time);
        }
      }
      double total = 0;
      for (const auto& part : kParts) total += bench::median(times[part]);
      std::printf("%5lld %-18s %8.1f %8.1f", static_cast<long long>(bits), estimator,
                  step.evaluations(), total);
      for (const auto& part : kParts) std::printf(" %11.2f", bench::median(times[part]));
      rusage usage{};
      getrusage(RUSAGE_SELF, &usage);
      std::printf(" %8.1f %% %9.0f\n", 100 * bench::median(times["inference"]) / total,
                  static_cast<double>(usage.ru_maxrss) / 1024);
    }
  }
}
