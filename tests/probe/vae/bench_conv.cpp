// SPDX-License-Identifier: Apache-2.0
#include "bench_conv.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <vector>

#include "core/core.h"
#include "kernels/conv.h"
#include "kernels/winograd.h"

namespace sla2 {

namespace {

using namespace kernels;  // NOLINT: a program, not a header

struct Shape {
  int64_t in, out, size;
};
constexpr std::array kShapes{Shape{384, 384, 32}, Shape{384, 384, 64}, Shape{192, 384, 64}, Shape{192, 192, 128},
                             Shape{96, 96, 256},  Shape{96, 3, 256},   Shape{16, 384, 32}};
constexpr int kFrames = 3, kRepeats = 5;

/// CPU time: what else runs on the machine counts little.
template <typename Function>
double seconds(const Function& function) {
  const std::clock_t start = std::clock();
  function();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<float> noise(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31F;
  }
  return values;
}

void bench_conv(const Shape& shape) {
  const FrameShape in{shape.in, shape.size, shape.size, kWinogradBlock}, out{shape.out, shape.size, shape.size, kWinogradBlock};
  const auto geometry = ConvGeometry::same(shape.in, shape.out, 3);
  const std::vector<float> weights = noise(kFrames * geometry.weight_count()), bias = noise(shape.out);
  const std::vector<float> frame = noise(in.elements());
  std::vector<bf16_t> narrow(frame.size());
  convert_to_bf16(frame.data(), narrow.data(), frame.size());
  std::vector<float> result(static_cast<size_t>(out.elements()));

  AlignedBuffer<std::byte> direct_scratch(
      PackedConv::scratch_bytes(geometry, shape.size, shape.size, true, kWinogradBlock, DType::kBF16));
  std::vector<Conv> taps;
  for (int tap = 0; tap < kFrames; ++tap)
    taps.emplace_back(PackedConv(geometry, weights.data() + tap * geometry.weight_count(), tap == 2 ? bias.data() : nullptr,
                                 kWinogradBlock, DType::kBF16),
                      shape.size, shape.size);
  const WinogradGeometry points{shape.in, shape.out, kFrames};
  const PackedWinograd packed(points, weights.data(), bias.data());
  AlignedBuffer<std::byte> scratch(PackedWinograd::scratch_bytes(points, shape.size, shape.size));
  const std::array<const bf16_t*, kFrames> sources{narrow.data(), narrow.data(), narrow.data()};

  std::vector<double> direct, fewer;
  for (int repeat = 0; repeat <= kRepeats; ++repeat) {  // the first one warms up
    const double a = seconds([&] {
      for (int tap = 0; tap < kFrames; ++tap)
        taps[static_cast<size_t>(tap)].run(narrow.data(), result.data(), tap > 0, direct_scratch.span());
    });
    const double b = seconds([&] { packed.run(sources, shape.size, shape.size, result.data(), false, scratch.data()); });
    if (repeat == 0) continue;
    direct.push_back(a);
    fewer.push_back(b);
  }
  const double work = 2.0 * kFrames * static_cast<double>(geometry.weight_count() * in.pixels());
  fmt::print("{:4} -> {:3} at {:3}x{:3}  direct {:8.2f} ms {:4.0f} GFLOP/s  Winograd {:8.2f} ms {:4.0f} GFLOP/s done  {:.2f}x\n",
             shape.in, shape.out, shape.size, shape.size, 1e3 * median(direct), work / median(direct) / 1e9, 1e3 * median(fewer),
             work * 16 / 36 / median(fewer) / 1e9, median(direct) / median(fewer));
}

}  // namespace

void bench_convs() {
  for (const Shape& shape : kShapes) bench_conv(shape);
}

}  // namespace sla2
