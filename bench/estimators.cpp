// What an estimator adds to the evaluations of the loss that it asks for, on the semi-supervised
// VAE.
//
//   bench_estimators [THREADS]
//
// For a batch of 64 images: an estimate with its backward pass against the same number of losses,
// evaluated at given outcomes and averaged, with theirs; and against both with the rest of a
// training step (the classifier, the features, 64 labelled images, Adam). They take turns; medians
// count.

#include "bench/timing.h"
#include "lab/adam.h"
#include "lab/experiments/ssvae.h"
#include "lab/random.h"

#include <ATen/Parallel.h>
#include <malloc.h>
#include <sparsum/categorical.h>
#include <sparsum/estimator.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace sparsum;

constexpr int64_t kImages = 64, kPixels = 784, kClasses = 10;

struct Model {
  at::Generator draws = lab::make_generator(0, "bench");
  std::shared_ptr<lab::SsvaeModel> network =
      std::make_shared<lab::SsvaeModel>(kPixels, kClasses, draws);
  at::Tensor images = at::rand({2 * kImages, kPixels}, draws).gt(0.7).to(at::kFloat);
  Categorical structure{kClasses};

  /// Scores as a half-trained model gives them: two or three classes with mass in sparsemax.
  at::Tensor sharpen(const at::Tensor& scores) const { return scores * 20; }

  LossFn loss(const at::Tensor& half, at::Generator noise) const {
    return [this, half, noise](const Assignments& z, const std::vector<at::Tensor>& shared) {
      return Loss(network->loss(z, half, shared[0], noise));
    };
  }

  /// One step but for the update: the labelled half at given classes, the other by `objective`.
  template <typename Objective>
  void step(const Objective& objective) {
    const at::Tensor scores = sharpen(network->scores(images));
    const at::Tensor features = network->features(images);
    const at::Tensor classes = at::arange(kImages, at::kLong).remainder(kClasses);
    const at::Tensor labelled =
        network->loss(one_per_example(classes, kClasses), images.slice(0, 0, kImages),
                      features.slice(0, 0, kImages), draws) +
        at::cross_entropy_loss(scores.slice(0, 0, kImages), classes, {}, at::Reduction::None);
    (labelled.mean() + objective(scores.slice(0, kImages), features.slice(0, kImages))).backward();
    for (auto& parameter : network->parameters()) parameter.mutable_grad().reset();
  }
};

/// The mean loss of `per_example` given outcomes of each example.
at::Tensor plain(Model& model, const at::Tensor& features, int64_t per_example) {
  Assignments z =
      one_per_example(at::arange(kImages * per_example, at::kLong).remainder(kClasses), kClasses);
  z.rows = z.rows.div(per_example, "floor");
  z.row_splits = at::arange(kImages + 1, at::kLong) * per_example;
  return model.loss(model.images.slice(0, kImages), model.draws)(z, {features}).value.mean();
}

}  // namespace

int main(int argc, char** argv) {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);  // as the program does
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
  if (argc > 2) {
    std::fprintf(stderr, "usage: bench_estimators [THREADS]\n");
    return 2;
  }
  at::set_num_threads(argc > 1 ? std::stoi(argv[1]) : 1);
  Model model;
  std::printf("%-18s %12s %10s %10s %8s %10s %10s %8s\n", "estimator", "evaluations", "estimate",
              "losses", "ratio", "step", "plain", "ratio");
  for (const std::string& name : estimator_names()) {
    EstimatorOptions options;
    options.context = kPixels;
    options.parts = kClasses;
    const auto estimator = make_estimator(name, options, lab::make_generator(0, "estimator"));
    try {
      estimator->check(model.structure);
    } catch (const c10::Error&) {
      continue;
    }
    const auto estimate = [&](const at::Tensor& scores, const at::Tensor& features) {
      const at::Tensor half = model.images.slice(0, kImages);
      const Problem problem{.structure = model.structure,
                            .scores = scores,
                            .loss = model.loss(half, model.draws),
                            .shared = {features},
                            .context = half};
      return estimator->estimate(problem, model.draws);
    };
    const auto attached = [](const at::Tensor& t) { return t.detach().set_requires_grad(true); };
    const at::Tensor scores = attached(model.sharpen(model.network->scores(model.images)))
                                  .slice(0, kImages)
                                  .detach()
                                  .set_requires_grad(true);
    const at::Tensor features = attached(model.network->features(model.images).slice(0, kImages));
    const double evaluations =
        estimate(scores, features).evaluations.to(at::kDouble).mean().item<double>();
    const auto per_example = static_cast<int64_t>(std::lround(std::max(1.0, evaluations)));
    const auto own = [&](const at::Tensor& s, const at::Tensor& f) {
      const Estimate got = estimate(s, f);
      at::Tensor objective = got.objective.mean();
      if (got.auxiliary.defined()) objective = objective + got.auxiliary;
      return objective;
    };
    const auto given = [&](const at::Tensor& s, const at::Tensor& f) {
      return plain(model, f, per_example) + 0 * s.sum();
    };
    const auto clear = [&] {
      for (auto& p : model.network->parameters()) p.mutable_grad().reset();
    };
    std::vector<bench::Timed> all = {
        {"estimate", [&] { own(scores, features).backward(), clear(); }, 5},
        {"losses", [&] { given(scores, features).backward(), clear(); }, 5},
        {"step", [&] { model.step(own); }, 3},
        {"plain", [&] { model.step(given); }, 3},
    };
    bench::take_turns(all, 25);
    std::vector<double> ms;
    for (const auto& each : all) ms.push_back(bench::median(each.times));
    // The losses of a whole number of pairs, scaled to what the estimator evaluates.
    const double scale = evaluations / static_cast<double>(per_example);
    std::printf("%-18s %12.2f %10.2f %10.2f %8.2f %10.2f %10.2f %8.2f\n", name.c_str(), evaluations,
                ms[0], ms[1] * scale, ms[0] / (ms[1] * scale), ms[2], ms[3], ms[2] / ms[3]);
  }
}
