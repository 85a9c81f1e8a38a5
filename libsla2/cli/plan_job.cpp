// SPDX-License-Identifier: Apache-2.0
#include "plan_job.h"

#include <cstdio>
#include <future>
#include <nlohmann/json.hpp>

#include "json_events.h"
#include "report_file.h"

namespace sla2::cli {

namespace {

/// The plan is made when a job is created, and belongs to it. The job is stopped at the first it tells, before it reads a weight.
class Stopper {
 public:
  [[nodiscard]] sla2_job_callbacks callbacks() {
    sla2_job_callbacks calls;
    require(sla2_job_callbacks_init(&calls, sizeof calls));
    calls.user = this;
    calls.on_progress = [](void* user, const sla2_progress*) { static_cast<Stopper*>(user)->stop(); };
    return calls;
  }
  void set(sla2_job* job) { job_.set_value(job); }

 private:
  void stop() {
    if (!stopped_) sla2_job_cancel(job_.get_future().get());
    stopped_ = true;
  }
  std::promise<sla2_job*> job_;
  bool stopped_ = false;
};

}  // namespace

void print_plan(const JobRequest& request, bool as_json) {
  ModelCache models;
  sla2_model* const model = models.open(request.model, request.params.get());
  const Params params = copy_params(request.params.get());
  // A prompt that lies in the cache needs no encoder, and the next thing told would be the DiT's loading.
  for (const char* name : {"embedding_cache", "checkpoint", "latent_out"}) require(sla2_params_set_text(params.get(), name, ""));
  Stopper stopper;
  const sla2_job_callbacks calls = stopper.callbacks();
  sla2_job* created = nullptr;
  require(sla2_job_create(model, params.get(), &calls, &created));
  const Job job(created);
  stopper.set(created);
  const sla2_status status = sla2_job_wait(created);
  if (status != SLA2_E_CANCELLED) require(status == SLA2_OK ? SLA2_E_INTERNAL : status);
  const std::string text =
      text_of([&](char* buffer, uint64_t capacity) { return sla2_job_memory_plan(created, buffer, capacity); });
  if (!as_json) {
    for (const std::string& note : request.notes) std::fprintf(stderr, "sla2: %s\n", note.c_str());
    std::fputs(text.c_str(), stdout);
    return;
  }
  const auto report = nlohmann::json::parse(job_report(created));
  std::puts(event_line({{"type", "plan"},
                        {"text", text},
                        {"tokens", report.at("tokens")},
                        {"memory", report.at("memory")},
                        {"machine", report.at("machine")},
                        {"notes", report.at("fallbacks")}})
                .c_str());
}

}  // namespace sla2::cli
