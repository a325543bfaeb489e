#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/progress.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

namespace sparsum::cli {
namespace {

struct Arguments {
  lab::TrainRequest request;
  bool json = false, quiet = false;
};

void print(const lab::TrainResult& result) {
  const lab::Json& summary = *result.summary;
  const auto line = [](const char* name, const std::string& text) {
    std::printf("%-11s %s\n", name, text.c_str());
  };
  line("run", result.folder.string());
  for (const auto& [name, value] : summary.items()) {
    if (name != "test" && value.is_object() && value.contains("test")) {
      line(name.c_str(), "test: " + describe(value["test"]));
    }
  }
  if (!summary["best"].is_null()) {
    line("best epoch", summary["best"]["epoch"].dump() +
                           ", validation: " + describe(summary["best"]["validation"]));
  }
  line("test", describe(summary["test"]));
}

int train(const Arguments& arguments) {
  const auto& stop = catch_interrupts();
  lab::TrainResult result;
  {
    const auto progress = make_progress(arguments.quiet);  // clears its bar when it goes
    result = lab::train(arguments.request, stop, *progress);
  }
  if (!result.summary) {
    std::fprintf(stderr,
                 "sparsum: stopped, and the state is saved; go on with: sparsum train %s --resume "
                 "--out '%s'\n",
                 arguments.request.experiment.c_str(), result.folder.c_str());
    return kInterrupted + caught_signal();
  }
  if (arguments.json) {
    lab::Json output{{"run", result.folder.string()}};
    output.update(*result.summary);
    std::printf("%s\n", output.dump(2).c_str());
  } else {
    print(result);
  }
  return 0;
}

}  // namespace

void add_train(CLI::App& program, Command& chosen) {
  auto* command = program.add_subcommand("train", "Train a model of one of the experiments");
  command->require_subcommand(1);
  for (const auto& [name, description] : lab::experiments()) {
    auto* experiment = command->add_subcommand(name, "Train the " + description);
    const auto arguments = std::make_shared<Arguments>();
    arguments->request.experiment = name;
    experiment
        ->add_option("--config", arguments->request.config,
                     "TOML file with options, for example the config.toml of a run; options "
                     "on the command line win [default none]")
        ->type_name("FILE");
    experiment
        ->add_option("--out", arguments->request.out,
                     "folder of the run [default runs/" + name + "-DATASET-ESTIMATOR-sSEED]")
        ->type_name("DIR");
    experiment->add_flag("--resume", arguments->request.resume,
                         "go on with the run in the folder, with its own options");
    experiment->add_flag("--json", arguments->json, "print the results as JSON");
    experiment->add_flag("--quiet", arguments->quiet, "show no progress");
    const auto config = lab::make_config(name);
    add_options(*experiment, config->options(), arguments->request.settings, {"experiment"});
    experiment->callback(
        [arguments, &chosen] { chosen = [arguments] { return train(*arguments); }; });
  }
}

}  // namespace sparsum::cli
