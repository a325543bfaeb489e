#include "tests/lab/folder.h"

#include <gtest/gtest.h>
#include <lab/data/concepts.h>
#include <lab/data/idx.h>
#include <lab/data/image_data.h>
#include <lab/data/npy.h>
#include <torch/torch.h>

#ifdef SPARSUM_HAVE_HDF5
#include "tests/lab/hdf5_file.h"
#endif

#include <algorithm>
#include <functional>
#include <set>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::spit;

std::vector<int64_t> list(std::span<const int64_t> rows) { return {rows.begin(), rows.end()}; }

TEST(RowsByConcept, AreSorted) {
  const ConceptRows rows = rows_by_concept(torch::tensor({2, 0, 2, 3, 0, 2}), 5);
  EXPECT_EQ(rows.concepts(), 5);
  EXPECT_EQ(list(rows.of(0)), (std::vector<int64_t>{1, 4}));
  EXPECT_TRUE(rows.of(1).empty());
  EXPECT_EQ(list(rows.of(2)), (std::vector<int64_t>{0, 2, 5}));
  EXPECT_EQ(list(rows.of(3)), (std::vector<int64_t>{3}));
  EXPECT_TRUE(rows.of(4).empty());
  EXPECT_EQ(ConceptRows().concepts(), 0);
  EXPECT_THROW(rows_by_concept(torch::tensor({2}), 2), c10::Error);
  EXPECT_THROW(rows_by_concept(torch::tensor({-1}), 2), c10::Error);
}

TEST(HoldOut, IsAStratifiedPartition) {
  // 2, 10, 1,000 and 7 rows a concept.
  const at::Tensor labels =
      at::repeat_interleave(at::arange(4), torch::tensor({2, 10, 1000, 7})).flip(0);
  const ConceptRows all = rows_by_concept(labels, 4);
  const auto [kept, held] = hold_out(all, 0.1, at::detail::createCPUGenerator(1));
  const size_t expected[] = {1, 1, 100, 1};
  for (int64_t k = 0; k < 4; ++k) {
    EXPECT_EQ(held.of(k).size(), expected[k]) << k;
    EXPECT_TRUE(std::is_sorted(kept.of(k).begin(), kept.of(k).end()));
    EXPECT_TRUE(std::is_sorted(held.of(k).begin(), held.of(k).end()));
    std::vector<int64_t> both = list(kept.of(k));
    both.insert(both.end(), held.of(k).begin(), held.of(k).end());
    std::sort(both.begin(), both.end());
    EXPECT_EQ(both, list(all.of(k)));
  }
  const auto same = hold_out(all, 0.1, at::detail::createCPUGenerator(1));
  const auto other = hold_out(all, 0.1, at::detail::createCPUGenerator(2));
  EXPECT_EQ(same.second.rows, held.rows);
  EXPECT_NE(other.second.rows, held.rows);
  // Not all, however large the share.
  EXPECT_EQ(hold_out(all, 0.99, at::detail::createCPUGenerator(1)).first.of(0).size(), 1u);
  const auto none = hold_out(all, 0, at::detail::createCPUGenerator(1));
  EXPECT_EQ(none.first.rows, all.rows);
  EXPECT_EQ(none.second.rows, all.rows);
  const ConceptRows single = rows_by_concept(torch::tensor({0, 0, 1}), 2);
  EXPECT_EQ(input_error_of([&] { hold_out(single, 0.1, at::detail::createCPUGenerator(1)); }),
            "validation games: expected at least two training images of each concept, to set one "
            "aside, got 1 of concept 1; with --validation-share 0 none is set aside");
  EXPECT_THROW(hold_out(all, 1, at::detail::createCPUGenerator(1)), c10::Error);
}

/// The eight files of both data sets: 20 training and 10 test images each, class i % 10.
void write_images(
    const std::filesystem::path& root,
    const std::function<void(at::Tensor&, at::Tensor&, const std::string&, bool)>& change = {}) {
  auto generator = at::detail::createCPUGenerator(3);
  for (const std::string name : {"mnist", "fashion-mnist"}) {
    const auto& files = data_source(name).files;
    std::filesystem::create_directories(root / name);
    for (size_t part = 0; part < 2; ++part) {
      const int64_t n = part == 0 ? 20 : 10;
      at::Tensor images = at::randint(1, 256, {n, 28, 28}, generator, at::kByte);
      at::Tensor labels = at::arange(n).remainder(10).to(at::kByte);
      if (change) change(images, labels, name, part == 0);
      write_idx(root / name / files[2 * part].name, images);
      write_idx(root / name / files[2 * part + 1].name, labels);
    }
  }
}

