#include "lab/sweep.h"

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "lab/error.h"

#include <CLI/CLI.hpp>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <limits>
#include <memory>

namespace sparsum::cli {
namespace {

using lab::RunState;
using lab::RunStatus;

struct Arguments {
  lab::SweepRequest request;
  std::string shard;
  bool json = false, quiet = false;
};

const char* word(RunState state) {
  switch (state) {
    case RunState::kWaiting:
      return "stopped";
    case RunState::kRunning:
      return "started";
    case RunState::kFinished:
      return "done";
    case RunState::kFailed:
      return "failed";
    case RunState::kElsewhere:
      return "another process has it";
  }
  return "";
}

/// A line for each run that starts, ends or fails.
class Lines : public lab::SweepObserver {
 public:
  void on_change(const RunStatus& status) override {
    std::fprintf(stderr, "%s: %s%s%s\n", status.run->name.c_str(), word(status.state),
                 status.message.empty() ? "" : ": ", status.message.c_str());
  }
};

/// The failures only.
class Failures final : public Lines {
 public:
  void on_change(const RunStatus& status) override {
    if (status.state == RunState::kFailed) Lines::on_change(status);
  }
};

/// A table that is drawn anew in its place: counts, and a line for each run that is under way. What
/// has failed stays above it.
class Table final : public Lines {
 public:
  ~Table() override { clear(); }

  void on_change(const RunStatus& status) override {
    if (status.state != RunState::kFailed && status.state != RunState::kElsewhere) return;
    clear();
    Lines::on_change(status);
  }

  void on_progress(const std::vector<RunStatus>& statuses) override {
    if (++calls_ % 5 != 1) return;  // once a second
    clear();
    int64_t counts[5] = {};
    double left = 0;  // epochs
    double rate = 0;  // epochs a second, of all that run
    for (const RunStatus& status : statuses) {
      ++counts[static_cast<int>(status.state)];
      const auto rest =
          static_cast<double>(std::max<int64_t>(0, status.run->epochs - status.epoch));
      if (status.state == RunState::kWaiting || status.state == RunState::kRunning) left += rest;
      if (status.state == RunState::kRunning && status.eta_seconds > 0) {
        rate += rest / status.eta_seconds;
      }
    }
    const auto count = [&](RunState state) {
      return static_cast<long long>(counts[static_cast<int>(state)]);
    };
    std::string head = std::to_string(count(RunState::kFinished)) + " of " +
                       std::to_string(statuses.size()) + " done, " +
                       std::to_string(count(RunState::kRunning)) + " running, " +
                       std::to_string(count(RunState::kWaiting)) + " to do";
    if (count(RunState::kFailed))
      head += ", " + std::to_string(count(RunState::kFailed)) + " failed";
    if (rate > 0) head += "   ETA " + duration(left / rate);
    draw(head);
    for (const RunStatus& status : statuses) {
      if (status.state != RunState::kRunning) continue;
      std::string line = "  " + status.run->name;
      if (line.size() < 44) line.resize(44, ' ');
      line += "  epoch " + std::to_string(status.epoch) + "/" + std::to_string(status.run->epochs);
      if (status.eta_seconds >= 0) line += "   ETA " + duration(status.eta_seconds);
      draw(line);
    }
    std::fflush(stderr);
  }

 private:
  void draw(const std::string& line) {
    winsize size{};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    std::fprintf(stderr, "%s\n", line.substr(0, known ? size.ws_col - 1u : 100u).c_str());
    ++lines_;
  }
  void clear() {
    if (lines_ > 0) std::fprintf(stderr, "\033[%dA\033[J", lines_);
    lines_ = 0;
  }

  int lines_ = 0;
  int64_t calls_ = 0;
};

std::unique_ptr<lab::SweepObserver> make_observer(bool quiet) {
  if (quiet) return std::make_unique<Failures>();
  if (isatty(STDERR_FILENO)) return std::make_unique<Table>();
  return std::make_unique<Lines>();
}

/// "2/8": shard 2 of 8, counted from 0.
void read_shard(const std::string& text, lab::SweepRequest& request) {
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, request.shard);
  bool good = first.ec == std::errc() && first.ptr != end && *first.ptr == '/';
  if (good) {
    const auto second = std::from_chars(first.ptr + 1, end, request.shards);
    good = second.ec == std::errc() && second.ptr == end;
  }
  if (!good || request.shard < 0 || request.shards < 1 || request.shard >= request.shards) {
    throw lab::InputError("option --shard: expected I/N with 0 <= I < N, got '" + text + "'");
  }
}

int sweep(Arguments arguments) {
  if (!arguments.shard.empty()) read_shard(arguments.shard, arguments.request);
  arguments.request.program = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto& stop = catch_interrupts();
  lab::SweepResult result;
  {
    const auto observer = make_observer(arguments.quiet);
    result = lab::run_sweep(arguments.request, stop, *observer);
  }
  if (arguments.json) {
    std::printf("%s\n", lab::Json{{"sweep", arguments.request.out.string()},
                                  {"finished", result.finished},
                                  {"failed", result.failed},
                                  {"elsewhere", result.elsewhere},
                                  {"waiting", result.waiting}}
                            .dump(2)
                            .c_str());
  } else {
    std::printf("%s: %lld done, %lld failed, %lld with other processes, %lld to do\n",
                arguments.request.out.c_str(), static_cast<long long>(result.finished),
                static_cast<long long>(result.failed), static_cast<long long>(result.elsewhere),
                static_cast<long long>(result.waiting));
  }
  if (stop) {
    std::fprintf(stderr, "sparsum: stopped; the same command goes on where it was\n");
    return kInterrupted + caught_signal();
  }
  return result.failed > 0 ? kFailure : 0;
}

}  // namespace

void add_sweep(CLI::App& program, Command& chosen) {
  auto* command = program.add_subcommand(
      "sweep", "Train all runs of a list or grid of options and seeds; go on where it was stopped");
  const auto arguments = std::make_shared<Arguments>();
  lab::SweepRequest& request = arguments->request;
  command
      ->add_option(
          "file", request.file,
          "TOML file: [common] options, and [[runs]] with a config and options, in which a "
          "list stands for one run for each of its elements")
      ->required()
      ->type_name("FILE");
  command->add_option("--out", request.out, "folder of the sweep [default runs/NAME of the file]")
      ->type_name("DIR");
  command
      ->add_option("--jobs", request.jobs, "runs at a time, each a process [at least 1; default 1]")
      ->type_name("INT")
      ->check(CLI::Range(int64_t{1}, int64_t{4096}));
  command
      ->add_option("--threads", request.threads,
                   "threads of all runs together, divided among --jobs [default 0: one a core]")
      ->type_name("INT")
      ->check(CLI::Range(int64_t{0}, int64_t{4096}));
  command
      ->add_option("--shard", arguments->shard,
                   "only the runs I, I + N, I + 2 N, … of the list, for the N jobs of a cluster's "
                   "array [default all]")
      ->type_name("I/N");
  command->add_flag("--json", arguments->json, "print how many are done, failed and to do as JSON");
  command->add_flag("--quiet", arguments->quiet, "show failures only");
  command->callback([arguments, &chosen] {
    chosen = [arguments] {
      if (arguments->request.out.empty()) {
        arguments->request.out = std::filesystem::path("runs") / arguments->request.file.stem();
      }
      return sweep(*arguments);
    };
  });
}

}  // namespace sparsum::cli
