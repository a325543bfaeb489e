#include "folder.h"

#include <gtest/gtest.h>
#include <lab/run_folder.h>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;

TEST(RunFolder, IsMadeWhereThereIsNoneOrAnEmptyOne) {
  const Folder folder;
  for (const auto& path : {folder / "new" / "deep", folder.path() / "empty"}) {
    if (path.filename() == "empty") std::filesystem::create_directory(path);
    const auto run = RunFolder::for_new_run(path);
    run.create("seed = 1\n");
    EXPECT_EQ(sparsum_test::slurp(path / "config.toml"), "seed = 1\n");
    EXPECT_TRUE(std::filesystem::is_directory(path / "checkpoints"));
    EXPECT_TRUE(std::filesystem::is_directory(path / "images"));
  }
}

TEST(RunFolder, ChecksBeforeItMakesAnything) {
  const Folder folder;
  RunFolder::for_new_run(folder / "new");
  EXPECT_EQ(folder.size(), 0u);
}

TEST(RunFolder, RefusesAFolderWithFilesAndSaysWhatToDo) {
  const Folder folder;
  sparsum_test::spit(folder / "notes.txt", "mine");
  EXPECT_EQ(
      input_error_of([&] { RunFolder::for_new_run(folder.path()); }),
      folder.path().string() +
          ": expected a new or empty folder for the run, found one with files in it; continue "
          "that run with --resume, or give another folder with --out");
  EXPECT_EQ(input_error_of([&] { RunFolder::for_new_run(folder / "notes.txt"); }),
            (folder / "notes.txt").string() + ": expected a folder for the run, found a file");
}

TEST(RunFolder, RefusesToContinueWhatIsNoRun) {
  const Folder folder;
  EXPECT_EQ(input_error_of([&] { RunFolder::of_existing_run(folder.path()); }),
            folder.path().string() + ": expected the folder of a run, found no config.toml in it");
}

TEST(RunFolder, SaysWhyAFolderCannotBeMade) {
  const Folder folder;
  sparsum_test::spit(folder / "file", "");
  const std::string message =
      input_error_of([&] { RunFolder::for_new_run(folder / "file" / "run").create(""); });
  EXPECT_NE(message.find((folder / "file" / "run").string()), std::string::npos) << message;
  EXPECT_NE(message.find("Not a directory"), std::string::npos) << message;
}

}  // namespace
}  // namespace sparsum::lab
