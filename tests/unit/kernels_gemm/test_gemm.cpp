// SPDX-License-Identifier: Apache-2.0
// Products against fp64 sums: shapes with ragged tiles, strides, epilogues, narrow weights, bf16 inputs, thread counts.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/gemm.h"
#include "kernels/packed_linear.h"

using namespace sla2;
using kernels::Compute;
using kernels::Epilogue;
using kernels::PackedLinear;

namespace {

std::vector<float> normals(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

/// Relative to the size of what was summed: fp32 rounding of a dot product of k terms.
void check_close(double ours, double exact, double magnitude, int64_t k) {
  const double bound = 1e-7 * std::sqrt(static_cast<double>(k)) * (magnitude + std::abs(exact)) + 1e-7;
  if (!(std::abs(ours - exact) <= bound)) FAIL(ours << " instead of " << exact << ", allowed " << bound);
}

PackedLinear make_linear(int64_t in, int64_t out, DType held, Compute compute, std::vector<float>* weight,
                         std::vector<float>* bias) {
  PackedLinear linear(in, out, held, compute);
  *weight = normals(in * out, 3);
  *bias = normals(out, 4);
  for (size_t i = 0; i < weight->size(); ++i) {
    float& value = (*weight)[i];
    if (held == DType::kBF16 || compute == Compute::kBf16) value = bf16_to_f32(f32_to_bf16(value));
    if (held == DType::kF16) value = f16_to_f32(f32_to_f16(value));
    const uint16_t narrow = held == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
    if (held == DType::kF32) {
      std::memcpy(linear.weight().data() + 4 * i, &value, 4);
    } else {
      std::memcpy(linear.weight().data() + 2 * i, &narrow, 2);
    }
  }
  std::copy(bias->begin(), bias->end(), linear.bias().begin());
  linear.pack();
  return linear;
}

std::vector<float> run(const PackedLinear& linear, const std::vector<float>& x, int64_t rows, const Epilogue& epilogue,
                       DType held, Compute compute, std::vector<float> y) {
  AlignedBuffer<std::byte> workspace(PackedLinear::workspace_bytes(linear.in(), linear.out(), rows, held, compute));
  linear.forward(x.data(), rows, linear.in(), y.data(), linear.out(), epilogue, workspace.data());
  return y;
}

double gelu_tanh(double v) { return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))); }

}  // namespace

TEST_CASE("gemm_f32 equals fp64 sums for every transposition, ragged tiles, strides, alpha and beta") {
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {7, 300, 33}, {530, 70, 19}, {3, 5, 700}}) {
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        const int64_t lda = (trans_a ? m : k) + 3, ldb = (trans_b ? k : n) + 2, ldc = n + 1;
        const auto a = normals((trans_a ? k : m) * lda, 1), b = normals((trans_b ? n : k) * ldb, 2), before = normals(m * ldc, 5);
        auto c = before;
        kernels::gemm_f32(m, n, k, a.data(), lda, trans_a, b.data(), ldb, trans_b, c.data(), ldc, 0.5F, 2.0F);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double sum = 0, size = 0;
            for (int64_t l = 0; l < k; ++l) {
              const double term =
                  static_cast<double>(a[trans_a ? l * lda + i : i * lda + l]) * b[trans_b ? j * ldb + l : l * ldb + j];
              sum += term;
              size += term * term;
            }
            check_close(c[i * ldc + j], 0.5 * sum + 2.0 * before[i * ldc + j], std::sqrt(size), k);
          }
          CHECK(c[i * ldc + n] == before[i * ldc + n]);  // nothing is written between rows
        }
      }
    }
  }
}

TEST_CASE("a Linear equals fp64 sums, however its weights are held, with every epilogue") {
  constexpr int64_t kIn = 70, kOut = 300, kRows = 523;
  for (const DType held : {DType::kF32, DType::kBF16, DType::kF16}) {
    std::vector<float> weight, bias;
    const PackedLinear linear = make_linear(kIn, kOut, held, Compute::kF32, &weight, &bias);
    const auto x = normals(kRows * kIn, 6), before = normals(kRows * kOut, 7), gate = normals(kOut, 8);
    for (const auto kind :
         {Epilogue::Kind::kStore, Epilogue::Kind::kGeluTanh, Epilogue::Kind::kSilu, Epilogue::Kind::kAddGated}) {
      const auto y = run(linear, x, kRows, {kind, gate.data()}, held, Compute::kF32, before);
      for (int64_t i = 0; i < kRows; ++i) {
        for (int64_t j = 0; j < kOut; ++j) {
          double v = bias[j], size = 0;
          for (int64_t l = 0; l < kIn; ++l) {
            const double term = static_cast<double>(x[i * kIn + l]) * weight[j * kIn + l];
            v += term;
            size += term * term;
          }
          const double old = before[i * kOut + j];
          const double exact = kind == Epilogue::Kind::kStore      ? v
                               : kind == Epilogue::Kind::kGeluTanh ? gelu_tanh(v)
                               : kind == Epilogue::Kind::kSilu     ? v / (1 + std::exp(-v))
                                                                   : old + gate[j] * v;
          check_close(y[i * kOut + j], exact, (1 + std::abs(gate[j])) * (std::sqrt(size) + std::abs(bias[j])), kIn);
        }
      }
    }
  }
}

TEST_CASE("bf16 products round x and sum in fp32") {
  constexpr int64_t kIn = 90, kOut = 40, kRows = 35;
  for (const DType held : {DType::kF32, DType::kBF16}) {
    if (held == DType::kF32 && has_fast_bf16()) continue;  // there weights are always held as bf16
    std::vector<float> weight, bias;
    const PackedLinear linear = make_linear(kIn, kOut, held, Compute::kBf16, &weight, &bias);
    const auto x = normals(kRows * kIn, 6);
    const auto y = run(linear, x, kRows, {}, held, Compute::kBf16, std::vector<float>(kRows * kOut));
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kOut; ++j) {
        double v = bias[j], size = 0;
        for (int64_t l = 0; l < kIn; ++l) {
          const double term = static_cast<double>(bf16_to_f32(f32_to_bf16(x[i * kIn + l]))) * weight[j * kIn + l];
          v += term;
          size += term * term;
        }
        check_close(y[i * kOut + j], v, std::sqrt(size), kIn);
      }
    }
  }
}

TEST_CASE("products do not depend on the number of threads") {
  constexpr int64_t kIn = 3000, kOut = 260, kRows = 40;  // few tiles and a long sum: where oneDNN alone would split the sum
  std::vector<float> weight, bias;
  const PackedLinear linear = make_linear(kIn, kOut, DType::kBF16, Compute::kF32, &weight, &bias);
  const auto x = normals(kRows * kIn, 6);
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 7}) {
    set_thread_count(threads);
    for (const int64_t rows : {int64_t{1}, kRows}) {
      auto y = run(linear, x, rows, {}, DType::kBF16, Compute::kF32, std::vector<float>(kRows * kOut));
      std::vector<float> c(kRows * 50);
      kernels::gemm_f32(kRows, 50, kIn, x.data(), kIn, false, weight.data(), kIn, true, c.data(), 50);
      y.insert(y.end(), c.begin(), c.end());
      if (rows != kRows) continue;
      if (first.empty()) first = y;
      CHECK(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
    }
  }
  set_thread_count(0);
}
