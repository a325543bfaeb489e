#include "lab/options.h"

#include "lab/error.h"
#include "lab/files.h"

#include <c10/util/Exception.h>
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

namespace sparsum::lab {

std::string number_text(double value) {
  // to_chars alone would write 5e-04 for 0.0005.
  char text[32];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  return text;
}

std::string value_text(const Option& option) {
  struct Visitor {
    std::string operator()(const bool* value) const { return *value ? "true" : "false"; }
    std::string operator()(const int64_t* value) const { return std::to_string(*value); }
    std::string operator()(const double* value) const { return number_text(*value); }
    std::string operator()(const std::string* value) const { return *value; }
  };
  return std::visit(Visitor{}, option.target);
}

namespace {

// Beyond these, a bound on an integer option is no bound.
constexpr double kIntegerEnd = 9223372036854775808.0;  // 2^63

// Shortest text that reads back as the same double, and as a float rather than an integer.
std::string toml_real(double value) {
  std::string text = number_text(value);
  if (text.find_first_of(".enai") == std::string::npos) text += ".0";
  return text;
}

std::string toml_string(const std::string& value) {
  std::string text = "\"";
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        text += "\\\"";
        break;
      case '\\':
        text += "\\\\";
        break;
      case '\b':
        text += "\\b";
        break;
      case '\t':
        text += "\\t";
        break;
      case '\n':
        text += "\\n";
        break;
      case '\f':
        text += "\\f";
        break;
      case '\r':
        text += "\\r";
        break;
      default:
        if (byte < 0x20 || byte == 0x7f) {
          constexpr std::string_view kDigits = "0123456789ABCDEF";
          text += "\\u00";
          text += kDigits[byte >> 4];
          text += kDigits[byte & 15];
        } else {
          text += c;
        }
    }
  }
  return text + '"';
}

// TOML is UTF-8: well-formed by table 3-7 of the Unicode standard.
bool is_utf8(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto continues = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  for (size_t i = 0; i < text.size();) {
    const unsigned first = byte(i), second = byte(i + 1);
    if (first < 0x80) {
      i += 1;
    } else if (first >= 0xc2 && first <= 0xdf && continues(i + 1)) {
      i += 2;
    } else if (first >= 0xe0 && first <= 0xef && continues(i + 1) && continues(i + 2) &&
               !(first == 0xe0 && second < 0xa0) && !(first == 0xed && second > 0x9f)) {
      i += 3;
    } else if (first >= 0xf0 && first <= 0xf4 && continues(i + 1) && continues(i + 2) &&
               continues(i + 3) && !(first == 0xf0 && second < 0x90) &&
               !(first == 0xf4 && second > 0x8f)) {
      i += 4;
    } else {
      return false;
    }
  }
  return true;
}

std::string toml_text(const Option::Target& target) {
  struct Visitor {
    std::string operator()(const bool* value) const { return *value ? "true" : "false"; }
    std::string operator()(const int64_t* value) const { return std::to_string(*value); }
    std::string operator()(const double* value) const { return toml_real(*value); }
    std::string operator()(const std::string* value) const { return toml_string(*value); }
  };
  return std::visit(Visitor{}, target);
}

bool is_integer(const Option& option) { return std::holds_alternative<int64_t*>(option.target); }

bool has_minimum(const Option& option) {
  return option.minimum >
         (is_integer(option) ? -kIntegerEnd : std::numeric_limits<double>::lowest());
}

bool has_maximum(const Option& option) {
  return option.maximum < (is_integer(option) ? kIntegerEnd : std::numeric_limits<double>::max());
}

std::string bound_text(const Option& option, double bound) {
  return is_integer(option) ? std::to_string(static_cast<int64_t>(bound)) : number_text(bound);
}

// "from 0 to 1", "at least 0", "at most 1", or nothing.
std::string range_text(const Option& option) {
  const bool below = has_minimum(option), above = has_maximum(option);
  if (below && above) {
    return "from " + bound_text(option, option.minimum) + " to " +
           bound_text(option, option.maximum);
  }
  if (below) return "at least " + bound_text(option, option.minimum);
  if (above) return "at most " + bound_text(option, option.maximum);
  return "";
}

std::string choices_text(const std::vector<std::string>& choices) {
  return std::accumulate(choices.begin(), choices.end(), std::string(),
                         [](const std::string& text, const std::string& choice) {
                           return text.empty() ? choice : text + ", " + choice;
                         });
}

