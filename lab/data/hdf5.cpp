#include "lab/data/hdf5.h"

#include "lab/error.h"

#ifdef SPARSUM_HAVE_HDF5

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/Half.h>
#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <list>
#include <mutex>
#include <numeric>
#include <system_error>
#include <unordered_map>
#include <utility>

namespace sparsum::lab {

namespace {

static_assert(std::endian::native == std::endian::little, "half floats are read in this order");

constexpr int64_t kBlockBytes = int64_t{1} << 15;
constexpr int64_t kStageBytes = int64_t{1} << 22;
constexpr int64_t kManyRows = 32;

// Owns an object of libhdf5.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  bool valid() const { return id_ >= 0; }
  hid_t get() const { return id_; }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

// One use of libhdf5: alone, since not every build of it may be used by several threads, and
// without its printing errors; this thread's setting is put back at the end.
class Library {
 public:
  Library() : lock_(mutex()) {
    H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Library() { H5Eset_auto2(H5E_DEFAULT, function_, data_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }

  std::lock_guard<std::mutex> lock_;
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

// What libhdf5 says of its last failure: the innermost of its messages.
std::string reason() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* error, void* out) -> herr_t {
        if (n == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &text);
  return text.empty() ? "no reason given" : text;
}

struct DataSetInfo {
  std::string name;
  std::vector<int64_t> shape;
  H5T_class_t type = H5T_NO_CLASS;
  size_t bytes = 0;  // of an element
};

std::string text_of(const DataSetInfo& info) {
  std::string text = info.name + " [";
  for (size_t i = 0; i < info.shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(info.shape[i]);
  }
  const std::string bits = std::to_string(8 * info.bytes) + "-bit ";
  return text + "] of " +
         (info.type == H5T_FLOAT     ? bits + "floats"
          : info.type == H5T_INTEGER ? bits + "integers"
          : info.type == H5T_STRING  ? std::string("strings")
                                     : std::string("another type"));
}

std::string list_of(const std::vector<DataSetInfo>& all) {
  if (all.empty()) return "no data set at all";
  // A file may hold very many.
  constexpr size_t kNamed = 16;
  std::string text;
  for (size_t i = 0; i < std::min(all.size(), kNamed); ++i) {
    text += (i == 0 ? "" : ", ") + text_of(all[i]);
  }
  if (all.size() > kNamed) text += " and " + std::to_string(all.size() - kNamed) + " more";
  return text;
}

class File {
 public:
  explicit File(const std::filesystem::path& path) : path_(path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
      throw InputError("cannot read " + path.string() + ": " +
                       std::generic_category().message(errno));
    }
    ::close(descriptor);
    const Library library;
    if (H5Fis_hdf5(path.c_str()) <= 0) fail("expected an HDF5 file, got something else");
    file_ = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
    if (!file_.valid()) {
      fail("expected a whole HDF5 file, got one that is cut short or damaged (libhdf5: " +
           reason() + ")");
    }
  }

  [[noreturn]] void fail(const std::string& why) const {
    throw InputError(path_.string() + ": " + why);
  }

  Handle open(const std::string& name) const {
    // The rows are cached here; libhdf5's own cache of chunks would only add to the memory.
    const Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
    H5Pset_chunk_cache(access.get(), 1, 0, 0);
    Handle data(H5Dopen2(file_.get(), name.c_str(), access.get()), H5Dclose);
    if (!data.valid()) {
      fail("data set " + name + " cannot be opened (libhdf5: " + reason() + ")");
    }
    const Handle creation(H5Dget_create_plist(data.get()), H5Pclose);
    if (H5Pget_layout(creation.get()) == H5D_VIRTUAL || H5Pget_external_count(creation.get()) > 0) {
      fail("data set " + name + ": expected its contents in this file, they are in others");
    }
    return data;
  }

  // All data sets that the file holds itself, sorted by name.
  std::vector<DataSetInfo> list() const {
    struct Visit {
      std::vector<std::string> names;
      std::exception_ptr thrown;
    } visit;
    const herr_t status = H5Lvisit(
        file_.get(), H5_INDEX_NAME, H5_ITER_INC,
        [](hid_t, const char* name, const H5L_info_t* info, void* context) -> herr_t {
          auto& self = *static_cast<Visit*>(context);
          // No exception may pass through libhdf5's C frames.
          try {
            if (info->type == H5L_TYPE_HARD) self.names.emplace_back(name);
            return 0;
          } catch (...) {
            self.thrown = std::current_exception();
            return -1;
          }
        },
        &visit);
    if (visit.thrown) std::rethrow_exception(visit.thrown);
    if (status < 0) fail("its contents cannot be listed (libhdf5: " + reason() + ")");
    std::vector<DataSetInfo> all;
    for (const std::string& name : visit.names) {
      const Handle object(H5Oopen(file_.get(), name.c_str(), H5P_DEFAULT), H5Oclose);
      if (!object.valid()) fail(name + " cannot be opened (libhdf5: " + reason() + ")");
      if (H5Iget_type(object.get()) == H5I_DATASET) all.push_back(info_of(object.get(), name));
    }
    return all;
  }

  DataSetInfo info_of(hid_t data, const std::string& name) const {
    DataSetInfo info;
    info.name = name;
    const Handle space(H5Dget_space(data), H5Sclose), type(H5Dget_type(data), H5Tclose);
    const int dimensions = H5Sget_simple_extent_ndims(space.get());
    if (!type.valid() || dimensions < 0) {
      fail("data set " + name + " cannot be opened (libhdf5: " + reason() + ")");
    }
    std::vector<hsize_t> sizes(static_cast<size_t>(dimensions));
    H5Sget_simple_extent_dims(space.get(), sizes.data(), nullptr);
    for (const hsize_t size : sizes) info.shape.push_back(static_cast<int64_t>(size));
    info.type = H5Tget_class(type.get());
    info.bytes = H5Tget_size(type.get());
    return info;
  }

  // The data set called `name`, or without a name the only one with so many dimensions of that
  // type.
  DataSetInfo choose(const std::string& name, size_t dimensions, H5T_class_t type) const {
    const std::string wanted = std::to_string(dimensions) + "-D data set of " +
                               (type == H5T_FLOAT ? "floats" : "integers");
    const auto fits = [&](const DataSetInfo& info) {
      return info.shape.size() == dimensions && info.type == type;
    };
    if (!name.empty()) {
      Handle data(H5Dopen2(file_.get(), name.c_str(), H5P_DEFAULT), H5Dclose);
      if (!data.valid()) {
        fail("expected a data set " + name + ", got " + list_of(list()));
      }
      DataSetInfo info = info_of(data.get(), name);
      if (!fits(info)) fail("expected a " + wanted + ", got " + text_of(info));
      return info;
    }
    const std::vector<DataSetInfo> all = list();
    std::vector<DataSetInfo> fitting;
    std::copy_if(all.begin(), all.end(), std::back_inserter(fitting), fits);
    if (fitting.empty()) fail("expected one " + wanted + ", got " + list_of(all));
    if (fitting.size() > 1) {
      fail("expected one " + wanted + " or the name of one (--" +
           (dimensions == 2 ? "features-name" : "labels-name") + "), got " + list_of(fitting));
    }
    return fitting.front();
  }

 private:
  std::filesystem::path path_;
  Handle file_;
};

bool is_half(hid_t type) {
  size_t sign = 0, exponent = 0, exponent_size = 0, mantissa = 0, mantissa_size = 0;
  return H5Tget_size(type) == 2 &&
         H5Tget_fields(type, &sign, &exponent, &exponent_size, &mantissa, &mantissa_size) >= 0 &&
         sign == 15 && exponent == 10 && exponent_size == 5 && mantissa == 0 &&
         mantissa_size == 10 && H5Tget_ebias(type) == 15 && H5Tget_norm(type) == H5T_NORM_IMPLIED;
}

class Hdf5Features final : public Features {
 public:
  Hdf5Features(const std::filesystem::path& path, const FeatureFileOptions& options) : file_(path) {
    TORCH_CHECK(options.cache_bytes > 0, "open_hdf5_features: expected cache_bytes > 0, got ",
                options.cache_bytes);
    const Library library;
    const DataSetInfo info = file_.choose(options.data_set, 2, H5T_FLOAT);
    name_ = info.name;
    rows_ = info.shape[0];
    width_ = info.shape[1];
    // The second bound keeps products of sizes far from overflow.
    if (rows_ < 1 || width_ < 1 || width_ > (int64_t{1} << 40) || rows_ > (int64_t{1} << 48)) {
      file_.fail("expected at least one row and one feature, got " + text_of(info));
    }
    data_ = file_.open(name_);
    choose_type();

    const Handle creation(H5Dget_create_plist(data_.get()), H5Pclose);
    const int64_t row_bytes = width_ * static_cast<int64_t>(sizeof(float));
    block_rows_ = std::max<int64_t>(1, kBlockBytes / row_bytes);
    const bool compressed = H5Pget_nfilters(creation.get()) > 0;
    chunk_width_ = width_;
    if (H5Pget_layout(creation.get()) == H5D_CHUNKED) {
      hsize_t chunk[2] = {1, 1};
      H5Pget_chunk(creation.get(), 2, chunk);
      if (compressed) {
        block_rows_ = static_cast<int64_t>(chunk[0]);
      } else {
        chunk_width_ = static_cast<int64_t>(chunk[1]);
      }
    }
    block_rows_ = std::min(block_rows_, rows_);
    if (row_bytes > options.cache_bytes / block_rows_) {
      file_.fail("expected a cache with room for the " + std::to_string(block_rows_) + " rows of " +
                 (compressed ? "a compressed chunk" : "a block") + ", " +
                 std::to_string(row_bytes) + " bytes each, got " +
                 std::to_string(options.cache_bytes) + " bytes (--features-cache)");
    }
    const int64_t blocks = (rows_ + block_rows_ - 1) / block_rows_;
    capacity_ =
        static_cast<size_t>(std::min(blocks, options.cache_bytes / (row_bytes * block_rows_)));
  }

