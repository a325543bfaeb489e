#include <gtest/gtest.h>
#include <lab/data/binarize.h>
#include <sparsum/kernels/binarize.h>
#include <sparsum/kernels/targets.h>
#include <sys/mman.h>
#include <torch/torch.h>

#include <array>
#include <cmath>
#include <random>
#include <vector>

namespace sparsum {
namespace {

// Statistical tests allow five standard deviations: each passes by chance alone with probability
// above 0.999999, and all seeds are fixed.
constexpr double kSigmas = 5;

/// The hash as binarize.h describes it, one element at a time.
uint32_t reference_hash(uint64_t seed, uint64_t i) {
  uint64_t key = seed + ((i >> 32) + 1) * 0x9e3779b97f4a7c15;
  key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9;
  key = (key ^ key >> 27) * 0x94d049bb133111eb;
  key ^= key >> 31;
  auto x = static_cast<uint32_t>(i) ^ static_cast<uint32_t>(key);
  x = (x ^ x >> 16) * 0x21f0aaadu;
  x = (x ^ x >> 15 ^ static_cast<uint32_t>(key >> 32)) * 0xd35a2d97u;
  return x ^ x >> 15;
}

float reference(uint64_t seed, uint64_t i, uint8_t grey) {
  // h < grey·2³²/255 in whole numbers.
  return uint64_t{reference_hash(seed, i)} * 255 < uint64_t{grey} << 32 ? 1.0f : 0.0f;
}

std::vector<float> draw(const std::vector<uint8_t>& grey, uint64_t seed) {
  std::vector<float> out(grey.size());
  kernels::binarize(grey.data(), out.data(), 0, static_cast<int64_t>(grey.size()), seed);
  return out;
}

std::vector<uint8_t> greys(size_t n) {
  std::mt19937 engine(1);
  std::vector<uint8_t> values(n);
  for (uint8_t& value : values) value = static_cast<uint8_t>(engine());
  return values;
}

class BinarizeOnTarget : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::force_target(GetParam())); }
  void TearDown() override { kernels::force_target(""); }
};

TEST_P(BinarizeOnTarget, MatchesTheReferenceBitForBit) {
  const std::vector<uint8_t> grey = greys(200);
  for (const uint64_t seed :
       {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, uint64_t{0x123456789abcdef}}) {
    // Every length up to several vectors, at begins that no vector is aligned to.
    for (int64_t begin = 0; begin < 20; ++begin) {
      for (int64_t end = begin; end <= begin + 70; ++end) {
        std::vector<float> out(grey.size(), -1.0f);
        kernels::binarize(grey.data(), out.data(), begin, end, seed);
        for (int64_t i = 0; i < 200; ++i) {
          const auto at = static_cast<size_t>(i);
          const float expected =
              i < begin || i >= end ? -1.0f : reference(seed, static_cast<uint64_t>(i), grey[at]);
          ASSERT_EQ(out[at], expected)
              << "seed " << seed << ", " << begin << " … " << end << ", " << i;
        }
      }
    }
  }
  const std::vector<uint8_t> many = greys(100000);
  const std::vector<float> out = draw(many, 3);
  for (size_t i = 0; i < many.size(); ++i) ASSERT_EQ(out[i], reference(3, i, many[i])) << i;
}

TEST_P(BinarizeOnTarget, NeverDrawsWhiteFromBlackOrBlackFromWhite) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (const float bit : draw(std::vector<uint8_t>(4097, 0), seed)) ASSERT_EQ(bit, 0.0f);
    for (const float bit : draw(std::vector<uint8_t>(4097, 255), seed)) ASSERT_EQ(bit, 1.0f);
  }
}

TEST_P(BinarizeOnTarget, IsExactAtTheEdgesOfEveryThreshold) {
  // Elements whose hash is within 2³²/255 / 1000 of a threshold, where a rounded one would err.
  std::vector<uint8_t> grey(1 << 20);
  size_t near = 0;
  for (size_t i = 0; i < grey.size(); ++i) {
    const uint64_t scaled = uint64_t{reference_hash(9, i)} * 255;
    const uint64_t level = (scaled + (uint64_t{1} << 31)) >> 32;
    grey[i] = static_cast<uint8_t>(level);
    const uint64_t edge = level << 32;
    if ((scaled > edge ? scaled - edge : edge - scaled) < (uint64_t{1} << 32) / 1000) ++near;
  }
  ASSERT_GT(near, 1000u);
  const std::vector<float> out = draw(grey, 9);
  for (size_t i = 0; i < grey.size(); ++i) ASSERT_EQ(out[i], reference(9, i, grey[i])) << i;
}

