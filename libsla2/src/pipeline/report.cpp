// SPDX-License-Identifier: Apache-2.0
// The run report.
#include "pipeline/report.h"

#include "pipeline/loras.h"
#include "pipeline/router_pack.h"

namespace sla2::pipeline {

namespace {

using nlohmann::ordered_json;
constexpr int kReportVersion = 1;

ordered_json layer_list(const RunRecord& record) {
  ordered_json layers = ordered_json::array();
  for (size_t i = 0; i < record.layers.size(); ++i) {
    const LayerTotals& layer = record.layers[i];
    const double sparsity = layer.sparse_forwards > 0 ? layer.sparsity_sum / static_cast<double>(layer.sparse_forwards) : 0.0;
    layers.push_back({{"layer", i},
                      {"forwards", layer.forwards},
                      {"sparse_forwards", layer.sparse_forwards},
                      {"achieved_sparsity", sparsity},
                      {"attention_bits", layer.attention_bits},
                      {"attention_products", dtype_name(layer.attention_products)},
                      {"seconds", layer.seconds},
                      {"attention_seconds", layer.attention_seconds}});
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
    ++to.forwards;
    to.attention_bits = from.attention.bits_used;
    to.attention_products = from.attention.products_used;
    if (from.attention.mode_used != attention::Mode::kFull) {
      ++to.sparse_forwards;
      to.sparsity_sum += from.attention.achieved_sparsity;
    }
  }
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
  root["machine"] = {{"cpu", cpu_name()},
                     {"isa", isa_name(active_isa())},
                     {"threads", settings.threads > 0 ? settings.threads : physical_threads()}};
  return root.dump(2, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace sla2::pipeline
