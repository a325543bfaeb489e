#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sparsum::lab {

/// The whole file. Throws InputError, naming the file and the system's reason.
std::string read_file(const std::filesystem::path& path);

/// The whole file, decompressed if it starts with gzip's magic number. Throws InputError: missing,
/// unreadable, a damaged or truncated gzip stream, more than `limit` bytes.
std::string read_maybe_gzip(const std::filesystem::path& path, size_t limit = size_t{1} << 32);

/// The same for the contents of a file that are in memory already; `name` stands in messages.
std::string maybe_gunzip(std::string bytes, const std::string& name,
                         size_t limit = size_t{1} << 32);

/// Replaces `path` by `bytes` or leaves it as it was: writes a temporary file beside it, fsyncs it,
/// renames it and fsyncs the folder. Throws InputError (full or read-only disk, missing folder) and
/// removes the temporary file.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// A file that grows line by line; each line is on disk when append() returns.
class AppendedFile {
 public:
  /// Opens `path` for appending, cut back to its first `keep_lines` lines (an incomplete last line
  /// never counts). Throws InputError, also if it has fewer.
  AppendedFile(const std::filesystem::path& path, size_t keep_lines);
  ~AppendedFile();
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;
  /// Writes `line` and a newline, then fsyncs. Throws InputError.
  void append(std::string_view line);

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// SHA-256 of bytes, as 64 lower-case hexadecimal digits.
std::string sha256(std::string_view bytes);

}  // namespace sparsum::lab
