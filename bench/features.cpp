// Features read from an HDF5 file, in megabytes of the file a second: all rows in order, and
// batches of rows drawn at random, as games draw them.
//
//   bench_features FILE [CACHE_MIB]
//
// The whole file is read once before anything is timed, so that the system has it in memory. "held"
// is what the reader holds itself: the rows it keeps and its buffers.

#include "lab/data/features.h"

#include "bench/timing.h"
#include "lab/data/hdf5.h"
#include "lab/random.h"

#include <torch/torch.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

using namespace sparsum;

void read_once(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> buffer(1 << 20);
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()))) continue;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: bench_features FILE [CACHE_MIB]\n");
    return 2;
  }
  const std::filesystem::path path = argv[1];
  lab::FeatureFileOptions options;
  options.cache_bytes = (argc > 2 ? std::stoll(argv[2]) : 64) << 20;
  constexpr int64_t kBatch = 1024;  // rows at a time: 64 games of 16 candidates

  read_once(path);
  const double megabytes = static_cast<double>(std::filesystem::file_size(path)) / 1e6;
  const at::Tensor in_order = at::arange(lab::open_hdf5_features(path, options)->rows());
  const at::Tensor at_random =
      at::randperm(in_order.size(0), lab::make_generator(0, "bench"), at::kLong);
  std::printf("%.0f MB, cache of %lld MiB\n", megabytes,
              static_cast<long long>(options.cache_bytes >> 20));
  std::printf("%-10s %10s %10s\n", "rows", "MB/s", "held, MiB");
  for (const auto& [name, rows] : {std::pair{"in order", in_order}, {"at random", at_random}}) {
    std::vector<double> times;
    int64_t held = 0;
    for (int round = 0; round < 5; ++round) {
      const auto features = lab::open_hdf5_features(path, options);  // with an empty cache
      times.push_back(bench::milliseconds([&] {
        for (const at::Tensor& batch : rows.split(kBatch)) features->gather(batch);
      }));
      held = features->memory_bytes();
    }
    std::printf("%-10s %10.0f %10.0f\n", name, 1e3 * megabytes / bench::median(times),
                static_cast<double>(held) / (1 << 20));
  }
}
