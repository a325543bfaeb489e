#include "lab/data/image_data.h"

#include "lab/data/idx.h"
#include "lab/data/npy.h"
#include "lab/error.h"
#include "lab/files.h"
#include "lab/options.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/randperm.h>
#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <system_error>
#include <utility>

namespace sparsum::lab {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kSide = 28;
constexpr int64_t kClasses = 10;
// Many times what the known data sets need; a server that sends more sends something else.
constexpr size_t kMaxDownload = size_t{1} << 30;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

// The file of that name in `folder`, with or without .gz; empty if there is none.
fs::path locate(const fs::path& folder, const std::string& name) {
  const fs::path path = folder / name;
  if (is_file(path)) return path;
  if (path.extension() == ".gz") {
    const fs::path plain = folder / path.stem();
    if (is_file(plain)) return plain;
  }
  return {};
}

// The first of the files that `folder` does not hold, or "".
std::string missing_file(const DataSource& source, const fs::path& folder) {
  for (const DataSource::File& file : source.files) {
    if (locate(folder, file.name).empty()) return file.name;
  }
  return "";
}

std::string looked_in(const DataSource& source, const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) return folder.string() + " (no such folder)";
  return folder.string() + " (no " + missing_file(source, folder) + ")";
}

// What is wrong with contents that should have this SHA-256; "" if nothing.
std::string wrong_contents(const std::string& bytes, const DataSource::File& file) {
  const std::string observed = sha256(bytes);
  if (observed == file.sha256) return "";
  return "expected decompressed contents with SHA-256 " + file.sha256 + ", got " +
         std::to_string(bytes.size()) + " bytes with " + observed;
}

// As above, and unreadable files too.
std::string wrong_file(const fs::path& path, const DataSource::File& file) {
  try {
    const std::string wrong = wrong_contents(read_maybe_gzip(path), file);
    return wrong.empty() ? "" : path.string() + ": " + wrong;
  } catch (const InputError& error) {
    return error.what();
  }
}

using Progress = std::function<void(int64_t, int64_t)>;

// One transfer by libcurl, into memory.
class Download {
 public:
  Download(const std::string& url, const Progress& progress) : url_(url), progress_(progress) {
    static std::once_flag once;
    std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
    handle_.reset(curl_easy_init());
    if (!handle_) throw std::bad_alloc();
    CURL* curl = handle_.get();
    curl_easy_setopt(curl, CURLOPT_URL, url_.c_str());
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "sparsum");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 10L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 20L);
    // No limit on the whole, for slow lines; but one that stands still is given up.
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 100L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, 30L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, message_.data());
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Download::receive);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, this);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &Download::report);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, this);
  }

  std::string run() {
    const CURLcode code = curl_easy_perform(handle_.get());
    if (thrown_) std::rethrow_exception(thrown_);
    if (code == CURLE_OK) return std::move(bytes_);
    std::string why = message_[0] != '\0' ? message_.data() : curl_easy_strerror(code);
    if (code == CURLE_HTTP_RETURNED_ERROR) {
      long status = 0;
      curl_easy_getinfo(handle_.get(), CURLINFO_RESPONSE_CODE, &status);
      why = "the server answered with HTTP status " + std::to_string(status);
    }
    throw InputError("cannot download " + url_ + ": " + why);
  }

 private:
  // No exception may pass through libcurl's C frames: it is kept and thrown again behind them.
  template <typename Body>
  static bool guarded(Download& self, const Body& body) {
    try {
      body();
      return true;
    } catch (...) {
      self.thrown_ = std::current_exception();
      return false;
    }
  }

  static size_t receive(char* data, size_t size, size_t count, void* context) {
    auto& self = *static_cast<Download*>(context);
    const bool done = guarded(self, [&] {
      if (self.bytes_.size() + size * count > kMaxDownload) {
        throw InputError("cannot download " + self.url_ + ": expected at most " +
                         std::to_string(kMaxDownload) + " bytes, got more");
      }
      self.bytes_.append(data, size * count);
    });
    return done ? size * count : 0;
  }

  static int report(void* context, curl_off_t total, curl_off_t now, curl_off_t, curl_off_t) {
    auto& self = *static_cast<Download*>(context);
    if (!self.progress_) return 0;
    return guarded(self, [&] { self.progress_(now, total); }) ? 0 : 1;
  }

  struct Cleanup {
    void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  };

  std::string url_;
  const Progress& progress_;
  std::unique_ptr<CURL, Cleanup> handle_;
  std::array<char, CURL_ERROR_SIZE> message_{};
  std::string bytes_;
  std::exception_ptr thrown_;
};

