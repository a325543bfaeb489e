#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace sparsum::lab {

/// One option of an experiment: the single place where its name, meaning, unit, default and range
/// are written. The command line, config.toml and the checks are all made from it.
struct Option {
  using Target = std::variant<bool*, int64_t*, double*, std::string*>;

  std::string
      name;  ///< as on the command line without dashes and as the key in TOML: "steps-per-epoch"
  std::string description;           ///< one line
  std::string unit;                  ///< "", "epochs", "steps", …
  Target target;                     ///< holds the default when the option is declared
  std::string default_text;          ///< the default, as TOML; filled in by Options::add
  double minimum, maximum;           ///< numbers: the closed range
  std::vector<std::string> choices;  ///< strings: the allowed values, or empty
  bool after_training = false;       ///< may be another when a finished run is loaded
};

/// The options of one experiment, bound to a config's fields.
class Options {
 public:
  Options& add(std::string name, bool* target, std::string description);
  Options& add(std::string name, int64_t* target, std::string description, std::string unit,
               int64_t minimum, int64_t maximum);
  Options& add(std::string name, double* target, std::string description, std::string unit,
               double minimum, double maximum);
  Options& add(std::string name, std::string* target, std::string description,
               std::vector<std::string> choices = {});

  /// Words the default of the option that was added last, where its value alone does not say it
  /// ("auto: …").
  Options& describe_default(std::string text) {
    options_.back().default_text = std::move(text);
    return *this;
  }

  /// The option that was added last says where, or on how much, a model is evaluated: it may be
  /// another when a finished run is loaded than it was in training.
  Options& also_after_training() {
    options_.back().after_training = true;
    return *this;
  }

  const std::vector<Option>& all() const { return options_; }

  /// Sets an option from text, as the command line gives it. Throws InputError: an unknown name
  /// (with the nearest one), text that is not of the type, a value out of range or not among the
  /// choices.
  void set(const std::string& name, const std::string& text);

  /// Sets every key that the TOML file has. Throws InputError with file and line: unreadable, no
  /// TOML, an unknown key (with the nearest known one), a wrong type, a value out of range.
  /// `ignore`: keys to skip.
  void read_toml(const std::filesystem::path& path, const std::vector<std::string>& ignore = {});

  /// All options as TOML, in the order of declaration, each with its description as a comment.
  std::string to_toml() const;

 private:
  std::vector<Option> options_;
};

/// An option's present value as text, as the command line takes it.
std::string value_text(const Option& option);

/// The shortest text that reads back as the same number: "0.5", "2", "1e-05".
std::string number_text(double value);

/// The member of `known` with the least edit distance to `word`, or "" if none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

}  // namespace sparsum::lab
