#include "tests/lab/folder.h"

#include <gtest/gtest.h>
#include <lab/data/hdf5.h>
#include <torch/torch.h>

#ifdef SPARSUM_HAVE_HDF5
#include "tests/lab/hdf5_file.h"

#include <limits>
#include <thread>
#endif

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;

#ifdef SPARSUM_HAVE_HDF5

using sparsum_test::Hdf5File;
using sparsum_test::slurp;
using sparsum_test::spit;

/// Numbers that half floats hold exactly: −2 … 2 in steps of 1/8, never a row of zeros.
at::Tensor values(int64_t rows, int64_t width, uint64_t seed = 1) {
  auto generator = at::detail::createCPUGenerator(seed);
  at::Tensor x = at::randint(-16, 17, {rows, width}, generator, at::kDouble) / 8;
  x.select(1, 0).copy_(at::arange(rows).remainder(7) + 1);
  return x;
}

at::Tensor normalised(const at::Tensor& x) {
  return (x / x.square().sum(1, true).sqrt()).to(at::kFloat);
}

at::Tensor random_rows(int64_t n, int64_t rows, uint64_t seed) {
  return at::randint(0, rows, {n}, at::detail::createCPUGenerator(seed), at::kLong);
}

std::shared_ptr<Features> open_with_cache(const std::filesystem::path& path, int64_t bytes) {
  FeatureFileOptions options;
  options.cache_bytes = bytes;
  return open_hdf5_features(path, options);
}

struct Layout {
  std::string name;
  std::vector<hsize_t> chunk;
  bool deflate;
};

TEST(Hdf5Features, GatherEqualsTheWholeForEveryTypeLayoutAndCache) {
  const Folder folder;
  const auto path = folder / "f.h5";
  const at::Tensor x = values(103, 200);
  const at::Tensor expected = normalised(x);
  const hid_t half = Hdf5File::half(), big_half = H5Tcopy(half), bfloat = H5Tcopy(half);
  H5Tset_order(big_half, H5T_ORDER_BE);
  H5Tset_fields(bfloat, 15, 7, 8, 0, 7);
  H5Tset_ebias(bfloat, 127);
  const std::pair<std::string, hid_t> types[] = {{"f2", half},
                                                 {"f2 big-endian", big_half},
                                                 {"bfloat16", bfloat},
                                                 {"f4", H5T_IEEE_F32LE},
                                                 {"f4 big-endian", H5T_IEEE_F32BE},
                                                 {"f8", H5T_IEEE_F64LE},
                                                 {"f8 big-endian", H5T_IEEE_F64BE},
                                                 {"long double", H5T_NATIVE_LDOUBLE}};
  const Layout layouts[] = {{"contiguous", {}, false},
                            {"chunks", {16, 200}, false},
                            {"narrow chunks", {50, 7}, false},
                            {"compressed chunks", {16, 200}, true},
                            {"narrow compressed chunks", {50, 7}, true}};
  for (const auto& [type_name, type] : types) {
    for (const Layout& layout : layouts) {
      SCOPED_TRACE(type_name + ", " + layout.name);
      { Hdf5File(path).write("features", x, type, layout.chunk, layout.deflate); }
      // Room for one block and for everything.
      const int64_t block = 200 * 4 * (layout.deflate ? layout.chunk[0] : 40);
      for (const int64_t cache : {block, 3 * block, int64_t{1} << 30}) {
        const auto features = open_with_cache(path, cache);
        ASSERT_EQ(features->rows(), 103);
        ASSERT_EQ(features->width(), 200);
        EXPECT_EQ(features->memory_bytes(), 0);
        for (uint64_t seed = 0; seed < 2; ++seed) {
          const at::Tensor rows = random_rows(90, 103, seed);
          ASSERT_TRUE(at::equal(features->gather(rows), expected.index_select(0, rows)));
        }
        ASSERT_TRUE(at::equal(features->gather(at::arange(103)), expected));
        ASSERT_TRUE(at::equal(features->gather(at::arange(102, -1, -1)), expected.flip(0)));
        // Beside the cache there is the buffer of file contents.
        EXPECT_LE(features->memory_bytes(), cache + 103 * 200 * 16);
      }
    }
  }
  for (const hid_t type : {half, big_half, bfloat}) H5Tclose(type);
}