  int64_t rows() const override { return rows_; }
  int64_t width() const override { return width_; }
  int64_t memory_bytes() const override {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(blocks_.size()) * block_rows_ * width_ *
               static_cast<int64_t>(sizeof(float)) +
           static_cast<int64_t>(stage_size_);
  }

 private:
  enum class Element { kHalf, kFloat, kDouble };
  struct Block {
    int64_t index;
    std::unique_ptr<float[]> data;
  };
  // begin … end − 1 of a sorted list of rows are in one block.
  struct Request {
    int64_t block;
    size_t begin, end;
  };

  // libhdf5 swaps bytes fast, but converts between sizes in other byte orders, and half floats,
  // bit by bit: it is asked for the file's own precision in this machine's order.
  void choose_type() {
    const Handle type(H5Dget_type(data_.get()), H5Tclose);
    const auto is = [&](hid_t one, hid_t other) {
      return H5Tequal(type.get(), one) > 0 || H5Tequal(type.get(), other) > 0;
    };
    const H5T_order_t order = H5Tget_order(type.get());
    if (is_half(type.get()) && (order == H5T_ORDER_LE || order == H5T_ORDER_BE)) {
      element_ = Element::kHalf;
      memory_type_ = Handle(H5Tcopy(type.get()), H5Tclose);
      H5Tset_order(memory_type_.get(), H5T_ORDER_LE);
    } else if (is(H5T_IEEE_F64LE, H5T_IEEE_F64BE)) {
      element_ = Element::kDouble;
      memory_type_ = Handle(H5Tcopy(H5T_NATIVE_DOUBLE), H5Tclose);
    } else {
      element_ = Element::kFloat;
      memory_type_ = Handle(H5Tcopy(H5T_NATIVE_FLOAT), H5Tclose);
    }
    element_bytes_ = H5Tget_size(memory_type_.get());
  }

