#pragma once

#include "lab/options.h"
#include "lab/run.h"

#include <CLI/App.hpp>

namespace sparsum::cli {

/// Adds a flag for every option but those in `skip`; what the command line gives is appended to
/// `settings` in its order and checked by whoever applies it.
void add_options(CLI::App& command, const lab::Options& options, lab::Settings& settings,
                 const std::vector<std::string>& skip = {});

}  // namespace sparsum::cli
