#include "tests/lab/folder.h"
#include "tests/ops/tensors.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <lab/data/idx.h>
#include <lab/data/image_data.h>
#include <lab/data/npy.h>
#include <lab/files.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>
#include <thread>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::seeded;
using sparsum_test::slurp;
using sparsum_test::spit;

/// A data set of this test's own: six training and four test images.
class Toy {
 public:
  Toy() {
    auto generator = seeded(1);
    const auto bytes = at::TensorOptions(at::kByte);
    tensors_ = {at::randint(0, 256, {6, 28, 28}, generator, bytes),
                torch::tensor({0, 1, 2, 9, 4, 5}, at::kByte),
                at::randint(0, 256, {4, 28, 28}, generator, bytes),
                torch::tensor({3, 2, 1, 0}, at::kByte)};
    const char* names[] = {"train-x.gz", "train-y.gz", "test-x.gz", "test-y.gz"};
    source_.name = "toy";
    source_.description = "a toy";
    for (size_t i = 0; i < 4; ++i) {
      const auto plain = origin_ / "plain";
      write_idx(plain, tensors_[i]);
      write_idx(origin_ / names[i], tensors_[i]);
      source_.files.push_back(
          {names[i], sha256(slurp(plain)), "file://" + (origin_ / names[i]).string()});
      std::filesystem::remove(plain);
    }
  }
  DataSource& source() { return source_; }
  const Folder& origin() const { return origin_; }
  const at::Tensor& tensor(size_t i) const { return tensors_[i]; }
  /// Puts file i into `folder`, without .gz if `plain`, or as `other`.
  void put(const std::filesystem::path& folder, size_t i, bool plain = false,
           std::optional<at::Tensor> other = {}) const {
    std::filesystem::create_directories(folder);
    std::filesystem::path name = source_.files[i].name;
    write_idx(folder / (plain ? name.stem() : name), other ? *other : tensors_[i]);
  }

 private:
  Folder origin_;
  DataSource source_;
  std::vector<at::Tensor> tensors_;
};

/// Sets an environment variable, or removes it, until the end of the scope.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~Environment() { set(before_ ? before_->c_str() : nullptr); }

 private:
  void set(const char* value) { value == nullptr ? ::unsetenv(name_) : ::setenv(name_, value, 1); }
  const char* name_;
  std::optional<std::string> before_;
};

TEST(DataSources, AreKnownByName) {
  ASSERT_EQ(data_sources().size(), 2u);
  EXPECT_EQ(data_source("mnist").name, "mnist");
  EXPECT_EQ(data_source("fashion-mnist").system_folder, "/usr/share/datasets/fashion-mnist");
  for (const DataSource& source : data_sources()) {
    ASSERT_EQ(source.files.size(), 4u);
    std::set<std::string> hashes;
    for (const DataSource::File& file : source.files) {
      EXPECT_EQ(file.sha256.size(), 64u);
      EXPECT_TRUE(file.url.ends_with("/" + file.name));
      hashes.insert(file.sha256);
    }
    EXPECT_EQ(hashes.size(), 4u);
    EXPECT_EQ(source.description.find('\n'), std::string::npos);
  }
  EXPECT_EQ(input_error_of([] { data_source("fashon-mnist"); }),
            "expected a data set among mnist, fashion-mnist, got 'fashon-mnist' (did you mean "
            "fashion-mnist?)");
  EXPECT_EQ(input_error_of([] { data_source("cifar"); }),
            "expected a data set among mnist, fashion-mnist, got 'cifar'");
}

