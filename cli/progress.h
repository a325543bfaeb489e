#pragma once

#include "lab/trainer.h"

#include <memory>

namespace sparsum::cli {

/// Shows training on stderr: a bar on a terminal, else a line an epoch; messages only when `quiet`.
std::unique_ptr<lab::TrainingObserver> make_progress(bool quiet);

/// "accuracy 96.31 %  ELBO -93.21  calls 1.02 (median 1, quartiles 1 to 1)".
std::string describe(const lab::Json& metrics);

}  // namespace sparsum::cli
