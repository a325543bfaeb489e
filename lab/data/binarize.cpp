#include "lab/data/binarize.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <sparsum/kernels/binarize.h>

#include <mutex>

namespace sparsum::lab {

namespace {

// 50 µs of work. A minibatch stays on one thread: waking a second one saves little, and where other
// programs use the cores it waits for its turn a hundred times as long.
constexpr int64_t kGrain = int64_t{1} << 18;

}  // namespace

at::Tensor binarize(const at::Tensor& images, at::Generator generator) {
  TORCH_CHECK(images.scalar_type() == at::kByte, "binarize: expected images to be Byte, got ",
              images.scalar_type());
  TORCH_CHECK(images.device().is_cpu(), "binarize: expected images on the CPU, got them on ",
              images.device());
  TORCH_CHECK(images.is_contiguous(), "binarize: expected images to be contiguous, got strides ",
              images.strides(), " for sizes ", images.sizes());
  uint64_t seed = 0;
  {
    auto* cpu = at::check_generator<at::CPUGeneratorImpl>(generator);
    const std::lock_guard<std::mutex> lock(cpu->mutex_);
    seed = cpu->random64();
  }
  at::Tensor bits = at::empty(images.sizes(), images.options().dtype(at::kFloat));
  const uint8_t* grey = images.const_data_ptr<uint8_t>();
  float* out = bits.mutable_data_ptr<float>();
  at::parallel_for(0, images.numel(), kGrain, [&](int64_t begin, int64_t end) {
    kernels::binarize(grey, out, begin, end, seed);
  });
  return bits;
}

}  // namespace sparsum::lab