  void read(std::span<const int64_t> rows, float* out) const override {
    const std::lock_guard lock(mutex_);
    std::vector<size_t> order(rows.size());
    std::iota(order.begin(), order.end(), size_t{0});
    if (!std::is_sorted(rows.begin(), rows.end())) {
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return rows[a] < rows[b]; });
    }
    std::vector<Request> requests;
    for (size_t i = 0; i < order.size(); ++i) {
      const int64_t block = rows[order[i]] / block_rows_;
      if (requests.empty() || requests.back().block != block) requests.push_back({block, i, i});
      requests.back().end = i + 1;
    }
    // What is in the cache comes first, before it gives way to what is not.
    const auto missing = std::stable_partition(
        requests.begin(), requests.end(),
        [&](const Request& request) { return places_.count(request.block) > 0; });
    std::vector<const float*> from(rows.size());
    const auto copy = [&](auto first, auto last) {
      std::vector<size_t> places;
      for (auto request = first; request != last; ++request) {
        const float* data = places_.at(request->block)->data.get();
        for (size_t i = request->begin; i < request->end; ++i) {
          from[i] = data + rows[order[i]] % block_rows_ * width_;
          places.push_back(i);
        }
      }
      at::parallel_for(0, static_cast<int64_t>(places.size()), grain(),
                       [&](int64_t begin, int64_t end) {
                         for (int64_t k = begin; k < end; ++k) {
                           const size_t i = places[static_cast<size_t>(k)];
                           std::memcpy(out + static_cast<int64_t>(order[i]) * width_, from[i],
                                       static_cast<size_t>(width_) * sizeof(float));
                         }
                       });
    };
    for (auto request = requests.begin(); request != missing; ++request) {
      blocks_.splice(blocks_.begin(), blocks_, places_.at(request->block));
    }
    copy(requests.begin(), missing);
    // As many blocks at a time as there is room for.
    for (auto first = missing; first != requests.end();) {
      const auto count = std::min(static_cast<std::ptrdiff_t>(capacity_), requests.end() - first);
      load_all(std::span<const Request>(first, first + count));
      copy(first, first + count);
      first += count;
    }
  }

