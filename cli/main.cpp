#include "cli/commands.h"
#include "lab/error.h"
#include "lab/trainer.h"
#include "lab/version.h"

#include <CLI/CLI.hpp>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <cstdio>
#include <string>

namespace {

int report(int code, const std::string& message) {
  std::fprintf(stderr, "sparsum: %s\n", message.substr(0, message.find('\n')).c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  // A training step allocates and frees the same large tensors over and over. glibc would give each
  // back to the system and fault it in again, page by page.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);

  using namespace sparsum;
  CLI::App program(
      "Trains models with discrete latent variables by summing the loss exactly over a small, "
      "learned "
      "support.",
      "sparsum");
  program.set_version_flag("--version", std::string("sparsum ") + lab::version() + " (LibTorch " +
                                            lab::torch_version() + ")");
  program.require_subcommand(1);
  program.footer(
      "Exit codes: 0 done; 1 an unexpected failure; 2 bad input (an option, a file, a disk);\n"
      "3 training stopped because a value was no longer finite; 130 stopped by Ctrl-C, state "
      "saved.");
  cli::Command chosen;
  cli::add_train(program, chosen);
  cli::add_sweep(program, chosen);
  cli::add_evaluate(program, chosen);
  cli::add_gradient_quality(program, chosen);
  cli::add_encode(program, chosen);
  cli::add_decode(program, chosen);
  cli::add_play(program, chosen);
  cli::add_data(program, chosen);
  cli::add_info(program, chosen);

  try {
    program.parse(argc, argv);
    return chosen();
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help, --version
    return report(cli::kBadInput, std::string(error.what()));
  } catch (const lab::InputError& error) {
    return report(cli::kBadInput, error.what());
  } catch (const lab::TrainingDiverged& error) {
    return report(cli::kDiverged, error.what());
  } catch (const c10::Error& error) {
    return report(cli::kFailure, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return report(cli::kFailure, error.what());
  }
}
