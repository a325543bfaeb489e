#include "lab/files.h"

#include "lab/error.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <new>
#include <system_error>
#include <utility>

namespace sparsum::lab {

namespace {

constexpr size_t kChunk = size_t{1} << 18;

std::string reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void fail_reading(const std::filesystem::path& path, const std::string& why) {
  throw InputError("cannot read " + path.string() + ": " + why);
}

[[noreturn]] void fail_writing(const std::filesystem::path& path, const std::string& why) {
  throw InputError("cannot write " + path.string() + ": " + why);
}

// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }
  bool valid() const { return value_ >= 0; }
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

// A read that a signal interrupts starts again; −1 and errno otherwise.
ssize_t read_some(int descriptor, char* data, size_t size) {
  ssize_t got = 0;
  do {
    got = ::read(descriptor, data, size);
  } while (got < 0 && errno == EINTR);
  return got;
}

// Writes everything; 0 or the errno.
int write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor, bytes.data(), bytes.size());
    if (put < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return 0;
}

// 0 or the errno. What cannot be synchronised (a pipe, a device, a folder on some file systems) has
// nothing to lose.
int sync(int descriptor) {
  while (::fsync(descriptor) != 0) {
    if (errno == EINTR) continue;
    return errno == EINVAL || errno == ENOTSUP ? 0 : errno;
  }
  return 0;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

// Makes a new name in the folder of `path` durable.
void sync_folder(const std::filesystem::path& path) {
  const std::filesystem::path folder = folder_of(path);
  const Descriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const int error = descriptor.valid() ? sync(descriptor.get()) : errno;
  if (error != 0) fail_writing(path, "folder " + folder.string() + ": " + reason(error));
}

std::string read_up_to(const std::filesystem::path& path, size_t limit) {
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!descriptor.valid()) fail_reading(path, reason(errno));
  struct stat status = {};
  if (::fstat(descriptor.get(), &status) != 0) fail_reading(path, reason(errno));

  std::string bytes;
  size_t used = 0;
  // One byte more than the size, so that the end is seen without growing once more.
  size_t capacity = kChunk;
  if (S_ISREG(status.st_mode)) {
    capacity = std::min(static_cast<size_t>(status.st_size), limit) + 1;
  }
  while (true) {
    if (bytes.size() < capacity) bytes.resize(capacity);
    const ssize_t got = read_some(descriptor.get(), bytes.data() + used, bytes.size() - used);
    if (got < 0) fail_reading(path, reason(errno));
    if (got == 0) break;
    used += static_cast<size_t>(got);
    if (used > limit) {
      fail_reading(path, "expected at most " + std::to_string(limit) + " bytes, got more");
    }
    if (used == bytes.size()) capacity = used + std::max(used, kChunk);
  }
  bytes.resize(used);
  return bytes;
}

bool is_gzip(std::string_view bytes) { return bytes.substr(0, 2) == "\x1f\x8b"; }

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  return read_up_to(path, std::numeric_limits<size_t>::max() - 1);
}

std::string read_maybe_gzip(const std::filesystem::path& path, size_t limit) {
  return maybe_gunzip(read_up_to(path, limit), path.string(), limit);
}

