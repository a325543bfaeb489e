#include "lab/experiment.h"

#include "lab/error.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <limits>

namespace sparsum::lab {

namespace {

/// Makes every thread of LibTorch's pool take denormal numbers as zero. Weight decay shrinks the
/// weights of pixels that are always black without end, and arithmetic on what is left of them in
/// Adam's state takes a hundred times as long.
void flush_denormals() {
  at::parallel_for(0, at::get_num_threads(), 1,
                   [](int64_t, int64_t) { at::globalContext().setFlushDenormal(true); });
}

/// Runs MKL's vector functions once on this thread alone. On their first call they look which
/// processor this is; when two threads make that call at once, one of them may go through with
/// other code than it takes from then on, and differ in the last bit.
void settle_vector_functions() {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    at::Tensor x = at::ones({64}, dtype);
    x.exp_().log_().add_(1).sqrt_().rsqrt_().tanh_().sin_().cos_().expm1_().log1p_();
  }
}

}  // namespace

void RunConfig::declare(Options& options) {
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  options.add("seed", &seed, "seed of everything random: parameters, batches, pixels, samples", "",
              0, kMany);
  options.add("data", &data, "folder with mnist/, fashion-mnist/ and mnist-splits/")
      .describe_default("$SPARSUM_DATA, else ~/.local/share/sparsum")
      .also_after_training();
  options.add("device", &device, "where the model is: cpu, cuda or cuda:INDEX")
      .also_after_training();
  options
      .add("threads", &threads, "threads of LibTorch; the same number gives the same bits",
           "threads", 0, 4096)
      .describe_default("0: one a core")
      .also_after_training();
  options.add("checkpoint-every", &checkpoint_every,
              "saves the state also inside epochs, each time that many steps are done; 0: never",
              "steps", 0, kMany);
  options.add("lr-schedule", &lr_schedule,
              "learning rates after a warm start: as they are, or falling to 0 as half a cosine "
              "over all epochs",
              {"constant", "cosine"});
}

void RunConfig::resolve() {
  if (threads == 0) threads = at::get_num_threads();
  at::set_num_threads(static_cast<int>(threads));
  flush_denormals();
  settle_vector_functions();
  const auto refuse = [&](const std::string& found) {
    throw InputError("option --device: expected cpu, cuda or cuda:INDEX, got '" + device + "'" +
                     found);
  };
  const bool cuda = device == "cuda" || device.starts_with("cuda:");
  if (device != "cpu" && !cuda) refuse("");
  if (!cuda) return;
  const auto count = static_cast<int64_t>(
      at::globalContext().hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0);
  const std::string digits = device == "cuda" ? "0" : device.substr(5);
  if (digits.empty() || digits.size() > 3 ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    refuse("");
  }
  if (std::stoll(digits) >= count) {
    refuse(", and there are " + std::to_string(count) + " CUDA devices");
  }
  device = "cuda:" + digits;
}

}  // namespace sparsum::lab
