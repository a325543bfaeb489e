#include "lab/sweep.h"

#include "lab/error.h"
#include "lab/files.h"
#include "lab/version.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

namespace sparsum::lab {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// --- the file ------------------------------------------------------------------------------------

std::string at_line(const fs::path& file, size_t line) {
  // A file without [[runs]] is one entry, which has no line.
  return file.string() + (line > 0 ? ":" + std::to_string(line) : "") + ": ";
}

std::string at_line(const fs::path& file, const toml::source_region& source) {
  return at_line(file, source.begin.line);
}

/// A TOML value as the command line would have it.
std::string text_of(const fs::path& file, const std::string& key, const toml::node& node) {
  if (const auto value = node.value_exact<bool>()) return *value ? "true" : "false";
  if (const auto value = node.value_exact<int64_t>()) return std::to_string(*value);
  if (const auto value = node.value_exact<double>()) return number_text(*value);
  if (const auto value = node.value_exact<std::string>()) return *value;
  throw InputError(at_line(file, node.source()) + key +
                   ": expected a number, a text, true or false, or a list of such");
}

/// An option and the values that it takes.
struct Choice {
  std::string name;
  std::vector<std::string> values;
  size_t line = 0;
};

/// One entry of the file.
struct Entry {
  std::string config, label;
  size_t line = 0;
  std::vector<Choice> choices;
};

/// Adds a table's keys to an entry; those that it has already get the new value.
void read_table(const fs::path& file, const toml::table& table, Entry& entry) {
  std::vector<std::pair<const toml::key*, const toml::node*>> keys;
  for (const auto& [key, node] : table) keys.emplace_back(&key, &node);
  std::sort(keys.begin(), keys.end(), [](const auto& a, const auto& b) {
    return a.first->source().begin < b.first->source().begin;
  });
  for (const auto& [key, node] : keys) {
    const std::string name(key->str());
    if (name == "label" || name == "config") {
      const auto value = node->value_exact<std::string>();
      if (!value || value->empty()) {
        throw InputError(at_line(file, key->source()) + name + ": expected a text");
      }
      (name == "label" ? entry.label : entry.config) = *value;
      continue;
    }
    Choice choice{.name = name, .values = {}, .line = key->source().begin.line};
    if (const toml::array* list = node->as_array()) {
      for (const toml::node& each : *list) choice.values.push_back(text_of(file, name, each));
      if (choice.values.empty()) {
        throw InputError(at_line(file, key->source()) + name +
                         ": expected at least one value, got an empty list");
      }
      const std::set<std::string> different(choice.values.begin(), choice.values.end());
      if (different.size() < choice.values.size()) {
        throw InputError(at_line(file, key->source()) + name + ": a value is listed twice");
      }
    } else {
      choice.values.push_back(text_of(file, name, *node));
    }
    const auto had = std::find_if(entry.choices.begin(), entry.choices.end(),
                                  [&](const Choice& each) { return each.name == name; });
    if (had == entry.choices.end()) {
      entry.choices.push_back(std::move(choice));
    } else {
      *had = std::move(choice);
    }
  }
}

std::vector<Entry> read_entries(const fs::path& file, const std::string& text, std::string& name) {
  toml::table table;
  try {
    table = toml::parse(text, file.string());
  } catch (const toml::parse_error& error) {
    throw InputError(at_line(file, error.source()) +
                     "no valid TOML: " + std::string(error.description()));
  }
  Entry common;
  const toml::array* runs = nullptr;
  for (const auto& [key, node] : table) {
    if (key.str() == "name" && node.is_string()) {
      name = *node.value_exact<std::string>();
    } else if (key.str() == "common" && node.is_table()) {
      read_table(file, *node.as_table(), common);
    } else if (key.str() == "runs" && node.is_array_of_tables()) {
      runs = node.as_array();
    } else {
      throw InputError(at_line(file, key.source()) +
                       "expected name = \"…\", [common] or [[runs]], "
                       "got " +
                       std::string(key.str()));
    }
  }
  if (!common.label.empty()) {
    throw InputError(file.string() + ": label belongs into [[runs]], not into [common]");
  }
  std::vector<Entry> entries;
  if (runs == nullptr) {
    if (common.choices.empty() && common.config.empty()) {
      throw InputError(file.string() + ": expected [common] or [[runs]] with options, found none");
    }
    entries.push_back(common);
  } else {
    for (const toml::node& each : *runs) {
      Entry entry = common;
      entry.line = each.source().begin.line;
      read_table(file, *each.as_table(), entry);
      entries.push_back(std::move(entry));
    }
  }
  return entries;
}

// --- the runs ------------------------------------------------------------------------------------

constexpr size_t kLongestName = 200;  // of a folder, where systems allow 255 with what is added
constexpr double kMostRuns = 100000;  // more are a slip

/// A sweep's part of a file name.
std::string plain(std::string text) {
  for (char& c : text) {
    if (c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20) c = '_';
  }
  return text;
}

std::unique_ptr<ExperimentConfig> begin_config(const fs::path& file, const Entry& entry) {
  if (!entry.config.empty()) {
    try {
      return read_config(file.parent_path() / entry.config);
    } catch (const InputError& error) {
      throw InputError(at_line(file, entry.line) + error.what());
    }
  }
  for (const Choice& choice : entry.choices) {
    if (choice.name != "experiment") continue;
    if (choice.values.size() > 1) {
      throw InputError(at_line(file, choice.line) +
                       "experiment: expected one, got a list; use one [[runs]] for each");
    }
    try {
      return make_config(choice.values.front());
    } catch (const InputError& error) {
      throw InputError(at_line(file, choice.line) + error.what());
    }
  }
  throw InputError(at_line(file, entry.line) +
                   "expected experiment = \"…\" or config = \"…\", found neither");
}

int64_t epochs_of(const Options& options) {
  int64_t epochs = 0;
  for (const Option& option : options.all()) {
    if (option.name != "epochs" && option.name != "warmup-epochs") continue;
    epochs += *std::get<int64_t*>(option.target);
  }
  return epochs;
}

SweepRun make_run(const fs::path& file, const Entry& entry,
                  const std::vector<const std::string*>& values) {
  auto config = begin_config(file, entry);
  std::string suffix;  // what is varied, but for the seed
  SweepRun run;
  {
    Options options = config->options();
    for (size_t i = 0; i < entry.choices.size(); ++i) {
      const Choice& choice = entry.choices[i];
      if (choice.name == "threads") {
        throw InputError(at_line(file, choice.line) +
                         "threads: the sweep's own --threads and --jobs decide this");
      }
      try {
        options.set(choice.name, *values[i]);
      } catch (const InputError& error) {
        throw InputError(at_line(file, choice.line) + error.what());
      }
      const bool told =
          choice.name == "seed" ||
          (entry.label.empty() && (choice.name == "estimator" || choice.name == "dataset"));
      if (choice.values.size() > 1 && !told) suffix += "-" + choice.name + *values[i];
    }
    run.config = options.to_toml();
    run.epochs = epochs_of(options);
    const int64_t seed = std::exchange(config->run.seed, 0);
    run.method = options.to_toml();
    config->run.seed = seed;
  }
  const std::unique_ptr<ExperimentConfig> resolved = config->clone();
  try {
    resolved->resolve();
    resolved->check_estimator();
  } catch (const InputError& error) {
    throw InputError(at_line(file, entry.line) + error.what());
  }
  const std::string seed = "-s" + std::to_string(config->run.seed);
  std::string by_options = resolved->run_name();
  if (by_options.ends_with(seed)) by_options.resize(by_options.size() - seed.size());
  run.label = plain((entry.label.empty() ? by_options : entry.label) + suffix);
  run.name = run.label + seed;
  if (run.name.size() > kLongestName) {
    throw InputError(at_line(file, entry.line) + "expected a run's name of at most " +
                     std::to_string(kLongestName) + " bytes, got " + run.name +
                     "; give the entry a shorter label");
  }
  const Options options = resolved->options();
  for (const Option& option : options.all()) {
    if (option.name == "experiment") run.experiment = value_text(option);
  }
  return run;
}

}  // namespace