TEST(ImageConcepts, AreDigitsAndThenClothes) {
  const Folder root;
  write_images(root.path());
  const ConceptData data = load_image_concepts({"mnist", "fashion-mnist"}, root.path());
  ASSERT_EQ(data.names.size(), 20u);
  EXPECT_EQ(data.names[0], "digit 0");
  EXPECT_EQ(data.names[9], "digit 9");
  EXPECT_EQ(data.names[10], "T-shirt");
  EXPECT_EQ(data.names[19], "ankle boot");
  EXPECT_EQ(std::set<std::string>(data.names.begin(), data.names.end()).size(), 20u);
  EXPECT_EQ(data.train.features->rows(), 40);
  EXPECT_EQ(data.train.features->width(), 784);
  EXPECT_EQ(data.test.features->rows(), 20);
  EXPECT_EQ(data.train.pictures.sizes(), (std::vector<int64_t>{40, 28, 28}));
  EXPECT_TRUE(at::equal(data.test.labels, at::arange(20)));
  for (int64_t k = 0; k < 20; ++k) {
    const int64_t first = k < 10 ? k : 10 + k;
    EXPECT_EQ(list(data.train.by_concept.of(k)), (std::vector<int64_t>{first, first + 10}));
    EXPECT_EQ(list(data.test.by_concept.of(k)), (std::vector<int64_t>{k}));
  }
  const at::Tensor x = data.train.pictures[25].flatten().to(at::kDouble);
  EXPECT_TRUE(at::allclose(data.train.features->gather(torch::tensor({25}))[0].to(at::kDouble),
                           x / x.norm(), 1e-6));
  // The pixels are held once.
  EXPECT_EQ(data.train.features->memory_bytes(), 40 * 784 + 40 * 8);
  EXPECT_EQ(load_image_concepts({"mnist"}, root.path()).names.size(), 10u);
}

TEST(ImageConcepts, NameWhatIsMissing) {
  const Folder root;
  write_images(root.path(),
               [](at::Tensor&, at::Tensor& labels, const std::string& name, bool train) {
                 if (name == "fashion-mnist" && !train) labels[8] = 7;
               });
  EXPECT_EQ(input_error_of([&] {
              load_image_concepts({"mnist", "fashion-mnist"}, root.path());
            }),
            "mnist + fashion-mnist: expected at least one test image of each concept, got none of "
            "'bag'");
  write_images(root.path(),
               [](at::Tensor& images, at::Tensor&, const std::string& name, bool train) {
                 if (name == "fashion-mnist" && train) images[3].zero_();
               });
  EXPECT_EQ(input_error_of([&] {
              load_image_concepts({"mnist", "fashion-mnist"}, root.path());
            }),
            "mnist + fashion-mnist, training images: expected rows with a norm above 0, got 0 in "
            "row 23");
}

TEST(FeatureConcepts, NameAMissingFolder) {
  const Folder root;
  EXPECT_EQ(input_error_of([&] { load_feature_concepts(root.path()); }),
            "cannot read folder " + (root / "train").string() + ": No such file or directory");
}

#ifdef SPARSUM_HAVE_HDF5

using sparsum_test::Hdf5File;

/// Features whose first column says which row it is.
at::Tensor numbered(int64_t rows, int64_t width = 3) {
  at::Tensor x = at::ones({rows, width}, at::kDouble);
  x.select(1, 0).copy_(at::arange(rows));
  return x;
}

class FeatureFolders : public ::testing::Test {
 protected:
  FeatureFolders() {
    for (const char* part : {"train", "test"}) std::filesystem::create_directories(root_ / part);
    write("train/fc.h5", numbered(6));
    write("test/fc.hdf5", numbered(3));
  }
  void write(const std::string& name, const at::Tensor& x) {
    Hdf5File(root_ / name).write("fc", x, H5T_IEEE_F32LE);
  }
  void labels(const std::string& train, const std::string& test) {
    spit(root_ / "train/labels.json", train);
    spit(root_ / "test/labels.json", test);
  }
  std::string message(const FeatureFileOptions& options = {}) {
    return input_error_of([&] { load_feature_concepts(root_.path(), options); });
  }
  std::string path(const std::string& name) { return (root_ / name).string(); }
  Folder root_;
};

TEST_F(FeatureFolders, AreReadWithIntegerLabels) {
  write_npy(root_ / "train/labels.npy", torch::tensor({70, -5, 70, 8, 8, 70}));
  spit(root_ / "test/l.txt", "8\n70\n-5\n");
  const ConceptData data = load_feature_concepts(root_.path());
  EXPECT_EQ(data.names, (std::vector<std::string>{"-5", "8", "70"}));
  EXPECT_TRUE(at::equal(data.train.labels, torch::tensor({2, 0, 2, 1, 1, 2})));
  EXPECT_TRUE(at::equal(data.test.labels, torch::tensor({1, 2, 0})));
  EXPECT_EQ(list(data.train.by_concept.of(2)), (std::vector<int64_t>{0, 2, 5}));
  EXPECT_FALSE(data.train.pictures.defined());
  const at::Tensor x = data.train.features->gather(torch::tensor({4}));
  EXPECT_TRUE(at::allclose(x, torch::tensor({{4.0, 1.0, 1.0}}).to(at::kFloat) / std::sqrt(18.0)));
}

