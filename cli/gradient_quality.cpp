#include "lab/gradient_quality.h"

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/progress.h"

#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

namespace sparsum::cli {
namespace {

struct Arguments {
  lab::GradientQualityRequest request;
  lab::Settings own;  // options of the comparison
  bool json = false, quiet = false;
};

/// Gradients' errors in units of the reference's length, so that batches and models compare.
void print(const lab::Json& result) {
  const auto& reference = result["reference"];
  std::printf("%s, %lld examples; reference: %s, %.4g evaluations per example\n",
              result["structure"].get<std::string>().c_str(),
              static_cast<long long>(result["examples"].get<int64_t>()),
              reference["kind"].get<std::string>().c_str(), number(reference["evaluations"]));
  std::printf("errors in units of the reference's length: scores %.4g, loss's parameters %.4g\n\n",
              number(reference["scores"]["norm"]), number(reference["loss"]["norm"]));
  std::printf("%-17s %8s %9s | %-41s | %-41s\n", "", "", "", "gradient in the scores",
              "gradient in the loss's parameters");
  std::printf("%-17s %8s %9s |", "estimator", "calls", "ms");
  for (int i = 0; i < 2; ++i) {
    std::printf(" %8s %9s %7s %6s %7s %s", "bias", "+-", "sd", "cosine", "rmse", i ? "" : "|");
  }
  std::printf("\n");
  for (const auto& row : result["estimators"]) {
    std::printf("%-17s %8.2f %9.3f |", row["estimator"].get<std::string>().c_str(),
                number(row["evaluations"]), number(row["milliseconds"]));
    for (const char* part : {"scores", "loss"}) {
      const auto& numbers = row[part];
      const double unit = number(reference[part]["norm"]);
      std::printf(" %8.4f %9.4f %7.3f %6.3f %7.3f %s", number(numbers["bias"]) / unit,
                  number(numbers["bias_error"]) / unit,
                  std::sqrt(number(numbers["variance"])) / unit, number(numbers["cosine"]),
                  number(numbers["rmse"]) / unit, part[0] == 's' ? "|" : "");
    }
    const auto objective = row["objective"].get<std::string>();
    std::printf("%s\n", objective == "the same" ? "" : ("  " + objective).c_str());
  }
}

int run(Arguments& arguments) {
  {
    lab::Options options;
    arguments.request.options.declare(options);
    for (const auto& [name, text] : arguments.own) options.set(name, text);
  }
  const auto& stop = catch_interrupts();
  std::optional<lab::Json> result;
  {
    const auto progress = make_gradient_progress(arguments.quiet);  // clears its line when it goes
    result = lab::gradient_quality(arguments.request, stop, progress);
  }
  if (!result) {
    std::fprintf(stderr, "sparsum: stopped; nothing was written\n");
    return kInterrupted + caught_signal();
  }
  if (arguments.json) {
    std::printf("%s\n", result->dump(2).c_str());
  } else {
    print(*result);
  }
  return 0;
}

void add_common(CLI::App& command, const std::shared_ptr<Arguments>& arguments) {
  command
      .add_option("--out", arguments->request.out,
                  "folder for gradient_quality.json, which python -m sparsum.report draws "
                  "[default none]")
      ->type_name("DIR");
  command.add_flag("--json", arguments->json, "print the results as JSON");
  command.add_flag("--quiet", arguments->quiet, "show no progress");
  lab::Options own;
  arguments->request.options.declare(own);
  add_options(command, own, arguments->own);
}

}  // namespace

void add_gradient_quality(CLI::App& program, Command& chosen) {
  auto* command = program.add_subcommand(
      "gradient-quality",
      "Compare estimators' gradients on one batch: bias, variance, cosine, time, evaluations");
  command->require_subcommand(1);

  const auto of_run = std::make_shared<Arguments>();
  auto* run_command = command->add_subcommand("run", "At the model of a run");
  add_run(*run_command, "folder", "folder of the run", of_run->request.run,
          of_run->request.checkpoint);
  add_common(*run_command, of_run);
  add_run_options(*run_command, of_run->request.settings);
  lab::EstimatorSettings estimator("dense");
  lab::Options options;
  declare_estimator_options(options, estimator);
  add_options(*run_command, options, of_run->request.settings);
  run_command->callback([of_run, &chosen] { chosen = [of_run] { return run(*of_run); }; });

  for (const auto& [name, description] : lab::experiments()) {
    const auto arguments = std::make_shared<Arguments>();
    arguments->request.experiment = name;
    auto* experiment = command->add_subcommand(name, "At a freshly initialised " + description);
    experiment
        ->add_option("--config", arguments->request.config,
                     "TOML file with options; options on the command line win [default none]")
        ->type_name("FILE");
    add_common(*experiment, arguments);
    const auto config = lab::make_config(name);
    add_options(*experiment, config->options(), arguments->request.settings,
                {"experiment", "estimator"});
    experiment->callback(
        [arguments, &chosen] { chosen = [arguments] { return run(*arguments); }; });
  }
}

}  // namespace sparsum::cli
