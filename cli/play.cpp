#include "cli/commands.h"
#include "cli/options.h"
#include "lab/experiments/signal.h"
#include "lab/run.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

namespace sparsum::cli {
namespace {

struct Arguments {
  std::filesystem::path run, out;
  std::string checkpoint;
  lab::Settings settings;
  int64_t games = 8;
  bool json = false;
};

int play(const Arguments& arguments) {
  const auto out = arguments.out.empty() ? arguments.run / "play" : arguments.out;
  const lab::Json played =
      lab::play_run(arguments.run, arguments.checkpoint, arguments.settings, arguments.games, out);
  const lab::Json& games = played["games"];
  if (arguments.json) {
    std::printf("%s\n", games.dump(2).c_str());
    return 0;
  }
  std::printf("%4s  %-14s %7s %6s  %-14s %6s  %s\n", "game", "target", "symbol", "prob", "pick",
              "prob", "");
  for (size_t i = 0; i < games.size(); ++i) {
    const lab::Json& game = games[i];
    const lab::Json& pick = game["candidates"][game["pick"].get<size_t>()];
    std::printf(
        "%4zu  %-14s %7lld %6.3f  %-14s %6.3f  %s\n", i, game["concept"].get<std::string>().c_str(),
        static_cast<long long>(game["symbol"].get<int64_t>()),
        game["symbol_probability"].get<double>(), pick["concept"].get<std::string>().c_str(),
        pick["probability"].get<double>(), game["pick"] == game["target"] ? "right" : "wrong");
  }
  for (const lab::Json& file : played["files"]) {
    const bool picture = file.get<std::string>().ends_with(".png");
    std::printf("%s: %s\n", file.get<std::string>().c_str(),
                picture ? "a game a row: the target, the symbol with a bar as long as the sender's "
                          "probability, the candidates with bars as long as the receiver's, a "
                          "square below the right one"
                        : "the games with all probabilities");
  }
  return 0;
}

}  // namespace

void add_play(CLI::App& program, Command& chosen) {
  const auto arguments = std::make_shared<Arguments>();
  auto* command =
      program.add_subcommand("play", "Play a few test games with a trained sender and receiver");
  add_run(*command, "run", "folder of a run of `train signal`", arguments->run,
          arguments->checkpoint);
  command->add_option("--games", arguments->games, "how many games [default 8]")
      ->type_name("INT")
      ->check(CLI::Range(1, 1000));
  command
      ->add_option("--out", arguments->out,
                   "folder for games.png and games.json [default RUN/play]")
      ->type_name("DIR");
  command->add_flag("--json", arguments->json, "print the games as JSON");
  add_run_options(*command, arguments->settings);
  add_evaluation_options(*command, arguments->settings, {"signal"});
  command->callback([arguments, &chosen] { chosen = [arguments] { return play(*arguments); }; });
}

}  // namespace sparsum::cli