at::Tensor read_images(const fs::path& path) {
  at::Tensor images = read_idx(path);
  if (images.dim() != 3 || images.size(1) != kSide || images.size(2) != kSide) {
    std::string shape;
    for (const int64_t size : images.sizes()) {
      shape += (shape.empty() ? "" : " x ") + std::to_string(size);
    }
    throw InputError(path.string() + ": expected images of 28 x 28 pixels (N x 28 x 28), got " +
                     shape);
  }
  if (images.size(0) == 0) throw InputError(path.string() + ": expected at least one image, got 0");
  return images;
}

at::Tensor read_labels(const fs::path& path, const fs::path& images_path, int64_t images) {
  const at::Tensor bytes = read_idx(path);
  if (bytes.dim() != 1) {
    throw InputError(path.string() + ": expected labels in one dimension, got " +
                     std::to_string(bytes.dim()));
  }
  if (bytes.size(0) != images) {
    throw InputError(path.string() + ": expected " + std::to_string(images) +
                     " labels, one for "
                     "each image of " +
                     images_path.string() + ", got " + std::to_string(bytes.size(0)));
  }
  const uint8_t* values = bytes.const_data_ptr<uint8_t>();
  const uint8_t* wrong =
      std::find_if(values, values + images, [](uint8_t label) { return label >= kClasses; });
  if (wrong != values + images) {
    throw InputError(path.string() + ": expected labels from 0 to 9, got " +
                     std::to_string(*wrong) + " at index " + std::to_string(wrong - values));
  }
  return bytes.to(at::kLong);
}

LabelledImages read_pair(const DataSource& source, const fs::path& folder, size_t first) {
  const fs::path images_path = locate(folder, source.files[first].name);
  const fs::path labels_path = locate(folder, source.files[first + 1].name);
  LabelledImages data;
  data.images = read_images(images_path);
  data.labels = read_labels(labels_path, images_path, data.images.size(0));
  return data;
}

DataSource make_source(std::string name, std::string description, std::string system_folder,
                       const std::string& address, const std::array<const char*, 4>& hashes) {
  constexpr std::array<const char*, 4> kNames = {
      "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz",
      "t10k-labels-idx1-ubyte.gz"};
  DataSource source{std::move(name), std::move(description), std::move(system_folder), {}};
  for (size_t i = 0; i < kNames.size(); ++i) {
    source.files.push_back({kNames[i], hashes[i], address + kNames[i]});
  }
  return source;
}

}  // namespace

