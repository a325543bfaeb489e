// Sets of outcomes, the assignments that they hand out, and structures written in Python.

#include "bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <span>
#include <utility>

namespace sparsum::python {
namespace {

/// One number of an outcome, as a byte; anything but 0 and 1 becomes 2 … 255 or throws.
uint8_t indicator(const Structure& structure, const char* oracle, double value, size_t part) {
  if (value == 0 || value == 1) return static_cast<uint8_t>(value);
  throw py::value_error(structure.name() + ": " + oracle + ": expected indicators 0 or 1, got " +
                        std::to_string(value) + " for part " + std::to_string(part));
}

/// What an oracle in Python returned as an outcome: a NumPy array, a tensor or a sequence of
/// numbers.
std::vector<uint8_t> outcome_of(const Structure& structure, const char* oracle, py::handle answer) {
  std::vector<uint8_t> outcome;
  const auto refuse = [&](const std::string& got) {
    throw py::type_error(structure.name() + ": " + oracle +
                         ": expected a vector of zeros and ones (a NumPy array, a Tensor or a "
                         "list), got " +
                         got);
  };
  if (THPVariable_Check(answer.ptr())) {
    const at::Tensor tensor = THPVariable_Unpack(answer.ptr());
    if (tensor.dim() != 1) refuse("a Tensor of " + std::to_string(tensor.dim()) + " dimensions");
    if (tensor.is_complex()) refuse("a complex Tensor");
    const at::Tensor values = tensor.detach().to(at::kCPU, at::kDouble).contiguous();
    const double* data = values.const_data_ptr<double>();
    outcome.resize(static_cast<size_t>(values.size(0)));
    for (size_t i = 0; i < outcome.size(); ++i) {
      outcome[i] = indicator(structure, oracle, data[i], i);
    }
    return outcome;
  }
  if (py::isinstance<py::buffer>(answer) && py::hasattr(answer, "__array_interface__")) {
    const auto array = py::reinterpret_borrow<py::array>(answer);
    if (array.ndim() != 1) refuse("an array of " + std::to_string(array.ndim()) + " dimensions");
    if (array.dtype().kind() == 'c' || array.dtype().kind() == 'O') {
      refuse("an array of dtype " + py::cast<std::string>(py::str(array.dtype())));
    }
    const auto values = py::array_t<double, py::array::c_style | py::array::forcecast>(array);
    outcome.resize(static_cast<size_t>(values.size()));
    const double* data = values.data();
    for (size_t i = 0; i < outcome.size(); ++i) {
      outcome[i] = indicator(structure, oracle, data[i], i);
    }
    return outcome;
  }
  if (!PySequence_Check(answer.ptr()) || PyUnicode_Check(answer.ptr()) ||
      PyBytes_Check(answer.ptr())) {
    refuse(type_name(answer));
  }
  for (const py::handle each : py::reinterpret_borrow<py::sequence>(answer)) {
    const double value = PyFloat_AsDouble(each.ptr());
    if (value == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      refuse("an element of type " + type_name(each));
    }
    outcome.push_back(indicator(structure, oracle, value, outcome.size()));
  }
  return outcome;
}

/// A structure that is written in Python. Everything takes the GIL, on the thread it is called on.
class PythonStructure final : public CustomStructure {
 public:
  std::string name() const override {
    const py::gil_scoped_acquire gil;
    return py::cast<std::string>(py::str(attribute("name")));
  }
  // Structures do not change: asked once, then without the GIL.
  int64_t parts() const override { return once(parts_, "parts"); }
  int64_t variables() const override { return once(variables_, "variables"); }
  double log_size() const override {
    const py::gil_scoped_acquire gil;
    return py::cast<double>(attribute("log_size"));
  }
  std::optional<int64_t> size() const override {
    const py::gil_scoped_acquire gil;
    const py::object value = attribute("size");
    if (value.is_none()) return {};
    return whole("size", value);
  }

