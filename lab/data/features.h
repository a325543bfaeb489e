#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace sparsum::lab {

/// Images as rows of features, each row divided by its L2 norm: in memory, or in a file that need
/// not fit there.
class Features {
 public:
  virtual ~Features() = default;

  /// Number of images.
  virtual int64_t rows() const = 0;
  /// F, the number of features of an image.
  virtual int64_t width() const = 0;
  /// Bytes held at present, those of the features themselves included.
  virtual int64_t memory_bytes() const = 0;

  /// x_i / ‖x_i‖₂ for every i in `indices`.
  ///
  /// indices: […] int64, each from 0 to rows() − 1, on the CPU; repeated ones are allowed. Returns:
  /// […, F] float32, contiguous, on the CPU, a tensor of its own. The result does not depend on
  /// what was gathered before. May be called from several threads. Errors: c10::Error for an index
  /// out of range; InputError where a file's row cannot be read, is not finite or has norm 0.
  at::Tensor gather(const at::Tensor& indices) const;

 private:
  // out: rows.size() × F numbers.
  virtual void read(std::span<const int64_t> rows, float* out) const = 0;
};

/// Features in memory. data: [rows, F] uint8 or float32, at least 1 × 1, on the CPU; kept as it is
/// and normalised when gathered. `name` stands in messages. Throws InputError: NaN, an infinity or
/// a row of zeros, with the row's number.
std::shared_ptr<Features> features_in_memory(const at::Tensor& data, const std::string& name);

/// Class labels of rows, as they were written.
struct Labels {
  at::Tensor values;               ///< [rows] int64: the labels, or indices into `words`
  std::vector<std::string> words;  ///< distinct labels, if they were strings; else empty
};

/// Reads labels from .npy (int64, int32 or uint8, one dimension), .json (a list of integers or a
/// list of strings) or .txt (one integer a line). Throws InputError, with the place: other
/// contents, no labels, another file name extension.
Labels read_labels(const std::filesystem::path& path);

/// Divides a row by its L2 norm, in float64 inside: out = x / ‖x‖₂. row, out: `width` numbers.
/// Returns false and leaves `out` alone if the norm is 0 or the row is not finite.
bool normalise_row(const float* row, int64_t width, float* out);

/// What is wrong with a row that normalise_row() refused: "expected finite float32 features, got
/// nan in row 3, column 5".
std::string refusal_of_row(const float* row, int64_t width, int64_t index);

}  // namespace sparsum::lab
