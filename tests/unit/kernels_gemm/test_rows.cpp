// SPDX-License-Identifier: Apache-2.0
// Norms, rotation and elementwise kernels: scalar and AVX2 versions against fp64 formulas, every tail length.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/core.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "kernels/rope.h"

using namespace sla2;
using namespace sla2::kernels;

namespace {

std::vector<float> normals(size_t count, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = scale * normal(random);
  return values;
}

template <typename Table>
std::vector<const Table*> versions(const Table& ref, const Table& (*avx2)()) {
  std::vector<const Table*> all{&ref};
  if (active_isa() >= Isa::kAvx2) all.push_back(&avx2());
  return all;
}

void check_near(double ours, double exact, double bound) {
  if (!(std::abs(ours - exact) <= bound)) FAIL(ours << " instead of " << exact << ", allowed " << bound);
}

}  // namespace

TEST_CASE("norms equal the fp64 formulas") {
  for (const NormTable* table : versions(norm_ref(), norm_avx2)) {
    for (const size_t width : {1, 7, 8, 31, 40, 100, 1536}) {
      auto x = normals(width, 1, 3.0F);
      for (float& value : x) value += 5.0F;  // a mean that is large beside the spread
      const auto scale = normals(width, 2), shift = normals(width, 3);
      double mean = 0, variance = 0, squares = 0;
      for (const float value : x) mean += value / static_cast<double>(width);
      for (const float value : x) {
        variance += (value - mean) * (value - mean) / static_cast<double>(width);
        squares += static_cast<double>(value) * value / static_cast<double>(width);
      }
      std::vector<float> y(width), plain(width), rms(x);
      table->layer_norm_row(x.data(), scale.data(), shift.data(), 1e-6F, y.data(), width);
      table->layer_norm_row(x.data(), nullptr, nullptr, 1e-6F, plain.data(), width);
      table->rms_norm_row(rms.data(), scale.data(), 1e-6F, rms.data(), width);  // in place
      for (size_t i = 0; i < width; ++i) {
        const double normal = (x[i] - mean) / std::sqrt(variance + 1e-6);
        // One element: variance 0, so rounding of the mean is seen through rsqrt(eps) = 1000.
        const double bound = width == 1 ? 1e-3 : 2e-6 * (1 + std::abs(normal));
        check_near(plain[i], normal, bound);
        check_near(y[i], normal * scale[i] + shift[i], bound * (1 + std::abs(scale[i])));
        check_near(rms[i], x[i] / std::sqrt(squares + 1e-6) * scale[i], 1e-6 * (1 + std::abs(scale[i])));
      }
    }
  }
}

TEST_CASE("rotation keeps lengths and turns pairs by their angle") {
  for (const RopeTable* table : versions(rope_ref(), rope_avx2)) {
    for (const size_t pairs : {3, 4, 6, 32, 48, 64}) {
      constexpr size_t kHeads = 3;
      const auto x = normals(2 * pairs * kHeads, 5), angles = normals(pairs, 6, 10.0F);
      std::vector<float> cosine(pairs), sine(pairs), y(x);
      for (size_t j = 0; j < pairs; ++j) {
        cosine[j] = std::cos(angles[j]);
        sine[j] = std::sin(angles[j]);
      }
      table->rotate_row(y.data(), cosine.data(), sine.data(), kHeads, pairs);
      for (size_t i = 0; i < x.size(); i += 2) {
        const size_t j = i / 2 % pairs;
        const double a = x[i], b = x[i + 1], c = cosine[j], s = sine[j];
        check_near(y[i], a * c - b * s, 5e-7);
        check_near(y[i + 1], a * s + b * c, 5e-7);
      }
    }
  }
}

TEST_CASE("rms_norm_rope finds each token's angles") {
  constexpr int64_t kFrames = 2, kRows = 3, kColumns = 5, kHeads = 2, kPairsT = 2, kPairsH = 1, kPairsW = 1, kDim = 8;
  const auto angle = [](int axis, int64_t position, int64_t pair) {
    return 0.3 * static_cast<double>(position) + 0.7 * axis + 0.11 * static_cast<double>(pair);
  };
  std::vector<std::vector<float>> cosine(3), sine(3);
  const int64_t positions[] = {kFrames, kRows, kColumns}, pairs[] = {kPairsT, kPairsH, kPairsW};
  for (int axis = 0; axis < 3; ++axis) {
    for (int64_t p = 0; p < positions[axis]; ++p) {
      for (int64_t j = 0; j < pairs[axis]; ++j) {
        cosine[axis].push_back(static_cast<float>(std::cos(angle(axis, p, j))));
        sine[axis].push_back(static_cast<float>(std::sin(angle(axis, p, j))));
      }
    }
  }
  RopeGrid grid;
  RopeAxis* axes[] = {&grid.t, &grid.h, &grid.w};
  for (int axis = 0; axis < 3; ++axis) *axes[axis] = {cosine[axis].data(), sine[axis].data(), pairs[axis], positions[axis]};
  const int64_t tokens = kFrames * kRows * kColumns, width = kHeads * kDim;
  const auto x = normals(static_cast<size_t>(tokens * width), 7), weight = normals(static_cast<size_t>(width), 8);
  auto y = x;
  constexpr int64_t kSplit = 11;  // two calls, as chunks do
  rms_norm_rope(y.data(), width, weight.data(), 1e-6F, grid, 0, kSplit, kHeads);
  rms_norm_rope(y.data() + kSplit * width, width, weight.data(), 1e-6F, grid, kSplit, tokens - kSplit, kHeads);
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t place[] = {token / (kRows * kColumns), token / kColumns % kRows, token % kColumns};
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[token * width + i]) * x[token * width + i] / width;
    for (int64_t i = 0; i < width; i += 2) {
      const int64_t pair = i % kDim / 2;
      const int axis = pair < kPairsT ? 0 : pair < kPairsT + kPairsH ? 1 : 2;
      const double turn = angle(axis, place[axis], axis == 0 ? pair : 0), inverse = 1 / std::sqrt(squares + 1e-6);
      const double a = x[token * width + i] * inverse * weight[i], b = x[token * width + i + 1] * inverse * weight[i + 1];
      check_near(y[token * width + i], a * std::cos(turn) - b * std::sin(turn), 2e-6);
      check_near(y[token * width + i + 1], a * std::sin(turn) + b * std::cos(turn), 2e-6);
    }
  }
}

