#include "tests/lab/folder.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <lab/options.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::spit;

struct Config {
  bool resume = false;
  int64_t epochs = 20;
  int64_t offset = -3;
  double lr = 1e-3;
  double decay = 1;
  std::string dataset = "mnist";
  std::string out = "";
};

Options make(Config& config) {
  const double infinity = std::numeric_limits<double>::infinity();
  Options options;
  options.add("resume", &config.resume, "go on where the run stopped")
      .add("epochs", &config.epochs, "semi-supervised epochs", "epochs", 0, 10000)
      .add("offset", &config.offset, "any whole number", "", std::numeric_limits<int64_t>::min(),
           std::numeric_limits<int64_t>::max())
      .add("lr", &config.lr, "learning rate", "per step", 1e-9, 1)
      .add("decay", &config.decay, "weight decay", "", 0, infinity)
      .add("dataset", &config.dataset, "images to learn from", {"mnist", "fashion-mnist"})
      .add("out", &config.out, "folder of the run");
  return options;
}

TEST(Options, KnowTheirDefaults) {
  Config config;
  const Options options = make(config);
  std::vector<std::string> defaults;
  for (const Option& option : options.all()) defaults.push_back(option.default_text);
  EXPECT_EQ(defaults,
            (std::vector<std::string>{"false", "20", "-3", "0.001", "1.0", "\"mnist\"", "\"\""}));
}

TEST(Options, SetFromText) {
  Config config;
  Options options = make(config);
  options.set("resume", "true");
  options.set("epochs", "7");
  options.set("offset", "-9223372036854775808");
  options.set("lr", "2.5e-4");
  options.set("decay", "+3");
  options.set("dataset", "fashion-mnist");
  options.set("out", "runs/ü x");
  EXPECT_TRUE(config.resume);
  EXPECT_EQ(config.epochs, 7);
  EXPECT_EQ(config.offset, std::numeric_limits<int64_t>::min());
  EXPECT_EQ(config.lr, 2.5e-4);
  EXPECT_EQ(config.decay, 3);
  EXPECT_EQ(config.dataset, "fashion-mnist");
  EXPECT_EQ(config.out, "runs/ü x");
  options.set("resume", "false");
  EXPECT_FALSE(config.resume);
  // The ends of a range belong to it.
  options.set("epochs", "0");
  options.set("epochs", "10000");
  options.set("lr", "1e-9");
  options.set("lr", "1");
}

TEST(Options, NameOptionRequirementAndText) {
  Config config;
  Options options = make(config);
  const auto message = [&](const std::string& name, const std::string& text) {
    return input_error_of([&] { options.set(name, text); });
  };
  EXPECT_EQ(message("epohcs", "1"), "unknown option --epohcs (did you mean epochs?)");
  EXPECT_EQ(message("temperature", "1"), "unknown option --temperature");
  EXPECT_EQ(message("resume", "yes"), "option --resume: expected true or false, got 'yes'");
  const std::string epochs =
      "option --epochs: expected a whole number from 0 to 10000 (epochs), got ";
  for (const char* text :
       {"-1", "10001", "1.5", "1e2", "", " 1", "1 ", "ten", "0x10", "+-1", "9223372036854775808"}) {
    EXPECT_EQ(message("epochs", text), epochs + "'" + text + "'");
  }
  EXPECT_EQ(message("offset", "9223372036854775808"),
            "option --offset: expected a whole number, got '9223372036854775808'");
  for (const char* text : {"0", "1.0000001", "nan", "inf", "-1", "1,5", "", "1e-400", "0.1s"}) {
    EXPECT_EQ(
        message("lr", text),
        std::string("option --lr: expected a finite number from 1e-09 to 1 (per step), got '") +
            text + "'");
  }
  EXPECT_EQ(message("decay", "-0.5"),
            "option --decay: expected a finite number at least 0, got '-0.5'");
  EXPECT_EQ(message("decay", "inf"),
            "option --decay: expected a finite number at least 0, got 'inf'");
  EXPECT_EQ(message("dataset", "mnits"),
            "option --dataset: expected one of mnist, fashion-mnist, got 'mnits' (did you mean "
            "mnist?)");
  EXPECT_EQ(message("out", "\xff"), "option --out: expected UTF-8 text, got '\xff'");
  // Nothing was set.
  Config untouched;
  EXPECT_EQ(options.to_toml(), make(untouched).to_toml());
}

