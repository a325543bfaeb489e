#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace sparsum::bench {

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Milliseconds of one call.
inline double milliseconds(const std::function<void()>& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

struct Timed {
  std::string name;
  std::function<void()> run;
  int calls = 1;  ///< in a turn
  std::vector<double> times = {};
};

/// Lets them take turns, so that the machine's drift hits all of them; two turns are not counted.
inline void take_turns(std::vector<Timed>& all, int turns) {
  for (int turn = -2; turn < turns; ++turn) {
    for (Timed& each : all) {
      const double time = milliseconds([&] {
        for (int i = 0; i < each.calls; ++i) each.run();
      });
      if (turn >= 0) each.times.push_back(time / each.calls);
    }
  }
}

}  // namespace sparsum::bench