TEST(DataRoot, GoesFromTheGivenToTheHome) {
  const Environment root("SPARSUM_DATA", "/env"), xdg("XDG_DATA_HOME", "/xdg"),
      home("HOME", "/home/me");
  EXPECT_EQ(data_root("/given"), "/given");
  EXPECT_EQ(data_root(""), "/env");
  const Environment no_root("SPARSUM_DATA", "");
  EXPECT_EQ(data_root(""), "/xdg/sparsum");
  const Environment relative("XDG_DATA_HOME", "not/absolute");
  EXPECT_EQ(data_root(""), "/home/me/.local/share/sparsum");
  const Environment no_home("HOME", nullptr);
  EXPECT_EQ(input_error_of([] { data_root(""); }),
            "no folder for data: expected SPARSUM_DATA, XDG_DATA_HOME or HOME to be set, got none");
}

TEST(FindData, PrefersTheRootAndFallsBackToTheSystem) {
  Toy toy;
  const Folder root, system;
  toy.source().system_folder = system.path().string();
  for (size_t i = 0; i < 4; ++i) toy.put(system.path(), i);
  EXPECT_EQ(find_data(toy.source(), root.path()), system.path());
  for (size_t i = 0; i < 3; ++i) toy.put(root / "toy", i);
  EXPECT_EQ(find_data(toy.source(), root.path()), system.path());
  toy.put(root / "toy", 3, /*plain=*/true);
  EXPECT_EQ(find_data(toy.source(), root.path()), root / "toy");
}

TEST(FindData, SaysWhereItLookedAndWhatToDo) {
  Toy toy;
  const Folder root;
  const std::string own = (root / "toy").string();
  EXPECT_EQ(input_error_of([&] { find_data(toy.source(), root.path()); }),
            "data set toy not found: looked in " + own +
                " (no such folder); `sparsum data get toy` gets it");
  toy.put(root / "toy", 0);
  toy.source().system_folder = "/nowhere/at/all";
  EXPECT_EQ(input_error_of([&] { find_data(toy.source(), root.path()); }),
            "data set toy not found: looked in " + own +
                " (no train-y.gz) and /nowhere/at/all (no such folder); `sparsum data get toy` "
                "gets it");
}

TEST(LoadImageData, ReadsTheFourFiles) {
  Toy toy;
  const Folder root;
  for (size_t i = 0; i < 4; ++i) toy.put(root / "toy", i, /*plain=*/i % 2 == 1);
  const ImageData data = load_image_data(toy.source(), root.path());
  EXPECT_EQ(data.classes, 10);
  EXPECT_TRUE(at::equal(data.train.images, toy.tensor(0)));
  EXPECT_TRUE(at::equal(data.train.labels, torch::tensor({0, 1, 2, 9, 4, 5}, at::kLong)));
  EXPECT_EQ(data.train.labels.scalar_type(), at::kLong);
  EXPECT_TRUE(at::equal(data.test.images, toy.tensor(2)));
  EXPECT_TRUE(at::equal(data.test.labels, torch::tensor({3, 2, 1, 0}, at::kLong)));
}

TEST(LoadImageData, NamesTheFileThatIsWrong) {
  Toy toy;
  const Folder root;
  const auto folder = root / "toy";
  for (size_t i = 0; i < 4; ++i) toy.put(folder, i);
  const auto message = [&](size_t i, const at::Tensor& tensor) {
    toy.put(folder, i, false, tensor);
    const std::string text = input_error_of([&] { load_image_data(toy.source(), root.path()); });
    toy.put(folder, i);
    const std::string start = (folder / toy.source().files[i].name).string() + ": ";
    EXPECT_TRUE(text.starts_with(start)) << text;
    return text.substr(std::min(text.size(), start.size()));
  };
  EXPECT_EQ(
      message(1, torch::zeros({5}, at::kByte)),
      "expected 6 labels, one for each image of " + (folder / "train-x.gz").string() + ", got 5");
  EXPECT_EQ(
      message(3, torch::zeros({5}, at::kByte)),
      "expected 4 labels, one for each image of " + (folder / "test-x.gz").string() + ", got 5");
  EXPECT_EQ(message(3, torch::tensor({0, 9, 10, 255}, at::kByte)),
            "expected labels from 0 to 9, got 10 at index 2");
  EXPECT_EQ(message(1, torch::zeros({6, 1}, at::kByte)), "expected labels in one dimension, got 2");
  EXPECT_EQ(message(0, torch::zeros({6, 32, 28}, at::kByte)),
            "expected images of 28 x 28 pixels (N x 28 x 28), got 6 x 32 x 28");
  EXPECT_EQ(message(2, torch::zeros({4}, at::kByte)),
            "expected images of 28 x 28 pixels (N x 28 x 28), got 4");
  EXPECT_EQ(message(2, torch::zeros({0, 28, 28}, at::kByte)), "expected at least one image, got 0");
  // As read_idx says it, through gzip.
  const std::string whole = slurp(folder / "train-x.gz");
  spit(folder / "train-x.gz", whole.substr(0, 1000));
  EXPECT_TRUE(input_error_of([&] {
                load_image_data(toy.source(), root.path());
              }).starts_with((folder / "train-x.gz").string() + ": gzip stream is truncated"));
}

