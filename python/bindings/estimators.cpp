// Expectations and estimators: what sparsum.estimators wraps.

#include "bindings.h"

#include <pybind11/stl.h>

#include <type_traits>
#include <utility>

namespace sparsum::python {
namespace {

/// Calls visit(name, field) for every option of the estimators.
template <typename Options, typename Visit>
void visit_options(Options& o, const Visit& visit) {
  visit("alpha", o.alpha);
  visit("k", o.k);
  visit("max_k", o.max_k);
  visit("encoding", o.encoding);
  visit("algorithm", o.algorithm);
  visit("init", o.init);
  visit("tolerance", o.tolerance);
  visit("max_iterations", o.max_iterations);
  visit("budget", o.budget);
  visit("max_outcomes", o.max_outcomes);
  visit("samples", o.samples);
  visit("baseline", o.baseline);
  visit("baseline_decay", o.baseline_decay);
  visit("context", o.context);
  visit("parts", o.parts);
  visit("baseline_layers", o.baseline_layers);
  visit("baseline_hidden", o.baseline_hidden);
  visit("control_scale", o.control_scale);
  visit("embed_loss", o.embed_loss);
  visit("adapt_temperature", o.adapt_temperature);
  visit("temperature", o.temperature);
  visit("temperature_decay", o.temperature_decay);
  visit("temperature_min", o.temperature_min);
  visit("temperature_every", o.temperature_every);
  visit("noise", o.noise);
  visit("noise_temperature", o.noise_temperature);
  visit("gamma_size", o.gamma_size);
  visit("gamma_terms", o.gamma_terms);
  visit("target_step", o.target_step);
}

template <typename T>
T option_value(const std::string& name, py::handle value) {
  const auto refuse = [&](const char* required) {
    throw py::type_error("make_estimator(): option '" + name + "' must be " + required + ", not " +
                         type_name(value));
  };
  if constexpr (std::is_same_v<T, bool>) {
    if (!PyBool_Check(value.ptr())) refuse("bool");
    return value.ptr() == Py_True;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) refuse("int");
    const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!index) throw py::error_already_set();
    const int64_t number = PyLong_AsLongLong(index.ptr());
    if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
    return number;
  } else if constexpr (std::is_same_v<T, double>) {
    if (PyBool_Check(value.ptr()) || !PyNumber_Check(value.ptr())) refuse("float");
    const double number = PyFloat_AsDouble(value.ptr());
    if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
    return number;
  } else {
    if (!PyUnicode_Check(value.ptr())) refuse("str");
    return py::cast<std::string>(value);
  }
}

EstimatorOptions options_of(const py::dict& given) {
  EstimatorOptions options;
  size_t known = 0;
  visit_options(options, [&](const char* name, auto& field) {
    if (!given.contains(name)) return;
    ++known;
    field = option_value<std::remove_reference_t<decltype(field)>>(name, given[name]);
  });
  TORCH_CHECK_TYPE(known == given.size(), "make_estimator(): an unknown option was given");
  return options;
}

py::dict default_options() {
  const EstimatorOptions options;
  py::dict defaults;
  visit_options(options, [&](const char* name, const auto& field) { defaults[name] = field; });
  return defaults;
}

std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

}  // namespace

