#pragma once

#include <gtest/gtest.h>
#include <hdf5.h>
#include <torch/torch.h>

#include <filesystem>
#include <string>
#include <vector>

namespace sparsum_test {

/// Writes HDF5 files by libhdf5's C API.
class Hdf5File {
 public:
  explicit Hdf5File(const std::filesystem::path& path)
      : file_(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)) {
    EXPECT_GE(file_, 0) << path;
  }
  ~Hdf5File() { EXPECT_GE(H5Fclose(file_), 0); }
  Hdf5File(const Hdf5File&) = delete;
  Hdf5File& operator=(const Hdf5File&) = delete;
  hid_t get() const { return file_; }

  /// IEEE 754 binary16, little-endian.
  static hid_t half() {
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(type, 15, 10, 5, 0, 10);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, 15);
    return type;
  }

  /// Writes values (float64 or int64, any shape) as a data set of the given type in the file, in
  /// chunks if `chunk` is not empty, compressed if `deflate`.
  void write(const std::string& name, const at::Tensor& values, hid_t type,
             const std::vector<hsize_t>& chunk = {}, bool deflate = false) {
    const std::vector<hsize_t> sizes(values.sizes().begin(), values.sizes().end());
    const hid_t space = H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr);
    const hid_t links = H5Pcreate(H5P_LINK_CREATE), creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    if (!chunk.empty()) H5Pset_chunk(creation, static_cast<int>(chunk.size()), chunk.data());
    if (deflate) H5Pset_deflate(creation, 4);
    const hid_t data = H5Dcreate2(file_, name.c_str(), type, space, links, creation, H5P_DEFAULT);
    ASSERT_GE(data, 0);
    const at::Tensor dense = values.contiguous();
    const hid_t memory = values.scalar_type() == at::kLong ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE;
    if (values.numel() > 0) {
      ASSERT_GE(H5Dwrite(data, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, dense.const_data_ptr()), 0);
    }
    H5Dclose(data);
    H5Pclose(creation);
    H5Pclose(links);
    H5Sclose(space);
  }

 private:
  hid_t file_;
};

}  // namespace sparsum_test
