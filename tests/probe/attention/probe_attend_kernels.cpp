// SPDX-License-Identifier: Apache-2.0
// probe_attend_kernels bench [options]   speed of the softmax branch's ops alone: one block of queries against every key block,
//                                        and of the passes that prepare their operands. The ops take turns; CPU time of this
//                                        thread, median and best of --repeats. GFLOP/s count 4 · rows · keys · D.
// probe_attend_kernels e4m3 IN OUT       IN: x [n] fp32; OUT: code [n] (0 to 255, as fp32), value [256] of every code
#include <algorithm>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../probe_io.h"
#include "core/core.h"
#include "kernels/attention_ops.h"
#include "kernels/e4m3.h"

namespace {

using namespace sla2;

struct Options {
  int64_t rows = 128, keys = 8192, dim = 128, block_k = 64;
  int repeats = 21;
  std::string isa = "best";
};

/// Operands of one query block, packed for every op.
class Operands {
 public:
  Operands(const Options& o, const kernels::AttentionOps& ops)
      : o_(o),
        ops_(ops),
        blocks_((o.keys + o.block_k - 1) / o.block_k),
        width_(kernels::panels_of(o.dim) * kernels::kPanel),
        q_(normal(o.rows * o.dim)),
        k_(normal(blocks_ * o.block_k * o.dim)) {
    const auto v = normal(blocks_ * o.block_k * o.dim);
    for (int64_t t = 0; t < o.block_k; ++t)
      tail_[static_cast<size_t>(t)] = (blocks_ - 1) * o.block_k + t < o.keys ? 0.0F : -INFINITY;
    ops.narrow_rows_bf16(q_.data(), o.rows * o.dim, q_bf16_.data());
    quantise_queries();
    pack_keys_int8();
    pack_keys_bf16();
    for_blocks([&](int64_t j, int64_t at, int64_t n) {
      ops.pack_values_bf16(v.data() + at, n, o.dim, o.block_k, values_.data() + j * o.block_k * width_);
    });
  }
  void quantise_queries() {
    ops_.quantise_rows_int8(q_.data(), o_.rows, o_.dim, q_int8_.data(), q_scale_.data(), q_offset_.data());
  }
  void pack_keys_int8() {
    for_blocks([&](int64_t j, int64_t at, int64_t n) {
      ops_.pack_keys_int8(k_.data() + at, n, o_.dim, o_.block_k, keys_int8_.data() + at, key_scale_.data() + j);
    });
  }
  void pack_keys_bf16() {
    for_blocks([&](int64_t, int64_t at, int64_t n) {
      ops_.pack_keys_bf16(k_.data() + at, n, o_.dim, o_.block_k, keys_bf16_.data() + at);
    });
  }
  void attend_bf16() {
    ops_.attend_bf16({o_.rows, o_.dim, o_.block_k, o_.keys, q_bf16_.data(), keys_bf16_.data(), values_.data(), nullptr, blocks_,
                      nullptr, tail_.data(), scale(), m_.data(), l_.data(), acc_.data(), weights_.data(), sums_.data()});
  }
  void attend_int8() {
    ops_.attend_int8({o_.rows,         o_.dim,           o_.block_k,        o_.keys,           q_int8_.data(),
                      q_scale_.data(), q_offset_.data(), keys_int8_.data(), key_scale_.data(), values_.data(),
                      nullptr,         blocks_,          nullptr,           tail_.data(),      scale(),
                      m_.data(),       l_.data(),        acc_.data(),       weights_.data(),   sums_.data()});
  }

 private:
  [[nodiscard]] float scale() const { return 1.4427F / std::sqrt(static_cast<float>(o_.dim)); }
  AlignedBuffer<float> normal(int64_t count) {
    std::normal_distribution<float> distribution;
    AlignedBuffer<float> values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i) values[i] = distribution(engine_);
    return values;
  }
  /// each(block, first element, keys in it)
  template <typename Each>
  void for_blocks(const Each& each) {
    for (int64_t j = 0; j < blocks_; ++j) each(j, j * o_.block_k * o_.dim, std::min(o_.block_k, o_.keys - j * o_.block_k));
  }

  static size_t size(int64_t count) { return static_cast<size_t>(count); }

