#include "cli/commands.h"
#include "lab/data/image_data.h"
#include "lab/error.h"
#include "lab/experiment.h"

#include <CLI/CLI.hpp>
#include <unistd.h>

#include <cstdio>
#include <memory>

namespace sparsum::cli {
namespace {

struct Arguments {
  std::string data;
  std::vector<std::string> names;
  bool json = false;
};

void add_common(CLI::App& command, Arguments& arguments) {
  command
      .add_option("--data", arguments.data,
                  "folder with mnist/, fashion-mnist/ and mnist-splits/ [default $SPARSUM_DATA, "
                  "else ~/.local/share/sparsum]")
      ->type_name("DIR");
}

int list(const Arguments& arguments) {
  const auto root = lab::data_root(arguments.data);
  lab::Json rows = lab::Json::array();
  for (const auto& source : lab::data_sources()) {
    std::string folder;
    try {
      folder = lab::find_data(source, root).string();
    } catch (const lab::InputError&) {
      // Not there: that is what the list is for.
    }
    rows.push_back({{"name", source.name},
                    {"description", source.description},
                    {"folder", folder.empty() ? lab::Json() : lab::Json(folder)}});
    if (arguments.json) continue;
    std::printf("%-14s %s\n%-14s %s\n", source.name.c_str(), source.description.c_str(), "",
                folder.empty() ? ("not here; get it with: sparsum data get " + source.name).c_str()
                               : folder.c_str());
  }
  if (arguments.json) std::printf("%s\n", rows.dump(2).c_str());
  return 0;
}

int get(const Arguments& arguments) {
  const auto root = lab::data_root(arguments.data);
  const bool terminal = isatty(STDERR_FILENO);
  for (const auto& name : arguments.names) {
    const auto& source = lab::data_source(name);
    std::string current;
    lab::get_data(source, root, [&](const std::string& file, int64_t bytes, int64_t total) {
      if (terminal) {
        std::fprintf(stderr, "\r\033[K%s  %.1f of %.1f MB", file.c_str(), 1e-6 * bytes,
                     1e-6 * total);
      } else if (file != current) {
        std::fprintf(stderr, "%s\n", file.c_str());
      }
      current = file;
    });
    if (terminal && !current.empty()) std::fputs("\r\033[K", stderr);
    std::printf("%s\n", lab::find_data(source, root).c_str());
  }
  return 0;
}

int check(const Arguments& arguments) {
  const auto root = lab::data_root(arguments.data);
  lab::Json rows = lab::Json::array();
  bool all_match = true;
  std::vector<std::string> names = arguments.names;
  if (names.empty()) {
    for (const auto& source : lab::data_sources()) names.push_back(source.name);
  }
  for (const auto& name : names) {
    for (const auto& file : lab::check_data(lab::data_source(name), root)) {
      all_match = all_match && file.matches;
      rows.push_back({{"dataset", name},
                      {"path", file.path.string()},
                      {"present", file.present},
                      {"matches", file.matches},
                      {"message", file.message}});
      if (arguments.json) continue;
      std::printf("%-8s %s%s%s\n",
                  file.matches   ? "ok"
                  : file.present ? "damaged"
                                 : "missing",
                  file.path.c_str(), file.message.empty() ? "" : ": ", file.message.c_str());
    }
  }
  if (arguments.json) std::printf("%s\n", rows.dump(2).c_str());
  return all_match ? 0 : kBadInput;
}

}  // namespace

void add_data(CLI::App& program, Command& chosen) {
  auto* command = program.add_subcommand("data", "List, get or check the data sets");
  command->require_subcommand(1);
  const auto arguments = std::make_shared<Arguments>();
  const auto add = [&](const char* name, const char* description, int (*action)(const Arguments&)) {
    auto* sub = command->add_subcommand(name, description);
    add_common(*sub, *arguments);
    sub->callback([arguments, action, &chosen] {
      chosen = [arguments, action] { return action(*arguments); };
    });
    return sub;
  };
  auto* listing = add("list", "The data sets this program knows, and where they are", list);
  listing->add_flag("--json", arguments->json, "print the list as JSON");
  add("get", "Copy or download data sets into the data folder, each file checked by its SHA-256",
      get)
      ->add_option("names", arguments->names, "data sets, as `sparsum data list` names them")
      ->required()
      ->type_name("NAME");
  auto* checking =
      add("check",
          "Compare the files with their SHA-256; exits with 2 if one is missing or damaged", check);
  checking->add_option("names", arguments->names, "data sets [default all]")->type_name("NAME");
  checking->add_flag("--json", arguments->json, "print the results as JSON");
}

}  // namespace sparsum::cli
