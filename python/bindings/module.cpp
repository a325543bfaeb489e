// The extension module sparsum._C: the library's functions and classes, as they are, for Python.

#include "bindings.h"

#include <sparsum/sparsum.h>

PYBIND11_MODULE(_C, module) {
  module.doc() = "Sparsum's compiled core. Use the package's own modules instead.";
}