  std::vector<uint8_t> best(std::span<const double> scores) const override {
    const py::gil_scoped_acquire gil;
    const py::function oracle = own("best");
    if (!oracle) {
      PyErr_SetString(PyExc_NotImplementedError,
                      (name() + ": best is not available: define best(self, scores)").c_str());
      throw py::error_already_set();
    }
    return outcome_of(*this, "best", call(oracle, scores, {}));
  }

  std::vector<std::vector<uint8_t>> k_best_one(std::span<const double> scores,
                                               int64_t k) const override {
    const py::gil_scoped_acquire gil;
    const py::function oracle = own("k_best_one");
    if (!oracle) return CustomStructure::k_best_one(scores, k);
    const py::object answer = call(oracle, scores, k);
    if (!PySequence_Check(answer.ptr()) && !py::hasattr(answer, "__iter__")) {
      throw py::type_error(name() + ": k_best_one: expected a list of outcomes, got " +
                           type_name(answer));
    }
    std::vector<std::vector<uint8_t>> outcomes;
    for (const py::handle each : answer) outcomes.push_back(outcome_of(*this, "k_best_one", each));
    return outcomes;
  }

  // The batched oracles, for who defines them: tensors in and out.
  Assignments enumerate(int64_t batch, const at::Device& device, int64_t limit) const override {
    const py::gil_scoped_acquire gil;
    if (const py::function f = own("enumerate")) {
      return returned<Assignments>("enumerate", f(batch, device, limit));
    }
    return CustomStructure::enumerate(batch, device, limit);
  }
  Assignments sample(const at::Tensor& scores, int64_t samples,
                     at::Generator generator) const override {
    const py::gil_scoped_acquire gil;
    if (const py::function f = own("sample")) {
      return returned<Assignments>("sample", f(scores, samples, generator));
    }
    return CustomStructure::sample(scores, samples, std::move(generator));
  }
  at::Tensor log_partition(const at::Tensor& scores) const override {
    const py::gil_scoped_acquire gil;
    if (const py::function f = own("log_partition")) {
      return returned<at::Tensor>("log_partition", f(scores));
    }
    return CustomStructure::log_partition(scores);
  }
  at::Tensor marginals(const at::Tensor& scores) const override {
    const py::gil_scoped_acquire gil;
    if (const py::function f = own("marginals")) {
      return returned<at::Tensor>("marginals", f(scores));
    }
    return CustomStructure::marginals(scores);
  }
  at::Tensor entropy(const at::Tensor& scores) const override {
    {
      const py::gil_scoped_acquire gil;
      if (const py::function f = own("entropy")) {
        return returned<at::Tensor>("entropy", f(scores));
      }
    }
    return CustomStructure::entropy(scores);
  }

 private:
  static constexpr int64_t kUnknown = std::numeric_limits<int64_t>::min();

  py::function own(const char* method) const {
    return py::get_override(static_cast<const Structure*>(this), method);
  }

  py::object attribute(const char* field) const {
    const auto self = py::cast(static_cast<const Structure*>(this));
    return self.attr(field);
  }

