#pragma once

#include "lab/gradient_quality.h"
#include "lab/trainer.h"

#include <functional>
#include <memory>
#include <string>

namespace sparsum::cli {

/// Shows training on stderr: a bar on a terminal, else a line an epoch; messages only when `quiet`.
std::unique_ptr<lab::TrainingObserver> make_progress(bool quiet);

/// Shows a comparison of gradients on stderr: a line that changes on a terminal, else a line an
/// estimator; nothing when `quiet`.
std::function<void(const lab::GradientQualityProgress&)> make_gradient_progress(bool quiet);

/// "2:05" or "1:02:05".
std::string duration(double seconds);

/// A number of a JSON result, NaN where it is null.
double number(const lab::Json& value);

/// "accuracy 96.31 %  ELBO -93.21  calls 1.02 (median 1, quartiles 1 to 1)".
std::string describe(const lab::Json& metrics);

}  // namespace sparsum::cli
