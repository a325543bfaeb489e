#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

namespace sparsum::cli {

void add_evaluate(CLI::App& program, Command& chosen) {
  struct Arguments {
    std::string run, checkpoint;
    lab::Settings settings;
    bool json = false;
  };
  auto* command = program.add_subcommand("evaluate", "Evaluate a run on the test images again");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("run", arguments->run, "folder of the run")->required()->type_name("RUN");
  command
      ->add_option("--checkpoint", arguments->checkpoint,
                   "name of the checkpoint in RUN/checkpoints [default best, else last]")
      ->type_name("NAME");
  command->add_flag("--json", arguments->json, "print the results as JSON");
  lab::RunConfig defaults;
  lab::Options options;
  defaults.declare(options);
  add_options(*command, options, arguments->settings, {"seed", "checkpoint-every"});
  command->callback([arguments, &chosen] {
    chosen = [arguments] {
      const lab::Json result =
          lab::evaluate_run(arguments->run, arguments->checkpoint, arguments->settings);
      if (arguments->json) {
        std::printf("%s\n", result.dump(2).c_str());
      } else {
        std::printf("checkpoint  %s\ntest        %s\n",
                    result["checkpoint"].get<std::string>().c_str(),
                    describe(result["test"]).c_str());
      }
      return 0;
    };
  });
}

}  // namespace sparsum::cli