void bind_estimators(py::module_& module) {
  module.def(
      "expectation",
      [](const SparseDistribution& q, py::handle loss, py::handle shared,
         py::handle max_evaluations_per_chunk, py::handle generator) {
        constexpr const char* kName = "expectation";
        const LossFn function = loss_function(kName, 2, loss);
        const std::vector<at::Tensor> tensors = tensors_argument(kName, 3, "shared", shared);
        ExpectationOptions options;
        options.max_evaluations_per_chunk =
            int_argument(kName, 4, "max_evaluations_per_chunk", max_evaluations_per_chunk);
        options.generator = optional_generator_argument(kName, 5, "generator", generator);
        const py::gil_scoped_release release;
        return expectation(q, function, tensors, options);
      },
      py::arg("q"), py::arg("loss"), py::arg("shared"), py::arg("max_evaluations_per_chunk"),
      py::arg("generator"));

  py::class_<Estimator, std::shared_ptr<Estimator>>(module, "Estimator")
      .def(
          "estimate",
          [](Estimator& self, const Structure& structure, py::handle scores, py::handle loss,
             py::handle shared, py::handle context, double entropy_weight,
             py::handle max_evaluations_per_chunk, py::handle generator) {
            constexpr const char* kName = "estimate";
            const at::Tensor t = tensor_argument(kName, 2, "scores", scores);
            const LossFn function = loss_function(kName, 3, loss);
            const std::vector<at::Tensor> tensors = tensors_argument(kName, 4, "shared", shared);
            const auto read = optional_tensor_argument(kName, 5, "context", context);
            const int64_t chunk =
                int_argument(kName, 7, "max_evaluations_per_chunk", max_evaluations_per_chunk);
            const auto g = optional_generator_argument(kName, 8, "generator", generator);
            const Estimate answer = without_gil(structure, [&](const Structure& s) {
              return self.estimate(
                  {s, t, function, tensors, read.value_or(at::Tensor()), entropy_weight, chunk}, g);
            });
            return std::make_tuple(answer.objective, if_defined(answer.auxiliary), answer.value,
                                   if_defined(answer.entropy), answer.evaluations);
          },
          py::arg("structure"), py::arg("scores"), py::arg("loss"), py::arg("shared"),
          py::arg("context"), py::arg("entropy_weight"), py::arg("max_evaluations_per_chunk"),
          py::arg("generator"))
      .def(
          "distribution",
          [](const Estimator& self, const Structure& structure, py::handle scores) {
            const at::Tensor t = tensor_argument("distribution", 2, "scores", scores);
            const py::gil_scoped_release release;
            return std::shared_ptr<Distribution>(self.distribution(structure, t));
          },
          py::arg("structure"), py::arg("scores"), py::keep_alive<0, 2>())
      .def(
          "evaluations",
          [](const Estimator& self, const Structure& structure, py::handle scores) {
            const at::Tensor t = tensor_argument("evaluations", 2, "scores", scores);
            return without_gil(structure,
                               [&](const Structure& s) { return self.evaluations(s, t); });
          },
          py::arg("structure"), py::arg("scores"))
      .def(
          "supervised_loss",
          [](const Estimator& self, py::handle scores, py::handle target) {
            const at::Tensor t = tensor_argument("supervised_loss", 1, "scores", scores);
            const at::Tensor y = tensor_argument("supervised_loss", 2, "target", target);
            const py::gil_scoped_release release;
            return self.supervised_loss(t, y);
          },
          py::arg("scores"), py::arg("target"))
      .def("check", &Estimator::check, py::arg("structure"),
           py::call_guard<py::gil_scoped_release>())
      .def("train", [](Estimator& self, bool mode) { self.train(mode); })
      .def("named_parameters",
           [](const Estimator& self) {
             std::vector<std::pair<std::string, at::Tensor>> tensors;
             for (const auto& entry : self.named_parameters()) {
               tensors.emplace_back(entry.key(), entry.value());
             }
             return tensors;
           })
      .def("named_buffers", [](const Estimator& self) {
        std::vector<std::pair<std::string, at::Tensor>> tensors;
        for (const auto& entry : self.named_buffers()) {
          tensors.emplace_back(entry.key(), entry.value());
        }
        return tensors;
      });

  module.def(
      "make_estimator",
      [](const std::string& name, py::handle generator, const py::dict& options) {
        const EstimatorOptions chosen = options_of(options);
        const auto g = optional_generator_argument("make_estimator", 2, "generator", generator);
        const py::gil_scoped_release release;
        return make_estimator(name, chosen, g);
      },
      py::arg("name"), py::arg("generator"), py::arg("options"));
  module.def("estimator_options", &default_options);
  module.def("estimator_names", &estimator_names);
}

}  // namespace sparsum::python
