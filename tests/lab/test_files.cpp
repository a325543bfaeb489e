#include "tests/lab/folder.h"

#include <gtest/gtest.h>
#include <lab/files.h>
#include <sys/resource.h>
#include <zlib.h>

#include <csignal>
#include <random>
#include <stdexcept>

namespace sparsum::lab {
namespace {

using sparsum_test::Folder;
using sparsum_test::input_error_of;
using sparsum_test::slurp;
using sparsum_test::spit;

/// Compressed by zlib's own file functions.
std::string gzipped(const Folder& folder, const std::string& bytes) {
  const auto path = folder / "gzipped.tmp";
  gzFile file = gzopen(path.c_str(), "wb");
  EXPECT_EQ(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())),
            static_cast<int>(bytes.size()));
  EXPECT_EQ(gzclose(file), Z_OK);
  std::string compressed = slurp(path);
  std::filesystem::remove(path);
  return compressed;
}

std::string noise(size_t size, unsigned seed) {
  std::mt19937 engine(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(engine());
  return bytes;
}

/// While it lives, no file may grow beyond `bytes`: a full disk, as far as write() can tell.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

TEST(ReadFile, GivesEveryByteBack) {
  const Folder folder;
  for (const size_t size : {0u, 1u, 262143u, 262144u, 262145u, 1000000u}) {
    const std::string bytes = noise(size, 1);
    spit(folder / "f", bytes);
    EXPECT_EQ(read_file(folder / "f"), bytes) << size;
    EXPECT_EQ(read_maybe_gzip(folder / "f"), bytes) << size;
  }
}

TEST(ReadFile, ReadsFilesThatHaveNoSize) { EXPECT_NE(read_file("/proc/self/status"), ""); }

TEST(ReadFile, NamesFileAndReason) {
  const Folder folder;
  EXPECT_EQ(input_error_of([&] { read_file(folder / "none"); }),
            "cannot read " + (folder / "none").string() + ": No such file or directory");
  EXPECT_EQ(input_error_of([&] { read_file(folder.path()); }),
            "cannot read " + folder.path().string() + ": Is a directory");
  EXPECT_EQ(input_error_of([&] { read_maybe_gzip(folder / "none"); }),
            "cannot read " + (folder / "none").string() + ": No such file or directory");
}

TEST(ReadFile, ShowsControlCharactersOfNames) {
  EXPECT_EQ(input_error_of([] { read_file("/no\n\x1b[31m\x7f/ü"); }),
            "cannot read /no\\n\\x1b[31m\\x7f/ü: No such file or directory");
}

TEST(ReadMaybeGzip, DecompressesWhatHasTheMagicNumber) {
  const Folder folder;
  // Sizes around the pieces that go through zlib, compressible and not.
  for (const size_t size : {0u, 1u, 262144u, 262145u, 1000000u}) {
    for (const std::string& bytes : {std::string(size, 'x'), noise(size, 2)}) {
      spit(folder / "f", gzipped(folder, bytes));
      EXPECT_TRUE(read_maybe_gzip(folder / "f") == bytes) << size;
    }
  }
}

TEST(ReadMaybeGzip, ReadsSeveralStreamsAndZeroPadding) {
  const Folder folder;
  const std::string two = gzipped(folder, "one, ") + gzipped(folder, "two");
  spit(folder / "f", two);
  EXPECT_EQ(read_maybe_gzip(folder / "f"), "one, two");
  spit(folder / "f", two + std::string(512, '\0'));
  EXPECT_EQ(read_maybe_gzip(folder / "f"), "one, two");
}

TEST(ReadMaybeGzip, RefusesEveryTruncation) {
  const Folder folder;
  const std::string whole = gzipped(folder, noise(300, 3));
  for (size_t size = 2; size < whole.size(); ++size) {
    spit(folder / "f", whole.substr(0, size));
    const std::string message = input_error_of([&] { read_maybe_gzip(folder / "f"); });
    EXPECT_TRUE(message.starts_with((folder / "f").string() + ": gzip stream is truncated: its " +
                                    std::to_string(size) + " bytes end in the middle, after "))
        << message;
  }
}

TEST(ReadMaybeGzip, RefusesDamage) {
  const Folder folder;
  const std::string whole = gzipped(folder, noise(1000, 4));
  const std::string name = (folder / "f").string();
  std::string damaged = whole;
  damaged[damaged.size() - 8] ^= 1;  // the checksum
  spit(folder / "f", damaged);
  EXPECT_EQ(input_error_of([&] { read_maybe_gzip(folder / "f"); }),
            name + ": gzip stream is damaged near byte " + std::to_string(whole.size() - 4) +
                ": incorrect data check");
  spit(folder / "f", whole + "junk");
  EXPECT_EQ(input_error_of([&] { read_maybe_gzip(folder / "f"); }),
            name + ": gzip stream is damaged: 4 bytes follow its end at byte " +
                std::to_string(whole.size()));
  // Any flipped bit of the contents or behind them is found (byte 10 holds unused ones).
  for (size_t i = 11; i < whole.size(); i += 7) {
    damaged = whole;
    damaged[i] ^= 0x10;
    spit(folder / "f", damaged);
    input_error_of([&] { read_maybe_gzip(folder / "f"); });
  }
}

TEST(ReadMaybeGzip, KeepsToItsLimit) {
  const Folder folder;
  const std::string name = (folder / "f").string();
  spit(folder / "f", gzipped(folder, std::string(1000000, 'x')));
  EXPECT_EQ(read_maybe_gzip(folder / "f", 1000000).size(), 1000000u);
  EXPECT_EQ(input_error_of([&] { read_maybe_gzip(folder / "f", 999999); }),
            name + ": decompressed: expected at most 999999 bytes, got more");
  spit(folder / "f", "12345");
  EXPECT_EQ(read_maybe_gzip(folder / "f", 5), "12345");
  EXPECT_EQ(input_error_of([&] { read_maybe_gzip(folder / "f", 4); }),
            "cannot read " + name + ": expected at most 4 bytes, got more");
  EXPECT_EQ(input_error_of([&] { maybe_gunzip("12345", "what came", 4); }),
            "what came: expected at most 4 bytes, got more");
}

TEST(WriteFileAtomically, ReplacesContentsAndLeavesNothingElse) {
  const Folder folder;
  for (const std::string& bytes : {noise(100000, 5), std::string(), std::string("short")}) {
    write_file_atomically(folder / "f", bytes);
    EXPECT_EQ(slurp(folder / "f"), bytes);
    EXPECT_EQ(folder.size(), 1u);
  }
  // As a file made by any other program: readable as far as the umask allows.
  const mode_t mask = ::umask(0);
  ::umask(mask);
  EXPECT_EQ(static_cast<unsigned>(std::filesystem::status(folder / "f").permissions()),
            0666u & ~mask);
}

TEST(WriteFileAtomically, TakesTheLongestNamesAndBareOnes) {
  const Folder folder;
  const std::string longest(255, 'n');
  write_file_atomically(folder / longest, "x");
  EXPECT_EQ(slurp(folder / longest), "x");

  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_file_atomically("bare", "y");
  std::filesystem::current_path(before);
  EXPECT_EQ(slurp(folder / "bare"), "y");
  EXPECT_EQ(folder.size(), 2u);
}

TEST(WriteFileAtomically, LeavesTheOldFileWhenTheDiskIsFull) {
  const Folder folder;
  const std::string old = noise(100, 6);
  spit(folder / "f", old);
  std::string message;
  {
    const FileSizeLimit limit(4096);
    message = input_error_of([&] { write_file_atomically(folder / "f", noise(10000, 7)); });
  }
  EXPECT_EQ(message, "cannot write " + (folder / "f").string() + ": File too large");
  EXPECT_EQ(slurp(folder / "f"), old);
  EXPECT_EQ(folder.size(), 1u);
}

TEST(WriteFileAtomically, NamesFileAndReason) {
  const Folder folder;
  const auto missing = folder / "none/f";
  EXPECT_EQ(input_error_of([&] { write_file_atomically(missing, "x"); }),
            "cannot write " + missing.string() + ": folder " + (folder / "none").string() +
                ": No such file or directory");
  spit(folder / "file", "");
  const auto below = folder / "file/f";
  EXPECT_EQ(input_error_of([&] { write_file_atomically(below, "x"); }),
            "cannot write " + below.string() + ": folder " + (folder / "file").string() +
                ": Not a directory");
  std::filesystem::create_directory(folder / "dir");
  EXPECT_EQ(input_error_of([&] { write_file_atomically(folder / "dir", "x"); }),
            "cannot write " + (folder / "dir").string() + ": Is a directory");
  EXPECT_EQ(folder.size(), 2u);
  // A file system that takes no files, also from root.
  EXPECT_TRUE(input_error_of([&] {
                write_file_atomically("/proc/sparsum", "x");
              }).starts_with("cannot write /proc/sparsum: folder /proc: "));
}

TEST(AppendedFile, AddsLines) {
  const Folder folder;
  {
    AppendedFile file(folder / "f", 0);
    EXPECT_EQ(slurp(folder / "f"), "");
    file.append("one");
    EXPECT_EQ(slurp(folder / "f"), "one\n");
    file.append("");
    file.append("three");
  }
  EXPECT_EQ(slurp(folder / "f"), "one\n\nthree\n");
}

TEST(AppendedFile, CutsBackToTheLinesToKeep) {
  const Folder folder;
  const std::string four = "a\nbb\n\ndddd\n";
  const std::string kept[] = {"", "a\n", "a\nbb\n", "a\nbb\n\n", four};
  for (size_t keep = 0; keep <= 4; ++keep) {
    for (const char* tail : {"", "incomplete"}) {
      spit(folder / "f", four + tail);
      AppendedFile file(folder / "f", keep);
      EXPECT_EQ(slurp(folder / "f"), kept[keep]);
      file.append("next");
      EXPECT_EQ(slurp(folder / "f"), kept[keep] + "next\n");
    }
  }
}

TEST(AppendedFile, FindsLinesAcrossItsReadBuffer) {
  const Folder folder;
  const std::string first(300000, 'x'), second(300000, 'y');
  spit(folder / "f", first + "\n" + second + "\nrest");
  const AppendedFile file(folder / "f", 2);
  EXPECT_TRUE(slurp(folder / "f") == first + "\n" + second + "\n");
}

TEST(AppendedFile, RefusesFilesWithFewerLines) {
  const Folder folder;
  spit(folder / "f", "a\nb\nincomplete");
  EXPECT_EQ(input_error_of([&] { AppendedFile(folder / "f", 3); }),
            (folder / "f").string() + ": expected at least 3 complete lines, got 2");
  EXPECT_EQ(slurp(folder / "f"), "a\nb\nincomplete");
  EXPECT_EQ(input_error_of([&] { AppendedFile(folder / "none", 1); }),
            "cannot write " + (folder / "none").string() + ": No such file or directory");
  EXPECT_FALSE(std::filesystem::exists(folder / "none"));
  EXPECT_EQ(input_error_of([&] { AppendedFile(folder / "no/f", 0); }),
            "cannot write " + (folder / "no/f").string() + ": No such file or directory");
}

TEST(AppendedFile, TakesAHalfWrittenLineBack) {
  const Folder folder;
  AppendedFile file(folder / "f", 0);
  file.append("kept");
  std::string message;
  {
    const FileSizeLimit limit(1000);
    message = input_error_of([&] { file.append(std::string(5000, 'x')); });
  }
  EXPECT_EQ(message, "cannot write " + (folder / "f").string() + ": File too large");
  EXPECT_EQ(slurp(folder / "f"), "kept\n");
  file.append("next");
  EXPECT_EQ(slurp(folder / "f"), "kept\nnext\n");
}

TEST(AppendedFile, ReportsAFullDisk) {
  AppendedFile file("/dev/full", 0);
  EXPECT_EQ(input_error_of([&] { file.append("x"); }),
            "cannot write /dev/full: No space left on device");
}

TEST(AppendedFile, RefusesLineBreaks) {
  const Folder folder;
  AppendedFile file(folder / "f", 0);
  EXPECT_THROW(file.append("a\nb"), std::invalid_argument);
  EXPECT_EQ(slurp(folder / "f"), "");
}

TEST(Sha256, MatchesThePublishedVectors) {
  // FIPS 180-2, appendix B, and the empty message.
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace
}  // namespace sparsum::lab