Sweep read_sweep(const fs::path& file) {
  Sweep sweep;
  sweep.text = read_file(file);
  sweep.name = file.stem().string();
  const std::vector<Entry> entries = read_entries(file, sweep.text, sweep.name);
  double count = 0;
  for (const Entry& entry : entries) {
    double combinations = 1;
    for (const Choice& choice : entry.choices) {
      combinations *= static_cast<double>(choice.values.size());
    }
    count += combinations;
  }
  if (count > kMostRuns) {
    throw InputError(file.string() + ": expected at most " + number_text(kMostRuns) +
                     " runs, got lists that stand for " + number_text(count));
  }
  std::map<std::string, size_t> lines;
  std::map<std::string, std::pair<std::string, size_t>> methods;  // by label
  std::map<size_t, std::vector<SweepRun>> by_seed;  // by its place in the entry's list of seeds
  for (const Entry& entry : entries) {
    std::vector<size_t> place(entry.choices.size(), 0);
    while (true) {
      std::vector<const std::string*> values;
      size_t seed = 0;
      for (size_t i = 0; i < place.size(); ++i) {
        values.push_back(&entry.choices[i].values[place[i]]);
        if (entry.choices[i].name == "seed") seed = place[i];
      }
      SweepRun run = make_run(file, entry, values);
      const auto [had, fresh] = lines.emplace(run.name, entry.line);
      if (!fresh) {
        throw InputError(file.string() + ": two runs are called " + run.name +
                         " (the entries at lines " + std::to_string(had->second) + " and " +
                         std::to_string(entry.line) + "): give one of them a label");
      }
      const auto [same, is_new] = methods.emplace(run.label, std::pair(run.method, entry.line));
      if (!is_new && same->second.first != run.method) {
        throw InputError(at_line(file, entry.line) + "expected runs labelled " + run.label +
                         " to differ in their seed alone, as tables take their mean; the entry at "
                         "line " +
                         std::to_string(same->second.second) + " has other options");
      }
      run.place = static_cast<int64_t>(lines.size()) - 1;
      by_seed[seed].push_back(std::move(run));
      // The next combination; the last list varies fastest.
      size_t i = place.size();
      while (i > 0 && ++place[i - 1] == entry.choices[i - 1].values.size()) place[--i] = 0;
      if (i == 0) break;
    }
  }
  // A study that is cut off has every method's first seeds.
  for (auto& [seed, runs] : by_seed) {
    std::move(runs.begin(), runs.end(), std::back_inserter(sweep.runs));
  }
  return sweep;
}

