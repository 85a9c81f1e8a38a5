// SPDX-License-Identifier: Apache-2.0
// probe_backward run IN OUT [options]   IN: q, d_out [B,H,Nq,D], k, v [B,H_kv,Nk,D], of fp32, bf16 or fp16; fp32: w_q, w_k [., D,
// D],
//                                       mix, proj, proj_bias, gate; where the mask is hard list [B·H·T_m, k] and count, int32.
//                                       OUT: d_q, d_k, d_v of q's type, and d_ of each parameter that IN has
// probe_backward bench [options]        seconds of one backward with out and log-sum-exps given; random kept blocks
#include <algorithm>
#include <chrono>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <random>
#include <vector>

#include "attention/attention.h"
#include "attention/backward.h"
#include "parts.h"
#include "weights/weights.h"

namespace {

using namespace sla2;
using attention::Config;

struct Options {
  std::string input, output, mode = "full", mix = "head_affine_lse", router = "sla2", scope = "complement", dtype = "f32",
                             products = "f32";
  Config config;
  int threads = 0, repeats = 5;
  bool again = false;
};

/// Place of a word in the order of an enum whose first value is 1.
template <typename Enum>
Enum pick(const std::string& word, std::initializer_list<const char*> words) {
  int value = 1;
  for (const char* const one : words) {
    if (word == one) return static_cast<Enum>(value);
    ++value;
  }
  fail(SLA2_E_ARGUMENT, "'{}' is none of the words this option takes", word);
}

const Config& make_config(Options& o) {
  o.config.mode = pick<attention::Mode>(o.mode, {"full", "sla2", "sla1", "sparse_only", "linear_only", "l_plus_s", "pooled"});
  o.config.mix = pick<attention::Mix>(o.mix, {"head_affine_lse", "const", "head_scalar", "block"});
  o.config.router = pick<attention::Router>(o.router, {"sla2", "sla1", "vsa", "vmoba", "sparge", "given"});
  o.config.scope = pick<attention::Scope>(o.scope, {"complement", "global"});
  o.config.products = o.products == "bf16" ? DType::kBF16 : DType::kF32;
  set_thread_count(o.threads);
  return o.config;
}

attention::Operand operand(const void* data, DType dtype, const Config& c, int64_t tokens) {
  return {data, dtype, c.heads * tokens * c.head_dim, tokens * c.head_dim, c.head_dim};
}

struct Loaded {
  weights::TensorInfo info;
  std::vector<std::byte> bytes;
  [[nodiscard]] const float* floats() const { return bytes.empty() ? nullptr : reinterpret_cast<const float*>(bytes.data()); }
};

/// Empty where the file has no such tensor.
Loaded load(const weights::SafetensorsFile& file, const char* name) {
  Loaded result;
  const weights::TensorInfo* const info = file.find(name);
  if (info == nullptr) return result;
  result.info = *info;
  result.bytes.resize(info->end - info->begin);
  file.read_bytes(*info, 0, result.bytes);
  return result;
}

void run(Options& o) {
  const auto file = weights::SafetensorsFile::open(o.input);
  const Loaded q = load(*file, "q"), k = load(*file, "k"), v = load(*file, "v"), d_out = load(*file, "d_out");
  const Loaded w_q = load(*file, "w_q"), w_k = load(*file, "w_k"), mix = load(*file, "mix"), proj = load(*file, "proj"),
               proj_bias = load(*file, "proj_bias"), gate = load(*file, "gate");
  Loaded list = load(*file, "list"), count = load(*file, "count");
  Config& c = o.config;
  c.batch = q.info.shape[0];
  c.heads = q.info.shape[1];
  c.kv_heads = k.info.shape[1];
  c.query_tokens = q.info.shape[2];
  c.head_dim = q.info.shape[3];
  c.key_tokens = k.info.shape[2];
  const attention::BackwardPlan plan(attention::make_geometry(make_config(o), active_isa()), active_isa(),
                                     std::max(physical_threads(), thread_count()));
  AlignedBuffer<std::byte> workspace(plan.workspace_bytes());
  const DType dtype = q.info.dtype;
  attention::Backward call;
  call.q = operand(q.bytes.data(), dtype, c, c.query_tokens), call.d_out = operand(d_out.bytes.data(), dtype, c, c.query_tokens);
  const auto of_keys = [&](const void* data) {
    return attention::Operand{data, dtype, c.kv_heads * c.key_tokens * c.head_dim, c.key_tokens * c.head_dim, c.head_dim};
  };
  call.k = of_keys(k.bytes.data()), call.v = of_keys(v.bytes.data());
  call.parameters = {
      w_q.floats(), w_k.floats(), w_q.bytes.empty() ? 1 : w_q.info.shape[0], mix.floats(), proj.floats(), proj_bias.floats(), {}};
  if (!gate.bytes.empty()) call.parameters.gate = operand(gate.bytes.data(), gate.info.dtype, c, c.query_tokens);
  const attention::BlockList blocks{reinterpret_cast<int32_t*>(list.bytes.data()), reinterpret_cast<int32_t*>(count.bytes.data()),
                                    list.bytes.empty() ? 0 : list.info.shape[1]};
  if (!list.bytes.empty()) call.list = &blocks;

  std::vector<weights::OutputTensor> tensors;
  std::vector<std::vector<std::byte>> results(9);
  size_t next = 0;
  const auto target = [&](const char* name, const Loaded& like) -> std::byte* {
    if (like.bytes.empty()) return nullptr;
    results[next].resize(like.bytes.size());
    tensors.push_back({name, like.info.dtype, like.info.shape, results[next].data()});
    return results[next++].data();
  };
  const auto numbers = [&](const char* name, const Loaded& like) { return reinterpret_cast<float*>(target(name, like)); };
  const auto mutable_like = [](const attention::Operand& x, std::byte* data) {
    return attention::MutableOperand{data, x.dtype, x.stride_batch, x.stride_head, x.stride_token};
  };
  call.gradients.q = mutable_like(call.q, target("d_q", q));
  call.gradients.k = mutable_like(call.k, target("d_k", k));
  call.gradients.v = mutable_like(call.v, target("d_v", v));
  call.gradients.gate = mutable_like(call.parameters.gate, target("d_gate", gate));
  call.gradients.router_q = numbers("d_w_q", w_q), call.gradients.router_k = numbers("d_w_k", w_k);
  call.gradients.mix = numbers("d_mix", mix);
  call.gradients.proj = numbers("d_proj", proj), call.gradients.proj_bias = numbers("d_proj_bias", proj_bias);
  plan.run(call, workspace.data());
  weights::write_safetensors(o.output, tensors);
}

/// Kept blocks spread over the row, other ones in each row.
std::vector<int32_t> spread_blocks(int64_t rows, int64_t kept, int64_t blocks) {
  std::mt19937 engine(2);
  std::vector<int32_t> index, all(static_cast<size_t>(blocks));
  for (int64_t j = 0; j < blocks; ++j) all[static_cast<size_t>(j)] = static_cast<int32_t>(j);
  for (int64_t row = 0; row < rows; ++row) {
    std::shuffle(all.begin(), all.end(), engine);
    std::sort(all.begin(), all.begin() + kept);
    index.insert(index.end(), all.begin(), all.begin() + kept);
  }
  return index;
}

void bench_backward(Options& o) {
  Config& c = o.config;
  const auto plan = attention::Plan::create(make_config(o));
  const DType dtype = o.dtype == "bf16" ? DType::kBF16 : DType::kF32;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  const auto fill = [&](int64_t tokens) {
    const size_t count = static_cast<size_t>(c.batch * c.heads * tokens * c.head_dim);
    std::vector<float> values(count);
    for (float& x : values) x = normal(engine);
    std::vector<std::byte> bytes(count * dtype_size(dtype));
    if (dtype == DType::kF32)
      std::memcpy(bytes.data(), values.data(), bytes.size());
    else
      convert_to_bf16(values.data(), reinterpret_cast<bf16_t*>(bytes.data()), count);
    return bytes;
  };
  const auto q = fill(c.query_tokens), k = fill(c.key_tokens), v = fill(c.key_tokens), d_out = fill(c.query_tokens);
  const auto out = fill(c.query_tokens);  // numbers do not change the time
  std::vector<float> lse(static_cast<size_t>(c.batch * c.heads * c.query_tokens), 8.0F);
  std::vector<std::byte> d_q(q.size()), d_k(k.size()), d_v(v.size());
  std::vector<float> mix(static_cast<size_t>(2 * c.heads));
  AlignedBuffer<std::byte> workspace(plan->backward_workspace_bytes());
  const int64_t rows = c.batch * c.heads * plan->query_blocks(), kept = plan->max_kept();
  std::vector<int32_t> index = spread_blocks(rows, kept, plan->key_blocks()),
                       count(static_cast<size_t>(rows), static_cast<int32_t>(kept));
  const attention::BlockList list{index.data(), count.data(), kept};
  attention::Backward call;
  call.q = operand(q.data(), dtype, c, c.query_tokens), call.d_out = operand(d_out.data(), dtype, c, c.query_tokens);
  call.k = operand(k.data(), dtype, c, c.key_tokens), call.v = operand(v.data(), dtype, c, c.key_tokens);
  if (!o.again) call.out = operand(out.data(), dtype, c, c.query_tokens), call.lse = lse.data();
  call.list = &list;
  const auto target = [&](std::vector<std::byte>& x, int64_t tokens) {
    return attention::MutableOperand{x.data(), dtype, c.heads * tokens * c.head_dim, tokens * c.head_dim, c.head_dim};
  };
  call.gradients.q = target(d_q, c.query_tokens), call.gradients.k = target(d_k, c.key_tokens);
  call.gradients.v = target(d_v, c.key_tokens);
  call.gradients.mix = mix.data();
  std::vector<double> seconds, cpu;
  std::vector<attention::PartTimes> parts;
  attention::PartTimes times;
  call.times = &times;
  for (int i = 0; i <= o.repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu_start = std::clock();
    plan->backward(call, workspace.data());
    if (i == 0) continue;  // warms up
    parts.push_back(times);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    cpu.push_back(static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC);
  }
  std::sort(seconds.begin(), seconds.end());
  std::sort(cpu.begin(), cpu.end());
  const double median = seconds[seconds.size() / 2];
  const double dense =
      10.0 * static_cast<double>(c.batch * c.heads * c.query_tokens * c.head_dim) * static_cast<double>(c.key_tokens);
  std::printf(
      "{\"seconds\": %.6f, \"best\": %.6f, \"cpu_seconds\": %.6f, \"dense_gflops\": %.2f, \"sparsity\": %.4f, "
      "\"workspace_bytes\": %llu, \"parts\": %s}\n",
      median, seconds.front(), cpu[cpu.size() / 2], dense / median * 1e-9, plan->stats().achieved_sparsity,
      static_cast<unsigned long long>(plan->backward_workspace_bytes()), probe::parts_json(parts).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("attention's backward");
  Options o;
  o.config.heads = 1;
  o.config.query_tokens = o.config.key_tokens = 4096;
  o.config.head_dim = 128;
  app.require_subcommand(1);
  CLI::App* const once = app.add_subcommand("run");
  once->add_option("input", o.input)->required();
  once->add_option("output", o.output)->required();
  CLI::App* const time = app.add_subcommand("bench");
  time->add_option("--heads", o.config.heads);
  time->add_option("--query-tokens", o.config.query_tokens);
  time->add_option("--key-tokens", o.config.key_tokens);
  time->add_option("--dim", o.config.head_dim);
  time->add_option("--repeats", o.repeats);
  time->add_option("--dtype", o.dtype);
  time->add_flag("--again", o.again, "neither out nor log-sum-exps given");
  for (CLI::App* const sub : {once, time}) {
    sub->add_option("--mode", o.mode);
    sub->add_option("--mix", o.mix);
    sub->add_option("--router", o.router);
    sub->add_option("--scope", o.scope);
    sub->add_option("--products", o.products, "f32 or bf16");
    sub->add_option("--threads", o.threads);
    sub->add_option("--sparsity", o.config.sparsity);
    sub->add_option("--tau", o.config.tau);
    sub->add_option("--min-tokens", o.config.min_tokens);
    sub->add_option("--negligible", o.config.negligible);
    sub->add_option("--scale", o.config.softmax_scale);
    sub->add_option("--block-q", o.config.block_q);
    sub->add_option("--block-k", o.config.block_k);
    sub->add_option("--smooth-k", o.config.smooth_k);
    sub->add_option("--mix-scale", o.config.mix_scale);
    sub->add_option("--mix-bias", o.config.mix_bias);
  }
  CLI11_PARSE(app, argc, argv);
  try {
    once->parsed() ? run(o) : bench_backward(o);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