TEST(CheckData, ReportsEachFile) {
  Toy toy;
  const Folder root;
  const auto folder = root / "toy";
  toy.put(folder, 0);
  toy.put(folder, 1, /*plain=*/true);
  toy.put(folder, 2, false, torch::zeros({1}, at::kByte));
  const std::vector<FileCheck> checks = check_data(toy.source(), root.path());
  ASSERT_EQ(checks.size(), 4u);
  EXPECT_EQ(checks[0].path, folder / "train-x.gz");
  EXPECT_EQ(checks[1].path, folder / "train-y");
  for (const size_t i : {0u, 1u}) {
    EXPECT_TRUE(checks[i].present && checks[i].matches);
    EXPECT_EQ(checks[i].message, "");
  }
  EXPECT_TRUE(checks[2].present);
  EXPECT_FALSE(checks[2].matches);
  EXPECT_EQ(checks[2].message, (folder / "test-x.gz").string() +
                                   ": expected decompressed contents with SHA-256 " +
                                   toy.source().files[2].sha256 + ", got 9 bytes with " +
                                   sha256(std::string("\0\0\x08\x01\0\0\0\x01\0", 9)));
  EXPECT_FALSE(checks[3].present || checks[3].matches);
  EXPECT_EQ(checks[3].message, (folder / "test-y.gz").string() + ": no such file");

  spit(folder / "test-x.gz", "\x1f\x8b");
  EXPECT_TRUE(check_data(toy.source(), root.path())[2].message.find("truncated") !=
              std::string::npos);
  // What would be read is what is checked: the system's files while ours are not complete.
  const Folder system;
  toy.source().system_folder = system.path().string();
  for (size_t i = 0; i < 4; ++i) toy.put(system.path(), i);
  for (const FileCheck& check : check_data(toy.source(), root.path())) {
    EXPECT_TRUE(check.matches);
    EXPECT_EQ(check.path.parent_path(), system.path());
  }
}

TEST(GetData, DownloadsChecksAndKeeps) {
  Toy toy;
  const Folder root;
  std::map<std::string, int64_t> seen;
  get_data(toy.source(), root / "new/place",
           [&](const std::string& file, int64_t now, int64_t) { seen[file] = now; });
  for (const DataSource::File& file : toy.source().files) {
    EXPECT_EQ(slurp(root / "new/place/toy" / file.name), slurp(toy.origin() / file.name));
    EXPECT_EQ(seen.at(file.name),
              static_cast<int64_t>(std::filesystem::file_size(toy.origin() / file.name)));
  }
  // What is there and right is not fetched again; what is damaged is.
  for (DataSource::File& file : toy.source().files) {
    if (file.name != "test-x.gz") file.url = "file:///nowhere";
  }
  spit(root / "new/place/toy/test-x.gz", "damaged");
  get_data(toy.source(), root / "new/place");
  EXPECT_EQ(slurp(root / "new/place/toy/test-x.gz"), slurp(toy.origin() / "test-x.gz"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(root / "new/place/toy"), {}), 4);
}

