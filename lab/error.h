#pragma once

#include <stdexcept>
#include <string>

namespace sparsum::lab {

/// Something the user gave is not usable: a file, an option, a disk. what() is one line that names
/// the thing, what was expected and what was found. The program prints it and exits with 2.
class InputError : public std::runtime_error {
 public:
  explicit InputError(const std::string& message) : std::runtime_error(one_line(message)) {}

 private:
  // Messages quote names and contents of files: a line break or a terminal's control sequence in
  // them is shown, not obeyed.
  static std::string one_line(const std::string& message) {
    constexpr const char* kDigits = "0123456789abcdef";
    std::string text;
    for (const char c : message) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '\n') {
        text += "\\n";
      } else if (byte < 0x20 || byte == 0x7f) {
        text += "\\x";
        text += kDigits[byte >> 4];
        text += kDigits[byte & 15];
      } else {
        text += c;
      }
    }
    return text;
  }
};

}  // namespace sparsum::lab
