// SPDX-License-Identifier: Apache-2.0
// Seeded normal noise, bit-equal to torch.randn on an x86-64 CPU with AVX2 (PyTorch >= 1.0).
// In: a seed. Out: fp32 normals. Sixteen or more numbers: 24-bit uniforms, then Box-Muller in groups of 16 pairing j with
// j+8; fewer than sixteen: one by one from 53-bit uniforms in fp64, the second of each pair kept for the next call.
#include <bit>
#include <charconv>
#include <cmath>
#include <numbers>
#include <sstream>

#include "latent/latent.h"
#include "latent/noise_math.h"

namespace sla2::latent {
namespace {

constexpr int kStateWords = 624;  // MT19937: N, M and the constants of Matsumoto & Nishimura 1998
constexpr int kMiddleWord = 397;
constexpr uint32_t kTwist = 0x9908b0dfu, kUpperBit = 0x80000000u, kLowerBits = 0x7fffffffu;
constexpr uint32_t kSeedMultiplier = 1812433253u;
constexpr int kGroup = 16, kHalfGroup = 8;  // torch's normal_fill works on 16 numbers at a time
constexpr std::string_view kStateTag = "mt19937-torch-1";

/// 16 uniforms become 16 normals, in place.
void box_muller(float* group) noexcept {
  constexpr float kTwoPi = 6.283185307179586f;
  for (int j = 0; j < kHalfGroup; ++j) {
    const float radius = std::sqrt(-2.0f * single_log(1.0f - group[j]));  // 1-u: never the logarithm of 0
    float sine = 0, cosine = 0;
    single_sincos(kTwoPi * group[j + kHalfGroup], sine, cosine);
    group[j] = radius * cosine;
    group[j + kHalfGroup] = radius * sine;
  }
}

}  // namespace

NoiseSource::NoiseSource(uint64_t seed) {
  state_[0] = static_cast<uint32_t>(seed);  // torch drops the upper half too
  for (uint32_t i = 1; i < kStateWords; ++i) state_[i] = kSeedMultiplier * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
}

void NoiseSource::refill() {
  for (int i = 0; i < kStateWords; ++i) {
    const uint32_t joined = (state_[i] & kUpperBit) | (state_[(i + 1) % kStateWords] & kLowerBits);
    state_[i] = state_[(i + kMiddleWord) % kStateWords] ^ (joined >> 1) ^ ((joined & 1u) != 0 ? kTwist : 0u);
  }
  index_ = 0;
}

uint32_t NoiseSource::next() {
  if (index_ >= kStateWords) refill();
  uint32_t value = state_[index_++];
  value ^= value >> 11;
  value ^= (value << 7) & 0x9d2c5680u;
  value ^= (value << 15) & 0xefc60000u;
  return value ^ (value >> 18);
}

float NoiseSource::next_uniform() { return static_cast<float>(next() & 0xffffffu) * 0x1p-24f; }

double NoiseSource::next_normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  const auto uniform = [this] {
    const uint64_t high = next();
    const uint64_t bits = (high << 32) | next();
    return static_cast<double>(bits & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
  };
  const double angle = 2.0 * std::numbers::pi * uniform();
  const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
  spare_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

void NoiseSource::fill_normal(std::span<float> target) {
  if (target.size() < kGroup) {
    for (float& value : target) value = static_cast<float>(next_normal());
    return;
  }
  for (float& value : target) value = next_uniform();
  for (size_t i = 0; i + kGroup <= target.size(); i += kGroup) box_muller(&target[i]);
  if (target.size() % kGroup != 0) {  // as torch does: the last sixteen are drawn anew
    float* tail = target.data() + target.size() - kGroup;
    for (int i = 0; i < kGroup; ++i) tail[i] = next_uniform();
    box_muller(tail);
  }
}

std::string NoiseSource::save() const {
  std::string text = fmt::format("{} {} {} {:016x}", kStateTag, index_, has_spare_ ? 1 : 0, std::bit_cast<uint64_t>(spare_));
  for (const uint32_t word : state_) fmt::format_to(std::back_inserter(text), " {:08x}", word);
  return text;
}

void NoiseSource::restore(const std::string& state) {
  std::istringstream stream(state);
  const auto number = [&](int base, uint64_t limit) {
    std::string word;
    stream >> word;
    uint64_t value = 0;
    const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), value, base);
    SLA2_CHECK(problem == std::errc() && end == word.data() + word.size() && !word.empty() && value <= limit, SLA2_E_FILE_FORMAT,
               "noise state: expected a number up to {} in base {}, got '{}'; the checkpoint is damaged", limit, base,
               word.substr(0, 32));
    return value;
  };
  std::string tag;
  stream >> tag;
  SLA2_CHECK(tag == kStateTag, SLA2_E_FILE_FORMAT, "noise state: expected it to begin with '{}', got '{}'", kStateTag,
             tag.substr(0, 32));
  NoiseSource read(0);  // this object stays as it was if the text is bad
  read.index_ = static_cast<int>(number(10, kStateWords));
  read.has_spare_ = number(10, 1) != 0;
  read.spare_ = std::bit_cast<double>(number(16, UINT64_MAX));
  for (uint32_t& word : read.state_) word = static_cast<uint32_t>(number(16, UINT32_MAX));
  std::string rest;
  SLA2_CHECK(!(stream >> rest), SLA2_E_FILE_FORMAT, "noise state: unexpected text after {} words; the checkpoint is damaged",
             kStateWords);
  SLA2_CHECK(!read.has_spare_ || std::isfinite(read.spare_), SLA2_E_FILE_FORMAT, "noise state: the kept number is not finite");
  *this = read;
}

}  // namespace sla2::latent
