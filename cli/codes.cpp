#include "lab/codes.h"

#include "cli/commands.h"
#include "cli/options.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

namespace sparsum::cli {
namespace {

struct Arguments {
  lab::CodesRequest request;
  bool json = false;
};

CLI::App* add_common(CLI::App& program, const char* name, const char* description,
                     const std::shared_ptr<Arguments>& arguments) {
  auto* command = program.add_subcommand(name, description);
  add_run(*command, "run", "folder of a run of `train bitvector`", arguments->request.run,
          arguments->request.checkpoint);
  command->add_flag("--json", arguments->json, "print what was done as JSON");
  add_run_options(*command, arguments->request.settings, {"data"});
  return command;
}

void print(const lab::Json& result, const char* line, bool json) {
  if (json) {
    std::printf("%s\n", result.dump(2).c_str());
  } else {
    std::printf(line, static_cast<long long>(result["images"].get<int64_t>()),
                static_cast<long long>(result["bits"].get<int64_t>()),
                result["output"].get<std::string>().c_str());
  }
}

}  // namespace

void add_encode(CLI::App& program, Command& chosen) {
  const auto arguments = std::make_shared<Arguments>();
  auto* command = add_common(program, "encode",
                             "Encode images as bits with a trained bit-vector model", arguments);
  command
      ->add_option("images", arguments->request.input,
                   "28×28 grey images: .npy (uint8), IDX, gzipped or not, or one .png")
      ->required()
      ->type_name("IMAGES");
  command->add_option("-o,--output", arguments->request.output, "codes, uint8 [N, D], as .npy")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--support", arguments->request.support,
                   "also write every configuration with its probability: codes, probs and "
                   "row_splits, as .npz")
      ->type_name("FILE");
  command->callback([arguments, &chosen] {
    chosen = [arguments] {
      const lab::Json result = lab::encode_images(arguments->request);
      print(result, "%lld images as %lld bits each: %s\n", arguments->json);
      if (!arguments->json && result.contains("support")) {
        std::printf("%lld configurations with their probabilities: %s\n",
                    static_cast<long long>(result["configurations"].get<int64_t>()),
                    result["support"].get<std::string>().c_str());
      }
      return 0;
    };
  });
}

void add_decode(CLI::App& program, Command& chosen) {
  const auto arguments = std::make_shared<Arguments>();
  auto* command = add_common(program, "decode",
                             "Decode bits to images with a trained bit-vector model", arguments);
  command->add_option("codes", arguments->request.input, "codes of 0 and 1, [N, D], as .npy")
      ->required()
      ->type_name("CODES");
  command
      ->add_option("-o,--output", arguments->request.output,
                   "the mean images: a grid as .png, or uint8 [N, 28, 28] as .npy")
      ->required()
      ->type_name("FILE");
  command->callback([arguments, &chosen] {
    chosen = [arguments] {
      print(lab::decode_codes(arguments->request), "%lld images from %lld bits each: %s\n",
            arguments->json);
      return 0;
    };
  });
}

}  // namespace sparsum::cli
