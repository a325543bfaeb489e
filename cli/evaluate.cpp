#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "lab/experiment.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace sparsum::cli {

void add_evaluate(CLI::App& program, Command& chosen) {
  struct Arguments {
    std::filesystem::path run;
    std::string checkpoint;
    lab::Settings settings;
    bool json = false;
  };
  auto* command = program.add_subcommand("evaluate", "Evaluate a run on the test images again");
  const auto arguments = std::make_shared<Arguments>();
  add_run(*command, "run", "folder of the run", arguments->run, arguments->checkpoint);
  command->add_flag("--json", arguments->json, "print the results as JSON");
  add_run_options(*command, arguments->settings);
  std::vector<std::string> all;
  for (const auto& [name, description] : lab::experiments()) all.push_back(name);
  add_evaluation_options(*command, arguments->settings, all);
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
