#pragma once

#include "lab/run.h"

#include <filesystem>
#include <string>

namespace sparsum::lab {

/// What `sparsum encode` and `sparsum decode` are asked.
struct CodesRequest {
  std::filesystem::path run;      ///< folder of a run of `train bitvector`
  std::string checkpoint;         ///< its name, or "" for the best one, else the last
  Settings settings;              ///< `device`, `threads`
  std::filesystem::path input;    ///< images to encode, or codes to decode
  std::filesystem::path output;   ///< codes, or images
  std::filesystem::path support;  ///< encode: a file for the whole distribution, or empty
};

/// Encodes images as bits: the most probable configuration of each, uint8 [N, D] in output (.npy).
/// input: .npy (uint8, [N, 28, 28], [28, 28] or [N, 784]), IDX (gzipped or not), or .png of one
/// image. support, if given (.npz): every configuration with mass: `codes` uint8 [n, D], `probs`
/// float32 [n], `row_splits` int64 [N + 1]: those of image i are row_splits[i] … row_splits[i + 1]
/// − 1. Returns {"images", "bits", "output"[, "support", "configurations"]}. Throws InputError:
/// another experiment's run, images of another size or dtype, files.
Json encode_images(const CodesRequest& request);

/// Decodes codes (.npy of 0 and 1, [N, D] or [D]) to the mean images of p(x|z): a grid with ten a
/// row in output (.png), or uint8 [N, 28, 28] (.npy). Returns {"images", "bits", "output"}. Throws
/// InputError: codes of another length, values other than 0 and 1, files.
Json decode_codes(const CodesRequest& request);

}  // namespace sparsum::lab