TEST(Hdf5Features, MemoryIsBoundedByTheCache) {
  const Folder folder;
  const auto path = folder / "f.h5";
  // 20 MB of features, a cache of 1 MB, a buffer of 4 MiB.
  const at::Tensor x = values(5000, 1000);
  { Hdf5File(path).write("features", x, H5T_IEEE_F32LE); }
  const auto features = open_with_cache(path, 1000000);
  const at::Tensor expected = normalised(x);
  EXPECT_TRUE(at::equal(features->gather(at::arange(5000)), expected));
  EXPECT_LE(features->memory_bytes(), 1000000 + (1 << 22));
  EXPECT_GT(features->memory_bytes(), 900000);
  const at::Tensor rows = random_rows(3000, 5000, 1);
  EXPECT_TRUE(at::equal(features->gather(rows), expected.index_select(0, rows)));
  EXPECT_LE(features->memory_bytes(), 1000000 + (1 << 22));
}

TEST(Hdf5Features, RowsInTheCacheAreNotReadAgain) {
  const Folder folder;
  const auto path = folder / "f.h5";
  const at::Tensor x = values(100, 1000);
  const at::Tensor expected = normalised(x);
  { Hdf5File(path).write("features", x, H5T_IEEE_F32LE); }
  // Blocks of 8 rows; room for two.
  const auto features = open_with_cache(path, 2 * 8 * 4000);
  features->gather(torch::tensor({0, 8}));
  // Other contents under the open file show what is read.
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t data = H5Dopen2(file, "features", H5P_DEFAULT);
  const haddr_t offset = H5Dget_offset(data);
  H5Dclose(data);
  H5Fclose(file);
  std::string bytes = slurp(path);
  const std::vector<float> ones(100 * 1000, 1.0F);
  bytes.replace(offset, 400000, reinterpret_cast<const char*>(ones.data()), 400000);
  spit(path, bytes);
  const at::Tensor one = normalised(at::ones({1, 1000}, at::kDouble)).squeeze(0);
  EXPECT_TRUE(at::equal(features->gather(torch::tensor({7, 15})),
                        expected.index_select(0, torch::tensor({7, 15}))));
  // The block used last stays, the other one gives way.
  features->gather(torch::tensor({1}));
  EXPECT_TRUE(at::equal(features->gather(torch::tensor({16}))[0], one));
  EXPECT_TRUE(at::equal(features->gather(torch::tensor({2}))[0], expected[2]));
  EXPECT_TRUE(at::equal(features->gather(torch::tensor({9}))[0], one));
}

TEST(Hdf5Features, MayBeGatheredFromSeveralThreads) {
  const Folder folder;
  const auto path = folder / "f.h5";
  const at::Tensor x = values(400, 500);
  { Hdf5File(path).write("features", x, H5T_IEEE_F64BE, {32, 500}, true); }
  const at::Tensor expected = normalised(x);
  const auto features = open_with_cache(path, 4 * 32 * 2000);
  const auto others = open_with_cache(path, 4 * 32 * 2000);
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (uint64_t round = 0; round < 10; ++round) {
        const at::Tensor rows = random_rows(64, 400, 10 * i + round);
        EXPECT_TRUE(at::equal((i % 2 == 0 ? features : others)->gather(rows),
                              expected.index_select(0, rows)));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Hdf5Features, FindsTheOnlyDataSetThatFits) {
  const Folder folder;
  const auto path = folder / "f.h5";
  const at::Tensor x = values(4, 3);
  {
    Hdf5File file(path);
    file.write("deep/down/fc7", x, H5T_IEEE_F32LE);
    file.write("labels", torch::tensor({5, 6, 5, 7}), H5T_STD_U8BE);
    file.write("pixels", torch::tensor({{1, 2}, {3, 4}}), H5T_STD_I32LE);
    file.write("weights", x.select(1, 0).contiguous(), H5T_IEEE_F32LE);
    // Not followed: another file, and nowhere.
    H5Lcreate_external("/nowhere/g.h5", "/x", file.get(), "outside", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_soft("/missing", file.get(), "dangling", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_soft("/deep/down/fc7", file.get(), "alias", H5P_DEFAULT, H5P_DEFAULT);
  }
  EXPECT_TRUE(at::equal(open_hdf5_features(path)->gather(at::arange(4)), normalised(x)));
  FeatureFileOptions named;
  named.data_set = "/alias";
  EXPECT_TRUE(at::equal(open_hdf5_features(path, named)->gather(at::arange(4)), normalised(x)));
  EXPECT_TRUE(at::equal(read_hdf5_labels(path).values, torch::tensor({5, 6, 5, 7})));
  EXPECT_TRUE(at::equal(read_hdf5_labels(path, "labels").values, torch::tensor({5, 6, 5, 7})));
  EXPECT_TRUE(read_hdf5_labels(path).words.empty());

  const std::string all =
      "deep/down/fc7 [4, 3] of 32-bit floats, labels [4] of 8-bit integers, pixels [2, 2] of "
      "32-bit integers, weights [4] of 32-bit floats";
  named.data_set = "fc6";
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path, named); }),
            path.string() + ": expected a data set fc6, got " + all);
  named.data_set = "pixels";
  EXPECT_EQ(
      input_error_of([&] { open_hdf5_features(path, named); }),
      path.string() + ": expected a 2-D data set of floats, got pixels [2, 2] of 32-bit integers");
  named.data_set = "deep";
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path, named); }),
            path.string() + ": expected a data set deep, got " + all);
  named.data_set = "outside";
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path, named); }),
            path.string() + ": expected a data set outside, got " + all);
  EXPECT_EQ(
      input_error_of([&] { read_hdf5_labels(path, "weights"); }),
      path.string() + ": expected a 1-D data set of integers, got weights [4] of 32-bit floats");
}