// --- running -------------------------------------------------------------------------------------

namespace {

/// The paths of one sweep's folder.
struct SweepFolder {
  fs::path root;
  fs::path config(const std::string& run) const { return root / "configs" / (run + ".toml"); }
  fs::path run(const std::string& run) const { return root / "runs" / run; }
  fs::path log(const std::string& run) const { return root / "logs" / (run + ".txt"); }
  fs::path failed(const std::string& run) const { return root / "failed" / (run + ".json"); }
  fs::path lock(const std::string& run) const { return root / "locks" / run; }
};

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw InputError(path.string() + ": cannot make the folder: " + error.message());
}

/// Writes what describes the sweep; refuses a folder whose runs of the same names are others.
void describe(const Sweep& sweep, const SweepFolder& folder) {
  for (const char* part : {"configs", "runs", "logs", "failed", "locks"}) {
    make_folder(folder.root / part);
  }
  for (const SweepRun& run : sweep.runs) {
    const fs::path path = folder.config(run.name);
    // Read and written again: an earlier version may have had other words, or fewer options.
    if (fs::exists(path) && read_config(path)->options().to_toml() != run.config) {
      throw InputError(path.string() +
                       ": the folder has a run of this name with other options; "
                       "choose another --out, or give the entry another label");
    }
  }
  for (const SweepRun& run : sweep.runs) {
    if (!fs::exists(folder.config(run.name))) {
      write_file_atomically(folder.config(run.name), run.config);
    }
  }
  Json plan;
  plan["schema"] = 1;
  plan["name"] = sweep.name;
  plan["versions"] = {{"sparsum", version()}, {"torch", torch_version()}};
  plan["runs"] = Json::array();
  for (const SweepRun& run : sweep.runs) {
    plan["runs"].push_back({{"name", run.name},
                            {"label", run.label},
                            {"experiment", run.experiment},
                            {"epochs", run.epochs}});
  }
  write_file_atomically(folder.root / "sweep.toml", sweep.text);
  write_file_atomically(folder.root / "sweep.json", plan.dump(2) + "\n");
}