  int64_t whole(const char* field, py::handle value) const {
    if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) {
      throw py::type_error(name() + ": expected " + field +
                           " to be an int (an attribute or a property), got " + type_name(value));
    }
    return py::cast<int64_t>(py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr())));
  }

  int64_t once(std::atomic<int64_t>& known, const char* field) const {
    int64_t value = known.load(std::memory_order_relaxed);
    if (value != kUnknown) return value;
    const py::gil_scoped_acquire gil;
    value = whole(field, attribute(field));
    known.store(value, std::memory_order_relaxed);
    return value;
  }

  /// Calls an oracle with a copy of the scores. On the main thread Ctrl-C ends the call here.
  py::object call(const py::function& oracle, std::span<const double> scores,
                  std::optional<int64_t> k) const {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    const auto kind = py::cast<std::string>(py::str(attribute("scores_type")));
    py::object input;
    if (kind == "numpy") {
      input = py::array_t<double>(static_cast<py::ssize_t>(scores.size()), scores.data());
    } else if (kind == "tensor") {
      const at::Tensor own_scores =
          at::empty({static_cast<int64_t>(scores.size())}, at::TensorOptions(at::kDouble));
      std::copy(scores.begin(), scores.end(), own_scores.mutable_data_ptr<double>());
      input = py::cast(own_scores);
    } else {
      throw py::value_error(name() + ": expected scores_type 'numpy' or 'tensor', got '" + kind +
                            "'");
    }
    return k ? oracle(input, *k) : oracle(input);
  }

  template <typename T>
  T returned(const char* oracle, const py::object& answer) const {
    if constexpr (std::is_same_v<T, at::Tensor>) {
      if (THPVariable_Check(answer.ptr())) return THPVariable_Unpack(answer.ptr());
    } else {
      if (py::isinstance<T>(answer)) return py::cast<T>(answer);
    }
    throw py::type_error(name() + ": " + oracle + ": expected " +
                         (std::is_same_v<T, at::Tensor> ? "a Tensor" : "Assignments") + ", got " +
                         type_name(answer));
  }

  mutable std::atomic<int64_t> parts_{kUnknown}, variables_{kUnknown};
};

std::string form_of(const Assignments& z) {
  if (z.indices.defined()) return "indices";
  if (z.indicators.defined()) return "indicators";
  return z.base.defined() ? "flips" : "nothing";
}

std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

