#include "lab/random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

namespace sparsum::lab {

uint64_t stream_seed(int64_t seed, std::string_view stream) {
  // FNV-1a over the name, then the finaliser of SplitMix64: neighbouring seeds end up far apart.
  uint64_t hash = 0xcbf29ce484222325u;
  for (const unsigned char byte : stream) hash = (hash ^ byte) * 0x100000001b3u;
  hash += static_cast<uint64_t>(seed) * 0x9e3779b97f4a7c15u;
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
  return hash ^ (hash >> 31);
}

at::Generator make_generator(int64_t seed, std::string_view stream, const c10::Device& device) {
  at::Generator generator = device.is_cpu() ? at::make_generator<at::CPUGeneratorImpl>()
                                            : at::globalContext()
                                                  .getAcceleratorHooksInterface(device.type())
                                                  .getNewGenerator(device.index());
  generator.set_current_seed(stream_seed(seed, stream));
  return generator;
}

}  // namespace sparsum::lab