TEST(Hdf5Features, RefusesNoneAndSeveralDataSets) {
  const Folder folder;
  const auto path = folder / "f.h5";
  { Hdf5File file(path); }
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path); }),
            path.string() + ": expected one 2-D data set of floats, got no data set at all");
  EXPECT_EQ(input_error_of([&] { read_hdf5_labels(path); }),
            path.string() + ": expected one 1-D data set of integers, got no data set at all");
  {
    Hdf5File file(path);
    file.write("a", values(4, 3), H5T_IEEE_F32LE);
    file.write("b", values(5, 2), H5T_IEEE_F64LE);
    file.write("c", torch::tensor({1}), H5T_STD_I64LE);
    file.write("d", torch::tensor({1, 2}), H5T_STD_I8LE);
  }
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path); }),
            path.string() +
                ": expected one 2-D data set of floats or the name of one (--features-name), got a "
                "[4, 3] of 32-bit "
                "floats, b [5, 2] of 64-bit floats");
  EXPECT_EQ(input_error_of([&] { read_hdf5_labels(path); }),
            path.string() +
                ": expected one 1-D data set of integers or the name of one (--labels-name), got c "
                "[1] of 64-bit "
                "integers, d [2] of 8-bit integers");
  { Hdf5File(path).write("none", at::empty({0, 3}, at::kDouble), H5T_IEEE_F32LE); }
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path); }),
            path.string() +
                ": expected at least one row and one feature, got none [0, 3] of 32-bit floats");
}

TEST(Hdf5Features, RefusesFilesThatAreNotWhole) {
  const Folder folder;
  const auto path = folder / "f.h5";
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path); }),
            "cannot read " + path.string() + ": No such file or directory");
  spit(path, "");
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path); }),
            path.string() + ": expected an HDF5 file, got something else");
  spit(path, "PK\x03\x04 and so on");
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path); }),
            path.string() + ": expected an HDF5 file, got something else");
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(folder.path()); }),
            folder.path().string() + ": expected an HDF5 file, got something else");
  { Hdf5File(path).write("features", values(400, 30), H5T_IEEE_F32LE); }
  const std::string whole = slurp(path);
  for (const size_t size : {size_t{8}, size_t{40}, size_t{300}, size_t{3000}, whole.size() - 1}) {
    spit(path, whole.substr(0, size));
    const std::string message = input_error_of([&] { open_hdf5_features(path); });
    EXPECT_TRUE(message.starts_with(
        path.string() +
        ": expected a whole HDF5 file, got one that is cut short or damaged (libhdf5: "))
        << size << ": " << message;
  }
  EXPECT_NE(input_error_of([&] { open_hdf5_features(path); }).find("truncated file: eof = "),
            std::string::npos);
}

