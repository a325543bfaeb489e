#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace sparsum::cli {
namespace {

using Clock = std::chrono::steady_clock;

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string numbers_text(const lab::EpochNumbers& numbers) {
  std::string text = format("loss %.2f", numbers.objective);
  if (numbers.accuracy) text += format("  acc %.2f %%", 100 * *numbers.accuracy);
  if (numbers.evaluations > 0) text += format("  calls %.2f", numbers.evaluations);
  return text;
}

class Quiet : public lab::TrainingObserver {
 public:
  void on_message(const std::string& message) override {
    std::fprintf(stderr, "sparsum: %s\n", message.c_str());
  }
};

class Lines final : public Quiet {
 public:
  void on_epoch(const lab::Progress& progress, const lab::Json& metrics,
                const lab::Json& timing) override {
    std::fprintf(stderr, "%s %lld/%lld  %s  validation: %s  [%.1f s, %.0f steps/s]\n",
                 progress.phase.c_str(), static_cast<long long>(progress.epoch),
                 static_cast<long long>(progress.epochs), numbers_text(progress.numbers).c_str(),
                 describe(metrics["validation"]).c_str(), timing["seconds"].get<double>(),
                 timing["steps_per_second"].get<double>());
  }
};

class Bar final : public Quiet {
 public:
  ~Bar() override { clear(); }

  void on_step(const lab::Progress& progress) override {
    const auto now = Clock::now();
    if (progress.phase != phase_) {
      phase_ = progress.phase;
      phase_began_ = now;
      steps_before_ = progress.steps_done - 1;
    }
    if (now - drawn_ < std::chrono::milliseconds(100)) return;
    drawn_ = now;
    draw(progress, std::chrono::duration<double>(now - phase_began_).count());
  }

  void on_epoch(const lab::Progress&, const lab::Json& metrics, const lab::Json&) override {
    const auto& validation = metrics["validation"];
    validation_ = "  | validation ";
    validation_ += validation.contains("accuracy")
                       ? format("%.2f %%", 100 * validation["accuracy"].get<double>())
                   : validation.contains("success")
                       ? format("%.2f %%", 100 * validation["success"].get<double>())
                       : format("ELBO %.1f", validation.at("elbo").get<double>());
  }

  void on_message(const std::string& message) override {
    clear();
    Quiet::on_message(message);
  }

 private:
  void draw(const lab::Progress& progress, double phase_seconds) {
    constexpr int kCells = 20;
    const double share = progress.steps_total > 0
                             ? static_cast<double>(progress.steps_done) / progress.steps_total
                             : 1;
    const int full = static_cast<int>(share * kCells);
    std::string text = format(
        "%s %lld/%lld  [%s%s] %3.0f %%", progress.phase.c_str(),
        static_cast<long long>(progress.epoch), static_cast<long long>(progress.epochs),
        std::string(full, '=').c_str(), std::string(kCells - full, ' ').c_str(), 100 * share);
    // With evaluations and checkpoints in it, which the steps alone would leave out.
    const double rate = (progress.steps_done - steps_before_) / std::max(phase_seconds, 1e-3);
    text += format("  %.0f steps/s  ETA %s  ", progress.steps_per_second,
                   duration((progress.steps_total - progress.steps_done) / rate).c_str());
    text += numbers_text(progress.numbers) + validation_;
    winsize size{};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    const size_t width = known ? size.ws_col - 1u : 100u;
    std::fprintf(stderr, "\r\033[K%s", text.substr(0, width).c_str());
    std::fflush(stderr);
    shown_ = true;
  }

  void clear() {
    if (shown_) std::fputs("\r\033[K", stderr);
    shown_ = false;
  }

  std::string phase_, validation_;
  Clock::time_point drawn_{}, phase_began_{};
  int64_t steps_before_ = 0;
  bool shown_ = false;
};

}  // namespace

std::unique_ptr<lab::TrainingObserver> make_progress(bool quiet) {
  if (quiet) return std::make_unique<Quiet>();
  if (isatty(STDERR_FILENO)) return std::make_unique<Bar>();
  return std::make_unique<Lines>();
}

std::function<void(const lab::GradientQualityProgress&)> make_gradient_progress(bool quiet) {
  if (quiet) return [](const lab::GradientQualityProgress&) {};
  const auto text = [](const lab::GradientQualityProgress& progress) {
    std::string place = progress.what;
    if (progress.estimators > 0) {
      place += format(" (%lld of %lld)", static_cast<long long>(progress.estimator),
                      static_cast<long long>(progress.estimators));
    }
    return place;
  };
  if (!isatty(STDERR_FILENO)) {
    return [text](const lab::GradientQualityProgress& progress) {
      if (progress.done == 0) std::fprintf(stderr, "%s\n", text(progress).c_str());
    };
  }
  // Clears its line when the last copy goes.
  const std::shared_ptr<void> clear(nullptr, [](void*) { std::fputs("\r\033[K", stderr); });
  return [text, clear](const lab::GradientQualityProgress& progress) {
    std::fprintf(stderr, "\r\033[K%s  %lld/%lld", text(progress).c_str(),
                 static_cast<long long>(progress.done), static_cast<long long>(progress.total));
    std::fflush(stderr);
  };
}

std::string duration(double seconds) {
  const auto s = static_cast<long long>(std::lround(seconds));
  return s >= 3600 ? format("%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60)
                   : format("%lld:%02lld", s / 60, s % 60);
}

double number(const lab::Json& value) {
  return value.is_null() ? std::nan("") : value.get<double>();
}

std::string describe(const lab::Json& metrics) {
  const auto number = [&](const char* name, const char* pattern, double scale) {
    return metrics.contains(name) ? format(pattern, scale * metrics[name].get<double>()) : "";
  };
  std::string text = number("accuracy", "accuracy %.2f %%  ", 100);
  text += number("success", "success %.2f %%  ", 100);
  text += number("elbo", "ELBO %.2f", 1);
  text += number("rate", "  rate %.2f", 1) + number("distortion", "  distortion %.2f nats", 1);
  if (metrics.contains("success")) {
    text += number("nll", "NLL %.3f nats", 1) + number("entropy", "  entropy %.3f nats", 1) +
            number("symbols", "  symbols %.0f", 1);
  } else if (metrics.contains("nll")) {
    text +=
        format("  NLL %.4f ± %.4f bits/dim", metrics["nll"].at("bits_per_dimension").get<double>(),
               metrics["nll"].at("standard_error").get<double>());
  }
  const auto& calls = metrics.at("evaluations");
  text += format("  calls %.2f (median %g, quartiles %g to %g)", calls.at("mean").get<double>(),
                 calls.at("median").get<double>(), calls.at("q25").get<double>(),
                 calls.at("q75").get<double>());
  return text;
}

}  // namespace sparsum::cli