const std::vector<DataSource>& data_sources() {
  static const std::vector<DataSource> sources = {
      make_source("mnist",
                  "MNIST, 70,000 handwritten digits in 10 classes, 28 x 28 grey (LeCun, Cortes and "
                  "Burges, 1998; CC BY-SA 3.0)",
                  "", "https://ossci-datasets.s3.amazonaws.com/mnist/",
                  {"ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                   "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                   "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                   "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"}),
      make_source("fashion-mnist",
                  "Fashion-MNIST, 70,000 product photos in 10 classes, 28 x 28 grey (Xiao, Rasul "
                  "and Vollgraf, 2017; MIT licence)",
                  "/usr/share/datasets/fashion-mnist",
                  "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                  {"c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                   "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                   "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                   "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"}),
  };
  return sources;
}

const DataSource& data_source(const std::string& name) {
  std::vector<std::string> known;
  for (const DataSource& source : data_sources()) {
    if (source.name == name) return source;
    known.push_back(source.name);
  }
  std::string message = "expected a data set among ";
  for (size_t i = 0; i < known.size(); ++i) message += (i == 0 ? "" : ", ") + known[i];
  message += ", got '" + name + "'";
  const std::string near = nearest(name, known);
  if (!near.empty()) message += " (did you mean " + near + "?)";
  throw InputError(message);
}

std::filesystem::path data_root(const std::string& given) {
  if (!given.empty()) return given;
  if (const std::string root = environment("SPARSUM_DATA"); !root.empty()) return root;
  // The XDG specification ignores relative paths.
  if (const fs::path root = environment("XDG_DATA_HOME"); root.is_absolute()) {
    return root / "sparsum";
  }
  const std::string home = environment("HOME");
  if (home.empty()) {
    throw InputError(
        "no folder for data: expected SPARSUM_DATA, XDG_DATA_HOME or HOME to be set, got none");
  }
  return fs::path(home) / ".local" / "share" / "sparsum";
}

std::filesystem::path find_data(const DataSource& source, const std::filesystem::path& root) {
  const fs::path own = root / source.name;
  if (missing_file(source, own).empty()) return own;
  std::string looked = looked_in(source, own);
  if (!source.system_folder.empty()) {
    const fs::path system = source.system_folder;
    if (missing_file(source, system).empty()) return system;
    looked += " and " + looked_in(source, system);
  }
  throw InputError("data set " + source.name + " not found: looked in " + looked +
                   "; `sparsum data get " + source.name + "` gets it");
}

ImageData load_image_data(const DataSource& source, const std::filesystem::path& root) {
  TORCH_CHECK(source.files.size() == 4, "load_image_data: expected four files of ", source.name,
              ", got ", source.files.size());
  const fs::path folder = find_data(source, root);
  ImageData data;
  data.train = read_pair(source, folder, 0);
  data.test = read_pair(source, folder, 2);
  data.classes = kClasses;
  return data;
}

std::vector<FileCheck> check_data(const DataSource& source, const std::filesystem::path& root) {
  // The folder that would be read: the system's only if it is complete and ours is not.
  fs::path folder = root / source.name;
  if (!missing_file(source, folder).empty() && !source.system_folder.empty() &&
      missing_file(source, source.system_folder).empty()) {
    folder = source.system_folder;
  }
  std::vector<FileCheck> checks;
  for (const DataSource::File& file : source.files) {
    FileCheck check;
    check.path = locate(folder, file.name);
    check.present = !check.path.empty();
    if (check.present) {
      check.message = wrong_file(check.path, file);
      check.matches = check.message.empty();
    } else {
      check.path = folder / file.name;
      check.message = check.path.string() + ": no such file";
    }
    checks.push_back(std::move(check));
  }
  return checks;
}

void get_data(const DataSource& source, const std::filesystem::path& root,
              const std::function<void(const std::string&, int64_t, int64_t)>& progress) {
  const fs::path folder = root / source.name;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw InputError("cannot create folder " + folder.string() + ": " + error.message());

  for (const DataSource::File& file : source.files) {
    const fs::path present = locate(folder, file.name);
    if (!present.empty() && wrong_file(present, file).empty()) continue;

    std::string bytes;
    const fs::path system =
        source.system_folder.empty() ? fs::path() : locate(source.system_folder, file.name);
    fs::path target = folder / file.name;
    if (!system.empty() && wrong_file(system, file).empty()) {
      bytes = read_file(system);
      target = folder / system.filename();
      const auto size = static_cast<int64_t>(bytes.size());
      if (progress) progress(file.name, size, size);
    } else {
      const Progress report = [&](int64_t now, int64_t total) {
        if (progress) progress(file.name, now, total);
      };
      bytes = Download(file.url, report).run();
      const std::string wrong = wrong_contents(maybe_gunzip(bytes, file.url), file);
      if (!wrong.empty()) throw InputError(file.url + ": " + wrong);
    }
    write_file_atomically(target, bytes);
    // A damaged copy under the other spelling of the name would be found first.
    if (!present.empty() && present != target) fs::remove(present, error);
  }
}

Split read_published_split(const std::filesystem::path& root, int64_t n_images) {
  TORCH_CHECK(n_images >= 0, "read_published_split: expected n_images >= 0, got ", n_images);
  const fs::path folder = root / "mnist-splits";
  std::vector<const char*> owner(static_cast<size_t>(n_images), nullptr);
  const auto read = [&](const char* name) {
    const fs::path path = folder / name;
    at::Tensor indices = read_npy(path);
    if (indices.dim() != 1 ||
        (indices.scalar_type() != at::kLong && indices.scalar_type() != at::kInt)) {
      throw InputError(path.string() + ": expected one row of integer indices, got " +
                       std::to_string(indices.dim()) + " dimensions of " +
                       at::toString(indices.scalar_type()));
    }
    indices = indices.to(at::kLong);
    const int64_t* values = indices.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < indices.numel(); ++i) {
      const int64_t index = values[i];
      if (index < 0 || index >= n_images) {
        throw InputError(path.string() + ": expected indices from 0 to " +
                         std::to_string(n_images - 1) + ", got " + std::to_string(index) +
                         " at position " + std::to_string(i));
      }
      const char*& taken = owner[static_cast<size_t>(index)];
      if (taken != nullptr) {
        throw InputError(path.string() + ": expected each index once, got " +
                         std::to_string(index) + " at position " + std::to_string(i) +
                         " again (it is in " + taken + ")");
      }
      taken = name;
    }
    return indices;
  };
  Split split;
  split.labelled = read("labeled_train_indx.npy");
  split.unlabelled = read("unlabeled_train_indx.npy");
  split.validation = read("validation_indx.npy");
  return split;
}