  const Options& o_;
  const kernels::AttentionOps& ops_;
  int64_t blocks_, width_;
  std::mt19937 engine_{1};
  // Aligned like the workspace of a plan: loads that cross cache lines cost a sixth of the speed.
  AlignedBuffer<float> q_, k_, q_scale_{size(o_.rows)}, key_scale_{size(blocks_)}, tail_{size(o_.block_k)}, m_{size(o_.rows)},
      l_{size(o_.rows)}, acc_{size(o_.rows * width_)}, sums_{size(o_.rows * kernels::kPanel)};
  AlignedBuffer<bf16_t> q_bf16_{size(o_.rows * o_.dim)}, keys_bf16_{size(blocks_ * o_.block_k * o_.dim)},
      values_{size(blocks_ * o_.block_k * width_)}, weights_{size(o_.rows * o_.block_k)};
  AlignedBuffer<int8_t> q_int8_{size(o_.rows * o_.dim)};
  AlignedBuffer<uint8_t> keys_int8_{size(blocks_ * o_.block_k * o_.dim)};
  AlignedBuffer<int32_t> q_offset_{size(o_.rows)};
};

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void bench(const Options& o) {
  Isa isa = active_isa();
  for (const Isa lower : kAllIsas)
    if (o.isa == isa_name(lower)) isa = std::min(isa, lower);
  const kernels::AttentionOps ops = kernels::attention_ops(isa);
  Operands x(o, ops);
  const double dense = 4.0 * static_cast<double>(o.rows * o.keys * o.dim);
  const double key_bytes = static_cast<double>(o.keys * o.dim) * sizeof(float),
               row_bytes = static_cast<double>(o.rows * o.dim) * sizeof(float);
  struct Op {
    const char *name, *unit;
    double work;
    std::function<void()> run;
    std::vector<double> seconds;
  };
  Op all[] = {{"attend_bf16", "GFLOP/s", dense, [&] { x.attend_bf16(); }, {}},
              {"attend_int8", "GFLOP/s", dense, [&] { x.attend_int8(); }, {}},
              {"pack_keys_bf16", "GB/s of fp32", key_bytes, [&] { x.pack_keys_bf16(); }, {}},
              {"pack_keys_int8", "GB/s of fp32", key_bytes, [&] { x.pack_keys_int8(); }, {}},
              {"quantise_rows_int8", "GB/s of fp32", row_bytes, [&] { x.quantise_queries(); }, {}}};
  for (int i = 0; i <= o.repeats; ++i)
    for (Op& op : all) {
      const double start = cpu_seconds();
      op.run();
      if (i > 0) op.seconds.push_back(cpu_seconds() - start);  // the first one warms up
    }
  for (Op& op : all) {
    std::sort(op.seconds.begin(), op.seconds.end());
    std::printf("%-20s median %8.2f, best %8.2f %s\n", op.name, 1e-9 * op.work / op.seconds[op.seconds.size() / 2],
                1e-9 * op.work / op.seconds.front(), op.unit);
  }
}

void encode(const std::string& input, const std::string& output) {
  const auto x = probe::read_tensor(*weights::SafetensorsFile::open(input), "x");
  std::vector<float> codes, values;
  for (const float number : x) codes.push_back(kernels::f32_to_e4m3(number));
  for (int code = 0; code < 256; ++code) values.push_back(f8e4m3_to_f32(static_cast<uint8_t>(code)));
  probe::write_tensors(output, {{"code", {static_cast<int64_t>(codes.size())}, codes}, {"value", {256}, values}});
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("attention's ops");
  app.require_subcommand(1);
  Options o;
  CLI::App* const time = app.add_subcommand("bench");
  time->add_option("--rows", o.rows);
  time->add_option("--keys", o.keys);
  time->add_option("--dim", o.dim);
  time->add_option("--block-k", o.block_k);
  time->add_option("--repeats", o.repeats);
  time->add_option("--isa", o.isa, "best, or an instruction set below");
  std::string input, output;
  CLI::App* const e4m3 = app.add_subcommand("e4m3");
  e4m3->add_option("input", input)->required();
  e4m3->add_option("output", output)->required();
  CLI11_PARSE(app, argc, argv);
  try {
    e4m3->parsed() ? encode(input, output) : bench(o);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
