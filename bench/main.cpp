// Runs the benchmarks, then prints what is compared with what as ratios: the machine's speed
// drifts, so only figures of one run, taken in turn, say anything.
//
// A benchmark is named "<group>/<who>/<case>…"; for each group and case the ratio of every `who` to
// each baseline in it is printed ("softmax", "sorted").

#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace {

class Ratios : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.error_occurred) continue;
      const std::string& name = run.run_name.function_name;
      const size_t first = name.find('/'), second = name.find('/', first + 1);
      if (second == std::string::npos) continue;
      const std::string key = name.substr(0, first) + name.substr(second);
      times_[key][name.substr(first + 1, second - first - 1)].push_back(run.GetAdjustedRealTime());
    }
  }

  void Finalize() override {
    ConsoleReporter::Finalize();
    std::printf("\n%-52s %-16s %12s %14s %14s\n", "case", "who", "median", "/ softmax", "/ sorted");
    for (auto& [key, by_who] : times_) {
      for (auto& [who, times] : by_who) {
        const auto ratio = [&](const char* baseline) -> std::string {
          const auto found = by_who.find(baseline);
          if (found == by_who.end() || who == baseline) return "";
          char text[32];
          std::snprintf(text, sizeof text, "%.3f", median(times) / median(found->second));
          return text;
        };
        std::printf("%-52s %-16s %9.2f us %14s %14s\n", key.c_str(), who.c_str(), median(times),
                    ratio("softmax").c_str(), ratio("sorted").c_str());
      }
    }
  }

 private:
  static double median(std::vector<double>& times) {
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }
  std::map<std::string, std::map<std::string, std::vector<double>>> times_;
};

}  // namespace

int main(int argc, char** argv) {
  // Large results are not returned to the system at every free: page faults would hide what is
  // measured.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  Ratios reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return 0;
}
