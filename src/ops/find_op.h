#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace sparsum::ops {

/// The registered op `sparsum::<name>[.<overload>]`, to be kept in a static: looking up costs
/// microseconds.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).template typed<Signature>();
}

/// Whether calling an op on these tensors has to record a node for the backward pass.
template <class... Tensors>
bool needs_graph(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (tensors.requires_grad() || ...);
}

}  // namespace sparsum::ops
