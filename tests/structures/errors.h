#pragma once

#include <c10/util/Exception.h>

#include <string>

namespace sparsum_test {

/// The message of the c10::Error that `call` throws; "" if it throws none.
template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

}  // namespace sparsum_test
