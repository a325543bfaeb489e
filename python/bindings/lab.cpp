// The extension module sparsum._lab: the experiments, for Python.

#include "lab/run.h"

#include <torch/extension.h>

PYBIND11_MODULE(_lab, module) {
  module.doc() = "Sparsum's experiments. Use sparsum.experiments instead.";
}
