#include "lab/run_folder.h"

#include "lab/error.h"
#include "lab/files.h"

namespace sparsum::lab {

namespace fs = std::filesystem;

RunFolder RunFolder::for_new_run(const fs::path& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  if (fs::exists(status)) {
    if (!fs::is_directory(status)) {
      throw InputError(path.string() + ": expected a folder for the run, found a file");
    }
    const bool empty = fs::is_empty(path, error);
    if (error) throw InputError(path.string() + ": cannot be read: " + error.message());
    if (!empty) {
      throw InputError(path.string() +
                       ": expected a new or empty folder for the run, found one with files in it; "
                       "continue that run with --resume, or give another folder with --out");
    }
  } else if (error && status.type() != fs::file_type::not_found) {
    throw InputError(path.string() + ": cannot be looked at: " + error.message());
  }
  return RunFolder(path);
}

RunFolder RunFolder::of_existing_run(const fs::path& path) {
  RunFolder folder(path);
  std::error_code error;
  if (!fs::is_regular_file(folder.config(), error)) {
    throw InputError(path.string() + ": expected the folder of a run, found no config.toml in it");
  }
  return folder;
}

void RunFolder::create(const std::string& config_toml) const {
  for (const char* name : {"checkpoints", "images"}) {
    std::error_code error;
    fs::create_directories(path_ / name, error);
    if (error) {
      throw InputError((path_ / name).string() + ": cannot make the folder: " + error.message());
    }
  }
  write_file_atomically(config(), config_toml);
}

}  // namespace sparsum::lab