TEST(Options, WriteToml) {
  Config config;
  config.out = "a \"b\" \\ \t\n\x01\x7f ü";
  config.lr = 1e-5;
  EXPECT_EQ(make(config).to_toml(), R"(# go on where the run stopped
resume = false

# semi-supervised epochs (epochs; from 0 to 10000)
epochs = 20

# any whole number
offset = -3

# learning rate (per step; from 1e-09 to 1)
lr = 1e-05

# weight decay (at least 0)
decay = 1.0

# images to learn from (one of mnist, fashion-mnist)
dataset = "mnist"

# folder of the run
out = "a \"b\" \\ \t\n\u0001\u007F ü"
)");
}

TEST(Options, ReadBackWhatTheyWrote) {
  const Folder folder;
  std::mt19937_64 engine(5);
  std::vector<double> reals = {0.0,  -0.0,   0.1,         1e22,
                               1e23, 5e-324, 123456789.0, 1e16,
                               0.3,  1e-300, 3.0,         std::numeric_limits<double>::max()};
  while (reals.size() < 300) {
    double value = 0;
    const uint64_t bits = engine();
    std::memcpy(&value, &bits, sizeof(value));
    if (std::isfinite(value)) reals.push_back(value);
  }
  for (const double real : reals) {
    double lr = real;
    int64_t seed = static_cast<int64_t>(engine());
    bool flag = engine() % 2 == 0;
    std::string text;
    for (size_t i = engine() % 20; i > 0; --i) text += static_cast<char>(engine() % 128);
    const auto before = std::tuple(lr, seed, flag, text);
    const double infinity = std::numeric_limits<double>::infinity();
    Options options;
    options.add("lr", &lr, "", "", -infinity, infinity)
        .add("seed", &seed, "", "", std::numeric_limits<int64_t>::min(),
             std::numeric_limits<int64_t>::max())
        .add("flag", &flag, "")
        .add("text", &text, "");
    spit(folder / "f.toml", options.to_toml());
    lr = 0;
    seed = 0;
    flag = !flag;
    text = "other";
    options.read_toml(folder / "f.toml");
    EXPECT_EQ(std::tuple(lr, seed, flag, text), before);
    EXPECT_EQ(std::signbit(lr), std::signbit(real));
  }
}

TEST(Options, ReadToml) {
  const Folder folder;
  Config config;
  Options options = make(config);
  spit(folder / "f.toml",
       "# comment\nlr = 1 # a whole number will do\nepochs = 1_000\n"
       "dataset = 'fashion-mnist'\nstarted = 2024-01-01\n[versions]\na = 1\n");
  options.read_toml(folder / "f.toml", {"versions", "started"});
  EXPECT_EQ(config.lr, 1);
  EXPECT_EQ(config.epochs, 1000);
  EXPECT_EQ(config.dataset, "fashion-mnist");
  EXPECT_EQ(config.offset, -3);
}

