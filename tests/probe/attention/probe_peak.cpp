// SPDX-License-Identifier: Apache-2.0
// probe_peak [--threads N]   what the CPU's multiply-add instructions reach from registers, in GOP/s (2 a multiply-add) of all
// threads together: the best of some short runs. 0: this build or CPU has no such instruction. Shares of it stand in benchmarks.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <CLI/CLI.hpp>
#include <cstdio>

#include "core/core.h"

namespace {

using namespace sla2;

constexpr int kSums = 12;  // independent chains: more than latency times instructions a cycle of any CPU so far
constexpr int64_t kSteps = 4'000'000;
constexpr int kRuns = 7;

using Loop = float (*)(int64_t steps);

#define SLA2_PEAK_AVX2 __attribute__((target("avx2,fma")))
#define SLA2_PEAK_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")))

SLA2_PEAK_AVX2 float fma_avx2(int64_t steps) {
  __m256 sum[kSums], a = _mm256_set1_ps(1e-9F), b = _mm256_set1_ps(0.5F);
  for (__m256& s : sum) s = _mm256_setzero_ps();
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m256& s : sum) s = _mm256_fmadd_ps(a, b, s);
    asm volatile("" : "+x"(a));
  }
  for (int i = 1; i < kSums; ++i) sum[0] = _mm256_add_ps(sum[0], sum[i]);
  return _mm256_cvtss_f32(sum[0]);
}

SLA2_PEAK_AVX512 float fma_avx512(int64_t steps) {
  __m512 sum[kSums], a = _mm512_set1_ps(1e-9F), b = _mm512_set1_ps(0.5F);
  for (__m512& s : sum) s = _mm512_setzero_ps();
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512& s : sum) s = _mm512_fmadd_ps(a, b, s);
    asm volatile("" : "+v"(a));
  }
  for (int i = 1; i < kSums; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_cvtss_f32(sum[0]);
}

SLA2_PEAK_AVX512 float bf16_avx512(int64_t steps) {
  __m512 sum[kSums];
  __m512i a = _mm512_set1_epi16(0x3000), b = _mm512_set1_epi16(0x3f00);
  for (__m512& s : sum) s = _mm512_setzero_ps();
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512& s : sum) s = _mm512_dpbf16_ps(s, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    asm volatile("" : "+v"(a));
  }
  for (int i = 1; i < kSums; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_cvtss_f32(sum[0]);
}

SLA2_PEAK_AVX512 float int8_avx512(int64_t steps) {
  __m512i sum[kSums], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(1);
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512i& s : sum) s = _mm512_dpbusd_epi32(s, a, b);
    asm volatile("" : "+v"(a));
  }
  for (int i = 1; i < kSums; ++i) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, sum[0]);
  return static_cast<float>(lanes[0]);
}

/// Billions of operations a second; each step of a loop does kSums instructions of `operations`.
double giga_ops(Loop loop, int operations, int threads) {
  double best = 1e30;
  volatile float sink = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(threads, [&](int64_t, int) { sink = loop(kSteps); });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return static_cast<double>(kSteps) * kSums * operations * threads / best * 1e-9;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("peak probe");
  int threads = 0;
  app.add_option("--threads", threads);
  CLI11_PARSE(app, argc, argv);
  set_thread_count(threads);
  threads = thread_count();
  const Isa isa = active_isa();
  double fp32 = 0, bf16 = 0, int8 = 0;
  if (isa >= Isa::kAvx2) fp32 = giga_ops(fma_avx2, 16, threads);
  if (isa >= Isa::kAvx512) fp32 = std::max(fp32, giga_ops(fma_avx512, 32, threads));
  if (isa >= Isa::kAvx512Bf16) {
    bf16 = giga_ops(bf16_avx512, 64, threads);
    int8 = giga_ops(int8_avx512, 128, threads);
  }
  std::printf("{\"threads\": %d, \"fp32\": %.1f, \"bf16\": %.1f, \"int8\": %.1f}\n", threads, fp32, bf16, int8);
  return 0;
}