TEST(GetData, ReplacesADamagedCopyUnderTheOtherName) {
  Toy toy;
  const Folder root;
  spit(root / "toy/train-x", "damaged");
  get_data(toy.source(), root.path());
  EXPECT_FALSE(std::filesystem::exists(root / "toy/train-x"));
  EXPECT_NO_THROW(load_image_data(toy.source(), root.path()));
}

TEST(GetData, CopiesFromTheSystemFolder) {
  Toy toy;
  const Folder root, system;
  toy.source().system_folder = system.path().string();
  for (size_t i = 0; i < 3; ++i) {
    toy.put(system.path(), i, /*plain=*/i == 1);
    toy.source().files[i].url = "file:///nowhere";
  }
  // The fourth is damaged there and comes from its address.
  spit(system / "test-y.gz", "damaged");
  get_data(toy.source(), root.path());
  EXPECT_TRUE(std::filesystem::exists(root / "toy/train-y"));
  for (const FileCheck& check : check_data(toy.source(), root.path())) {
    EXPECT_TRUE(check.matches) << check.message;
    EXPECT_EQ(check.path.parent_path(), root / "toy");
  }
}

TEST(GetData, LeavesNothingWrongBehind) {
  Toy toy;
  const Folder root;
  const std::string expected = toy.source().files[0].sha256;
  spit(toy.origin() / "train-x.gz", "something else");
  EXPECT_EQ(input_error_of([&] { get_data(toy.source(), root.path()); }),
            toy.source().files[0].url + ": expected decompressed contents with SHA-256 " +
                expected + ", got 14 bytes with " + sha256("something else"));
  EXPECT_TRUE(std::filesystem::is_empty(root / "toy"));

  toy.source().files[0].url = "file:///nowhere/train-x.gz";
  EXPECT_TRUE(input_error_of([&] {
                get_data(toy.source(), root.path());
              }).starts_with("cannot download file:///nowhere/train-x.gz: "));
  toy.source().files[0].url = "gibberish://x";
  EXPECT_TRUE(input_error_of([&] {
                get_data(toy.source(), root.path());
              }).starts_with("cannot download gibberish://x: "));
  EXPECT_TRUE(std::filesystem::is_empty(root / "toy"));

  spit(root / "file", "");
  EXPECT_EQ(input_error_of([&] { get_data(toy.source(), root / "file"); }),
            "cannot create folder " + (root / "file/toy").string() + ": Not a directory");
}

TEST(GetData, PassesExceptionsOfTheProgressOn) {
  Toy toy;
  const Folder root;
  EXPECT_THROW(get_data(toy.source(), root.path(),
                        [](const std::string&, int64_t, int64_t) { throw std::string("stop"); }),
               std::string);
  EXPECT_TRUE(std::filesystem::is_empty(root / "toy"));
}

/// Answers each connection on the loopback interface with the next of `answers`.
class Server {
 public:
  explicit Server(std::vector<std::string> answers) {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener_, generic, size) != 0 || ::listen(listener_, 8) != 0 ||
        ::getsockname(listener_, generic, &size) != 0) {
      throw std::runtime_error("no loopback interface");
    }
    url_ = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port)) + "/f";
    thread_ = std::thread([this, answers = std::move(answers)] {
      for (const std::string& answer : answers) {
        const int connection = ::accept(listener_, nullptr, nullptr);
        if (connection < 0) return;
        char request[4096];
        EXPECT_GT(::recv(connection, request, sizeof(request), 0), 0);
        EXPECT_EQ(::send(connection, answer.data(), answer.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(answer.size()));
        ::close(connection);
      }
    });
  }
  ~Server() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  const std::string& url() const { return url_; }

 private:
  int listener_ = -1;
  std::string url_;
  std::thread thread_;
};

