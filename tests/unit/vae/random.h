// SPDX-License-Identifier: Apache-2.0
// Reproducible numbers for the VAE tests.
#pragma once
#include <cstdint>
#include <random>
#include <vector>

namespace sla2::test {

inline std::vector<float> normal(int64_t count, uint32_t seed, float mean = 0.0F, float deviation = 1.0F) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> distribution(mean, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = distribution(engine);
  return values;
}

}  // namespace sla2::test
