// The extension module sparsum._lab: the experiments, for Python.

#include "lab/error.h"
#include "lab/experiments/trained.h"
#include "lab/run.h"

#include <torch/extension.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>

namespace sparsum::python {
namespace {

namespace py = pybind11;
using Clock = std::chrono::steady_clock;

/// Runs `work` on a thread of its own and waits without the GIL. Such a thread has LibTorch's
/// default modes whatever those of the caller are (no_grad, say), and what the work sets for its
/// thread ends with it; the number of threads, which LibTorch keeps for the process, is put back.
/// Meanwhile the caller's thread looks for Python's signals: the first exception that a handler
/// raises (KeyboardInterrupt) goes to `on_signal`. Rethrows what `work` throws.
void run_aside(const std::function<void()>& work,
               const std::function<void(std::exception_ptr)>& on_signal) {
  constexpr auto kPeriod = std::chrono::milliseconds(50);
  const int threads = at::get_num_threads();
  std::exception_ptr failure;
  {
    const py::gil_scoped_release release;
    std::mutex mutex;
    std::condition_variable ended;
    bool done = false, signalled = false;
    std::thread worker([&] {
      try {
        work();
      } catch (...) {
        failure = std::current_exception();
      }
      const std::lock_guard lock(mutex);
      done = true;
      ended.notify_one();
    });
    std::unique_lock lock(mutex);
    while (!ended.wait_for(lock, kPeriod, [&] { return done; })) {
      if (signalled) continue;
      lock.unlock();
      {
        const py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) {
          signalled = true;
          on_signal(std::make_exception_ptr(py::error_already_set()));
        }
      }
      lock.lock();
    }
    lock.unlock();
    worker.join();
  }
  at::set_num_threads(threads);
  if (failure) std::rethrow_exception(failure);
}

/// For work that cannot be stopped on the way: the signal's exception comes when it is done.
void run_aside(const std::function<void()>& work) {
  std::exception_ptr signal;
  run_aside(work, [&](std::exception_ptr raised) { signal = std::move(raised); });
  if (signal) std::rethrow_exception(signal);
}

/// Tells a Python function how training goes: of every epoch and message, and of steps ten times a
/// second. What it raises stops training and is kept.
class Reporter final : public lab::TrainingObserver {
 public:
  Reporter(py::object report, std::atomic<bool>& stop) : report_(std::move(report)), stop_(stop) {}

  void on_step(const lab::Progress& progress) override {
    constexpr auto kPeriod = std::chrono::milliseconds(100);
    if (Clock::now() - told_ < kPeriod) return;
    tell(&progress, nullptr, nullptr, "");
  }
  void on_epoch(const lab::Progress& progress, const lab::Json& metrics,
                const lab::Json& timing) override {
    tell(&progress, &metrics, &timing, "");
  }
  void on_message(const std::string& message) override { tell(nullptr, nullptr, nullptr, message); }

  const std::exception_ptr& raised() const { return raised_; }

 private:
  void tell(const lab::Progress* progress, const lab::Json* metrics, const lab::Json* timing,
            const std::string& message) {
    if (raised_) return;
    const py::gil_scoped_acquire acquire;
    try {
      if (report_.is_none()) return;
      py::dict fields;
      fields["message"] = message;
      fields["metrics"] = metrics == nullptr ? "" : metrics->dump();
      fields["timing"] = timing == nullptr ? "" : timing->dump();
      if (progress != nullptr) {
        fields["phase"] = progress->phase;
        fields["epoch"] = progress->epoch;
        fields["epochs"] = progress->epochs;
        fields["step"] = progress->step;
        fields["steps"] = progress->steps;
        fields["steps_done"] = progress->steps_done;
        fields["steps_total"] = progress->steps_total;
        fields["steps_per_second"] = progress->steps_per_second;
        fields["objective"] = progress->numbers.objective;
        fields["accuracy"] = progress->numbers.accuracy;
        fields["evaluations"] = progress->numbers.evaluations;
      }
      report_(**fields);
    } catch (...) {
      raised_ = std::current_exception();
      stop_.store(true);
    }
    told_ = Clock::now();
  }

