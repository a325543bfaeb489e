// Distributions over a structure's outcomes, and the maps that give sparse ones. What sparsum.
// distributions wraps: the Python classes there add the interface of torch.distributions.

#include "bindings.h"

#include <pybind11/stl.h>

#include <utility>

namespace sparsum::python {
namespace {

/// The member of an enumeration that a word stands for.
template <typename Enum>
Enum word(const char* caller, const char* option, const std::string& given,
          const std::pair<const char*, Enum>& first, const std::pair<const char*, Enum>& second) {
  if (given == first.first) return first.second;
  if (given == second.first) return second.second;
  throw py::value_error(std::string(caller) + ": expected " + option + " to be '" + first.first +
                        "' or '" + second.first + "', got '" + given + "'");
}

SparsemapOptions sparsemap_options(const char* caller, const std::string& encoding,
                                   const std::string& algorithm, const std::string& init,
                                   double tolerance, py::handle max_iterations,
                                   py::handle generator, const SparseDistribution* warm_start) {
  SparsemapOptions options;
  options.encoding =
      word<Encoding>(caller, "encoding", encoding, {"one-state", Encoding::kOneState},
                     {"both-states", Encoding::kBothStates});
  options.algorithm = word<SparsemapAlgorithm>(caller, "algorithm", algorithm,
                                               {"active-set", SparsemapAlgorithm::kActiveSet},
                                               {"closed-form", SparsemapAlgorithm::kClosedForm});
  options.init = word<SparsemapInit>(caller, "init", init, {"map", SparsemapInit::kMap},
                                     {"random", SparsemapInit::kRandom});
  options.tolerance = tolerance;
  options.max_iterations = int_argument(caller, 7, "max_iterations", max_iterations);
  options.generator = optional_generator_argument(caller, 8, "generator", generator);
  options.warm_start = warm_start;
  return options;
}

std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

/// The function `call(structure, scores, options)` with SparseMAP's options as Python gives them.
template <typename Call>
auto with_options(const char* caller, Call call) {
  return [caller, call](const Structure& structure, py::handle scores, const std::string& encoding,
                        const std::string& algorithm, const std::string& init, double tolerance,
                        py::handle max_iterations, py::handle generator,
                        const SparseDistribution* warm_start) {
    const at::Tensor t = tensor_argument(caller, 2, "scores", scores);
    const SparsemapOptions options = sparsemap_options(caller, encoding, algorithm, init, tolerance,
                                                       max_iterations, generator, warm_start);
    return without_gil(structure, [&](const Structure& s) { return call(s, t, options); });
  };
}

}  // namespace

void bind_distributions(py::module_& module) {
  using Release = py::call_guard<py::gil_scoped_release>;

  py::class_<Distribution, std::shared_ptr<Distribution>>(module, "Distribution")
      .def_property_readonly("batch_size", &Distribution::batch_size)
      .def("entropy", &Distribution::entropy, Release())
      .def("marginals", &Distribution::marginals, Release())
      .def("mode", &Distribution::mode, Release())
      .def(
          "sample",
          [](const Distribution& q, py::handle samples, py::handle generator) {
            const int64_t draws = int_argument("sample", 1, "samples", samples);
            const at::Generator g = generator_argument("sample", 2, "generator", generator);
            const py::gil_scoped_release release;
            return q.sample(draws, g);
          },
          py::arg("samples"), py::arg("generator"))
      .def("log_prob", &Distribution::log_prob, py::arg("z"), Release())
      .def(
          "enumerate",
          [](const Distribution& q, int64_t limit) {
            const py::gil_scoped_release release;
            return std::make_shared<SparseDistribution>(q.enumerate(limit));
          },
          py::arg("limit"));

  py::class_<Gibbs, Distribution, std::shared_ptr<Gibbs>>(module, "Gibbs")
      .def(py::init([](const Structure& structure, py::handle scores) {
             const at::Tensor t = tensor_argument("Gibbs", 2, "scores", scores);
             const py::gil_scoped_release release;
             return std::make_shared<Gibbs>(structure, t);
           }),
           py::arg("structure"), py::arg("scores"), py::keep_alive<1, 2>());

  py::class_<SparseDistribution, Distribution, std::shared_ptr<SparseDistribution>>(
      module, "SparseDistribution")
      .def(py::init([](const Assignments& support, py::handle probs, py::handle exact) {
             const at::Tensor p = tensor_argument("SparseDistribution", 2, "probs", probs);
             const auto certificate =
                 optional_tensor_argument("SparseDistribution", 3, "exact", exact);
             const py::gil_scoped_release release;
             return std::make_shared<SparseDistribution>(support, p,
                                                         certificate.value_or(at::Tensor()));
           }),
           py::arg("support"), py::arg("probs"), py::arg("exact"))
      .def_static(
          "from_dense",
          [](py::handle probs, py::handle exact) {
            const at::Tensor p = tensor_argument("from_dense", 1, "probs", probs);
            const auto certificate = optional_tensor_argument("from_dense", 2, "exact", exact);
            const py::gil_scoped_release release;
            return std::make_shared<SparseDistribution>(
                SparseDistribution::from_dense(p, certificate.value_or(at::Tensor())));
          },
          py::arg("probs"), py::arg("exact"))
      .def_property_readonly("support",
                             [](const SparseDistribution& q) { return Assignments(q.support()); })
      .def_property_readonly("probs", [](const SparseDistribution& q) { return q.probs(); })
      .def_property_readonly("exact",
                             [](const SparseDistribution& q) { return if_defined(q.exact()); })
      .def("evaluations", &SparseDistribution::evaluations, Release())
      .def("to_dense", &SparseDistribution::to_dense, Release());

  const auto define_sparsemap = [&](const char* name, auto call) {
    module.def(name, with_options(name, call), py::arg("structure"), py::arg("scores"),
               py::arg("encoding"), py::arg("algorithm"), py::arg("init"), py::arg("tolerance"),
               py::arg("max_iterations"), py::arg("generator"), py::arg("warm_start"));
  };
  define_sparsemap("sparsemap", [](const Structure& structure, const at::Tensor& scores,
                                   const SparsemapOptions& options) {
    return std::make_shared<SparseDistribution>(sparsemap(structure, scores, options));
  });
  define_sparsemap("solve_sparsemap", [](const Structure& structure, const at::Tensor& scores,
                                         const SparsemapOptions& options) {
    SparsemapResult r = solve_sparsemap(structure, scores, options);
    return std::make_tuple(std::make_shared<SparseDistribution>(std::move(r.distribution)),
                           r.marginals, r.objective, r.gap, r.iterations, r.oracle_calls,
                           r.converged);
  });
  define_sparsemap("sparsemap_marginals", [](const Structure& structure, const at::Tensor& scores,
                                             const SparsemapOptions& options) {
    return sparsemap_marginals(structure, scores, options);
  });
  module.def(
      "sparsemap_loss",
      [](const Structure& structure, py::handle scores, py::handle target,
         const std::string& encoding, double tolerance, py::handle max_iterations) {
        constexpr const char* kName = "sparsemap_loss";
        const at::Tensor t = tensor_argument(kName, 2, "scores", scores);
        const at::Tensor y = tensor_argument(kName, 3, "target", target);
        const SparsemapOptions options = sparsemap_options(
            kName, encoding, "active-set", "map", tolerance, max_iterations, py::none(), nullptr);
        return without_gil(structure,
                           [&](const Structure& s) { return sparsemap_loss(s, t, y, options); });
      },
      py::arg("structure"), py::arg("scores"), py::arg("target"), py::arg("encoding"),
      py::arg("tolerance"), py::arg("max_iterations"));

  module.def(
      "top_k_sparsemax",
      [](const Structure& structure, py::handle scores, py::handle k) {
        const at::Tensor t = tensor_argument("top_k_sparsemax", 2, "scores", scores);
        const int64_t most = int_argument("top_k_sparsemax", 3, "k", k);
        return without_gil(structure, [&](const Structure& s) {
          return std::make_shared<SparseDistribution>(top_k_sparsemax(s, t, most));
        });
      },
      py::arg("structure"), py::arg("scores"), py::arg("k"));
  module.def(
      "adaptive_top_k_sparsemax",
      [](const Structure& structure, py::handle scores, py::handle k, py::handle max_k) {
        constexpr const char* kName = "adaptive_top_k_sparsemax";
        const at::Tensor t = tensor_argument(kName, 2, "scores", scores);
        const int64_t first = int_argument(kName, 3, "k", k);
        const int64_t most = int_argument(kName, 4, "max_k", max_k);
        return without_gil(structure, [&](const Structure& s) {
          return std::make_shared<SparseDistribution>(adaptive_top_k_sparsemax(s, t, first, most));
        });
      },
      py::arg("structure"), py::arg("scores"), py::arg("k"), py::arg("max_k"));
}

}  // namespace sparsum::python
