#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace sparsum::kernels {

/// Uninitialised working memory for one kernel call: on the stack when small, else one heap block.
template <typename T>
class Scratch {
 public:
  explicit Scratch(size_t size) : data_(size <= kInline ? inline_ : nullptr) {
    static_assert(std::is_trivial_v<T>);
    if (data_ == nullptr) {
      heap_.reset(new T[size]);
      data_ = heap_.get();
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() { return data_; }

 private:
  static constexpr size_t kInline = 8192 / sizeof(T);
  alignas(64) T inline_[kInline];
  std::unique_ptr<T[]> heap_;
  T* data_;
};

}  // namespace sparsum::kernels