namespace {

// n shared out in proportion to `sizes`, none above its `room` (n at most their sum): the whole
// parts of n·share, then one more in the order of the largest remainders, ties to the lower class.
std::vector<int64_t> apportion(int64_t n, const std::vector<int64_t>& sizes,
                               const std::vector<int64_t>& room) {
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  std::vector<int64_t> counts(sizes.size()), remainders(sizes.size());
  for (size_t c = 0; c < sizes.size(); ++c) {
    counts[c] = n * sizes[c] / total;
    remainders[c] = n * sizes[c] % total;
  }
  int64_t left = n - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  // More than one round only where rooms that are full send their remainder elsewhere.
  while (left > 0) {
    for (const size_t c : order) {
      if (left == 0) break;
      if (counts[c] >= room[c]) continue;
      ++counts[c];
      --left;
    }
  }
  return counts;
}

at::Tensor shuffled(std::vector<int64_t> indices, at::Generator& generator) {
  const auto n = static_cast<int64_t>(indices.size());
  const at::Tensor order = at::randperm(n, generator, at::kLong);
  at::Tensor result = at::empty({n}, at::kLong);
  const int64_t* from = order.const_data_ptr<int64_t>();
  int64_t* to = result.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) to[i] = indices[static_cast<size_t>(from[i])];
  return result;
}

}  // namespace

Split stratified_split(const at::Tensor& labels, int64_t labelled, int64_t unlabelled,
                       int64_t validation, at::Generator generator) {
  TORCH_CHECK(labels.dim() == 1 && labels.scalar_type() == at::kLong && labels.device().is_cpu(),
              "stratified_split: expected labels of shape [N], Long, on the CPU, got ",
              labels.scalar_type(), " ", labels.sizes(), " on ", labels.device());
  const int64_t n = labels.size(0);
  const std::pair<const char*, int64_t> parts[] = {
      {"labelled", labelled}, {"unlabelled", unlabelled}, {"validation", validation}};
  for (const auto& [what, count] : parts) {
    // Compared one by one first, so that the sum below cannot overflow.
    if (count < 0 || count > n) {
      throw InputError("stratified split: expected from 0 to " + std::to_string(n) + " " + what +
                       " images (the data have " + std::to_string(n) + "), got " +
                       std::to_string(count));
    }
  }
  const int64_t wanted = labelled + unlabelled + validation;
  if (wanted > n) {
    throw InputError("stratified split: expected at least " + std::to_string(labelled) +
                     " labelled + " + std::to_string(unlabelled) + " unlabelled + " +
                     std::to_string(validation) + " validation = " + std::to_string(wanted) +
                     " images, got " + std::to_string(n));
  }

  const at::Tensor dense = labels.contiguous();
  const int64_t* values = dense.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> members;
  for (int64_t i = 0; i < n; ++i) {
    TORCH_CHECK(values[i] >= 0 && values[i] < n, "stratified_split: expected labels from 0 to ",
                n - 1, ", got ", values[i], " at index ", i);
    const auto label = static_cast<size_t>(values[i]);
    if (label >= members.size()) members.resize(label + 1);
    members[label].push_back(i);
  }
  std::vector<int64_t> sizes;
  for (size_t c = 0; c < members.size(); ++c) {
    sizes.push_back(static_cast<int64_t>(members[c].size()));
    if (members[c].empty()) {
      throw InputError("stratified split: expected images of every class from 0 to " +
                       std::to_string(members.size() - 1) + ", got none of class " +
                       std::to_string(c));
    }
  }

  const std::vector<int64_t> train = apportion(labelled, sizes, sizes);
  std::vector<int64_t> room = sizes;
  for (size_t c = 0; c < sizes.size(); ++c) room[c] -= train[c];
  const std::vector<int64_t> held_out = apportion(validation, sizes, room);

  std::vector<int64_t> lists[3];
  for (size_t c = 0; c < members.size(); ++c) {
    const at::Tensor order = shuffled(members[c], generator);
    const int64_t* indices = order.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < sizes[c]; ++i) {
      const size_t list = i < train[c] ? 0 : i < train[c] + held_out[c] ? 1 : 2;
      lists[list].push_back(indices[i]);
    }
  }
  Split split;
  split.labelled = shuffled(std::move(lists[0]), generator);
  split.validation = shuffled(std::move(lists[1]), generator);
  split.unlabelled = shuffled(std::move(lists[2]), generator).narrow(0, 0, unlabelled).clone();
  return split;
}

}  // namespace sparsum::lab