TEST(GetData, NamesHttpErrorsAndFollowsRedirects) {
  const Environment no_proxy("no_proxy", "127.0.0.1");
  Toy toy;
  const Folder root;
  const std::string contents = slurp(toy.origin() / "train-x.gz");
  const std::string whole =
      "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " + std::to_string(contents.size()) +
      "\r\n\r\n" + contents;
  {
    const Server server(
        {"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: "
         "4\r\n\r\nnone"});
    toy.source().files[0].url = server.url();
    EXPECT_EQ(input_error_of([&] { get_data(toy.source(), root.path()); }),
              "cannot download " + server.url() + ": the server answered with HTTP status 404");
  }
  {
    const Server server({whole.substr(0, whole.size() - 10)});
    toy.source().files[0].url = server.url();
    EXPECT_TRUE(input_error_of([&] {
                  get_data(toy.source(), root.path());
                }).starts_with("cannot download " + server.url() + ": "));
  }
  EXPECT_TRUE(std::filesystem::is_empty(root / "toy"));
  {
    const Server target({whole});
    const Server server(
        {"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: "
         "0\r\nLocation: " +
         target.url() + "\r\n\r\n"});
    toy.source().files[0].url = server.url();
    get_data(toy.source(), root.path());
    EXPECT_EQ(slurp(root / "toy/train-x.gz"), contents);
  }
  {
    // A server must not make the program read local files.
    std::filesystem::remove(root / "toy/train-x.gz");
    const Server server(
        {"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: "
         "0\r\nLocation: file://" +
         (toy.origin() / "train-x.gz").string() + "\r\n\r\n"});
    toy.source().files[0].url = server.url();
    EXPECT_TRUE(input_error_of([&] {
                  get_data(toy.source(), root.path());
                }).starts_with("cannot download " + server.url() + ": "));
  }
}

class PublishedSplit : public ::testing::Test {
 protected:
  void write(const at::Tensor& labelled, const at::Tensor& unlabelled,
             const at::Tensor& validation) {
    std::filesystem::create_directories(root_ / "mnist-splits");
    write_npy(root_ / "mnist-splits/labeled_train_indx.npy", labelled);
    write_npy(root_ / "mnist-splits/unlabeled_train_indx.npy", unlabelled);
    write_npy(root_ / "mnist-splits/validation_indx.npy", validation);
  }
  std::string message(int64_t n) {
    return input_error_of([&] { read_published_split(root_.path(), n); });
  }
  std::string file(const std::string& name) {
    return (root_ / "mnist-splits" / (name + "_indx.npy")).string();
  }
  Folder root_;
};

TEST_F(PublishedSplit, IsRead) {
  write(torch::tensor({4, 0}), torch::tensor({3, 2, 5}, at::kInt), torch::tensor({1}));
  const Split split = read_published_split(root_.path(), 6);
  EXPECT_TRUE(at::equal(split.labelled, torch::tensor({4, 0})));
  EXPECT_TRUE(at::equal(split.unlabelled, torch::tensor({3, 2, 5})));
  EXPECT_TRUE(at::equal(split.validation, torch::tensor({1})));
}