TEST(Hdf5Features, NamesTheRowThatCannotBeUsed) {
  const Folder folder;
  const auto path = folder / "f.h5";
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const auto message = [&](int64_t row, int64_t column, double value, hid_t type) {
    at::Tensor x = values(300, 40);
    if (column < 0) {
      x[row].fill_(value);
    } else {
      x[row][column] = value;
    }
    { Hdf5File(path).write("fc", x, type); }
    const auto features = open_hdf5_features(path);
    const std::string first = input_error_of([&] { features->gather(at::arange(300)); });
    // What is wrong stays wrong, and the rest can be read.
    EXPECT_EQ(input_error_of([&] { features->gather(torch::tensor({row})); }), first);
    EXPECT_TRUE(
        at::equal(features->gather(torch::tensor({299})), normalised(x).slice(0, 299, 300)));
    return first;
  };
  const std::string prefix = path.string() + ": data set fc: ";
  const hid_t half = Hdf5File::half();
  for (const hid_t type : {half, H5T_IEEE_F32BE, H5T_IEEE_F64LE}) {
    EXPECT_EQ(message(17, 39, nan, type),
              prefix + "expected finite float32 features, got nan in row 17, column 39");
    EXPECT_EQ(message(17, 0, -inf, type),
              prefix + "expected finite float32 features, got -inf in row 17, column 0");
    EXPECT_EQ(message(3, -1, 0, type),
              prefix + "expected rows with a norm above 0, got 0 in row 3");
  }
  H5Tclose(half);
  // Too large for the numbers that are computed with.
  EXPECT_EQ(message(2, 5, 1e300, H5T_IEEE_F64LE),
            prefix + "expected finite float32 features, got inf in row 2, column 5");
}

TEST(Hdf5Features, FindsTheFirstBadRow) {
  const Folder folder;
  const auto path = folder / "f.h5";
  at::Tensor x = values(2000, 400);
  for (const int64_t row : {1999, 1200, 501, 500}) x[row].zero_();
  { Hdf5File(path).write("fc", x, H5T_IEEE_F32LE); }
  EXPECT_EQ(input_error_of([&] { open_hdf5_features(path)->gather(at::arange(2000)); }),
            path.string() + ": data set fc: expected rows with a norm above 0, got 0 in row 500");
}

TEST(Hdf5Features, RefusesWhatDoesNotFitIntoTheCache) {
  const Folder folder;
  const auto path = folder / "f.h5";
  { Hdf5File(path).write("fc", values(100, 50), H5T_IEEE_F32LE, {64, 10}, true); }
  EXPECT_EQ(input_error_of([&] { open_with_cache(path, 64 * 200 - 1); }),
            path.string() +
                ": expected a cache with room for the 64 rows of a compressed chunk, 200 bytes "
                "each, got 12799 bytes (--features-cache)");
  EXPECT_EQ(open_with_cache(path, 64 * 200)->gather(at::arange(100)).size(0), 100);
}

TEST(Hdf5Features, RefusesContentsInOtherFiles) {
  const Folder folder;
  const auto path = folder / "f.h5";
  spit(folder / "raw", std::string(48, '\1'));
  {
    const Hdf5File file(path);
    const hsize_t sizes[] = {4, 3};
    const hid_t space = H5Screate_simple(2, sizes, nullptr);
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(creation, (folder / "raw").c_str(), 0, 48);
    H5Dclose(
        H5Dcreate2(file.get(), "fc", H5T_IEEE_F32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT));
    H5Pclose(creation);
    H5Sclose(space);
  }
  EXPECT_EQ(
      input_error_of([&] { open_hdf5_features(path); }),
      path.string() + ": data set fc: expected its contents in this file, they are in others");
}

TEST(Hdf5Features, ChecksIndices) {
  const Folder folder;
  const auto path = folder / "f.h5";
  { Hdf5File(path).write("fc", values(5, 3), H5T_IEEE_F32LE); }
  const auto features = open_hdf5_features(path);
  EXPECT_THROW(features->gather(torch::tensor({5})), c10::Error);
  EXPECT_THROW(features->gather(torch::tensor({-1})), c10::Error);
  EXPECT_EQ(features->gather(at::empty({2, 0}, at::kLong)).sizes(),
            (std::vector<int64_t>{2, 0, 3}));
}

#else

TEST(Hdf5Features, SayHowToBuildWithHdf5) {
  EXPECT_FALSE(hdf5_available());
  const std::string message =
      "cannot read f.h5: this program was built without HDF5; install libhdf5 with its headers "
      "(Debian and Ubuntu: libhdf5-dev), configure with -DSPARSUM_HDF5=ON and build again";
  EXPECT_EQ(input_error_of([] { open_hdf5_features("f.h5"); }), message);
  EXPECT_EQ(input_error_of([] { read_hdf5_labels("f.h5"); }), message);
}

#endif

}  // namespace
}  // namespace sparsum::lab
