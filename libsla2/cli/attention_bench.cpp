// SPDX-License-Identifier: Apache-2.0
#include "attention_bench.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>

#include "handles.h"
#include "progress.h"

namespace sla2::cli {

using nlohmann::json;

namespace {

constexpr int64_t kHeads = 4, kHeadDim = 128;  // head dimension of every published Wan model
constexpr std::array<double, 4> kSparsities{0.5, 0.75, 0.9, 0.97};
constexpr std::array<int32_t, 2> kBenchBits{16, 8};
constexpr size_t kAlignment = 64;  // sla2_attention_forward() asks for it

struct AlignedFree {
  void operator()(void* memory) const noexcept { std::free(memory); }
};
using Buffer = std::unique_ptr<void, AlignedFree>;

Buffer aligned_bytes(uint64_t bytes) {
  Buffer buffer(std::aligned_alloc(kAlignment, (bytes + kAlignment) / kAlignment * kAlignment));
  if (!buffer) fail(SLA2_E_MEMORY, "the attention bench needs {}", bytes_text(bytes));
  return buffer;
}

/// A random [1, heads, tokens, head_dim] tensor.
struct Operand {
  Buffer memory;
  sla2_tensor view;
  Operand(int64_t tokens, uint32_t seed)
      : memory(aligned_bytes(static_cast<uint64_t>(kHeads * tokens * kHeadDim) * sizeof(float))) {
    const std::array<int64_t, 4> shape{1, kHeads, tokens, kHeadDim};
    require(sla2_tensor_init(&view, sizeof view));
    require(sla2_tensor_set_contiguous(&view, memory.get(), SLA2_DTYPE_FLOAT, 32, 4, shape.data()));
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::generate_n(static_cast<float*>(memory.get()), kHeads * tokens * kHeadDim, [&] { return normal(random); });
  }
};

/// One configuration at one length, as the runner calls it: fp32 rows, bf16 products where the CPU has them.
class Subject {
 public:
  Subject(int64_t tokens, int32_t bits, double sparsity, int threads) {
    sla2_attention_config config;
    require(sla2_attention_config_init(&config, sizeof config));
    config.mode = sparsity > 0 ? SLA2_MODE_SLA2 : SLA2_MODE_FULL;
    config.sparsity = sparsity;
    config.bits = bits;
    config.products = SLA2_PRODUCTS_BF16;
    config.heads = kHeads;
    config.query_tokens = config.key_tokens = tokens;
    config.head_dim = kHeadDim;
    sla2_attention* created = nullptr;
    require(sla2_attention_create(&config, &created));
    plan_.reset(created);
    require(sla2_attention_workspace_size(plan_.get(), &bytes_));
    workspace_ = aligned_bytes(bytes_);
    require(sla2_exec_init(&exec_, sizeof exec_));
    exec_.threads = threads;
  }
  /// CPU seconds of all threads: what other programs do does not count.
  double run(const sla2_qkv& in, Operand& out) {
    const std::clock_t started = std::clock();
    require(sla2_attention_forward(plan_.get(), &exec_, &in, workspace_.get(), bytes_, &out.view));
    return static_cast<double>(std::clock() - started) / CLOCKS_PER_SEC;
  }

 private:
  Attention plan_;
  uint64_t bytes_ = 0;
  Buffer workspace_;
  sla2_exec exec_{};
};

json row_of(int64_t tokens, int32_t bits, int threads, int runs) {
  const Operand q(tokens, 1), k(tokens, 2), v(tokens, 3);
  Operand out(tokens, 4);
  sla2_qkv in;
  require(sla2_qkv_init(&in, sizeof in));
  in.q = &q.view;
  in.k = &k.view;
  in.v = &v.view;
  std::vector<Subject> subjects;
  subjects.emplace_back(tokens, bits, 0, threads);
  for (const double sparsity : kSparsities) subjects.emplace_back(tokens, bits, sparsity, threads);
  // A call of few tokens is over before the clock has moved, so several count as one.
  constexpr int64_t kTokensOfARun = 4096;
  const int64_t calls = std::max<int64_t>(1, kTokensOfARun / tokens);
  std::vector<std::vector<double>> seconds(subjects.size());
  for (int run = 0; run <= runs; ++run) {  // they take turns; the first round warms up
    for (size_t i = 0; i < subjects.size(); ++i) {
      double spent = 0;
      for (int64_t call = 0; call < calls; ++call) spent += subjects[i].run(in, out);
      if (run > 0) seconds[i].push_back(spent / static_cast<double>(calls));
    }
  }
  json row{{"bits", bits}, {"tokens", tokens}, {"full", median(seconds[0])}, {"sla2", json::array()}};
  for (size_t i = 0; i < kSparsities.size(); ++i)
    row["sla2"].push_back({{"sparsity", kSparsities[i]}, {"seconds", median(seconds[i + 1])}});
  return row;
}

/// The least length from which on the sparse call is faster at every length measured.
json faster_from(const json& rows, int32_t bits, size_t sparsity) {
  json from;  // null: at none
  for (const json& row : rows) {
    if (row["bits"] != bits) continue;
    const bool faster = row["sla2"][sparsity]["seconds"].get<double>() < row["full"].get<double>();
    if (!faster)
      from = nullptr;
    else if (from.is_null())
      from = row["tokens"];
  }
  return {{"bits", bits}, {"sparsity", kSparsities[sparsity]}, {"tokens", from}};
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

json bench_attention(const std::vector<int64_t>& tokens, int threads, int runs) {
  std::vector<int64_t> rising = tokens;
  std::sort(rising.begin(), rising.end());
  json report{{"heads", kHeads}, {"head_dim", kHeadDim}, {"threads", threads}, {"runs", runs}, {"rows", json::array()}};
  for (const int32_t bits : kBenchBits)
    for (const int64_t count : rising) report["rows"].push_back(row_of(count, bits, threads, runs));
  for (const int32_t bits : kBenchBits)
    for (size_t i = 0; i < kSparsities.size(); ++i) report["faster_from"].push_back(faster_from(report["rows"], bits, i));
  return report;
}

void print_attention(const json& report) {
  std::puts(fmt::format("attention, {} heads of {}, CPU milliseconds, median of {} runs; \"x\": full over sla2",
                        report["heads"].dump(), report["head_dim"].dump(), report["runs"].dump())
                .c_str());
  std::string head = fmt::format("  {:>4} {:>7} {:>9}", "bits", "tokens", "full");
  for (const double sparsity : kSparsities) head += fmt::format(" {:>17}", fmt::format("sla2 {:.0f} %", sparsity * 100));
  std::puts(head.c_str());
  for (const json& row : report["rows"]) {
    const double full = row["full"].get<double>();
    std::string text = fmt::format("  {:>4} {:>7} {:>9.3f}", row["bits"].get<int>(), row["tokens"].get<int64_t>(), full * 1e3);
    for (const json& sparse : row["sla2"]) {
      const double seconds = sparse["seconds"].get<double>();
      text += fmt::format(" {:>9.3f} {:>5.2f} x", seconds * 1e3, full / seconds);
    }
    std::puts(text.c_str());
  }
  for (const json& entry : report["faster_from"]) {
    const std::string from = entry["tokens"].is_null() ? "nowhere here" : entry["tokens"].dump() + " tokens on";
    std::puts(fmt::format("  {:>2} bits, {:.0f} % sparse: faster from {}", entry["bits"].get<int>(),
                          entry["sparsity"].get<double>() * 100, from)
                  .c_str());
  }
}

}  // namespace sla2::cli