TEST_F(PublishedSplit, IsChecked) {
  EXPECT_EQ(message(6), "cannot read " + file("labeled_train") + ": No such file or directory");
  write(torch::tensor({4, 0}), torch::tensor({3, 2, 5}), torch::tensor({1}));
  EXPECT_EQ(message(5),
            file("unlabeled_train") + ": expected indices from 0 to 4, got 5 at position 2");
  write(torch::tensor({4, -1}), torch::tensor({3, 2, 5}), torch::tensor({1}));
  EXPECT_EQ(message(6),
            file("labeled_train") + ": expected indices from 0 to 5, got -1 at position 1");
  write(torch::tensor({4, 0}), torch::tensor({3, 2}), torch::tensor({1, 4}));
  EXPECT_EQ(message(6), file("validation") +
                            ": expected each index once, got 4 at position 1 again (it is in "
                            "labeled_train_indx.npy)");
  write(torch::tensor({4, 4}), torch::tensor({3, 2}), torch::tensor({1}));
  EXPECT_EQ(message(6), file("labeled_train") +
                            ": expected each index once, got 4 at position 1 again (it is in "
                            "labeled_train_indx.npy)");
  write(torch::tensor({4.0, 0.0}), torch::tensor({3, 2}), torch::tensor({1}));
  EXPECT_EQ(message(6), file("labeled_train") +
                            ": expected one row of integer indices, got 1 dimensions of Float");
  write(torch::tensor({{4}}), torch::tensor({3, 2}), torch::tensor({1}));
  EXPECT_EQ(message(6), file("labeled_train") +
                            ": expected one row of integer indices, got 2 dimensions of Long");
}

std::vector<int64_t> list(const at::Tensor& tensor) {
  const int64_t* data = tensor.const_data_ptr<int64_t>();
  return {data, data + tensor.numel()};
}

std::vector<int64_t> class_counts(const at::Tensor& labels, const at::Tensor& indices,
                                  int64_t classes) {
  return list(at::bincount(labels.index_select(0, indices), {}, classes));
}

TEST(StratifiedSplit, HasLargestRemainderCounts) {
  // 10 of class 0, 5 of class 1, 5 of class 2: 7·share = 3.5, 1.75, 1.75.
  const at::Tensor labels =
      at::cat({at::zeros({10}), at::ones({5}), at::full({5}, 2)}).to(at::kLong);
  const Split split = stratified_split(labels, 7, 4, 4, seeded(1));
  EXPECT_EQ(class_counts(labels, split.labelled, 3), (std::vector<int64_t>{3, 2, 2}));
  EXPECT_EQ(class_counts(labels, split.validation, 3), (std::vector<int64_t>{2, 1, 1}));
  EXPECT_EQ(split.unlabelled.size(0), 4);
}

TEST(StratifiedSplit, IsAPartitionForAllSizes) {
  auto generator = seeded(2);
  for (int round = 0; round < 200; ++round) {
    const int64_t classes = 1 + round % 7;
    const at::Tensor labels =
        at::cat({at::arange(classes), at::randint(0, classes, {5 + round % 30}, generator,
                                                  at::TensorOptions(at::kLong))});
    const int64_t n = labels.size(0);
    const at::Tensor sizes = at::randint(0, n + 1, {2}, generator, at::TensorOptions(at::kLong));
    const int64_t first = sizes.min().item<int64_t>(), second = sizes.max().item<int64_t>();
    // All images in use in every second round, where the rooms are tightest.
    const int64_t labelled = first;
    const int64_t validation = round % 2 == 0 ? n - first : second - first;
    const int64_t unlabelled = (n - labelled - validation) / 2;
    const Split split = stratified_split(labels, labelled, unlabelled, validation, generator);
    ASSERT_EQ(split.labelled.size(0), labelled);
    ASSERT_EQ(split.unlabelled.size(0), unlabelled);
    ASSERT_EQ(split.validation.size(0), validation);
    std::set<int64_t> all;
    for (const at::Tensor& part : {split.labelled, split.unlabelled, split.validation}) {
      for (const int64_t i : list(part)) {
        ASSERT_TRUE(i >= 0 && i < n);
        ASSERT_TRUE(all.insert(i).second) << i << " twice";
      }
    }
    const auto total = class_counts(labels, at::arange(n), classes);
    const auto counts = class_counts(labels, split.labelled, classes);
    for (size_t c = 0; c < total.size(); ++c) {
      const double quota = static_cast<double>(labelled * total[c]) / static_cast<double>(n);
      ASSERT_LT(std::abs(static_cast<double>(counts[c]) - quota), 1) << c;
    }
  }
}

