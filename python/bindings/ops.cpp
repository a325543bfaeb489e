// The extension module sparsum._ops: maps and losses with as little as can be between Python and
// the library. Every function takes all its arguments by position; sparsum.ops has the signatures,
// the defaults and the documentation.
//
// A call goes straight to the library where its tensors are plain ones. Where a subclass or a mode
// overrides functions (__torch_function__), or torch.func transforms the call, it goes to the
// function in Python that set_fallback named.

#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <sparsum/sparsum.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/python_numbers.h>
#include <torch/extension.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <tuple>

namespace {

struct Function {
  const char* name;
  PyObject* fallback = nullptr;
};

Function sparsemax_function{"sparsemax"}, entmax_function{"entmax"},
    top_k_sparsemax_function{"top_k_sparsemax"}, entmax_loss_function{"entmax_loss"},
    linear_cross_entropy_function{"linear_cross_entropy"},
    scalar_perceptron_function{"scalar_perceptron"};

constexpr std::array<Function*, 6> kFunctions{&sparsemax_function,
                                              &entmax_function,
                                              &top_k_sparsemax_function,
                                              &entmax_loss_function,
                                              &linear_cross_entropy_function,
                                              &scalar_perceptron_function};

/// Whether the call is Python's: a transform of torch.func or a mode is active, or an argument is
/// of a class of its own that may override functions.
bool overridden(std::initializer_list<PyObject*> tensors) {
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
      at::impl::torch_function_mode_enabled()) {
    return true;
  }
  for (PyObject* tensor : tensors) {
    if (!THPVariable_CheckExact(tensor) && !PyFloat_CheckExact(tensor) &&
        PyObject_HasAttrString(reinterpret_cast<PyObject*>(Py_TYPE(tensor)),
                               "__torch_function__") != 0) {
      return true;
    }
  }
  return false;
}

PyObject* fall_back(const Function& function, PyObject* const* args, Py_ssize_t count) {
  TORCH_CHECK(function.fallback != nullptr, function.name,
              "(): expected sparsum.ops to be imported first");
  return PyObject_Vectorcall(function.fallback, args, static_cast<size_t>(count), nullptr);
}

/// Throws unless the call has this many arguments.
void check_count(const Function& function, Py_ssize_t count, Py_ssize_t expected) {
  TORCH_CHECK_TYPE(count == expected, function.name, "(): expected ", expected,
                   " arguments by position, got ", count);
}

const at::Tensor& to_tensor(const Function& function, const char* argument, PyObject* object) {
  TORCH_CHECK_TYPE(THPVariable_Check(object), function.name, "(): argument '", argument,
                   "' must be Tensor, not ", Py_TYPE(object)->tp_name);
  return THPVariable_Unpack(object);
}

/// An integer, or what is one to Python (__index__), as NumPy's are.
int64_t to_int(const Function& function, const char* argument, PyObject* object) {
  if (THPUtils_checkLong(object)) return THPUtils_unpackLong(object);
  TORCH_CHECK_TYPE(PyIndex_Check(object) != 0 && !THPVariable_Check(object), function.name,
                   "(): argument '", argument, "' must be int, not ", Py_TYPE(object)->tp_name);
  THPObjectPtr index(PyNumber_Index(object));
  if (!index) throw python_error();
  return THPUtils_unpackLong(index.get());
}

/// A number, or what is one to Python (__float__), as NumPy's are.
double to_double(const Function& function, const char* argument, const char* type,
                 PyObject* object) {
  if (THPUtils_checkDouble(object)) return THPUtils_unpackDouble(object);
  const PyNumberMethods* const methods = Py_TYPE(object)->tp_as_number;
  TORCH_CHECK_TYPE(methods != nullptr && methods->nb_float != nullptr && !PyComplex_Check(object) &&
                       !THPVariable_Check(object),
                   function.name, "(): argument '", argument, "' must be ", type, ", not ",
                   Py_TYPE(object)->tp_name);
  THPObjectPtr number(PyNumber_Float(object));
  if (!number) throw python_error();
  return PyFloat_AS_DOUBLE(number.get());
}

/// Throws unless both are on one device; a number may be on the CPU.
void check_device(const Function& function, const char* first_name, const at::Tensor& first,
                  const char* name, const at::Tensor& other) {
  TORCH_CHECK(first.device() == other.device() || (other.dim() == 0 && other.is_cpu()),
              function.name, "(): expected all tensors to be on the same device, got ", first_name,
              " on ", first.device(), " and ", name, " on ", other.device());
}

PyObject* wrap(const std::tuple<at::Tensor, at::Tensor>& pair) {
  THPObjectPtr first(THPVariable_Wrap(std::get<0>(pair)));
  if (!first) return nullptr;
  THPObjectPtr second(THPVariable_Wrap(std::get<1>(pair)));
  if (!second) return nullptr;
  return PyTuple_Pack(2, first.get(), second.get());
}

/// The value of f(), computed without the interpreter's lock.
template <class F>
auto unlocked(const F& f) {
  const pybind11::gil_scoped_release released;
  return f();
}

PyObject* sparsemax(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Function& self = sparsemax_function;
  check_count(self, count, 2);
  if (overridden({args[0]})) return fall_back(self, args, count);
  const at::Tensor& scores = to_tensor(self, "scores", args[0]);
  const int64_t dim = to_int(self, "dim", args[1]);
  return THPVariable_Wrap(unlocked([&] { return sparsum::sparsemax(scores, dim); }));
  END_HANDLE_TH_ERRORS
}