  py::object report_;
  std::atomic<bool>& stop_;
  std::exception_ptr raised_;
  Clock::time_point told_{};
};

/// (folder, summary as JSON or ""). Raises what a signal's handler or `report` raised, once the
/// state is saved.
std::pair<std::string, std::string> train(const lab::TrainRequest& request,
                                          const py::object& report) {
  std::atomic<bool> stop = false;
  Reporter reporter(report, stop);
  lab::TrainResult result;
  std::exception_ptr signal;
  run_aside([&] { result = lab::train(request, stop, reporter); },
            [&](std::exception_ptr raised) {
              signal = std::move(raised);
              stop.store(true);
            });
  const std::exception_ptr raised = signal ? signal : reporter.raised();
  if (raised) {
    try {
      std::rethrow_exception(raised);
    } catch (py::error_already_set& error) {
      if (result.summary || !error.matches(PyExc_KeyboardInterrupt)) throw;
      const std::string folder = result.folder.string();
      PyErr_SetString(PyExc_KeyboardInterrupt,
                      ("sparsum: stopped, and the state is saved; go on with: sparsum.train(\"" +
                       request.experiment + "\", out=" + std::string(py::repr(py::str(folder))) +
                       ", resume=True)")
                          .c_str());
      throw py::error_already_set();
    }
  }
  return {result.folder.string(), result.summary ? result.summary->dump() : ""};
}

py::object value_of(const lab::Option& option) {
  return std::visit([](const auto* target) { return py::cast(*target); }, option.target);
}

/// Name, description, unit, default, its wording, minimum, maximum (None: no bound), choices.
py::list options(const std::string& experiment) {
  const auto config = lab::make_config(experiment);
  const lab::Options all = config->options();
  py::list result;
  for (const lab::Option& option : all.all()) {
    py::object minimum = py::none(), maximum = py::none();
    if (std::holds_alternative<int64_t*>(option.target)) {
      constexpr double kEnd = 9.2e18;
      if (option.minimum > -kEnd) minimum = py::int_(static_cast<int64_t>(option.minimum));
      if (option.maximum < kEnd) maximum = py::int_(static_cast<int64_t>(option.maximum));
    } else if (std::holds_alternative<double*>(option.target)) {
      constexpr double kEnd = std::numeric_limits<double>::max();
      if (option.minimum > -kEnd) minimum = py::float_(option.minimum);
      if (option.maximum < kEnd) maximum = py::float_(option.maximum);
    }
    result.append(py::make_tuple(option.name, option.description, option.unit, value_of(option),
                                 option.default_text, minimum, maximum, option.choices));
  }
  return result;
}

py::dict config_of(lab::ExperimentConfig& config) {
  const lab::Options all = config.options();
  py::dict result;
  for (const lab::Option& option : all.all()) result[py::str(option.name)] = value_of(option);
  return result;
}

py::dict to_python(const lab::Encoded& encoded) {
  py::dict result;
  result["scores"] = encoded.scores;
  result["mode"] = encoded.mode;
  if (!encoded.distribution) return result;
  // A class of sparsum._C, which the package loads first.
  result["distribution"] = py::cast(std::make_shared<SparseDistribution>(*encoded.distribution));
  return result;
}

py::object load(const std::string& run, const std::string& checkpoint,
                const lab::Settings& settings) {
  std::shared_ptr<lab::TrainedModel> model;
  run_aside([&] { model = lab::TrainedModel::load(run, checkpoint, settings); });
  if (auto bitvector = std::dynamic_pointer_cast<lab::TrainedBitvector>(model)) {
    return py::cast(std::move(bitvector));
  }
  if (auto ssvae = std::dynamic_pointer_cast<lab::TrainedSsvae>(model)) {
    return py::cast(std::move(ssvae));
  }
  return py::cast(std::dynamic_pointer_cast<lab::TrainedSignal>(model));
}

std::string evaluate(const std::string& run, const std::string& checkpoint,
                     const lab::Settings& settings, const std::string& split) {
  std::string result;
  run_aside([&] {
    result = lab::load_run(run, checkpoint, settings).experiment->evaluate(split).dump();
  });
  return result;
}

void translate_errors(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const lab::NonFiniteError& error) {
    PyErr_SetString(PyExc_FloatingPointError, error.what());
  } catch (const c10::ValueError& error) {
    PyErr_SetString(PyExc_ValueError, error.what_without_backtrace());
  } catch (const c10::TypeError& error) {
    PyErr_SetString(PyExc_TypeError, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what_without_backtrace());
  }
}

}  // namespace
}  // namespace sparsum::python

