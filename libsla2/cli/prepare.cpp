// SPDX-License-Identifier: Apache-2.0
#include "prepare.h"

#include "embedding_folder.h"
#include "resume_note.h"

namespace sla2::cli {

namespace {

void require_something_to_write(const JobRequest& request, const char* remedy) {
  const bool keeps_latent = !param_text(request.params.get(), "latent_out").empty();
  if (request.plan.outputs.empty() && request.plan.sheet.empty() && !keeps_latent)
    fail(SLA2_E_ARGUMENT, "nothing to write: {}", remedy);
}

}  // namespace

JobRequest prepare_generate(const SettingsSource& source, const OutputChoice& output) {
  Settings settings = gather_settings(source);
  JobRequest request;
  request.plan = output.plan;
  request.params = std::move(settings.params);
  request.model = settings.model;
  request.earlier = std::move(settings.earlier);
  request.notes = std::move(settings.notes);
  choose_embedding_folder(request.params.get(), output.no_embedding_cache);
  if (!output.only_plan)
    require_something_to_write(request, "add -o out.mp4 (or .webm, .gif, a folder for PNGs), --sheet sheet.png or --latent-out");
  if (param_text(request.params.get(), "prompt").empty()) fail(SLA2_E_ARGUMENT, "no prompt: add -p \"what the clip shows\"");
  request.checkpoint = param_text(request.params.get(), "checkpoint");
  request.keep_checkpoint = !request.checkpoint.empty() || output.keep_checkpoint;
  if (request.checkpoint.empty() && !output.no_checkpoint && !output.only_plan)
    request.checkpoint = default_checkpoint(request.plan);
  return request;
}

JobRequest prepare_resume(const ResumeSource& source, const OutputChoice& output) {
  const std::string& checkpoint = source.checkpoint;
  JobRequest request;
  request.resume = true;
  request.checkpoint = checkpoint;
  sla2_params* saved = nullptr;
  require(sla2_checkpoint_params(checkpoint.c_str(), &saved));
  request.params.reset(saved);
  request.changes = make_params();
  require(sla2_params_set_text(request.changes.get(), "checkpoint", checkpoint.c_str()));
  if (!source.threads.empty()) require(sla2_params_set_text(request.changes.get(), "threads", source.threads.c_str()));
  if (!source.pack.empty())
    require(sla2_params_set_text(request.changes.get(), "pack", fs::absolute(source.pack).lexically_normal().string().c_str()));
  if (output.no_embedding_cache) require(sla2_params_set_text(request.changes.get(), "embedding_cache", ""));
  for (const auto& [parameter, value] : {std::pair{"vae_tile", &source.vae_tile}, {"vae_precision", &source.vae_precision}})
    if (!value->empty()) require(sla2_params_set_text(request.changes.get(), parameter, value->c_str()));
  if (!source.lora.empty()) require(sla2_params_set_text(request.changes.get(), "lora", source.lora.c_str()));
  const std::string name = source.model.empty() ? param_text(request.params.get(), "model") : source.model;
  if (name.empty()) fail(SLA2_E_ARGUMENT, "{} does not say which model it belongs to; add -m MODEL", checkpoint);
  request.model = locate_model(name, "").string();
  request.plan = output.plan;
  const std::optional<ResumeNote> note = read_note(checkpoint);
  request.keep_checkpoint = output.keep_checkpoint || (note && note->keep_checkpoint);
  if (note) {
    if (request.plan.outputs.empty() && request.plan.sheet.empty()) {
      request.plan.outputs = note->plan.outputs;
      request.plan.sheet = note->plan.sheet;
      request.plan.quality = note->plan.quality;
    }
    if (request.plan.report.empty()) request.plan.report = note->plan.report;
  }
  require_something_to_write(request, "the note beside the checkpoint is missing; add -o out.mp4");
  return request;
}

}  // namespace sla2::cli