void bind_assignments(py::module_& module) {
  py::class_<Assignments>(module, "Assignments", R"doc(
n (example, outcome) pairs, sorted by example: where a loss is evaluated.

Pair ``i`` belongs to example ``rows[i]``; example ``b`` owns the pairs ``row_splits[b]`` to
``row_splits[b + 1] - 1``, possibly none. Outcomes are held in one of three ways: as ``indices``
(of a :class:`Categorical`), as rows of part ``indicators``, or as lists of ``flips``, which say
where a configuration differs from the first of its example. :meth:`values` and :meth:`embed` serve
all three.
)doc")
      .def_readonly("rows", &Assignments::rows, "[n] int64, ascending: each pair's example.")
      .def_readonly("row_splits", &Assignments::row_splits,
                    "[B + 1] int64: where each example's pairs begin.")
      .def_readonly("parts", &Assignments::parts, "V, the number of parts of the structure.")
      .def_property_readonly(
          "indices", [](const Assignments& z) { return if_defined(z.indices); },
          "[n] int64, outcomes of a Categorical, or None.")
      .def_property_readonly(
          "indicators", [](const Assignments& z) { return if_defined(z.indicators); },
          "[n, V] in {0, 1} of any dtype, or relaxed values with gradient, or None.")
      .def_property_readonly(
          "base", [](const Assignments& z) { return if_defined(z.base); },
          "[B, V] uint8, the configuration that ``flips`` start from, or None.")
      .def_property_readonly(
          "flip_splits", [](const Assignments& z) { return if_defined(z.flip_splits); },
          "[n + 1] int64 with ``base``, or None: where each pair's flips begin.")
      .def_property_readonly(
          "flips", [](const Assignments& z) { return if_defined(z.flips); },
          "[m] int64 with ``base``, or None: the parts that are flipped.")
      .def_readonly("chained", &Assignments::chained,
                    "Whether flips start from the pair before, not from ``base``.")
      .def_readonly("full_grid", &Assignments::full_grid,
                    "Whether every example lists all K outcomes in order: n = B·K.")
      .def_property_readonly("count", &Assignments::count, "n, the number of pairs.")
      .def_property_readonly("batch_size", &Assignments::batch_size, "B, the number of examples.")
      .def("__len__", &Assignments::count)
      .def("evaluations", &Assignments::evaluations, py::call_guard<py::gil_scoped_release>(),
           "evaluations() -> Tensor\n\nPairs per example: [B] int64.")
      .def("values", &Assignments::values, py::arg("dtype") = at::kFloat,
           py::call_guard<py::gil_scoped_release>(), R"doc(
values(dtype: torch.dtype = torch.float32) -> Tensor

The indicator rows a_z: [n, V] of ``dtype``, made on demand. Relaxed values keep their gradient.
)doc")
      .def(
          "embed",
          [](const Assignments& z, py::handle table) {
            const at::Tensor t = tensor_argument("embed", 1, "table", table);
            const py::gil_scoped_release release;
            return z.embed(t);
          },
          py::arg("table"), R"doc(
embed(table: Tensor) -> Tensor

Σ_v a_z[v]·table[v], the first layer of a network that reads z: [V, H] -> [n, H]. A row lookup for
indices, a product for indicators (relaxed ones get their gradient).
)doc")
      .def(
          "gather",
          [](const Assignments& z, py::handle per_example) {
            const at::Tensor t = tensor_argument("gather", 1, "per_example", per_example);
            const py::gil_scoped_release release;
            return z.gather(t);
          },
          py::arg("per_example"), R"doc(
gather(per_example: Tensor) -> Tensor

What each pair's own example says: [B, …] -> [n, …].
)doc")
      .def(
          "sum_per_example",
          [](const Assignments& z, py::handle per_pair) {
            const at::Tensor t = tensor_argument("sum_per_example", 1, "per_pair", per_pair);
            const py::gil_scoped_release release;
            return z.sum_per_example(t);
          },
          py::arg("per_pair"), R"doc(
sum_per_example(per_pair: Tensor) -> Tensor

Sums over each example's pairs: [n] -> [B], in a fixed order (the same input, the same bytes).
)doc")
      .def(
          "slice",
          [](const Assignments& z, py::handle begin, py::handle end) {
            const int64_t first = int_argument("slice", 1, "begin", begin);
            const int64_t last = int_argument("slice", 2, "end", end);
            if (first < 0 || last < first || last > z.count()) {
              throw py::index_error(
                  "slice: expected 0 <= begin <= end <= n = " + std::to_string(z.count()) +
                  ", got " + std::to_string(first) + " and " + std::to_string(last));
            }
            const py::gil_scoped_release release;
            return z.slice(first, last);
          },
          py::arg("begin"), py::arg("end"), R"doc(
slice(begin: int, end: int) -> Assignments

Pairs ``begin`` to ``end - 1``, over the same B examples.
)doc")
      .def("__repr__",
           [](const Assignments& z) {
             return "Assignments(count=" + std::to_string(z.count()) +
                    ", batch_size=" + std::to_string(z.batch_size()) +
                    ", parts=" + std::to_string(z.parts) + ", " + form_of(z) + ")";
           })
      .def(py::pickle(
          [](const Assignments& z) {
            return py::make_tuple(z.rows, z.row_splits, z.parts, if_defined(z.indices),
                                  if_defined(z.indicators), if_defined(z.base),
                                  if_defined(z.flip_splits), if_defined(z.flips), z.chained,
                                  z.full_grid);
          },
          [](const py::tuple& state) {
            const auto tensor = [&](size_t i) {
              return state[i].is_none() ? at::Tensor() : py::cast<at::Tensor>(state[i]);
            };
            Assignments z;
            z.rows = tensor(0);
            z.row_splits = tensor(1);
            z.parts = py::cast<int64_t>(state[2]);
            z.indices = tensor(3);
            z.indicators = tensor(4);
            z.base = tensor(5);
            z.flip_splits = tensor(6);
            z.flips = tensor(7);
            z.chained = py::cast<bool>(state[8]);
            z.full_grid = py::cast<bool>(state[9]);
            return z;
          }));

  module.def(
      "one_per_example",
      [](py::handle outcomes, py::handle parts) {
        const at::Tensor t = tensor_argument("one_per_example", 1, "outcomes", outcomes);
        const int64_t width = int_argument("one_per_example", 2, "parts", parts);
        const py::gil_scoped_release release;
        return one_per_example(t, width);
      },
      py::arg("outcomes"), py::arg("parts"), R"doc(
one_per_example(outcomes: Tensor, parts: int) -> Assignments

Assignments in which example b has the single pair b.

outcomes: [B] int64, indices of a Categorical's outcomes (in 0 … V − 1, not checked); or [B, V],
indicators, kept with their gradient. parts: V. Errors: a shape or dtype that is neither.
)doc");

  // B·m pairs, m an example, from what they hold: outcomes [B·m] or [B·m, V].
  module.def("_regular_assignments", [](const at::Tensor& outcomes, int64_t batch, int64_t parts) {
    const py::gil_scoped_release release;
    const int64_t each = batch == 0 ? 0 : outcomes.size(0) / batch;
    Assignments z;
    const auto longs = at::TensorOptions().dtype(at::kLong).device(outcomes.device());
    z.rows = at::arange(batch, longs).unsqueeze(1).expand({batch, each}).reshape(-1);
    z.row_splits = at::arange(batch + 1, longs).mul_(each);
    z.parts = parts;
    (outcomes.dim() == 1 ? z.indices : z.indicators) = outcomes;
    return z;
  });
}

}  // namespace

