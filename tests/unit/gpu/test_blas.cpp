// SPDX-License-Identifier: Apache-2.0
// How cuBLASLt is called, with a library of its names in its place: the real one needs a GPU.
#include <catch2/catch.hpp>

#include "device/blas.h"
#include "device/library.h"
#include "gpu_case.h"

namespace sla2::gpu_test {

TEST_CASE("products go through a cuBLASLt that gives the right numbers, and only those that it can do") {
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  void* const library = device::open_library(SLA2_FAKE_BLAS);
  REQUIRE(library != nullptr);
  std::string why;
  auto blas = device::Blas::with(gpu, library, why);
  CHECK(why.empty());
  REQUIRE(blas != nullptr);
  device::Ops ours(gpu), theirs(gpu);
  theirs.use_blas(std::move(blas));

  constexpr int64_t kRows = 33, kIn = 48, kOut = 24, kStride = 40;
  const auto bias = normal(kOut, 3);
  const OnGpu<uint16_t> x(gpu, to_bf16(normal(kRows * kIn, 1))), w(gpu, to_bf16(normal(kOut * kIn, 2, 0.2F))),
      bias16(gpu, to_bf16(bias));
  const OnGpu<float> bias32(gpu, bias);
  const device::LinearWeight weight{w.data(), nullptr, bias32.data(), kIn, kOut, bias16.data()};
  const device::ProductRows rows{x.data(), nullptr, nullptr};
  const auto launched = [&] { return gpu.launches("sla2_gemm_bf16"); };
  for (const auto finish : {cuda::kGemmStore, cuda::kGemmGeluTanh}) {
    const OnGpu<uint16_t> a(gpu, kRows * kStride), b(gpu, kRows * kStride);
    ours.linear(weight, rows, kRows, {a.data(), DType::kBF16, kStride, finish, nullptr});
    const int64_t before = launched();
    theirs.linear(weight, rows, kRows, {b.data(), DType::kBF16, kStride, finish, nullptr});
    CHECK(launched() == before);
    const auto expected = to_double(a.values()), got = to_double(b.values());
    for (int64_t i = 0; i < kRows * kOut; ++i) {
      const auto at = static_cast<size_t>(i / kOut * kStride + i % kOut);
      // Both results are rounded to bf16, and the bias there is; GELU's slope is at most 1.13.
      const double bias_part = 1.13 * std::abs(static_cast<double>(bias[static_cast<size_t>(i % kOut)])) / 256;
      CHECK(std::abs(got[at] - expected[at]) <= std::abs(expected[at]) / 128 + bias_part);
    }
  }
  const OnGpu<float> wide(gpu, std::vector<float>(kRows * kOut, 0));
  const int64_t before = launched();
  theirs.linear(weight, rows, kRows, {wide.data(), DType::kF32, 0, cuda::kGemmAddGated, nullptr});
  theirs.linear(weight, rows, 1, {wide.data(), DType::kBF16, 0, cuda::kGemmStore, nullptr});
  CHECK(launched() == before + 2);
}

TEST_CASE("a cuBLASLt that gives other numbers, or lacks a function, is not used") {
  emulator::EmulatedDevice gpu(80, kShared, kPlenty);
  std::string why;
  CHECK(device::Blas::with(gpu, device::open_library(SLA2_WRONG_BLAS), why) == nullptr);
  CHECK_THAT(why, Catch::Matchers::Contains("is right"));
  CHECK(device::Blas::with(gpu, device::open_library(nullptr), why) == nullptr);
  CHECK_THAT(why, Catch::Matchers::Contains("cuBLASLt has no cublasLtCreate"));
  CHECK(gpu.used_bytes() == 0);
}

}  // namespace sla2::gpu_test
