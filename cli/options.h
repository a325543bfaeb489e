#pragma once

#include "lab/options.h"
#include "lab/run.h"

#include <CLI/App.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace sparsum::cli {

/// Adds a flag for every option but those in `skip`; what the command line gives is appended to
/// `settings` in its order and checked by whoever applies it.
void add_options(CLI::App& command, const lab::Options& options, lab::Settings& settings,
                 const std::vector<std::string>& skip = {});

/// Adds what names the model of a run: the argument `name` for its folder, and --checkpoint.
void add_run(CLI::App& command, const std::string& name, const std::string& description,
             std::filesystem::path& folder, std::string& checkpoint);

/// Adds a flag for every option of any run that may be another when its model is used than it was
/// in training, but those in `skip`.
void add_run_options(CLI::App& command, lab::Settings& settings,
                     std::vector<std::string> skip = {});

/// The same for those that only the given experiments have, what their models are evaluated on; a
/// run of another experiment refuses them. To be called after add_run_options.
void add_evaluation_options(CLI::App& command, lab::Settings& settings,
                            const std::vector<std::string>& experiments);

}  // namespace sparsum::cli