int64_t lines_of(const fs::path& path) {
  std::ifstream file(path);
  return std::count(std::istreambuf_iterator<char>(file), {}, '\n');
}

/// The last line that was written after the first `begin` bytes, or "".
std::string last_line(const fs::path& path, int64_t begin) {
  std::ifstream file(path);
  file.seekg(begin);
  std::string line, last;
  while (std::getline(file, line)) {
    if (!line.empty()) last = line;
  }
  return last;
}

/// A run that may be another process's: held while this exists.
class RunLock {
 public:
  static std::unique_ptr<RunLock> take(const fs::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) throw InputError(path.string() + ": " + std::strerror(errno));
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      ::close(descriptor);
      return nullptr;
    }
    return std::unique_ptr<RunLock>(new RunLock(descriptor));
  }
  ~RunLock() { ::close(descriptor_); }
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  explicit RunLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

/// A run's process.
class Child {
 public:
  Child(const SweepRequest& request, const SweepFolder& folder, const SweepRun& run,
        int64_t threads)
      : began_(Clock::now()),
        first_epoch_(lines_of(folder.run(run.name) / "metrics.jsonl")),
        log_(folder.log(run.name)) {
    std::error_code none_yet;
    const auto size = fs::file_size(log_, none_yet);
    if (!none_yet) log_begin_ = static_cast<int64_t>(size);
    std::vector<std::string> words = {request.program,
                                      "train",
                                      run.experiment,
                                      "--config",
                                      folder.config(run.name).string(),
                                      "--out",
                                      folder.run(run.name).string(),
                                      "--quiet"};
    words.emplace_back("--threads");
    words.push_back(std::to_string(threads));
    if (fs::exists(folder.run(run.name) / "config.toml")) words.emplace_back("--resume");
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0)
      throw InputError(request.program + ": cannot be started: " + std::strerror(errno));
    if (pid_ > 0) return;
    // In the child: calls that are safe after a fork only.
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(127);
    ::setpgid(0, 0);  // Ctrl-C reaches the sweep, which passes it on once
    const int nothing = ::open("/dev/null", O_RDWR);
    const int messages = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
    ::dup2(nothing, STDIN_FILENO);
    ::dup2(nothing, STDOUT_FILENO);
    ::dup2(messages >= 0 ? messages : nothing, STDERR_FILENO);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void interrupt() const { ::kill(pid_, SIGINT); }

  /// Whether it has ended, and then how: its exit code, or 128 and the signal's number, and what
  /// it said last.
  bool ended(int& code, std::string& message) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
    message = last_line(log_, log_begin_);
    if (WIFEXITED(status)) {
      code = WEXITSTATUS(status);
      if (message.empty()) message = "ended with exit code " + std::to_string(code);
    } else {
      const int number = WTERMSIG(status);
      code = 128 + number;
      message = "ended by signal " + std::to_string(number) + " (" + ::strsignal(number) + ")" +
                (number == SIGKILL ? ", as where memory runs out" : "");
    }
    return true;
  }

  double eta(int64_t epoch, int64_t epochs) const {
    if (epoch <= first_epoch_) return -1;
    const double seconds = std::chrono::duration<double>(Clock::now() - began_).count();
    return seconds / static_cast<double>(epoch - first_epoch_) *
           static_cast<double>(epochs - epoch);
  }

 private:
  pid_t pid_ = -1;
  Clock::time_point began_;
  int64_t first_epoch_;
  fs::path log_;
  int64_t log_begin_ = 0;  // of this process's messages; those of earlier ones stand before
};

class Runner {
 public:
  Runner(const SweepRequest& request, const Sweep& sweep, const std::atomic<bool>& stop,
         SweepObserver& observer)
      : request_(request), folder_{request.out}, stop_(stop), observer_(observer) {
    const int64_t cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
    threads_ = std::max<int64_t>(1, (request.threads > 0 ? request.threads : cores) / request.jobs);
    for (const SweepRun& run : sweep.runs) {
      if (run.place % request.shards != request.shard) continue;
      RunStatus status;
      status.run = &run;
      if (finished(*status.run)) status.state = RunState::kFinished;
      status.epoch = epochs_done(*status.run);
      statuses_.push_back(status);
    }
    slots_.resize(statuses_.size());
  }