TEST_P(BinarizeOnTarget, CountsBeyond32Bits) {
  // Address space only: the pages around the 2³²nd element are the only ones touched.
  const size_t middle = size_t{1} << 32, n = middle + 4096;
  void* grey_pages =
      mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  void* out_pages = mmap(nullptr, n * sizeof(float), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (grey_pages == MAP_FAILED || out_pages == MAP_FAILED) {
    GTEST_SKIP() << "this machine gives no 20 GiB of address space";
  }
  auto* grey = static_cast<uint8_t*>(grey_pages);
  auto* out = static_cast<float*>(out_pages);
  for (const int64_t before : {1, 3, 100}) {
    const auto begin = static_cast<int64_t>(middle) - before;
    const auto end = static_cast<int64_t>(middle) + 101;
    for (int64_t i = begin; i < end; ++i) grey[i] = static_cast<uint8_t>(i * 37);
    kernels::binarize(grey, out, begin, end, 5);
    for (int64_t i = begin; i < end; ++i) {
      ASSERT_EQ(out[i], reference(5, static_cast<uint64_t>(i), grey[i])) << i;
    }
  }
  munmap(grey_pages, n);
  munmap(out_pages, n * sizeof(float));
}

INSTANTIATE_TEST_SUITE_P(Targets, BinarizeOnTarget,
                         ::testing::ValuesIn(kernels::available_targets()),
                         [](const auto& param_info) { return param_info.param; });

TEST(BinarizeKernel, DoesNotDependOnTheRanges) {
  const std::vector<uint8_t> grey = greys(5000);
  const std::vector<float> whole = draw(grey, 11);
  std::mt19937 engine(2);
  for (int round = 0; round < 20; ++round) {
    std::vector<float> parts(grey.size());
    for (int64_t begin = 0; begin < 5000;) {
      const int64_t end = std::min<int64_t>(5000, begin + 1 + engine() % 300);
      kernels::binarize(grey.data(), parts.data(), begin, end, 11);
      begin = end;
    }
    EXPECT_EQ(parts, whole);
  }
}

TEST(BinarizeKernel, HasTheRightMeans) {
  constexpr size_t kDraws = 1 << 20;
  for (const int level : {1, 2, 17, 64, 127, 128, 200, 253, 254}) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{12345}}) {
      double sum = 0;
      for (const float bit :
           draw(std::vector<uint8_t>(kDraws, static_cast<uint8_t>(level)), seed)) {
        sum += bit;
      }
      const double p = level / 255.0;
      EXPECT_NEAR(sum / kDraws, p, kSigmas * std::sqrt(p * (1 - p) / kDraws))
          << "level " << level << ", seed " << seed;
    }
  }
}

/// The correlation of two rows of bits with p = 1/2 up to the grey scale's grain.
double correlation(const float* a, const float* b, size_t n) {
  double both = 0, sum_a = 0, sum_b = 0;
  for (size_t i = 0; i < n; ++i) {
    both += a[i] * b[i];
    sum_a += a[i];
    sum_b += b[i];
  }
  const double mean_a = sum_a / static_cast<double>(n), mean_b = sum_b / static_cast<double>(n);
  return (both / static_cast<double>(n) - mean_a * mean_b) /
         std::sqrt(mean_a * (1 - mean_a) * mean_b * (1 - mean_b));
}

TEST(BinarizeKernel, DrawsNeighboursIndependently) {
  constexpr size_t kDraws = 1 << 20;
  for (const int level : {13, 128, 242}) {
    const auto bits = draw(std::vector<uint8_t>(kDraws, static_cast<uint8_t>(level)), 21);
    // Beside, a vector apart, a row, an image, a batch apart.
    for (const size_t lag : {1u, 2u, 3u, 4u, 8u, 16u, 28u, 32u, 784u, 1024u, 50176u, 65536u}) {
      EXPECT_NEAR(correlation(bits.data(), bits.data() + lag, kDraws - lag), 0,
                  kSigmas / std::sqrt(static_cast<double>(kDraws - lag)))
          << "level " << level << ", lag " << lag;
    }
  }
}