void bind_structures(py::module_& module) {
  bind_assignments(module);

  py::class_<Structure, PythonStructure, std::shared_ptr<Structure>>(module, "Structure")
      .def(py::init_alias<>())
      .def_property_readonly("name", &Structure::name, "For messages, e.g. ``categorical(10)``.")
      .def_property_readonly("parts", &Structure::parts,
                             "V, the number of parts: the width of the scores.")
      .def_property_readonly(
          "variables", &Structure::variables,
          "U ≤ V: the first U parts are the variables, which SparseMAP regularises.")
      .def_property_readonly(
          "log_size", &Structure::log_size,
          "log |Z| in nats: minus an outcome's log-probability under the uniform prior.")
      .def_property_readonly("size", &Structure::size,
                             "\\|Z\\|, or None where it is unknown or above 2⁶³ − 1.")
      .def(
          "enumerate",
          [](const Structure& self, py::handle batch, const at::Device& device, py::handle limit) {
            const int64_t examples = int_argument("enumerate", 1, "batch", batch);
            const int64_t most = int_argument("enumerate", 3, "limit", limit);
            if (examples < 0) {
              throw py::value_error("enumerate: expected batch >= 0, got " +
                                    std::to_string(examples));
            }
            const py::gil_scoped_release release;
            return self.enumerate(examples, device, most);
          },
          py::arg("batch"), py::arg("device") = at::Device(at::kCPU),
          py::arg("limit") = int64_t{1} << 16, R"doc(
enumerate(batch: int, device: torch.device = cpu, limit: int = 65536) -> Assignments

All of Z for each of ``batch`` examples, in the structure's order. Raises, naming the size, if
\|Z\| > limit.
)doc")
      .def(
          "map",
          [](const Structure& self, py::handle scores) {
            const at::Tensor t = tensor_argument("map", 1, "scores", scores);
            return without_gil(self, [&](const Structure& s) { return s.map(t); });
          },
          py::arg("scores"), R"doc(
map(scores: Tensor) -> Assignments

The best outcome of each example, argmax_z ⟨a_z, t⟩. scores: [B, V], finite or −inf, which forbids
every outcome with that part. Ties go to the outcome that is first in the structure's order.
Not differentiable.
)doc")
      .def(
          "k_best",
          [](const Structure& self, py::handle scores, py::handle k) {
            const at::Tensor t = tensor_argument("k_best", 1, "scores", scores);
            const int64_t most = int_argument("k_best", 2, "k", k);
            return without_gil(self, [&](const Structure& s) { return s.k_best(t, most); });
          },
          py::arg("scores"), py::arg("k"), R"doc(
k_best(scores: Tensor, k: int) -> Assignments

The min(k, \|Z\|) best outcomes of each example, best first. scores: [B, V]; k ≥ 1.
Not differentiable.
)doc")
      .def(
          "sample",
          [](const Structure& self, py::handle scores, py::handle samples, py::handle generator) {
            const at::Tensor t = tensor_argument("sample", 1, "scores", scores);
            const int64_t draws = int_argument("sample", 2, "samples", samples);
            const at::Generator g = generator_argument("sample", 3, "generator", generator);
            const py::gil_scoped_release release;
            return self.sample(t, draws, g);
          },
          py::arg("scores"), py::arg("samples"), py::arg("generator"), R"doc(
sample(scores: Tensor, samples: int, generator: torch.Generator) -> Assignments

``samples`` independent draws per example from the Gibbs distribution π(z) ∝ exp⟨a_z, t⟩:
B·samples pairs, drawn from ``generator`` only. scores: [B, V].
)doc")
      .def(
          "score",
          [](const Structure& self, py::handle scores, py::handle z) {
            const at::Tensor t = tensor_argument("score", 1, "scores", scores);
            if (!py::isinstance<Assignments>(z)) wrong_type("score", 2, "z", "Assignments", z);
            const auto& pairs = py::cast<const Assignments&>(z);
            const py::gil_scoped_release release;
            return self.score(t, pairs);
          },
          py::arg("scores"), py::arg("z"), R"doc(
score(scores: Tensor, z: Assignments) -> Tensor

s_z = ⟨a_z, t⟩ of each pair: [n], differentiable in the scores [B, V] (and in relaxed indicators).
)doc")
      .def(
          "log_partition",
          [](const Structure& self, py::handle scores) {
            const at::Tensor t = tensor_argument("log_partition", 1, "scores", scores);
            const py::gil_scoped_release release;
            return self.log_partition(t);
          },
          py::arg("scores"), R"doc(
log_partition(scores: Tensor) -> Tensor

log Σ_z exp⟨a_z, t⟩: [B] in nats, differentiable in the scores [B, V].
)doc")
      .def(
          "marginals",
          [](const Structure& self, py::handle scores) {
            const at::Tensor t = tensor_argument("marginals", 1, "scores", scores);
            const py::gil_scoped_release release;
            return self.marginals(t);
          },
          py::arg("scores"), R"doc(
marginals(scores: Tensor) -> Tensor

E_π[a_z] under the Gibbs distribution: [B, V], differentiable in the scores [B, V].
)doc")
      .def(
          "entropy",
          [](const Structure& self, py::handle scores) {
            const at::Tensor t = tensor_argument("entropy", 1, "scores", scores);
            const py::gil_scoped_release release;
            return self.entropy(t);
          },
          py::arg("scores"), R"doc(
entropy(scores: Tensor) -> Tensor

H(π) of the Gibbs distribution: [B] in nats, differentiable in the scores [B, V].
)doc");

  py::class_<Categorical, Structure, std::shared_ptr<Categorical>>(module, "Categorical", R"doc(
Categorical(values: int)

One variable with K ≥ 1 values: V = K parts, outcome z is part z, in the order 0 … K − 1.

Every oracle is exact; assignments carry ``indices``. Ties go to the lower index. A score of −inf
is never sampled. A row with NaN, +inf or no finite score is refused on the CPU, by its number.
O(K) a row.
)doc")
      .def(py::init([](py::handle values) {
             return std::make_shared<Categorical>(int_argument("Categorical", 1, "values", values));
           }),
           py::arg("values"))
      .def("__repr__",
           [](const Categorical& s) { return "Categorical(" + std::to_string(s.parts()) + ")"; })
      .def("__eq__",
           [](const Categorical& s, const py::object& other) {
             return py::isinstance<Categorical>(other) &&
                    py::cast<const Categorical&>(other).parts() == s.parts();
           })
      .def("__hash__", [](const Categorical& s) { return py::hash(py::str(s.name())); })
      .def(py::pickle([](const Categorical& s) { return py::make_tuple(s.parts()); },
                      [](const py::tuple& state) {
                        return std::make_shared<Categorical>(py::cast<int64_t>(state[0]));
                      }));

  py::class_<Bits, Structure, std::shared_ptr<Bits>>(module, "Bits", R"doc(
Vectors of D bits of which between ``least`` and ``most`` are on: :class:`BitVector`,
:class:`Budget` and :class:`Subset`. Part i is "bit i is on", so V = D.
)doc")
      .def_property_readonly("least", &Bits::least, "The least bits that are on.")
      .def_property_readonly("most", &Bits::most, "The most bits that are on.")
      .def_property_readonly("free", &Bits::free, "Whether every vector of D bits is allowed.")
      .def("__eq__",
           [](const Bits& s, const py::object& other) {
             return py::isinstance<Bits>(other) && py::cast<const Bits&>(other).name() == s.name();
           })
      .def("__hash__", [](const Bits& s) { return py::hash(py::str(s.name())); });

  py::class_<BitVector, Bits, std::shared_ptr<BitVector>>(module, "BitVector", R"doc(
BitVector(bits: int)

All vectors of D ≥ 1 bits. Every oracle is exact: map O(D), k_best O(D + k log k), sample,
log_partition, marginals and entropy products of Bernoullis, O(D). A bit with score 0 is off in the
map. Enumeration is in the order of Σ_i z_i 2^i.
)doc")
      .def(py::init([](py::handle bits) {
             return std::make_shared<BitVector>(int_argument("BitVector", 1, "bits", bits));
           }),
           py::arg("bits"))
      .def("__repr__",
           [](const BitVector& s) { return "BitVector(" + std::to_string(s.parts()) + ")"; })
      .def(py::pickle([](const BitVector& s) { return py::make_tuple(s.parts()); },
                      [](const py::tuple& state) {
                        return std::make_shared<BitVector>(py::cast<int64_t>(state[0]));
                      }));

  py::class_<Budget, Bits, std::shared_ptr<Budget>>(module, "Budget", R"doc(
Budget(bits: int, budget: int)

Vectors of D ≥ 1 bits with at most B on, 0 ≤ B ≤ D. Every oracle is exact; sample, log_partition,
marginals and entropy cost O(D·B), by the distribution of the number of bits on.
)doc")
      .def(py::init([](py::handle bits, py::handle budget) {
             return std::make_shared<Budget>(int_argument("Budget", 1, "bits", bits),
                                             int_argument("Budget", 2, "budget", budget));
           }),
           py::arg("bits"), py::arg("budget"))
      .def("__repr__",
           [](const Budget& s) {
             return "Budget(" + std::to_string(s.parts()) + ", " + std::to_string(s.most()) + ")";
           })
      .def(py::pickle([](const Budget& s) { return py::make_tuple(s.parts(), s.most()); },
                      [](const py::tuple& state) {
                        return std::make_shared<Budget>(py::cast<int64_t>(state[0]),
                                                        py::cast<int64_t>(state[1]));
                      }));

  py::class_<Subset, Bits, std::shared_ptr<Subset>>(module, "Subset", R"doc(
Subset(bits: int, size: int)

Vectors of D ≥ 1 bits with exactly B on, 0 ≤ B ≤ D. Every oracle is exact; sample, log_partition,
marginals and entropy cost O(D·B), by the distribution of the number of bits on.
)doc")
      .def(py::init([](py::handle bits, py::handle size) {
             return std::make_shared<Subset>(int_argument("Subset", 1, "bits", bits),
                                             int_argument("Subset", 2, "size", size));
           }),
           py::arg("bits"), py::arg("size"))
      .def("__repr__",
           [](const Subset& s) {
             return "Subset(" + std::to_string(s.parts()) + ", " + std::to_string(s.most()) + ")";
           })
      .def(py::pickle([](const Subset& s) { return py::make_tuple(s.parts(), s.most()); },
                      [](const py::tuple& state) {
                        return std::make_shared<Subset>(py::cast<int64_t>(state[0]),
                                                        py::cast<int64_t>(state[1]));
                      }));
}

}  // namespace sparsum::python
