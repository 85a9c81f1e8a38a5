// SPDX-License-Identifier: Apache-2.0
// probe_attention forward IN OUT [options]   IN: q [B,H,Nq,D], k, v [B,H,Nk,D] and optionally bias [Nk], fp32, bf16 or fp16
//                                            OUT: out [B,H,Nq,D] of q's type, stats [3] fp32: sparsity, linear weight, mode
// probe_attention bench [options]            seconds of one forward on random data, medians of --repeats; cpu_seconds counts
//                                            all threads and is what to compare on a busy machine
#include <algorithm>
#include <chrono>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <random>
#include <vector>

#include "attention/attention.h"
#include "parts.h"
#include "weights/weights.h"

namespace {

using namespace sla2;
using attention::Config;

struct Options {
  std::string input, output, mode = "full", mix = "head_affine_lse", isa = "best", dtype = "f32", products = "f32";
  Config config;
  int threads = 0, repeats = 5;
  bool route = false;
};

attention::Mode mode_of(const std::string& word) {
  constexpr std::string_view kWords[] = {"full", "sla2", "sla1", "sparse_only", "linear_only", "l_plus_s", "pooled"};
  const auto at = std::find(std::begin(kWords), std::end(kWords), word);
  SLA2_CHECK(at != std::end(kWords), SLA2_E_ARGUMENT, "--mode {}: expected a mode's name, such as sla2", word);
  return static_cast<attention::Mode>(at - std::begin(kWords) + 1);
}

std::unique_ptr<attention::Plan> make_plan(Options& o) {
  o.config.mode = mode_of(o.mode);
  o.config.mix = o.mix == "const" ? attention::Mix::kConst : attention::Mix::kHeadAffineLse;
  o.config.products = o.products == "bf16" ? DType::kBF16 : DType::kF32;
  set_thread_count(o.threads);
  Isa isa = active_isa();
  for (const Isa lower : kAllIsas)
    if (o.isa == isa_name(lower)) isa = std::min(isa, lower);
  return attention::Plan::create(o.config, isa);
}

attention::Operand operand(const void* data, DType dtype, const Config& c, int64_t tokens) {
  return {data, dtype, c.heads * tokens * c.head_dim, tokens * c.head_dim, c.head_dim};
}

struct Loaded {
  weights::TensorInfo info;
  std::vector<std::byte> bytes;
};

Loaded load(const weights::SafetensorsFile& file, const char* name) {
  const weights::TensorInfo* info = file.find(name);
  SLA2_CHECK(info != nullptr, SLA2_E_ARGUMENT, "{} has no tensor {}", file.path(), name);
  Loaded result{*info, std::vector<std::byte>(info->end - info->begin)};
  file.read_bytes(*info, 0, result.bytes);
  return result;
}

void forward(Options& o) {
  const auto file = weights::SafetensorsFile::open(o.input);
  const Loaded q = load(*file, "q"), k = load(*file, "k"), v = load(*file, "v");
  Config& c = o.config;
  c.batch = q.info.shape[0];
  c.heads = q.info.shape[1];
  c.query_tokens = q.info.shape[2];
  c.head_dim = q.info.shape[3];
  c.key_tokens = k.info.shape[2];
  std::vector<float> bias;
  if (file->find("bias") != nullptr) {
    const Loaded raw = load(*file, "bias");
    bias.resize(raw.bytes.size() / sizeof(float));
    std::memcpy(bias.data(), raw.bytes.data(), raw.bytes.size());
  }
  const auto plan = make_plan(o);
  AlignedBuffer<std::byte> workspace(plan->workspace_bytes());
  std::vector<std::byte> out(q.bytes.size());
  const attention::MutableOperand target{out.data(), q.info.dtype, c.heads * c.query_tokens * c.head_dim,
                                         c.query_tokens * c.head_dim, c.head_dim};
  plan->forward(operand(q.bytes.data(), q.info.dtype, c, c.query_tokens), operand(k.bytes.data(), k.info.dtype, c, c.key_tokens),
                operand(v.bytes.data(), v.info.dtype, c, c.key_tokens), bias.empty() ? nullptr : bias.data(), workspace.data(),
                target);
  const attention::Stats& s = plan->stats();
  const float stats[] = {static_cast<float>(s.achieved_sparsity), static_cast<float>(s.mean_linear_weight),
                         static_cast<float>(s.mode_used)};
  const weights::OutputTensor tensors[] = {{"out", q.info.dtype, q.info.shape, out.data()}, {"stats", DType::kF32, {3}, stats}};
  weights::write_safetensors(o.output, tensors);
}

void bench(Options& o) {
  Config& c = o.config;
  const auto plan = make_plan(o);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  const bool half = o.dtype == "bf16";
  const DType dtype = half ? DType::kBF16 : DType::kF32;
  const auto fill = [&](int64_t tokens) {
    std::vector<std::byte> bytes(static_cast<size_t>(c.batch * c.heads * tokens * c.head_dim) * dtype_size(dtype));
    for (size_t i = 0; i < bytes.size() / dtype_size(dtype); ++i) {
      const float x = normal(engine);
      const bf16_t narrow = f32_to_bf16(x);
      std::memcpy(bytes.data() + i * dtype_size(dtype), half ? static_cast<const void*>(&narrow) : &x, dtype_size(dtype));
    }
    return bytes;
  };
  const auto q = fill(c.query_tokens), k = fill(c.key_tokens), v = fill(c.key_tokens);
  std::vector<std::byte> out(q.size());
  AlignedBuffer<std::byte> workspace(plan->workspace_bytes());
  const attention::MutableOperand target{out.data(), dtype, c.heads * c.query_tokens * c.head_dim, c.query_tokens * c.head_dim,
                                         c.head_dim};
  attention::Forward call;
  call.q = operand(q.data(), dtype, c, c.query_tokens);
  call.k = operand(k.data(), dtype, c, c.key_tokens);
  call.v = operand(v.data(), dtype, c, c.key_tokens);
  call.out = target;
  const auto rows = static_cast<size_t>(c.batch * c.heads * plan->query_blocks());
  std::vector<int32_t> index(o.route ? rows * static_cast<size_t>(plan->max_kept()) : 0), count(o.route ? rows : 0);
  attention::BlockList list{index.data(), count.data(), plan->max_kept()};
  if (o.route) call.list = &list;
  std::vector<double> seconds, cpu_seconds;
  std::vector<attention::PartTimes> parts;
  attention::PartTimes times;
  call.times = &times;
  for (int i = 0; i <= o.repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu_start = std::clock();
    o.route ? plan->route(call, workspace.data()) : plan->forward(call, workspace.data());
    const auto cpu = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
    if (i == 0) continue;  // warms up
    parts.push_back(times);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    cpu_seconds.push_back(cpu);
  }
  std::sort(seconds.begin(), seconds.end());
  std::sort(cpu_seconds.begin(), cpu_seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double dense =
      4.0 * static_cast<double>(c.batch * c.heads * c.query_tokens * c.head_dim) * static_cast<double>(c.key_tokens);
  std::printf(
      "{\"seconds\": %.6f, \"best\": %.6f, \"cpu_seconds\": %.6f, \"dense_gflops\": %.2f, \"sparsity\": %.4f, "
      "\"workspace_bytes\": %llu, \"parts\": %s}\n",
      median, seconds.front(), cpu_seconds[cpu_seconds.size() / 2], dense / median * 1e-9, plan->stats().achieved_sparsity,
      static_cast<unsigned long long>(plan->workspace_bytes()), probe::parts_json(parts).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("attention probe");
  Options o;
  app.require_subcommand(1);
  CLI::App* const run = app.add_subcommand("forward");
  run->add_option("input", o.input)->required();
  run->add_option("output", o.output)->required();
  CLI::App* const time = app.add_subcommand("bench");
  o.config.heads = 1;
  o.config.query_tokens = o.config.key_tokens = 4096;
  o.config.head_dim = 128;
  time->add_option("--heads", o.config.heads);
  time->add_option("--query-tokens", o.config.query_tokens);
  time->add_option("--key-tokens", o.config.key_tokens);
  time->add_option("--dim", o.config.head_dim);
  time->add_option("--repeats", o.repeats);
  time->add_option("--dtype", o.dtype);
  time->add_flag("--route", o.route, "only choose the blocks");
  for (CLI::App* const sub : {run, time}) {
    sub->add_option("--mode", o.mode);
    sub->add_option("--mix", o.mix);
    sub->add_option("--isa", o.isa);
    sub->add_option("--products", o.products, "f32 or bf16");
    sub->add_option("--bits", o.config.bits);
    sub->add_option("--threads", o.threads);
    sub->add_option("--sparsity", o.config.sparsity);
    sub->add_option("--scale", o.config.softmax_scale);
    sub->add_option("--block-q", o.config.block_q);
    sub->add_option("--block-k", o.config.block_k);
    sub->add_option("--smooth-k", o.config.smooth_k);
    sub->add_option("--mix-scale", o.config.mix_scale);
    sub->add_option("--mix-bias", o.config.mix_bias);
  }
  CLI11_PARSE(app, argc, argv);
  try {
    run->parsed() ? forward(o) : bench(o);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
