// A training step by sparse marginalization against the same step by dense marginalization and by
// the score function, from the same trained model on the same batches.
//
//   bench_training_step RUN [THREADS]
//
// RUN is a run of `sparsum train ssvae` or `sparsum train signal`. The estimators take turns, a few
// steps at a time; the median over the turns is what counts.

#include "lab/adam.h"
#include "lab/checkpoint.h"
#include "lab/experiment.h"
#include "lab/run_folder.h"

#include <ATen/Parallel.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace sparsum;

struct Contender {
  std::string name;
  std::unique_ptr<lab::ExperimentConfig> config;
  std::unique_ptr<lab::Experiment> experiment;
  std::unique_ptr<lab::Adam> adam;
  std::vector<double> milliseconds, optimiser;  // a step, and the optimiser's part of it

  const lab::Phase& phase() const { return experiment->phases().back(); }
  void run(int steps, bool counted) {
    using Clock = std::chrono::steady_clock;
    Clock::duration whole{}, updates{};
    for (int i = 0; i < steps; ++i) {
      const auto begin = Clock::now();
      experiment->step(phase()).backward();
      const auto gradients = Clock::now();
      adam->step();
      adam->zero_grad();
      const auto end = Clock::now();
      whole += end - begin;
      updates += end - gradients;
    }
    if (!counted) return;
    const auto each = [&](Clock::duration time) {
      return std::chrono::duration<double, std::milli>(time).count() / steps;
    };
    milliseconds.push_back(each(whole));
    optimiser.push_back(each(updates));
  }
};

Contender make(const lab::RunFolder& folder, const std::string& estimator, int64_t threads) {
  Contender result;
  result.name = estimator;
  result.config = lab::read_config(folder.config());
  lab::Options options = result.config->options();
  options.set("estimator", estimator);
  options.set("threads", std::to_string(threads));
  result.config->resolve();
  result.experiment = result.config->make();
  // Only the network: what the estimator itself keeps (a baseline) is its own.
  auto& model = result.experiment->model();
  const auto trained = lab::read_safetensors(folder.checkpoint("best")).tensors;
  const at::NoGradGuard no_grad;
  lab::Adam::Parameters parameters;
  for (auto& entry : model.named_parameters()) {
    const auto found = trained.find("model/" + entry.key());
    if (found != trained.end()) entry.value().copy_(found->second);
    parameters.emplace_back(entry.key(), entry.value());
  }
  // A step size of 0: the model stays as it is while it is timed.
  result.adam =
      std::make_unique<lab::Adam>(std::move(parameters), lab::AdamOptions{.learning_rate = 0});
  result.experiment->begin_phase(result.phase());
  result.experiment->begin_epoch();
  return result;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);  // as the program does
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: bench_training_step RUN [THREADS]\n");
    return 2;
  }
  const int64_t threads = argc > 2 ? std::stoll(argv[2]) : 1;
  constexpr int kRounds = 40, kSteps = 10;

  const auto folder = lab::RunFolder::of_existing_run(argv[1]);
  std::vector<Contender> contenders;
  for (const char* estimator : {"sfe", "sparsemax", "dense"}) {
    contenders.push_back(make(folder, estimator, threads));
  }
  for (int round = -2; round < kRounds; ++round) {  // two turns to warm up
    for (Contender& contender : contenders) {
      contender.run(kSteps, round >= 0);
    }
  }
  const double score_function = median(contenders[0].milliseconds);
  const double dense = median(contenders[2].milliseconds);
  std::printf("%-10s %10s %10s %12s %8s %8s\n", "estimator", "ms/step", "optimiser", "evaluations",
              "/ sfe", "/ dense");
  for (const Contender& contender : contenders) {
    const double own = median(contender.milliseconds);
    std::printf("%-10s %10.2f %10.2f %12.2f %8.2f %8.2f\n", contender.name.c_str(), own,
                median(contender.optimiser), contender.experiment->epoch_numbers().evaluations,
                own / score_function, own / dense);
  }
}
