// SPDX-License-Identifier: Apache-2.0
// The run report.
#include "pipeline/report.h"

#include <algorithm>

#include "pipeline/loras.h"
#include "pipeline/router_pack.h"

namespace sla2::pipeline {

namespace {

using nlohmann::ordered_json;
constexpr int kReportVersion = 1;

ordered_json probe_json(const ProbeTotals& probe) {
  if (probe.calls == 0) return nullptr;
  const auto calls = static_cast<double>(probe.calls);
  return {{"calls", probe.calls},
          {"relative_l1", probe.l1_sum / calls},
          {"cosine", probe.cosine_sum / calls},
          {"worst_relative_l1", probe.worst_l1}};
}

/// What was asked of sparse layers, and what came of it over all of them.
ordered_json attention_report(const Settings& settings, const RunRecord& record) {
  ProbeTotals probe;
  std::map<std::string, int64_t> modes;
  for (const LayerTotals& layer : record.layers) {
    probe.calls += layer.probe.calls;
    probe.l1_sum += layer.probe.l1_sum;
    probe.cosine_sum += layer.probe.cosine_sum;
    probe.worst_l1 = std::max(probe.worst_l1, layer.probe.worst_l1);
    for (const auto& [mode, forwards] : layer.modes) modes[mode] += forwards;
  }
  const AttentionTotals& totals = record.attention;
  return {{"asked", mode_word(settings.attention.mode)},
          {"router", settings.values.text("router")},
          {"forwards", totals.forwards},
          {"sparse_forwards", totals.sparse_forwards},
          {"achieved_sparsity", totals.achieved_sparsity()},
          {"modes", modes},
          {"probe", probe_json(probe)}};
}

ordered_json layer_list(const RunRecord& record) {
  ordered_json layers = ordered_json::array();
  for (size_t i = 0; i < record.layers.size(); ++i) {
    const LayerTotals& layer = record.layers[i];
    ordered_json modes = ordered_json::object();
    for (const auto& [mode, forwards] : layer.modes) modes[mode] = forwards;
    layers.push_back({{"layer", i},
                      {"forwards", layer.attention.forwards},
                      {"sparse_forwards", layer.attention.sparse_forwards},
                      {"achieved_sparsity", layer.attention.achieved_sparsity()},
                      {"modes", modes},
                      {"attention_bits", layer.attention_bits},
                      {"attention_products", dtype_name(layer.attention_products)},
                      {"seconds", layer.seconds},
                      {"attention_seconds", layer.attention_seconds},
                      {"probe", probe_json(layer.probe)}});
  }
  return layers;
}

ordered_json linear_bits(const ModelParts& model, const Settings& settings) {
  dit::Options options;
  options.precision = settings.precision;
  options.linear_bits = settings.linear_bits;
  const dit::LinearBits bits = dit::linear_bits(model.dit_config, options);
  return {{"weight_bits", bits.weights}, {"activation_bits", bits.activations}, {"not_in_8_bits", bits.full}};
}

}  // namespace

void RunRecord::add(const dit::ForwardReport& report) {
  layers.resize(std::max(layers.size(), report.layers.size()));
  for (size_t i = 0; i < report.layers.size(); ++i) {
    const dit::LayerReport& from = report.layers[i];
    LayerTotals& to = layers[i];
    to.seconds += from.seconds;
    to.attention_seconds += from.attention_seconds;
    to.attention.add(from.attention);
    to.attention_bits = from.attention.bits_used;
    to.attention_products = from.attention.products_used;
    ++to.modes[std::string(mode_word(from.attention.mode_used))];
    if (from.probe.fraction > 0) {
      ++to.probe.calls;
      to.probe.l1_sum += from.probe.relative_l1;
      to.probe.cosine_sum += from.probe.cosine;
      to.probe.worst_l1 = std::max(to.probe.worst_l1, from.probe.relative_l1);
    }
  }
}

ordered_json resolved_precision(const Settings& settings) {
  // The VAE's bf16 is only where it is asked for (vae/decoder.cpp), and on GPUs.
  const bool dit = settings.dit_on_gpu || dit::resolved(settings.precision) == dit::Precision::kBf16;
  const bool vae = settings.vae_on_gpu || settings.vae_precision == vae::Precision::kBf16;
  const auto word = [](bool bf16) { return bf16 ? "bf16" : "fp32"; };
  return {{"dit", word(dit)}, {"vae", word(vae)}};
}

ordered_json machine_facts(const Settings& settings) {
  return {{"cpu", cpu_name()}, {"isa", isa_name(active_isa())}, {"precision", resolved_precision(settings)}};
}

std::string report_json(const ModelParts& model, const Settings& settings, const MemoryPlanSummary& plan,
                        const RunRecord& record) {
  ordered_json root;
  root["format"] = "sla2.report";
  root["version"] = kReportVersion;
  root["library"] = fmt::format("{}.{}.{}", SLA2_VERSION_MAJOR, SLA2_VERSION_MINOR, SLA2_VERSION_PATCH);
  root["finished"] = record.finished;
  root["status"] = record.status;
  root["error"] = record.error;
  root["model"] = {{"name", model.name},
                   {"path", model.path},
                   {"digests", {{"dit", model.dit_digest}, {"vae", model.vae_digest}, {"text_encoder", model.encoder_digest}}}};
  root["settings"] = ordered_json::parse(settings.values.to_json());
  root["prompt_cleaned"] = settings.prompt;
  root["negative_prompt_cleaned"] = settings.guided() ? settings.negative : std::string();
  root["prompt_tokens"] = record.prompt_tokens;
  root["prompt_tokens_dropped"] = record.prompt_dropped;
  root["negative_prompt_tokens"] = record.negative_tokens;
  root["negative_prompt_tokens_dropped"] = record.negative_dropped;
  root["embedding_from_cache"] = record.embedding_from_cache;
  root["grid"] = settings.schedule.grid;
  root["sigmas"] = settings.schedule.sigmas;
  root["timesteps"] = settings.schedule.timesteps;
  root["tokens"] = settings.grid.tokens();
  root["resumed_from_step"] = record.resumed_from < 0 ? ordered_json(nullptr) : ordered_json(record.resumed_from);
  root["steps_done"] = record.steps_done;
  root["frames"] = record.frames;
  root["seconds"] = {{"load", record.load_seconds},
                     {"text", record.text_seconds},
                     {"sample", record.sample_seconds},
                     {"decode", record.decode_seconds},
                     {"total", record.total_seconds}};
  root["step_seconds"] = record.step_seconds;
  root["attention"] = attention_report(settings, record);
  root["layers"] = layer_list(record);
  root["lora"] = lora_report(settings);
  root["pack"] = pack_report(model, settings);
  root["linears"] = linear_bits(model, settings);
  root["device"] = {{"gpu", settings.gpu == nullptr ? ordered_json(nullptr) : ordered_json(settings.gpu->info().name)},
                    {"dit", record.dit_where},
                    {"products", record.products},
                    {"text_encoder", record.text_where},
                    {"text_planned_bytes", plan.text_encoder.planned_bytes},
                    {"vae", record.vae_where},
                    {"vae_products", record.vae_products},
                    {"planned_bytes", plan.gpu.planned_bytes},
                    {"free_bytes", plan.gpu.free_bytes},
                    {"vae_planned_bytes", plan.decode.planned_bytes}};
  root["fallbacks"] = record.fallbacks;
  root["memory"] = {{"planned_bytes", plan.peak_bytes()},        {"planned_text_bytes", plan.text_bytes},
                    {"planned_sample_bytes", plan.sample_bytes}, {"planned_decode_bytes", plan.decode_bytes},
                    {"limit_bytes", plan.limit_bytes},           {"peak_resident_bytes", peak_resident_bytes()}};
  root["machine"] = machine_facts(settings);
  if (record.use_fp32) root["machine"]["precision"]["dit"] = "fp32, after a NaN";
  root["machine"]["threads"] = settings.threads > 0 ? settings.threads : physical_threads();
  root["rng"] = "mt19937, as torch.randn on a CPU";
  return root.dump(2, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace sla2::pipeline