PYBIND11_MODULE(_lab, module) {
  namespace py = pybind11;
  namespace lab = sparsum::lab;
  using namespace sparsum::python;
  module.doc() = "Sparsum's experiments. Use sparsum.experiments instead.";

  py::register_local_exception_translator(translate_errors);
  // Pickled and shown under the names that the package gives them.
  auto& input_error =
      py::register_local_exception<lab::InputError>(module, "InputError", PyExc_ValueError);
  input_error.attr("__module__") = "sparsum.experiments";
  input_error.attr("__doc__") =
      "Something given is not usable: an option, a file, a folder.\n\n"
      "The text is one line that names the thing, what was expected and what was found.\n";
  auto& diverged = py::register_local_exception<lab::TrainingDiverged>(module, "TrainingDiverged",
                                                                       PyExc_ArithmeticError);
  diverged.attr("__module__") = "sparsum.experiments";
  diverged.attr("__doc__") =
      "The objective, a score or a metric is no longer finite.\n\n"
      "The text is one line that names step, epoch, batch and the last good checkpoint.\n";

  module.def("experiments", &lab::experiments);
  module.def("options", &options, py::arg("experiment"));
  module.def(
      "train",
      [](const std::string& experiment, const lab::Settings& settings, const std::string& config,
         const std::string& out, bool resume, const py::object& report) {
        return train({experiment, config, settings, out, resume}, report);
      },
      py::arg("experiment"), py::arg("settings"), py::arg("config"), py::arg("out"),
      py::arg("resume"), py::arg("report"));
  module.def("load", &load, py::arg("run"), py::arg("checkpoint"), py::arg("settings"));
  module.def("evaluate", &evaluate, py::arg("run"), py::arg("checkpoint"), py::arg("settings"),
             py::arg("split"));

  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<lab::TrainedModel, std::shared_ptr<lab::TrainedModel>>(module, "TrainedModel",
                                                                    py::module_local())
      .def_property_readonly("name", &lab::TrainedModel::name)
      .def_property_readonly("config", [](lab::TrainedModel& m) { return config_of(m.config()); })
      .def_property_readonly("checkpoint",
                             [](const lab::TrainedModel& m) { return m.checkpoint().string(); })
      .def_property_readonly("structure_name",
                             [](const lab::TrainedModel& m) { return m.structure().name(); })
      .def_property_readonly("parts",
                             [](const lab::TrainedModel& m) { return m.structure().parts(); })
      .def("named_parameters",
           [](lab::TrainedModel& m) {
             py::dict result;
             for (const auto& entry : m.module().named_parameters()) {
               result[py::str(entry.key())] = *entry;
             }
             return result;
           })
      .def("encode", [](lab::TrainedModel& m, const at::Tensor& images) {
        lab::Encoded encoded;
        {
          const py::gil_scoped_release release;
          encoded = m.encode(images);
        }
        return to_python(encoded);
      });
  py::class_<lab::TrainedBitvector, lab::TrainedModel, std::shared_ptr<lab::TrainedBitvector>>(
      module, "TrainedBitvector", py::module_local())
      .def("decode", &lab::TrainedBitvector::decode, unlocked);
  py::class_<lab::TrainedSsvae, lab::TrainedModel, std::shared_ptr<lab::TrainedSsvae>>(
      module, "TrainedSsvae", py::module_local())
      .def_property_readonly("latents_size",
                             [](const lab::TrainedSsvae& m) { return m.latents_size(); })
      .def("latents", &lab::TrainedSsvae::latents, unlocked)
      .def("decode", &lab::TrainedSsvae::decode, unlocked);
  py::class_<lab::TrainedSignal, lab::TrainedModel, std::shared_ptr<lab::TrainedSignal>>(
      module, "TrainedSignal", py::module_local())
      .def("receive", &lab::TrainedSignal::receive, unlocked);
}
