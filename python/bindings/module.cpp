// The extension module sparsum._C: structures, distributions and estimators, for Python.
//
// The GIL is released around every call into the library. Python functions that the library calls
// back (losses, a structure's oracles) take it again, on whatever thread they are called.

#include "bindings.h"

#include <utility>

namespace sparsum::python {

std::string type_name(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

void wrong_type(const char* caller, int position, const char* name, const char* required,
                py::handle value) {
  throw py::type_error(std::string(caller) + "(): argument '" + name + "' (position " +
                       std::to_string(position) + ") must be " + required + ", not " +
                       type_name(value));
}

at::Tensor tensor_argument(const char* caller, int position, const char* name, py::handle value) {
  if (!THPVariable_Check(value.ptr())) wrong_type(caller, position, name, "Tensor", value);
  return THPVariable_Unpack(value.ptr());
}

std::optional<at::Tensor> optional_tensor_argument(const char* caller, int position,
                                                   const char* name, py::handle value) {
  if (value.is_none()) return {};
  return tensor_argument(caller, position, name, value);
}

int64_t int_argument(const char* caller, int position, const char* name, py::handle value) {
  if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) {
    wrong_type(caller, position, name, "int", value);
  }
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) throw py::error_already_set();
  const int64_t number = PyLong_AsLongLong(index.ptr());
  if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
  return number;
}

at::Generator generator_argument(const char* caller, int position, const char* name,
                                 py::handle value) {
  if (!THPGenerator_Check(value.ptr())) {
    wrong_type(caller, position, name, "torch.Generator", value);
  }
  return py::cast<at::Generator>(value);
}

std::optional<at::Generator> optional_generator_argument(const char* caller, int position,
                                                         const char* name, py::handle value) {
  if (value.is_none()) return {};
  return generator_argument(caller, position, name, value);
}

std::vector<at::Tensor> tensors_argument(const char* caller, int position, const char* name,
                                         py::handle value) {
  std::vector<at::Tensor> tensors;
  if (THPVariable_Check(value.ptr()) || !PySequence_Check(value.ptr())) {
    wrong_type(caller, position, name, "tuple of Tensors", value);
  }
  for (const py::handle each : py::reinterpret_borrow<py::sequence>(value)) {
    if (!THPVariable_Check(each.ptr())) {
      throw py::type_error(std::string(caller) + "(): argument '" + name + "' (position " +
                           std::to_string(position) + ") must be tuple of Tensors, but found " +
                           "element of type " + type_name(each) + " at pos " +
                           std::to_string(tensors.size()));
    }
    tensors.push_back(THPVariable_Unpack(each.ptr()));
  }
  return tensors;
}

std::shared_ptr<py::object> hold(py::object object) {
  return {new py::object(std::move(object)), [](py::object* held) {
            // After the interpreter's end there is no GIL to take, and nothing left to free.
            if (!Py_IsInitialized()) return;
            const py::gil_scoped_acquire gil;
            delete held;
          }};
}

LossFn loss_function(const char* caller, int position, py::handle loss) {
  if (!PyCallable_Check(loss.ptr())) wrong_type(caller, position, "loss", "callable", loss);
  return [held = hold(py::reinterpret_borrow<py::object>(loss))](
             const Assignments& z, const std::vector<at::Tensor>& shared) -> Loss {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    py::tuple arguments(1 + shared.size());
    arguments[0] = py::cast(z);
    for (size_t i = 0; i < shared.size(); ++i) arguments[i + 1] = py::cast(shared[i]);
    const auto answer =
        py::reinterpret_steal<py::object>(PyObject_Call(held->ptr(), arguments.ptr(), nullptr));
    if (!answer) throw py::error_already_set();
    if (THPVariable_Check(answer.ptr())) return Loss(THPVariable_Unpack(answer.ptr()));
    if (PyTuple_Check(answer.ptr()) && PyTuple_GET_SIZE(answer.ptr()) == 2) {
      PyObject* value = PyTuple_GET_ITEM(answer.ptr(), 0);
      PyObject* log_prob = PyTuple_GET_ITEM(answer.ptr(), 1);
      if (THPVariable_Check(value) && (log_prob == Py_None || THPVariable_Check(log_prob))) {
        return Loss(THPVariable_Unpack(value),
                    log_prob == Py_None ? at::Tensor() : THPVariable_Unpack(log_prob));
      }
    }
    throw py::type_error("expectation: expected the loss to return a Tensor [n] = [" +
                         std::to_string(z.count()) + "] or Loss(value, log_prob), got " +
                         type_name(answer));
  };
}

}  // namespace sparsum::python

PYBIND11_MODULE(_C, module) {
  namespace py = pybind11;
  module.doc() = "Sparsum's compiled core. Use the package's own modules instead.";
  // The library's errors, as PyTorch's own are raised: the type by the kind of check, the message
  // without a C++ stack.
  py::register_local_exception_translator([](std::exception_ptr error) {
    if (!error) return;
    try {
      std::rethrow_exception(error);
    } catch (const c10::Error&) {
      torch::translate_exception_to_python(error);
    }
  });
  py::options options;
  options.disable_function_signatures();  // the docstrings have their own, with Python's types
  sparsum::python::bind_structures(module);
  sparsum::python::bind_distributions(module);
  sparsum::python::bind_estimators(module);
}
