#pragma once

#include "folder.h"

#include <lab/data/idx.h>
#include <lab/data/image_data.h>
#include <lab/run.h>
#include <torch/torch.h>

#include <atomic>
#include <filesystem>
#include <string>

namespace sparsum_test {

/// Images of ten classes, each a bright square in a place of its own on a dim, noisy ground, as the
/// four files of a data set under `root`.
inline void write_small_data(const std::filesystem::path& root, int64_t train = 320,
                             int64_t test = 50, const std::string& name = "mnist") {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{7});
  const auto& files = sparsum::lab::data_source(name).files;
  std::filesystem::create_directories(root / name);
  for (int part = 0; part < 2; ++part) {
    const int64_t n = part == 0 ? train : test;
    at::Tensor images = at::randint(0, 40, {n, 28, 28}, generator, at::kByte);
    at::Tensor labels = at::arange(n, at::kLong).remainder(10);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t label = i % 10, top = 2 + 13 * (label / 5), left = 1 + 5 * (label % 5);
      images[i].slice(0, top, top + 10).slice(1, left, left + 5).fill_(230);
    }
    sparsum::lab::write_idx(root / name / files[2 * part].name, images);
    sparsum::lab::write_idx(root / name / files[2 * part + 1].name, labels.to(at::kByte));
  }
}

/// A run of seconds on them: 2 epochs of 3 steps of warm-up, 3 epochs of 6 steps after it.
inline sparsum::lab::TrainRequest small_request(const std::filesystem::path& root,
                                                const std::filesystem::path& out,
                                                const sparsum::lab::Settings& more = {}) {
  sparsum::lab::TrainRequest request;
  request.experiment = "ssvae";
  request.out = out;
  request.settings = {{"data", root.string()}, {"labelled", "40"},   {"unlabelled", "96"},
                      {"validation", "60"},    {"batch-size", "16"}, {"warmup-epochs", "2"},
                      {"epochs", "3"},         {"threads", "2"},     {"split", "stratified"}};
  request.settings.insert(request.settings.end(), more.begin(), more.end());
  return request;
}

/// Sets `stop` once that many steps are done.
class StopAfter final : public sparsum::lab::TrainingObserver {
 public:
  explicit StopAfter(int64_t steps) : steps_(steps) {}
  void on_step(const sparsum::lab::Progress& progress) override {
    if (progress.steps_done == steps_) stop = true;
  }
  void on_message(const std::string& message) override { messages += message + "\n"; }

  std::atomic<bool> stop = false;
  std::string messages;

 private:
  int64_t steps_;
};

inline sparsum::lab::TrainResult run_small(const sparsum::lab::TrainRequest& request,
                                           int64_t stop_after = -1) {
  StopAfter observer(stop_after);
  return sparsum::lab::train(request, observer.stop, observer);
}

}  // namespace sparsum_test