TEST(Options, NameFileAndLine) {
  const Folder folder;
  const auto path = folder / "f.toml";
  Config config;
  Options options = make(config);
  const auto message = [&](const std::string& toml) {
    spit(path, toml);
    const std::string text = input_error_of([&] { options.read_toml(path); });
    EXPECT_TRUE(text.starts_with(path.string() + ":")) << text;
    return text.substr(std::min(text.size(), path.string().size() + 1));
  };
  EXPECT_EQ(message("lr = 0.5\n\nepoch = 3\n"), "3: unknown key \"epoch\" (did you mean epochs?)");
  EXPECT_EQ(message("\"odd \\n key\" = 3\n"), "1: unknown key \"odd \\n key\"");
  EXPECT_EQ(message("[model]\nlr = 1\n"), "1: unknown key \"model\"");
  EXPECT_EQ(message("epochs = 2.0"),
            "1: epochs: expected a whole number from 0 to 10000 (epochs), got 2.0");
  EXPECT_EQ(message("\nepochs = -1"),
            "2: epochs: expected a whole number from 0 to 10000 (epochs), got -1");
  EXPECT_EQ(message("lr = nan"),
            "1: lr: expected a finite number from 1e-09 to 1 (per step), got nan");
  EXPECT_EQ(message("lr = \"0.1\""),
            "1: lr: expected a finite number from 1e-09 to 1 (per step), got \"0.1\"");
  EXPECT_EQ(message("lr = [0.1]"),
            "1: lr: expected a finite number from 1e-09 to 1 (per step), got an array");
  EXPECT_EQ(message("[lr]\nx = 1"),
            "1: lr: expected a finite number from 1e-09 to 1 (per step), got a table");
  EXPECT_EQ(message("resume = 1"), "1: resume: expected true or false, got 1");
  EXPECT_EQ(message("resume = 2024-01-01"),
            "1: resume: expected true or false, got a date or time");
  EXPECT_EQ(message("out = true"), "1: out: expected UTF-8 text, got true");
  EXPECT_EQ(message("dataset = \"fashion_mnist\""),
            "1: dataset: expected one of mnist, fashion-mnist, got \"fashion_mnist\" (did you mean "
            "fashion-mnist?)");
  // The first mistake by line, whatever the names.
  EXPECT_TRUE(message("zzz = 1\naaa = 1").starts_with("1: unknown key \"zzz\""));
  EXPECT_TRUE(message("lr = 1\nlr = 2").starts_with("2: no valid TOML: "));
  EXPECT_TRUE(message("lr = 1\n\nlr 2").starts_with("3: no valid TOML: "));
  EXPECT_TRUE(message("out = \"\xff\"").starts_with("1: no valid TOML: "));
  // The parser quotes the text, line break and all; the message stays one line.
  EXPECT_EQ(message("resume = f\n"),
            "1: no valid TOML: Error while parsing boolean: expected 'false', saw 'f\\n'");
  // All or nothing: what stands before a mistake is not set either.
  message("lr = 0.25\nepochs = -1");
  EXPECT_EQ(config.lr, 1e-3);
  EXPECT_EQ(input_error_of([&] { options.read_toml(folder / "none"); }),
            "cannot read " + (folder / "none").string() + ": No such file or directory");
}

TEST(Options, RefuseContradictoryDeclarations) {
  Config config;
  Options options = make(config);
  EXPECT_THROW(options.add("lr", &config.lr, "again", "", 0, 1), c10::Error);
  EXPECT_THROW(options.add("Upper", &config.resume, ""), c10::Error);
  EXPECT_THROW(options.add("", &config.resume, ""), c10::Error);
  EXPECT_THROW(options.add("two", &config.lr, "a default out of range", "", 2, 3), c10::Error);
  EXPECT_THROW(options.add("three", &config.dataset, "a default that is no choice", {"x"}),
               c10::Error);
  EXPECT_THROW(options.add("four", &config.resume, "two\nlines"), c10::Error);
  EXPECT_THROW(options.add("five", static_cast<bool*>(nullptr), ""), c10::Error);
}

TEST(Nearest, FindsSlipsOfTheFingers) {
  const std::vector<std::string> known = {"mnist", "fashion-mnist", "lr", "warmup-epochs"};
  EXPECT_EQ(nearest("mnist", known), "mnist");
  EXPECT_EQ(nearest("mnsit", known), "mnist");
  EXPECT_EQ(nearest("minst", known), "mnist");
  EXPECT_EQ(nearest("nist", known), "mnist");
  EXPECT_EQ(nearest("fashionmnist", known), "fashion-mnist");
  EXPECT_EQ(nearest("warm_up_epochs", known), "warmup-epochs");
  EXPECT_EQ(nearest("l", known), "lr");
  EXPECT_EQ(nearest("xy", known), "");
  EXPECT_EQ(nearest("cifar", known), "");
  EXPECT_EQ(nearest("", known), "");
  EXPECT_EQ(nearest("x", {}), "");
}

TEST(Options, ValuesAsTextAreTheShortestThatReadBack) {
  EXPECT_EQ(number_text(2), "2");
  EXPECT_EQ(number_text(0.0005), "0.0005");
  EXPECT_EQ(number_text(1e-5), "1e-05");
  EXPECT_EQ(number_text(-0.1), "-0.1");
  EXPECT_EQ(std::stod(number_text(1.0 / 3)), 1.0 / 3);
  bool flag = true;
  int64_t count = -3;
  double rate = 0.25;
  std::string word = "a b";
  Options options;
  options.add("flag", &flag, "").add("count", &count, "", "", -5, 5);
  options.add("rate", &rate, "", "", 0.0, 1.0).add("word", &word, "");
  std::vector<std::string> texts;
  for (const Option& option : options.all()) {
    texts.push_back(value_text(option));
    options.set(option.name, texts.back());
  }
  EXPECT_EQ(texts, (std::vector<std::string>{"true", "-3", "0.25", "a b"}));
}

}  // namespace
}  // namespace sparsum::lab
