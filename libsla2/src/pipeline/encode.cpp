// SPDX-License-Identifier: Apache-2.0
// Prompts to embeddings: from the cache, or all that are missing at once through the text encoder, on the GPU while its memory
// does. The diffusion transformer is not there yet, and the encoder is gone when this returns.
#include <chrono>

#include "pipeline/context.h"

namespace sla2::pipeline {

namespace {

struct Wanted {
  const std::string* cleaned;
  const std::vector<int32_t>* ids;
  text::Embedding* embedding;
};

/// @return whether the encoder was needed
bool encode_where(JobContext& job, ProgressMeter& meter, std::span<const Wanted> prompts, bool on_gpu) {
  const ModelParts& parts = job.parts();
  const text::EmbeddingCache cache(job.settings.embedding_cache);
  const std::string digest = text::embedding_digest(*parts.text_encoder, parts.encoder_digest, on_gpu);
  std::vector<Wanted> missing;
  std::vector<std::vector<int32_t>> ids;
  for (const Wanted& prompt : prompts) {
    text::Embedding& found = *prompt.embedding;
    if (cache.load(*prompt.cleaned, digest, &found) && found.tokens == static_cast<int64_t>(prompt.ids->size()) &&
        found.width == parts.encoder_config.d_model)
      continue;
    missing.push_back(prompt);
    ids.push_back(*prompt.ids);
  }
  if (missing.size() < prompts.size()) job.note([](RunRecord& r) { r.embedding_from_cache = true; });
  const auto total = static_cast<int>(prompts.size()), cached = total - static_cast<int>(missing.size());
  const auto report = [&](double part) {
    const double done = cached + part * static_cast<double>(missing.size());
    meter.report(Phase::kText, static_cast<int>(done), total, done / total);
  };
  report(0);
  if (missing.empty()) return false;
  const auto encoder = on_gpu ? text::Umt5Encoder::create_on(*job.settings.gpu, parts.text_encoder)
                              : text::Umt5Encoder::create(parts.text_encoder);
  std::vector<text::Embedding> embeddings = encoder->encode_all(ids, job.cancel, report);
  for (size_t i = 0; i < missing.size(); ++i) {
    cache.store(*missing[i].cleaned, digest, embeddings[i]);
    *missing[i].embedding = std::move(embeddings[i]);
  }
  return true;
}

}  // namespace

void encode_prompts(JobContext& job, ProgressMeter& meter) {
  if (job.state.encoded) return;  // resumed
  const auto start = std::chrono::steady_clock::now();
  std::vector<Wanted> prompts{{&job.settings.prompt, &job.ids, &job.state.positive}};
  if (job.settings.guided()) prompts.push_back({&job.settings.negative, &job.negative_ids, &job.state.negative});
  bool on_gpu = job.plan.text_encoder.on_gpu, needed = false;
  try {
    needed = encode_where(job, meter, prompts, on_gpu);
  } catch (const Error& error) {
    if (!on_gpu || error.status() != SLA2_E_MEMORY) throw;
    on_gpu = false;
    job.fall_back(meter, fmt::format("the text encoder on the GPU did not do ({}); next: the CPU", error.what()));
    needed = encode_where(job, meter, prompts, on_gpu);
  }
  job.state.encoded = true;
  job.note([&](RunRecord& r) {
    r.text_where = needed ? text_where(on_gpu) : "the cache";
    r.text_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  });
}

}  // namespace sla2::pipeline