  SweepResult run() {
    while (true) {
      if (!stop_) start_more();
      if (stop_ && !told_) {
        for (const Slot& slot : slots_) {
          if (slot.child) slot.child->interrupt();
        }
        told_ = true;
      }
      collect();
      observer_.on_progress(statuses_);
      if (running() == 0 && (stop_ || !any_waiting())) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    SweepResult result;
    for (const RunStatus& status : statuses_) {
      switch (status.state) {
        case RunState::kFinished:
          ++result.finished;
          break;
        case RunState::kFailed:
          ++result.failed;
          break;
        case RunState::kElsewhere:
          ++result.elsewhere;
          break;
        default:
          ++result.waiting;
      }
    }
    return result;
  }

 private:
  struct Slot {
    std::unique_ptr<RunLock> lock;
    std::unique_ptr<Child> child;
  };

  bool finished(const SweepRun& run) const {
    return fs::exists(folder_.run(run.name) / "summary.json");
  }
  int64_t epochs_done(const SweepRun& run) const {
    return lines_of(folder_.run(run.name) / "metrics.jsonl");
  }
  int64_t running() const {
    return std::count_if(slots_.begin(), slots_.end(),
                         [](const Slot& slot) { return slot.child != nullptr; });
  }
  bool any_waiting() const {
    return std::any_of(statuses_.begin(), statuses_.end(),
                       [](const RunStatus& status) { return status.state == RunState::kWaiting; });
  }

  void become(size_t i, RunState state) {
    statuses_[i].state = state;
    observer_.on_change(statuses_[i]);
  }

  void start_more() {
    for (size_t i = 0; i < statuses_.size() && running() < request_.jobs; ++i) {
      const bool elsewhere = statuses_[i].state == RunState::kElsewhere;
      if (statuses_[i].state != RunState::kWaiting && !elsewhere) continue;
      const SweepRun& run = *statuses_[i].run;
      Slot& slot = slots_[i];
      slot.lock = RunLock::take(folder_.lock(run.name));
      if (!slot.lock) {
        if (!elsewhere) become(i, RunState::kElsewhere);
        continue;
      }
      if (finished(run)) {  // by another process, since this one looked
        slot.lock.reset();
        become(i, RunState::kFinished);
        continue;
      }
      fs::remove(folder_.failed(run.name));
      slot.child = std::make_unique<Child>(request_, folder_, run, threads_);
      become(i, RunState::kRunning);
    }
  }

  void collect() {
    for (size_t i = 0; i < statuses_.size(); ++i) {
      Slot& slot = slots_[i];
      if (!slot.child) continue;
      RunStatus& status = statuses_[i];
      const SweepRun& run = *status.run;
      status.epoch = epochs_done(run);
      status.eta_seconds = slot.child->eta(status.epoch, run.epochs);
      int code = 0;
      std::string message;
      if (!slot.child->ended(code, message)) continue;
      slot.child.reset();
      if (code == 0 && finished(run)) {
        become(i, RunState::kFinished);
      } else if (stop_) {
        become(i, RunState::kWaiting);
      } else {
        status.message = message;
        write_file_atomically(
            folder_.failed(run.name),
            Json{{"run", run.name}, {"exit_code", code}, {"message", status.message}}.dump(2) +
                "\n");
        become(i, RunState::kFailed);
      }
      slot.lock.reset();
    }
  }

  const SweepRequest& request_;
  SweepFolder folder_;
  const std::atomic<bool>& stop_;
  SweepObserver& observer_;
  int64_t threads_ = 1;
  bool told_ = false;
  std::vector<RunStatus> statuses_;
  std::vector<Slot> slots_;
};

}  // namespace

SweepResult run_sweep(const SweepRequest& request, const std::atomic<bool>& stop,
                      SweepObserver& observer) {
  const Sweep sweep = read_sweep(request.file);
  describe(sweep, {request.out});
  return Runner(request, sweep, stop, observer).run();
}

}  // namespace sparsum::lab
