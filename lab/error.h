#pragma once

#include <stdexcept>
#include <string>

namespace sparsum::lab {

/// Something the user gave is not usable: a file, an option, a disk. what() is one line that names
/// the thing, what was expected and what was found. The program prints it and exits with 2.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace sparsum::lab