TEST(StratifiedSplit, SendsRemaindersWhereThereIsRoom) {
  // Every class has one image: labels and validation share the classes between them.
  const at::Tensor labels = at::arange(10);
  const Split split = stratified_split(labels, 5, 0, 5, seeded(1));
  EXPECT_TRUE(at::equal(std::get<0>(at::cat({split.labelled, split.validation}).sort()), labels));
}

TEST(StratifiedSplit, IsShuffledAndReproducible) {
  const at::Tensor labels = at::arange(1000).remainder(10);
  const Split one = stratified_split(labels, 100, 700, 200, seeded(3));
  const Split same = stratified_split(labels, 100, 700, 200, seeded(3));
  const Split other = stratified_split(labels, 100, 700, 200, seeded(4));
  EXPECT_TRUE(at::equal(one.labelled, same.labelled));
  EXPECT_TRUE(at::equal(one.unlabelled, same.unlabelled));
  EXPECT_TRUE(at::equal(one.validation, same.validation));
  EXPECT_FALSE(at::equal(one.labelled, other.labelled));
  for (const at::Tensor& part : {one.labelled, one.unlabelled, one.validation}) {
    const at::Tensor classes = labels.index_select(0, part);
    // Sorted by class they would change class nine times.
    EXPECT_GT((classes.slice(0, 1) != classes.slice(0, 0, -1)).sum().item<int64_t>(), 50);
  }
  EXPECT_EQ(class_counts(labels, one.labelled, 10), std::vector<int64_t>(10, 10));
  EXPECT_EQ(class_counts(labels, one.validation, 10), std::vector<int64_t>(10, 20));
}

TEST(StratifiedSplit, ChoosesEveryImageAlike) {
  // 3 of 12 images labelled, 4,000 times: each about 1,000 times, within 5 standard deviations
  // (about 27 each). Confidence above 0.99999 for all together; the seed is fixed.
  const at::Tensor labels = at::arange(12).remainder(3);
  auto generator = seeded(5);
  at::Tensor counts = at::zeros({12}, at::kLong);
  for (int i = 0; i < 4000; ++i) {
    counts += at::bincount(stratified_split(labels, 3, 0, 3, generator).labelled, {}, 12);
  }
  EXPECT_LT((counts - 1000).abs().max().item<int64_t>(), 5 * 28) << counts;
}

TEST(StratifiedSplit, NamesWhatIsMissing) {
  const at::Tensor labels = at::arange(20).remainder(10);
  EXPECT_EQ(input_error_of([&] { stratified_split(labels, 5, 6, 10, seeded(1)); }),
            "stratified split: expected at least 5 labelled + 6 unlabelled + 10 validation = 21 "
            "images, got 20");
  EXPECT_EQ(input_error_of([&] { stratified_split(labels, 21, 0, 0, seeded(1)); }),
            "stratified split: expected from 0 to 20 labelled images (the data have 20), got 21");
  EXPECT_EQ(input_error_of([&] { stratified_split(labels, 5, -1, 0, seeded(1)); }),
            "stratified split: expected from 0 to 20 unlabelled images (the data have 20), got -1");
  EXPECT_EQ(input_error_of([&] {
              stratified_split(torch::tensor({0, 2, 0, 2}, at::kLong), 1, 1, 1, seeded(1));
            }),
            "stratified split: expected images of every class from 0 to 2, got none of class 1");
  EXPECT_THROW(stratified_split(labels.to(at::kInt), 1, 1, 1, seeded(1)), c10::Error);
  const Split empty = stratified_split(labels, 0, 0, 0, seeded(1));
  EXPECT_EQ(empty.labelled.numel() + empty.unlabelled.numel() + empty.validation.numel(), 0);
}

}  // namespace
}  // namespace sparsum::lab