TEST_F(FeatureFolders, AreReadWithWords) {
  labels(R"(["dog", "cat", "dog", "ant", "cat", "ant"])", R"(["ant", "dog", "cat"])");
  const ConceptData data = load_feature_concepts(root_.path());
  EXPECT_EQ(data.names, (std::vector<std::string>{"ant", "cat", "dog"}));
  EXPECT_TRUE(at::equal(data.train.labels, torch::tensor({2, 1, 2, 0, 1, 0})));
  EXPECT_TRUE(at::equal(data.test.labels, torch::tensor({0, 2, 1})));
  labels(R"(["dog", "cat", "dog", "ant", "cat", "ant"])", "[0, 1, 2]");
  EXPECT_EQ(message(), path("test/labels.json") + ": expected strings, as " +
                           path("train/labels.json") + " has, got integers");
}

TEST_F(FeatureFolders, AreReadWithLabelsInTheFile) {
  for (const char* name : {"train/fc.h5", "test/fc.hdf5"}) {
    const int64_t n = name[1] == 'r' ? 6 : 3;
    Hdf5File file(root_ / name);
    file.write("fc", numbered(n), H5T_IEEE_F64LE);
    file.write("labels", at::arange(n).remainder(3), H5T_STD_U16LE);
    file.write("other", at::arange(n), H5T_STD_U16LE);
  }
  EXPECT_TRUE(message().starts_with(
      path("train/fc.h5") +
      ": expected one 1-D data set of integers or the name of one (--labels-name), got labels [6] "
      "of 16-bit "
      "integers, other [6] of 16-bit integers; nor is there a file of labels"));
  FeatureFileOptions options;
  options.labels = "labels";
  EXPECT_TRUE(at::equal(load_feature_concepts(root_.path(), options).train.labels,
                        torch::tensor({0, 1, 2, 0, 1, 2})));
  // A file beside it is preferred, unless the data set is named.
  labels("[0, 0, 0, 1, 1, 1]", "[0, 1, 0]");
  EXPECT_TRUE(at::equal(load_feature_concepts(root_.path()).train.labels,
                        torch::tensor({0, 0, 0, 1, 1, 1})));
  EXPECT_EQ(load_feature_concepts(root_.path(), options).names.size(), 3u);
}

TEST_F(FeatureFolders, TakeNamesFromTheRoot) {
  labels("[2, 0, 2, 2, 0, 0]", "[2, 0, 0]");
  spit(root_ / "concepts.json", R"(["cat", "dog", "ant"])");
  EXPECT_EQ(load_feature_concepts(root_.path()).names, (std::vector<std::string>{"cat", "ant"}));
  spit(root_ / "concepts.json", R"(["cat", "dog"])");
  EXPECT_EQ(message(), path("concepts.json") +
                           ": expected a name for every label, got 2 names and the label 2");
  spit(root_ / "concepts.json", R"({"cat": 0})");
  EXPECT_TRUE(message().starts_with(path("concepts.json") +
                                    ": expected a list of names in JSON, got something else: "));
}

TEST_F(FeatureFolders, AreChecked) {
  const std::string none = message();
  EXPECT_TRUE(none.starts_with(path("train/fc.h5") +
                               ": expected one 1-D data set of integers, got fc [6, 3] of 32-bit "
                               "floats; nor is there a file of labels, .npy, .json or .txt, beside "
                               "it"))
      << none;
  labels("[0, 1, 0, 1, 0]", "[0, 1, 0]");
  EXPECT_EQ(message(), path("train/labels.json") + ": expected 6 labels, one for each row of " +
                           path("train/fc.h5") + ", got 5");
  labels("[0, 1, 0, 1, 0, 2]", "[0, 1, 0]");
  EXPECT_EQ(message(), path("test/labels.json") +
                           ": expected at least one test image of each concept, got none of '2'");
  labels("[0, 1, 0, 1, 0, 1]", "[0, 1, 2]");
  EXPECT_EQ(message(),
            path("train/labels.json") +
                ": expected at least one training image of each concept, got none of '2'");
  labels("[0, 1, 0, 1, 0, 1]", "[0, 1, 1]");
  write("test/fc.hdf5", numbered(3, 4));
  EXPECT_EQ(message(), path("test") + ": expected 3 features, as " + path("train") + " has, got 4");
  spit(root_ / "test/labels.txt", "0\n1\n1\n");
  EXPECT_EQ(message(), path("test") +
                           ": expected one file of labels, .npy, .json or .txt, got labels.json, "
                           "labels.txt");
  write("train/more.h5", numbered(3));
  EXPECT_EQ(message(),
            path("train") + ": expected one file of features, .h5 or .hdf5, got fc.h5, more.h5");
  std::filesystem::remove(root_ / "train/more.h5");
  std::filesystem::remove(root_ / "train/fc.h5");
  EXPECT_EQ(message(), path("train") + ": expected one file of features, .h5 or .hdf5, got none");
}

#endif

}  // namespace
}  // namespace sparsum::lab
