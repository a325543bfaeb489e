#pragma once

#include <CLI/App.hpp>

#include <functional>

namespace sparsum::cli {

/// What the program exits with, beside 0.
enum ExitCode : int {
  kFailure = 1,       ///< something unexpected
  kBadInput = 2,      ///< an option, a file or a disk
  kDiverged = 3,      ///< training stopped on a value that is not finite
  kInterrupted = 128  ///< plus the signal's number: stopped and saved
};

/// Runs the command that was chosen; returns the exit code.
using Command = std::function<int()>;

// Each adds its command to the program; parsing sets `chosen`.
void add_train(CLI::App& program, Command& chosen);
void add_sweep(CLI::App& program, Command& chosen);
void add_evaluate(CLI::App& program, Command& chosen);
void add_gradient_quality(CLI::App& program, Command& chosen);
void add_encode(CLI::App& program, Command& chosen);
void add_decode(CLI::App& program, Command& chosen);
void add_play(CLI::App& program, Command& chosen);
void add_data(CLI::App& program, Command& chosen);
void add_info(CLI::App& program, Command& chosen);

}  // namespace sparsum::cli