// What a value must be, as it stands in messages.
std::string requirement(const Option& option) {
  if (std::holds_alternative<bool*>(option.target)) return "true or false";
  if (std::holds_alternative<std::string*>(option.target)) {
    return option.choices.empty() ? "UTF-8 text" : "one of " + choices_text(option.choices);
  }
  const std::string range = range_text(option);
  std::string text = is_integer(option) ? "a whole number" : "a finite number";
  if (!range.empty()) text += " " + range;
  if (!option.unit.empty()) text += " (" + option.unit + ")";
  return text;
}

using Value = std::variant<bool, int64_t, double, std::string>;

// Whether the option accepts `value`, which has the type of its target.
bool accepts(const Option& option, const Value& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    const auto real = static_cast<double>(*integer);
    return real >= option.minimum && real <= option.maximum;
  }
  if (const auto* real = std::get_if<double>(&value)) {
    return std::isfinite(*real) && *real >= option.minimum && *real <= option.maximum;
  }
  if (const auto* text = std::get_if<std::string>(&value)) {
    if (option.choices.empty()) return is_utf8(*text);
    return std::find(option.choices.begin(), option.choices.end(), *text) != option.choices.end();
  }
  return true;
}

void assign(const Option& option, const Value& value) {
  std::visit([&](auto* target) { *target = std::get<std::decay_t<decltype(*target)>>(value); },
             option.target);
}

Value current(const Option& option) {
  return std::visit([](const auto* target) { return Value(*target); }, option.target);
}

std::string hint(const std::string& word, const std::vector<std::string>& known) {
  const std::string near = nearest(word, known);
  return near.empty() ? "" : " (did you mean " + near + "?)";
}

std::vector<std::string> names(const std::vector<Option>& options) {
  std::vector<std::string> result;
  for (const Option& option : options) result.push_back(option.name);
  return result;
}

const Option* find(const std::vector<Option>& options, const std::string& name) {
  const auto found = std::find_if(options.begin(), options.end(),
                                  [&](const Option& option) { return option.name == name; });
  return found == options.end() ? nullptr : &*found;
}