TEST_CASE("activations equal the fp64 formulas to a few ulp, also far out") {
  for (const ElementwiseTable* table : versions(elementwise_ref(), elementwise_avx2)) {
    for (const size_t count : {1, 5, 8, 13, 4001}) {
      std::vector<float> v(count), zero(count, 0.0F);
      for (size_t i = 0; i < count; ++i) v[i] = 0.01F * (static_cast<float>(i) - 0.5F * static_cast<float>(count));
      v[0] = count % 2 == 0 ? 1e30F : -1e4F;
      auto gelu = v, silu = v;
      table->bias_gelu_tanh(gelu.data(), zero.data(), gelu.data(), count);
      table->bias_silu(silu.data(), zero.data(), silu.data(), count);
      for (size_t i = 0; i < count; ++i) {
        const double x = v[i], t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
        check_near(gelu[i], 0.5 * x * (1 + t), 1e-6 * std::abs(x) * std::max(0.5 * (1 + t), 0.06) + 1e-30);
        check_near(silu[i], x / (1 + std::exp(-x)), 1e-6 * std::abs(x / (1 + std::exp(-x))) + 1e-30);
      }
    }
  }
}

TEST_CASE("adding, gating and conversions, every tail") {
  for (const ElementwiseTable* table : versions(elementwise_ref(), elementwise_avx2)) {
    for (size_t count = 1; count <= 19; ++count) {
      const auto y = normals(count, 1), bias = normals(count, 2), gate = normals(count, 3), x = normals(count, 4);
      auto sum = y, out = x, rounded = std::vector<float>(count);
      std::vector<bf16_t> narrow(count);
      std::vector<uint16_t> half(count);
      std::vector<float> from_bf16(count), from_half(count);
      table->add_bias(sum.data(), bias.data(), sum.data(), count);
      table->add_gated(y.data(), bias.data(), gate.data(), out.data(), count);
      table->narrow_bf16(x.data(), narrow.data(), count);
      table->round_to_bf16(x.data(), rounded.data(), count);
      table->widen_bf16(narrow.data(), from_bf16.data(), count);
      for (size_t i = 0; i < count; ++i) half[i] = f32_to_f16(x[i]);
      table->widen_f16(half.data(), from_half.data(), count);
      for (size_t i = 0; i < count; ++i) {
        CHECK(sum[i] == y[i] + bias[i]);
        check_near(out[i], x[i] + static_cast<double>(gate[i]) * (static_cast<double>(y[i]) + bias[i]), 2e-6);
        CHECK(narrow[i] == f32_to_bf16(x[i]));
        CHECK(from_bf16[i] == bf16_to_f32(narrow[i]));
        CHECK(rounded[i] == from_bf16[i]);
        CHECK(from_half[i] == f16_to_f32(half[i]));
      }
      CHECK(table->all_finite(x.data(), count));
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
        for (size_t at = 0; at < count; ++at) {
          auto spoiled = x;
          spoiled[at] = bad;
          CHECK_FALSE(table->all_finite(spoiled.data(), count));
        }
      }
    }
  }
}

TEST_CASE("bf16 rounding of AVX2 equals the scalar one for every upper half and tie, NaN included") {
  if (active_isa() < Isa::kAvx2) return;
  std::vector<float> values;
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    for (const uint32_t lower : {0x0000U, 0x7fffU, 0x8000U, 0x8001U}) {
      const uint32_t bits = upper << 16 | lower;
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      values.push_back(value);
    }
  }
  std::vector<bf16_t> ours(values.size()), theirs(values.size());
  elementwise_avx2().narrow_bf16(values.data(), ours.data(), values.size());
  elementwise_ref().narrow_bf16(values.data(), theirs.data(), values.size());
  CHECK(std::memcmp(ours.data(), theirs.data(), ours.size() * sizeof(bf16_t)) == 0);
}
