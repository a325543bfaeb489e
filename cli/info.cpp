#include "cli/commands.h"
#include "lab/data/image_data.h"
#include "lab/experiment.h"
#include "lab/version.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>
#include <sparsum/kernels/targets.h>

#include <cstdio>
#include <memory>

namespace sparsum::cli {
namespace {

int info(bool json) {
  lab::Json facts;
  facts["sparsum"] = lab::version();
  facts["torch"] = lab::torch_version();
  facts["simd"] = kernels::active_target();
  facts["threads"] = at::get_num_threads();
  lab::Json devices = lab::Json::array({"cpu"});
  if (at::globalContext().hasCUDA()) {
    for (int i = 0; i < at::detail::getCUDAHooks().deviceCount(); ++i) {
      devices.push_back("cuda:" + std::to_string(i));
    }
  }
  facts["devices"] = devices;
  facts["data"] = lab::data_root("").string();
  if (json) {
    std::printf("%s\n", facts.dump(2).c_str());
    return 0;
  }
  for (const auto& [name, value] : facts.items()) {
    std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    if (value.is_array()) {
      text.clear();
      for (const auto& item : value) text += (text.empty() ? "" : ", ") + item.get<std::string>();
    }
    std::printf("%-8s %s\n", name.c_str(), text.c_str());
  }
  return 0;
}

}  // namespace

void add_info(CLI::App& program, Command& chosen) {
  auto* command =
      program.add_subcommand("info", "Versions, instruction set, threads, devices, data folder");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "print them as JSON");
  command->callback([json, &chosen] { chosen = [json] { return info(*json); }; });
}

}  // namespace sparsum::cli