std::string maybe_gunzip(std::string bytes, const std::string& name, size_t limit) {
  const auto fail = [&](const std::string& why) { throw InputError(name + ": " + why); };
  const std::string at_most = "expected at most " + std::to_string(limit) + " bytes, got more";
  if (!is_gzip(bytes)) {
    if (bytes.size() > limit) fail(at_most);
    return bytes;
  }

  struct Stream : z_stream {
    Stream() : z_stream{} {
      // 15: the largest window; 16: the gzip container.
      if (inflateInit2(this, 15 + 16) != Z_OK) throw std::bad_alloc();
    }
    ~Stream() { inflateEnd(this); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
  } stream;

  std::string out;
  size_t consumed = 0;  // of `bytes`
  std::array<char, kChunk> buffer;
  int status = Z_OK;
  while (status != Z_STREAM_END) {
    // zlib counts in 32 bits, so that the input goes in by pieces too.
    const size_t piece = std::min(bytes.size() - consumed, kChunk);
    stream.next_in = reinterpret_cast<Bytef*>(bytes.data() + consumed);
    stream.avail_in = static_cast<uInt>(piece);
    stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream.avail_out = static_cast<uInt>(buffer.size());
    status = inflate(&stream, Z_NO_FLUSH);
    consumed += piece - stream.avail_in;
    out.append(buffer.data(), buffer.size() - stream.avail_out);
    if (out.size() > limit) fail("decompressed: " + at_most);
    if (status == Z_MEM_ERROR) throw std::bad_alloc();
    if (status == Z_BUF_ERROR && consumed == bytes.size()) {
      fail("gzip stream is truncated: its " + std::to_string(bytes.size()) +
           " bytes end in the middle, after " + std::to_string(out.size()) + " decompressed bytes");
    }
    if (status != Z_OK && status != Z_STREAM_END) {
      fail("gzip stream is damaged near byte " + std::to_string(consumed) + ": " +
           (stream.msg != nullptr ? stream.msg : "not decompressible"));
    }
    if (status == Z_STREAM_END) {
      // A gzip file may hold several streams one after the other, and zeros to fill a block.
      const std::string_view rest = std::string_view(bytes).substr(consumed);
      if (is_gzip(rest)) {
        inflateReset(&stream);
        status = Z_OK;
      } else if (rest.find_first_not_of('\0') != std::string_view::npos) {
        fail("gzip stream is damaged: " + std::to_string(rest.size()) +
             " bytes follow its end at byte " + std::to_string(consumed));
      }
    }
  }
  return out;
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  static std::atomic<uint64_t> counter{0};
  const std::filesystem::path folder = folder_of(path);
  // Cut, so that a name of the greatest length still has room for the rest.
  std::string stem = ".";
  stem += path.filename().string().substr(0, 200) + ".";
  std::filesystem::path temporary;
  int opened = -1;
  do {
    temporary = folder / (stem + std::to_string(::getpid()) + "-" +
                          std::to_string(counter.fetch_add(1)) + ".tmp");
    opened = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (opened < 0 && (errno == EEXIST || errno == EINTR));
  if (opened < 0) fail_writing(path, "folder " + folder.string() + ": " + reason(errno));

  Descriptor descriptor(opened);
  int error = write_all(descriptor.get(), bytes);
  if (error == 0) error = sync(descriptor.get());
  // Some file systems report a full quota only here.
  if (::close(descriptor.release()) != 0 && error == 0) error = errno;
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    fail_writing(path, reason(error));
  }
  sync_folder(path);
}

AppendedFile::AppendedFile(const std::filesystem::path& path, size_t keep_lines) : path_(path) {
  // With lines to keep, a missing file is an error and not to be created.
  const int create = keep_lines == 0 ? O_CREAT : 0;
  Descriptor descriptor(::open(path.c_str(), O_RDWR | O_APPEND | O_CLOEXEC | create, 0666));
  if (!descriptor.valid()) fail_writing(path, reason(errno));

  int64_t keep_bytes = 0;
  size_t lines = 0;
  if (keep_lines > 0) {
    std::string buffer(kChunk, '\0');
    int64_t offset = 0;
    while (lines < keep_lines) {
      const ssize_t got = read_some(descriptor.get(), buffer.data(), buffer.size());
      if (got < 0) fail_reading(path, reason(errno));
      if (got == 0) break;
      for (ssize_t i = 0; i < got && lines < keep_lines; ++i) {
        if (buffer[static_cast<size_t>(i)] != '\n') continue;
        ++lines;
        keep_bytes = offset + i + 1;
      }
      offset += got;
    }
  }
  if (lines < keep_lines) {
    throw InputError(path.string() + ": expected at least " + std::to_string(keep_lines) +
                     " complete lines, got " + std::to_string(lines));
  }

  struct stat status = {};
  if (::fstat(descriptor.get(), &status) != 0) fail_writing(path, reason(errno));
  if (status.st_size != keep_bytes) {
    if (::ftruncate(descriptor.get(), keep_bytes) != 0) fail_writing(path, reason(errno));
    const int error = sync(descriptor.get());
    if (error != 0) fail_writing(path, reason(error));
  }
  if (create != 0) sync_folder(path);
  descriptor_ = descriptor.release();
}

AppendedFile::~AppendedFile() { ::close(descriptor_); }

void AppendedFile::append(std::string_view line) {
  if (line.find('\n') != std::string_view::npos) {
    throw std::invalid_argument("AppendedFile: expected one line, got text with a line break");
  }
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0) fail_writing(path_, reason(errno));
  std::string text(line);
  text += '\n';
  int error = write_all(descriptor_, text);
  if (error == 0) error = sync(descriptor_);
  if (error == 0) return;
  // Take a half-written line back, so that the file still ends with a whole one. If that fails too,
  // the first failure is the one to report, and an incomplete last line is cut off on resuming.
  if (::ftruncate(descriptor_, status.st_size) != 0) sync(descriptor_);
  fail_writing(path_, reason(error));
}

std::string sha256(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("sha256: OpenSSL has no working SHA-256");
  }
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

}  // namespace sparsum::lab