TEST(BinarizeKernel, DrawsSeedsIndependently) {
  constexpr size_t kDraws = 1 << 18;
  const std::vector<uint8_t> grey(kDraws, 128);
  for (const uint64_t seed : {uint64_t{0}, uint64_t{77}}) {
    const auto bits = draw(grey, seed);
    for (int bit = 0; bit < 64; ++bit) {
      const auto other = draw(grey, seed ^ uint64_t{1} << bit);
      EXPECT_NEAR(correlation(bits.data(), other.data(), kDraws), 0,
                  kSigmas / std::sqrt(static_cast<double>(kDraws)))
          << "seed " << seed << ", bit " << bit;
    }
  }
  // One pixel over many seeds, as it is seen over many epochs.
  for (const size_t pixel : {0u, 1u, 400u}) {
    constexpr size_t kSeeds = 1 << 16;
    std::vector<float> seen;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) seen.push_back(reference(seed, pixel, 128));
    double sum = 0;
    for (const float bit : seen) sum += bit;
    const double p = 128 / 255.0;
    EXPECT_NEAR(sum / kSeeds, p, kSigmas * std::sqrt(p * (1 - p) / kSeeds)) << pixel;
    EXPECT_NEAR(correlation(seen.data(), seen.data() + 1, kSeeds - 1), 0,
                kSigmas / std::sqrt(static_cast<double>(kSeeds)))
        << pixel;
  }
}

TEST(BinarizeKernel, DrawsEveryPatternOfEightAlike) {
  // χ² over the 256 patterns of eight bits in a row, against their exact probabilities.
  constexpr size_t kPatterns = 1 << 17;
  for (const int level : {64, 128}) {
    const auto bits = draw(std::vector<uint8_t>(8 * kPatterns, static_cast<uint8_t>(level)), 4);
    std::array<double, 256> counts{};
    for (size_t i = 0; i < kPatterns; ++i) {
      size_t pattern = 0;
      for (size_t j = 0; j < 8; ++j) pattern = 2 * pattern + (bits[8 * i + j] > 0 ? 1 : 0);
      counts[pattern] += 1;
    }
    double chi2 = 0;
    for (size_t pattern = 0; pattern < 256; ++pattern) {
      const double p = level / 255.0;
      const int ones = __builtin_popcountll(pattern);
      const double expected = kPatterns * std::pow(p, ones) * std::pow(1 - p, 8 - ones);
      chi2 += (counts[pattern] - expected) * (counts[pattern] - expected) / expected;
    }
    // 255 degrees of freedom: mean 255, variance 510.
    EXPECT_NEAR(chi2, 255, kSigmas * std::sqrt(510.0)) << level;
  }
}

TEST(Binarize, IsReproducibleAndFreshAtEachCall) {
  const at::Tensor images = at::arange(64 * 784).remainder(256).to(at::kByte).view({64, 28, 28});
  auto generator = at::detail::createCPUGenerator(1);
  const at::Tensor first = lab::binarize(images, generator);
  const at::Tensor second = lab::binarize(images, generator);
  EXPECT_EQ(first.scalar_type(), at::kFloat);
  EXPECT_EQ(first.sizes(), images.sizes());
  EXPECT_FALSE(at::equal(first, second));
  EXPECT_TRUE(at::equal(lab::binarize(images, at::detail::createCPUGenerator(1)), first));
  EXPECT_TRUE(((first == 0) | (first == 1)).all().item<bool>());
  EXPECT_TRUE((first.masked_select(images == 0) == 0).all().item<bool>());
  EXPECT_TRUE((first.masked_select(images == 255) == 1).all().item<bool>());
  // One 64-bit number a call, whatever the size.
  auto one = at::detail::createCPUGenerator(5), other = at::detail::createCPUGenerator(5);
  lab::binarize(images, one);
  lab::binarize(images.narrow(0, 0, 1), other);
  EXPECT_TRUE(at::equal(one.get_state(), other.get_state()));
}

TEST(Binarize, DoesNotDependOnTheNumberOfThreads) {
  const at::Tensor images = at::arange(1500 * 784).remainder(251).to(at::kByte).view({1500, 784});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor serial = lab::binarize(images, at::detail::createCPUGenerator(2));
  for (const int threads : {2, 3}) {
    at::set_num_threads(threads);
    EXPECT_TRUE(at::equal(lab::binarize(images, at::detail::createCPUGenerator(2)), serial));
  }
  at::set_num_threads(before);
}

TEST(Binarize, TakesEmptyBatchesAndRefusesOtherTensors) {
  auto generator = at::detail::createCPUGenerator(1);
  EXPECT_EQ(lab::binarize(torch::empty({0, 28, 28}, at::kByte), generator).sizes(),
            (std::vector<int64_t>{0, 28, 28}));
  const auto error_of = [&](const at::Tensor& images) -> std::string {
    try {
      lab::binarize(images, generator);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "";
  };
  EXPECT_EQ(error_of(torch::ones({2, 3})), "binarize: expected images to be Byte, got Float");
  EXPECT_EQ(error_of(torch::ones({2, 3}, at::kByte).t()),
            "binarize: expected images to be contiguous, got strides [1, 3] for sizes [3, 2]");
}

}  // namespace
}  // namespace sparsum