  // Rows a thread should have at least.
  int64_t grain() const { return 1 + (int64_t{1} << 19) / width_; }

  // Puts blocks that are missing, ascending and at most capacity_, into the cache; neighbours
  // together.
  void load_all(std::span<const Request> requests) const {
    const int64_t block_bytes = block_rows_ * width_ * static_cast<int64_t>(element_bytes_);
    const auto most = static_cast<size_t>(std::max<int64_t>(1, kStageBytes / block_bytes));
    size_t begin = 0;
    while (begin < requests.size()) {
      size_t end = begin + 1;
      while (end < requests.size() && end - begin < most &&
             requests[end].block == requests[end - 1].block + 1) {
        ++end;
      }
      load(requests[begin].block, static_cast<int64_t>(end - begin));
      begin = end;
    }
  }

  // Rows begin … begin + rows − 1 of some columns, as they are in the file.
  void fetch(int64_t begin, int64_t rows, int64_t column, int64_t columns, std::byte* out) const {
    const Library library;
    const Handle space(H5Dget_space(data_.get()), H5Sclose);
    const hsize_t start[] = {static_cast<hsize_t>(begin), static_cast<hsize_t>(column)};
    const hsize_t size[] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(columns)};
    const Handle memory(H5Screate_simple(2, size, nullptr), H5Sclose);
    if (H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start, nullptr, size, nullptr) < 0 ||
        H5Dread(data_.get(), memory_type_.get(), memory.get(), space.get(), H5P_DEFAULT, out) < 0) {
      file_.fail("data set " + name_ + ", rows " + std::to_string(begin) + " to " +
                 std::to_string(begin + rows - 1) + " cannot be read (libhdf5: " + reason() + ")");
    }
  }

  // Reads `count` blocks from `first` on.
  void load(int64_t first, int64_t count) const {
    const int64_t begin = first * block_rows_;
    const int64_t rows = std::min(count * block_rows_, rows_ - begin);
    const auto bytes = static_cast<size_t>(rows * width_) * element_bytes_;
    if (stage_size_ < bytes) {
      stage_.reset();
      stage_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      stage_size_ = bytes;
    }
    if (chunk_width_ < width_ && rows >= kManyRows) {
      // libhdf5 would read every row of every chunk by itself; a column of chunks is read at once.
      const auto row_bytes = static_cast<size_t>(width_) * element_bytes_;
      const auto piece = std::make_unique_for_overwrite<std::byte[]>(
          static_cast<size_t>(rows * chunk_width_) * element_bytes_);
      for (int64_t column = 0; column < width_; column += chunk_width_) {
        const int64_t columns = std::min(chunk_width_, width_ - column);
        fetch(begin, rows, column, columns, piece.get());
        const auto bytes_of_piece = static_cast<size_t>(columns) * element_bytes_;
        for (int64_t i = 0; i < rows; ++i) {
          std::memcpy(stage_.get() + static_cast<size_t>(i) * row_bytes +
                          static_cast<size_t>(column) * element_bytes_,
                      piece.get() + static_cast<size_t>(i) * bytes_of_piece, bytes_of_piece);
        }
      }
    } else {
      fetch(begin, rows, 0, width_, stage_.get());
    }
    std::vector<std::unique_ptr<float[]>> fresh = take_buffers(count);
    std::atomic<int64_t> bad{rows};
    at::parallel_for(0, rows, grain(), [&](int64_t from, int64_t to) {
      std::vector<float> values;
      for (int64_t i = from; i < to; ++i) {
        float* out = fresh[static_cast<size_t>(i / block_rows_)].get() + i % block_rows_ * width_;
        if (normalise_row(staged_row(i, values), width_, out)) continue;
        int64_t known = bad;
        while (i < known && !bad.compare_exchange_weak(known, i)) {
        }
        break;
      }
    });
    if (bad < rows) {
      std::vector<float> values;
      file_.fail("data set " + name_ + ": " +
                 refusal_of_row(staged_row(bad, values), width_, begin + bad));
    }
    for (int64_t i = 0; i < count; ++i) {
      blocks_.push_front({first + i, std::move(fresh[static_cast<size_t>(i)])});
      places_[first + i] = blocks_.begin();
    }
  }

  // Row i of the stage as float32; `values` holds it where it has to be converted.
  const float* staged_row(int64_t i, std::vector<float>& values) const {
    const std::byte* row = stage_.get() + static_cast<size_t>(i * width_) * element_bytes_;
    if (element_ == Element::kFloat) return reinterpret_cast<const float*>(row);
    values.resize(static_cast<size_t>(width_));
    if (element_ == Element::kHalf) {
      const auto* halves = reinterpret_cast<const c10::Half*>(row);
      std::copy(halves, halves + width_, values.begin());
    } else {
      const auto* doubles = reinterpret_cast<const double*>(row);
      for (int64_t k = 0; k < width_; ++k) {
        values[static_cast<size_t>(k)] = static_cast<float>(doubles[k]);
      }
    }
    return values.data();
  }

  // Room for `count` blocks: those used longest ago give way if the cache is full.
  std::vector<std::unique_ptr<float[]>> take_buffers(int64_t count) const {
    std::vector<std::unique_ptr<float[]>> buffers;
    while (static_cast<int64_t>(buffers.size()) < count) {
      if (blocks_.size() + buffers.size() < capacity_) {
        buffers.push_back(
            std::make_unique_for_overwrite<float[]>(static_cast<size_t>(block_rows_ * width_)));
      } else {
        places_.erase(blocks_.back().index);
        buffers.push_back(std::move(blocks_.back().data));
        blocks_.pop_back();
      }
    }
    return buffers;
  }

  File file_;
  std::string name_;
  Handle data_, memory_type_;
  Element element_ = Element::kFloat;
  size_t element_bytes_ = sizeof(float);
  int64_t rows_ = 0, width_ = 0, block_rows_ = 1, chunk_width_ = 1;
  size_t capacity_ = 1;  // in blocks

  mutable std::mutex mutex_;
  mutable std::list<Block> blocks_;  // the one used last comes first
  mutable std::unordered_map<int64_t, std::list<Block>::iterator> places_;
  mutable std::unique_ptr<std::byte[]> stage_;
  mutable size_t stage_size_ = 0;
};

}  // namespace

