#include "cli/options.h"

#include "lab/experiment.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <utility>

namespace sparsum::cli {
namespace {

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value);
  return text;
}

std::string type_name(const lab::Option& option) {
  if (std::holds_alternative<bool*>(option.target)) return "true|false";
  if (std::holds_alternative<int64_t*>(option.target)) return "INT";
  if (std::holds_alternative<double*>(option.target)) return "FLOAT";
  std::string text;
  for (const auto& choice : option.choices) text += (text.empty() ? "" : "|") + choice;
  return text.empty() ? "TEXT" : text;
}

/// "description [unit; range; default]".
std::string help(const lab::Option& option) {
  std::string notes = option.unit;
  const auto note = [&](const std::string& text) { notes += (notes.empty() ? "" : "; ") + text; };
  const bool is_integer = std::holds_alternative<int64_t*>(option.target);
  const double end = is_integer ? 9.2e18 : std::numeric_limits<double>::max();
  if (is_integer || std::holds_alternative<double*>(option.target)) {
    if (option.minimum > -end && option.maximum < end) {
      note(number(option.minimum) + " to " + number(option.maximum));
    } else if (option.minimum > -end) {
      note("at least " + number(option.minimum));
    }
  }
  std::string value = option.default_text;  // as TOML: strings are quoted
  if (value.size() >= 2 && value.front() == '"') value = value.substr(1, value.size() - 2);
  note("default " + (value.empty() ? "none" : value));
  return option.description + " [" + notes + "]";
}

void add_option(CLI::App& command, const lab::Option& option, lab::Settings& settings) {
  const bool is_switch = std::holds_alternative<bool*>(option.target);
  CLI::Option* added = command.add_option_function<std::string>(
      "--" + option.name,
      [&settings, is_switch, name = option.name](const std::string& text) {
        settings.emplace_back(name, is_switch && text.empty() ? "true" : text);
      },
      help(option));
  added->take_last();  // as the last of a shell's words wins everywhere: aliases can be overridden
  added->type_name(type_name(option));
  if (is_switch) added->expected(0, 1);  // alone it means true
}

}  // namespace

void add_options(CLI::App& command, const lab::Options& options, lab::Settings& settings,
                 const std::vector<std::string>& skip) {
  for (const lab::Option& option : options.all()) {
    if (std::find(skip.begin(), skip.end(), option.name) != skip.end()) continue;
    add_option(command, option, settings);
  }
}

void add_run(CLI::App& command, const std::string& name, const std::string& description,
             std::filesystem::path& folder, std::string& checkpoint) {
  command.add_option(name, folder, description)->required()->type_name("RUN");
  command
      .add_option("--checkpoint", checkpoint,
                  "name of the checkpoint in RUN/checkpoints [default best, else last]")
      ->type_name("NAME");
}

void add_run_options(CLI::App& command, lab::Settings& settings, std::vector<std::string> skip) {
  lab::RunConfig defaults;
  lab::Options options;
  defaults.declare(options);
  for (const lab::Option& option : options.all()) {
    if (!option.after_training) skip.push_back(option.name);
  }
  add_options(command, options, settings, skip);
}

void add_evaluation_options(CLI::App& command, lab::Settings& settings,
                            const std::vector<std::string>& experiments) {
  for (const std::string& name : experiments) {
    const auto config = lab::make_config(name);
    lab::Options options = config->options();
    for (lab::Option option : options.all()) {
      const bool added = command.get_option_no_throw("--" + option.name) != nullptr;
      if (!option.after_training || added) continue;
      if (experiments.size() > 1) option.description = "of " + name + ": " + option.description;
      option.default_text = "the run's";
      add_option(command, option, settings);
    }
  }
}

}  // namespace sparsum::cli
