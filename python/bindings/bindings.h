#pragma once

#include <torch/extension.h>

namespace sparsum::python {

namespace py = pybind11;

// One function a file of bindings; module.cpp calls them all.
void bind_ops(py::module_& module);
void bind_structures(py::module_& module);
void bind_distributions(py::module_& module);
void bind_estimators(py::module_& module);

}  // namespace sparsum::python
