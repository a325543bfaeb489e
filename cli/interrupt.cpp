#include "cli/interrupt.h"

#include <csignal>

namespace sparsum::cli {
namespace {

std::atomic<bool> stop = false;
std::atomic<int> signal_number = 0;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");

}  // namespace

const std::atomic<bool>& catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int number) {
    signal_number.store(number);
    stop.store(true);
  };
  // One shot: the next one takes its usual course. Interrupted system calls go on.
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  return stop;
}

int caught_signal() { return signal_number.load(); }

}  // namespace sparsum::cli
