#pragma once

#include <atomic>

namespace sparsum::cli {

/// From now on, Ctrl-C (SIGINT) and SIGTERM set the flag that is returned; a second one ends the
/// program at once.
const std::atomic<bool>& catch_interrupts();

/// The signal that set the flag, or 0.
int caught_signal();

}  // namespace sparsum::cli
