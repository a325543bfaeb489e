#pragma once

#include <sparsum/sparsum.h>
#include <torch/extension.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace sparsum::python {

namespace py = pybind11;

// One function a file of bindings; module.cpp calls them all.
void bind_structures(py::module_& module);
void bind_distributions(py::module_& module);
void bind_estimators(py::module_& module);

// Arguments, refused in the words of PyTorch's own: "map(): argument 'scores' (position 1) must be
// Tensor, not list". All need the GIL.
at::Tensor tensor_argument(const char* caller, int position, const char* name, py::handle value);
std::optional<at::Tensor> optional_tensor_argument(const char* caller, int position,
                                                   const char* name, py::handle value);
int64_t int_argument(const char* caller, int position, const char* name, py::handle value);
at::Generator generator_argument(const char* caller, int position, const char* name,
                                 py::handle value);
std::optional<at::Generator> optional_generator_argument(const char* caller, int position,
                                                         const char* name, py::handle value);
std::vector<at::Tensor> tensors_argument(const char* caller, int position, const char* name,
                                         py::handle value);
[[noreturn]] void wrong_type(const char* caller, int position, const char* name,
                             const char* required, py::handle value);

/// The name of a value's type, for messages.
std::string type_name(py::handle value);

/// A Python object that C++ may copy and drop on any thread, with or without the GIL.
std::shared_ptr<py::object> hold(py::object object);

/// A Python loss as the library calls it: loss(z, *shared) -> [n] or (value [n], log_prob [n]).
/// Takes the GIL for each call, looks for Ctrl-C first, and lets a Python exception through as it
/// is.
LossFn loss_function(const char* caller, int position, py::handle loss);

/// A structure of one's own for one call of the library: as the original, but once an oracle has
/// thrown, the oracles of all threads throw, so that the call ends at once; and what arrives is the
/// first exception.
class StructureOfOneCall final : public CustomStructure {
 public:
  explicit StructureOfOneCall(const CustomStructure& original) : original_(original) {}

  std::string name() const override { return original_.name(); }
  int64_t parts() const override { return original_.parts(); }
  int64_t variables() const override { return original_.variables(); }
  double log_size() const override { return original_.log_size(); }
  std::optional<int64_t> size() const override { return original_.size(); }
  std::vector<uint8_t> best(std::span<const double> scores) const override {
    return watched([&] { return original_.best(scores); });
  }
  std::vector<std::vector<uint8_t>> k_best_one(std::span<const double> scores,
                                               int64_t k) const override {
    return watched([&] { return original_.k_best_one(scores, k); });
  }
  Assignments enumerate(int64_t batch, const at::Device& device, int64_t limit) const override {
    return original_.enumerate(batch, device, limit);
  }
  Assignments sample(const at::Tensor& scores, int64_t samples,
                     at::Generator generator) const override {
    return original_.sample(scores, samples, std::move(generator));
  }
  at::Tensor score(const at::Tensor& scores, const Assignments& z) const override {
    return original_.score(scores, z);
  }
  at::Tensor log_partition(const at::Tensor& scores) const override {
    return original_.log_partition(scores);
  }
  at::Tensor marginals(const at::Tensor& scores) const override {
    return original_.marginals(scores);
  }
  at::Tensor entropy(const at::Tensor& scores) const override { return original_.entropy(scores); }

  void rethrow_first() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  template <typename Call>
  std::invoke_result_t<Call> watched(const Call& call) const {
    TORCH_CHECK(!stopped_.load(std::memory_order_relaxed),
                "stopped: another thread's oracle threw");
    try {
      return call();
    } catch (const c10::Error&) {  // "not available", which callers may ask about
      throw;
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!first_) first_ = std::current_exception();
      stopped_ = true;
      throw;
    }
  }

  const CustomStructure& original_;
  mutable std::mutex mutex_;
  mutable std::exception_ptr first_;
  mutable std::atomic<bool> stopped_{false};
};

/// call(structure) without the GIL; the result must not refer to the structure.
template <typename Call>
auto without_gil(const Structure& structure, const Call& call) {
  const py::gil_scoped_release release;
  const auto* custom = dynamic_cast<const CustomStructure*>(&structure);
  if (custom == nullptr) return call(structure);
  const StructureOfOneCall watched(*custom);
  try {
    return call(static_cast<const Structure&>(watched));
  } catch (...) {
    watched.rethrow_first();
    throw;
  }
}

}  // namespace sparsum::python
