// SPDX-License-Identifier: Apache-2.0
// The Linears of a Wan2.1-1.3B block one by one, in bf16 and in 8 bits, taking turns: billions of operations a second of one
// thread, conversion of the input and epilogue included. Time is this thread's CPU time, so that a busy machine disturbs little.
#include <algorithm>
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>

#include "bench_dit.h"
#include "kernels/packed_linear.h"

namespace sla2::probe {

namespace {

using kernels::Compute;
using kernels::PackedLinear;
using Kind = kernels::Epilogue::Kind;

struct Layer {
  const char* name;
  int64_t in, out;
  Kind kind;
};
constexpr int64_t kDim = 1536, kFfn = 8960;
constexpr Layer kLayers[] = {{"q, k, v", kDim, 3 * kDim, Kind::kStore},
                             {"attention out", kDim, kDim, Kind::kAddGated},
                             {"ffn.0", kDim, kFfn, Kind::kGeluTanh},
                             {"ffn.2", kFfn, kDim, Kind::kAddGated}};

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  constexpr double kNano = 1e-9;
  return static_cast<double>(now.tv_sec) + kNano * static_cast<double>(now.tv_nsec);
}

/// Anything but constant: the speed of products does not depend on the numbers.
template <typename T, typename Convert>
void fill(T* values, int64_t count, const Convert& convert) {
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    values[i] = convert(static_cast<float>(state >> 8) / static_cast<float>(1U << 23) - 1.0F);
  }
}

class Timed {
 public:
  Timed(const Layer& layer, int64_t rows, DType held, Compute compute)
      : layer_(layer), rows_(rows), linear_(layer.in, layer.out, held, compute) {
    const auto as_is = [](float v) { return v; };
    if (held == DType::kBF16) {
      fill(reinterpret_cast<bf16_t*>(linear_.weight().data()), layer.in * layer.out, f32_to_bf16);
    } else {
      fill(reinterpret_cast<float*>(linear_.weight().data()), layer.in * layer.out, as_is);
    }
    linear_.pack();
    x_ = AlignedBuffer<float>(static_cast<size_t>(rows * layer.in));
    y_ = AlignedBuffer<float>(static_cast<size_t>(rows * layer.out));
    fill(x_.data(), rows * layer.in, as_is);
    std::fill_n(y_.data(), rows * layer.out, 0.0F);
    workspace_ = AlignedBuffer<std::byte>(linear_.workspace_bytes(rows));
  }
  void run() {
    const double start = cpu_seconds();
    linear_.forward(x_.data(), rows_, layer_.in, y_.data(), layer_.out, {layer_.kind}, workspace_.data());
    spent_.push_back(cpu_seconds() - start);
  }
  [[nodiscard]] double giga_operations() {
    std::nth_element(spent_.begin(), spent_.begin() + static_cast<std::ptrdiff_t>(spent_.size() / 2), spent_.end());
    constexpr double kGiga = 1e9;
    return 2.0 * static_cast<double>(rows_ * layer_.in * layer_.out) / spent_[spent_.size() / 2] / kGiga;
  }

 private:
  Layer layer_;
  int64_t rows_;
  PackedLinear linear_;
  AlignedBuffer<float> x_, y_;
  AlignedBuffer<std::byte> workspace_;
  std::vector<double> spent_;
};

void run(const std::vector<int64_t>& row_counts, int repeat) {
  set_thread_count(1);
  nlohmann::json results = nlohmann::json::array();
  for (const int64_t rows : row_counts) {
    for (const Layer& layer : kLayers) {
      Timed bf16(layer, rows, DType::kBF16, has_fast_bf16() ? Compute::kBf16 : Compute::kF32);
      Timed bytes(layer, rows, DType::kI8, Compute::kInt8);
      for (int i = 0; i < repeat; ++i) {
        bf16.run();
        bytes.run();
      }
      const double before = bf16.giga_operations(), now = bytes.giga_operations();
      results.push_back({{"linear", layer.name},
                         {"rows", rows},
                         {"in", layer.in},
                         {"out", layer.out},
                         {"16_bit_gops", before},
                         {"8_bit_gops", now},
                         {"ratio", now / before}});
    }
  }
  std::cout << results.dump(2) << '\n';
}

}  // namespace

void add_linears(CLI::App& app) {
  auto rows = std::make_shared<std::vector<int64_t>>(std::vector<int64_t>{1280, 6480});
  auto repeat = std::make_shared<int>(9);
  CLI::App* bench = app.add_subcommand("linears", "speed of a 1.3B block's Linears in 16 and 8 bits on one thread, as JSON");
  bench->add_option("--rows", *rows);
  bench->add_option("--repeat", *repeat);
  bench->callback([rows, repeat] { run(*rows, *repeat); });
}

}  // namespace sla2::probe