PyObject* entmax(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Function& self = entmax_function;
  check_count(self, count, 3);
  if (overridden({args[0], args[1]})) return fall_back(self, args, count);
  const at::Tensor& scores = to_tensor(self, "scores", args[0]);
  const int64_t dim = to_int(self, "dim", args[2]);
  if (THPVariable_Check(args[1])) {
    const at::Tensor& alpha = THPVariable_Unpack(args[1]);
    check_device(self, "scores", scores, "alpha", alpha);
    return THPVariable_Wrap(unlocked([&] { return sparsum::entmax(scores, alpha, dim); }));
  }
  const double alpha = to_double(self, "alpha", "float or Tensor", args[1]);
  return THPVariable_Wrap(unlocked([&] { return sparsum::entmax(scores, alpha, dim); }));
  END_HANDLE_TH_ERRORS
}

PyObject* top_k_sparsemax(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Function& self = top_k_sparsemax_function;
  check_count(self, count, 3);
  if (overridden({args[0]})) return fall_back(self, args, count);
  const at::Tensor& scores = to_tensor(self, "scores", args[0]);
  const int64_t k = to_int(self, "k", args[1]), dim = to_int(self, "dim", args[2]);
  return wrap(unlocked([&] { return sparsum::top_k_sparsemax(scores, k, dim); }));
  END_HANDLE_TH_ERRORS
}

PyObject* entmax_loss(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Function& self = entmax_loss_function;
  check_count(self, count, 6);
  if (overridden({args[0], args[1]})) return fall_back(self, args, count);
  const at::Tensor& scores = to_tensor(self, "scores", args[0]);
  const at::Tensor& target = to_tensor(self, "target", args[1]);
  check_device(self, "scores", scores, "target", target);
  const double alpha = to_double(self, "alpha", "float", args[2]);
  const sparsum::LossOptions options{
      to_int(self, "dim", args[3]), to_int(self, "ignore_index", args[4]),
      static_cast<sparsum::Reduction>(to_int(self, "reduction", args[5]))};
  return THPVariable_Wrap(
      unlocked([&] { return sparsum::entmax_loss(scores, target, alpha, options); }));
  END_HANDLE_TH_ERRORS
}

PyObject* linear_cross_entropy(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Function& self = linear_cross_entropy_function;
  check_count(self, count, 5);
  if (overridden({args[0], args[1], args[2], args[3], args[4]})) {
    return fall_back(self, args, count);
  }
  const at::Tensor& features = to_tensor(self, "features", args[0]);
  const at::Tensor& weight = to_tensor(self, "weight", args[1]);
  const at::Tensor& bias = to_tensor(self, "bias", args[2]);
  const at::Tensor& targets = to_tensor(self, "targets", args[3]);
  const at::Tensor& rows = to_tensor(self, "rows", args[4]);
  check_device(self, "features", features, "weight", weight);
  check_device(self, "features", features, "bias", bias);
  check_device(self, "features", features, "targets", targets);
  check_device(self, "features", features, "rows", rows);
  return THPVariable_Wrap(unlocked(
      [&] { return sparsum::linear_cross_entropy(features, weight, bias, targets, rows); }));
  END_HANDLE_TH_ERRORS
}

PyObject* scalar_perceptron(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Function& self = scalar_perceptron_function;
  check_count(self, count, 3);
  if (overridden({args[0], args[1], args[2]})) return fall_back(self, args, count);
  const at::Tensor& e = to_tensor(self, "e", args[0]);
  const at::Tensor& u = to_tensor(self, "u", args[1]);
  const at::Tensor& w = to_tensor(self, "w", args[2]);
  check_device(self, "e", e, "u", u);
  check_device(self, "e", e, "w", w);
  return THPVariable_Wrap(unlocked([&] { return sparsum::scalar_perceptron(e, u, w); }));
  END_HANDLE_TH_ERRORS
}

template <class F>
PyCFunction fast(F* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"sparsemax", fast(&sparsemax), METH_FASTCALL, "sparsemax(scores, dim)"},
    {"entmax", fast(&entmax), METH_FASTCALL, "entmax(scores, alpha, dim)"},
    {"top_k_sparsemax", fast(&top_k_sparsemax), METH_FASTCALL, "top_k_sparsemax(scores, k, dim)"},
    {"entmax_loss", fast(&entmax_loss), METH_FASTCALL,
     "entmax_loss(scores, target, alpha, dim, ignore_index, reduction)"},
    {"linear_cross_entropy", fast(&linear_cross_entropy), METH_FASTCALL,
     "linear_cross_entropy(features, weight, bias, targets, rows)"},
    {"scalar_perceptron", fast(&scalar_perceptron), METH_FASTCALL, "scalar_perceptron(e, u, w)"},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

PYBIND11_MODULE(_ops, module) {
  module.doc() = "Sparsum's ops. Use sparsum.ops instead.";
  if (PyModule_AddFunctions(module.ptr(), methods) != 0) throw pybind11::error_already_set();
  module.def(
      "set_fallback",
      [](const std::string& name, pybind11::function fallback) {
        for (Function* function : kFunctions) {
          if (name != function->name) continue;
          Py_XDECREF(function->fallback);
          function->fallback = fallback.release().ptr();
          return;
        }
        throw pybind11::value_error("set_fallback: expected the name of an op, got " + name);
      },
      "Names the function that is called where tensors, a mode or a transform override the op.");
}