bool hdf5_available() { return true; }

std::shared_ptr<Features> open_hdf5_features(const std::filesystem::path& path,
                                             const FeatureFileOptions& options) {
  return std::make_shared<Hdf5Features>(path, options);
}

Labels read_hdf5_labels(const std::filesystem::path& path, const std::string& name) {
  const File file(path);
  const Library library;
  const DataSetInfo info = file.choose(name, 1, H5T_INTEGER);
  if (info.shape[0] < 1) file.fail("expected at least one label, got " + text_of(info));
  const Handle data = file.open(info.name);
  Labels labels;
  labels.values = at::empty(info.shape, at::kLong);
  if (H5Dread(data.get(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT,
              labels.values.mutable_data_ptr<int64_t>()) < 0) {
    file.fail("data set " + info.name + " cannot be read (libhdf5: " + reason() + ")");
  }
  // Larger ones are read as the largest.
  if (labels.values.eq(std::numeric_limits<int64_t>::max()).any().item<bool>()) {
    file.fail("expected labels below 2^63 - 1 in data set " + info.name + ", got a larger one");
  }
  return labels;
}

}  // namespace sparsum::lab

#else

namespace sparsum::lab {

namespace {

[[noreturn]] void refuse(const std::filesystem::path& path) {
  throw InputError(
      "cannot read " + path.string() +
      ": this program was built without HDF5; install libhdf5 with its headers (Debian "
      "and Ubuntu: libhdf5-dev), configure with -DSPARSUM_HDF5=ON and build again");
}

}  // namespace

bool hdf5_available() { return false; }

std::shared_ptr<Features> open_hdf5_features(const std::filesystem::path& path,
                                             const FeatureFileOptions&) {
  refuse(path);
}

Labels read_hdf5_labels(const std::filesystem::path& path, const std::string&) { refuse(path); }

}  // namespace sparsum::lab

#endif