// All of `text` as a number; nothing if it is none or does not fit.
template <typename T>
std::optional<T> number(std::string_view text) {
  if (text.starts_with('+') && text.substr(1, 1) != "-") text.remove_prefix(1);
  T value{};
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Value> parse(const Option& option, const std::string& text) {
  if (std::holds_alternative<bool*>(option.target)) {
    if (text == "true") return true;
    if (text == "false") return false;
    return std::nullopt;
  }
  if (is_integer(option)) {
    if (const auto value = number<int64_t>(text)) return *value;
    return std::nullopt;
  }
  if (std::holds_alternative<double*>(option.target)) {
    if (const auto value = number<double>(text)) return *value;
    return std::nullopt;
  }
  return text;
}

std::optional<Value> convert(const Option& option, const toml::node& node) {
  if (std::holds_alternative<bool*>(option.target)) {
    if (const auto value = node.value_exact<bool>()) return *value;
  } else if (is_integer(option)) {
    if (const auto value = node.value_exact<int64_t>()) return *value;
  } else if (std::holds_alternative<double*>(option.target)) {
    if (const auto value = node.value_exact<double>()) return *value;
    if (const auto value = node.value_exact<int64_t>()) return static_cast<double>(*value);
  } else if (const auto value = node.value_exact<std::string>()) {
    return *value;
  }
  return std::nullopt;
}

// A TOML value as it stands in messages.
std::string observed(const toml::node& node) {
  if (const auto value = node.value_exact<bool>()) return *value ? "true" : "false";
  if (const auto value = node.value_exact<int64_t>()) return std::to_string(*value);
  if (const auto value = node.value_exact<double>()) return toml_real(*value);
  if (const auto value = node.value_exact<std::string>()) return toml_string(*value);
  if (node.is_table()) return "a table";
  if (node.is_array()) return "an array";
  return "a date or time";
}

std::string wrong(const Option& option, const std::string& value) {
  return "expected " + requirement(option) + ", got " + value;
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::numeric_limits<size_t>::max();
  for (const std::string& candidate : known) {
    // Levenshtein's distance; row[j] is that of word's first i letters to candidate's first j.
    std::vector<size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = std::exchange(row[0], i);
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t replaced = diagonal + (word[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
      }
    }
    const size_t distance = row.back();
    // Two slips, or a third of a long word; and at least one letter must agree.
    const size_t length = std::max(word.size(), candidate.size());
    if (distance > std::max<size_t>(2, word.size() / 3) || distance >= length) continue;
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

namespace {

// What holds of every option, whatever its type.
void declare(std::vector<Option>& options, Option option) {
  TORCH_CHECK(
      !option.name.empty() && option.name.find_first_not_of(
                                  "abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos,
      "Options: expected a name of lower-case letters, digits and dashes, got '", option.name, "'");
  TORCH_CHECK(find(options, option.name) == nullptr, "Options: ", option.name,
              " is declared twice");
  TORCH_CHECK(std::visit([](const auto* target) { return target != nullptr; }, option.target),
              "Options: ", option.name, " has no target");
  TORCH_CHECK(option.description.find('\n') == std::string::npos,
              "Options: expected the description of ", option.name, " to be one line");
  option.default_text = toml_text(option.target);
  TORCH_CHECK(accepts(option, current(option)), "Options: the default of ", option.name, ": ",
              wrong(option, option.default_text));
  options.push_back(std::move(option));
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

Options& Options::add(std::string name, bool* target, std::string description) {
  declare(options_,
          {std::move(name), std::move(description), "", target, "", -kInfinity, kInfinity, {}});
  return *this;
}

Options& Options::add(std::string name, int64_t* target, std::string description, std::string unit,
                      int64_t minimum, int64_t maximum) {
  declare(options_, {std::move(name),
                     std::move(description),
                     std::move(unit),
                     target,
                     "",
                     static_cast<double>(minimum),
                     static_cast<double>(maximum),
                     {}});
  return *this;
}

Options& Options::add(std::string name, double* target, std::string description, std::string unit,
                      double minimum, double maximum) {
  declare(
      options_,
      {std::move(name), std::move(description), std::move(unit), target, "", minimum, maximum, {}});
  return *this;
}

Options& Options::add(std::string name, std::string* target, std::string description,
                      std::vector<std::string> choices) {
  declare(options_, {std::move(name), std::move(description), "", target, "", -kInfinity, kInfinity,
                     std::move(choices)});
  return *this;
}

void Options::set(const std::string& name, const std::string& text) {
  const Option* option = find(options_, name);
  if (option == nullptr) {
    throw InputError("unknown option --" + name + hint(name, names(options_)));
  }
  const std::optional<Value> value = parse(*option, text);
  if (!value || !accepts(*option, *value)) {
    throw InputError("option --" + name + ": " + wrong(*option, "'" + text + "'") +
                     hint(text, option->choices));
  }
  assign(*option, *value);
}

void Options::read_toml(const std::filesystem::path& path, const std::vector<std::string>& ignore) {
  const std::string text = read_file(path);
  toml::table table;
  try {
    table = toml::parse(text, path.string());
  } catch (const toml::parse_error& error) {
    throw InputError(path.string() + ":" + std::to_string(error.source().begin.line) +
                     ": no valid TOML: " + std::string(error.description()));
  }

  // By line, so that the first mistake in the file is the one reported.
  std::vector<std::pair<const toml::key*, const toml::node*>> entries;
  for (const auto& [key, node] : table) entries.emplace_back(&key, &node);
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return a.first->source().begin < b.first->source().begin;
  });

  // Nothing is set before everything is checked.
  std::vector<std::pair<const Option*, Value>> values;
  for (const auto& [key, node] : entries) {
    const std::string name(key->str());
    if (std::find(ignore.begin(), ignore.end(), name) != ignore.end()) continue;
    const std::string where = path.string() + ":" + std::to_string(key->source().begin.line) + ": ";
    const Option* option = find(options_, name);
    if (option == nullptr) {
      throw InputError(where + "unknown key " + toml_string(name) + hint(name, names(options_)));
    }
    const std::optional<Value> value = convert(*option, *node);
    if (!value || !accepts(*option, *value)) {
      const auto word = node->value_exact<std::string>();
      throw InputError(where + name + ": " + wrong(*option, observed(*node)) +
                       (word ? hint(*word, option->choices) : ""));
    }
    values.emplace_back(option, *value);
  }
  for (const auto& [option, value] : values) assign(*option, value);
}

std::string Options::to_toml() const {
  std::string text;
  for (const Option& option : options_) {
    if (!text.empty()) text += '\n';
    text += "# " + option.description;
    std::vector<std::string> notes;
    if (!option.unit.empty()) notes.push_back(option.unit);
    if (!range_text(option).empty()) notes.push_back(range_text(option));
    if (!option.choices.empty()) notes.push_back("one of " + choices_text(option.choices));
    for (size_t i = 0; i < notes.size(); ++i) text += (i == 0 ? " (" : "; ") + notes[i];
    if (!notes.empty()) text += ')';
    text += '\n' + option.name + " = " + toml_text(option.target) + '\n';
  }
  return text;
}

}  // namespace sparsum::lab
