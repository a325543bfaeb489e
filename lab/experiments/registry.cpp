#include "lab/error.h"
#include "lab/experiment.h"
#include "lab/experiments/bitvector.h"
#include "lab/experiments/signal.h"
#include "lab/experiments/ssvae.h"

#include <toml++/toml.h>

namespace sparsum::lab {

const std::vector<std::pair<std::string, std::string>>& experiments() {
  static const std::vector<std::pair<std::string, std::string>> kExperiments = {
      {"ssvae",
       "semi-supervised variational auto-encoder of images, the class its latent variable"},
      {"bitvector", "variational auto-encoder of images with a vector of bits as latent variable"},
      {"signal", "sender and receiver of the signal game, the symbol said their latent variable"},
  };
  return kExperiments;
}

std::unique_ptr<ExperimentConfig> make_config(const std::string& name) {
  if (name == "ssvae") return std::make_unique<SsvaeConfig>();
  if (name == "bitvector") return std::make_unique<BitvectorConfig>();
  if (name == "signal") return std::make_unique<SignalConfig>();
  std::string known;
  for (const auto& [experiment, description] : experiments()) {
    known += (known.empty() ? "" : ", ") + experiment;
  }
  throw InputError("unknown experiment '" + name + "'; known are: " + known);
}

std::unique_ptr<ExperimentConfig> read_config(const std::filesystem::path& path) {
  std::string name = experiments().front().first;
  try {
    name = toml::parse_file(path.string())["experiment"].value_or(name);
  } catch (const toml::parse_error&) {
    // read_toml below says what is wrong, and where.
  }
  auto config = make_config(name);
  config->options().read_toml(path);
  return config;
}

}  // namespace sparsum::lab
