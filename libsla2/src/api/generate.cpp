// SPDX-License-Identifier: Apache-2.0
// generate.h: models, jobs, checkpoints and file information for C.
#include <sla2/generate.h>

#include <atomic>
#include <memory>

#include "api/guard.h"
#include "api/handles.h"
#include "api/struct_size.h"
#include "pipeline/pipeline.h"

struct sla2_model {
  std::shared_ptr<const sla2::pipeline::Model> model;
  std::atomic<int64_t> references{1};
};

struct sla2_job {
  std::unique_ptr<sla2::pipeline::Job> job;
};

namespace {

using sla2::api::guard;
using sla2::api::guard_text;
using sla2::api::required;
namespace pipeline = sla2::pipeline;

constexpr const char* kCallbacksName = "sla2_job_callbacks";
constexpr int64_t kRgbChannels = 3;

static_assert(SLA2_PHASE_LOAD == static_cast<int>(pipeline::Phase::kLoad));
static_assert(SLA2_PHASE_TEXT == static_cast<int>(pipeline::Phase::kText));
static_assert(SLA2_PHASE_SAMPLE == static_cast<int>(pipeline::Phase::kSample));
static_assert(SLA2_PHASE_DECODE == static_cast<int>(pipeline::Phase::kDecode));
static_assert(SLA2_PHASE_DONE == static_cast<int>(pipeline::Phase::kDone));

sla2_frames c_frames(const pipeline::Frames& frames) {
  sla2_frames out{};
  out.struct_size = sizeof out;
  out.width = frames.width;
  out.height = frames.height;
  out.first = frames.first;
  out.count = frames.count;
  out.total = frames.total;
  out.rgb = frames.rgb;
  out.row_bytes = kRgbChannels * frames.width;
  out.fps = frames.fps;
  return out;
}

/// The caller's C callbacks as the pipeline's; the struct is copied, `user` is not touched here.
pipeline::Callbacks wrap_callbacks(const sla2_job_callbacks* given) {
  pipeline::Callbacks callbacks;
  if (given == nullptr) return callbacks;
  const sla2_job_callbacks c = sla2::api::read_struct(given, sla2_job_callbacks{}, kCallbacksName);
  SLA2_CHECK(c.reserved == 0, SLA2_E_VERSION, "{}: `reserved` is {}; expected 0", kCallbacksName, c.reserved);
  if (c.on_progress != nullptr) {
    callbacks.on_progress = [c](const pipeline::Progress& progress) {
      sla2_progress out{};
      out.struct_size = sizeof out;
      out.phase = static_cast<int32_t>(progress.phase);
      out.step = progress.step;
      out.steps = progress.steps;
      out.fraction = progress.fraction;
      out.seconds_elapsed = progress.elapsed;
      out.seconds_left = progress.left;
      out.message = progress.message.c_str();
      c.on_progress(c.user, &out);
    };
  }
  if (c.on_preview != nullptr) {
    callbacks.on_preview = [c](const pipeline::Frames& frames, int step) {
      const sla2_frames out = c_frames(frames);
      c.on_preview(c.user, &out, step);
    };
  }
  if (c.on_frames != nullptr) {
    callbacks.on_frames = [c](const pipeline::Frames& frames) {
      const sla2_frames out = c_frames(frames);
      return c.on_frames(c.user, &out);
    };
  }
  return callbacks;
}

sla2::config::ParamSet values_of(const sla2_params* params) {
  return params == nullptr ? sla2::config::ParamSet{} : params->values;
}

/// Hand a new handle to the caller through the last argument; on any throw before, *target is untouched.
template <typename Handle>
void give(std::unique_ptr<Handle> handle, Handle*& target) {
  target = handle.release();
}

}  // namespace

extern "C" {

sla2_status sla2_file_info(const char* path, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] {
    const std::string json = pipeline::file_info(&required(path, "sla2_file_info", "path"));
    const uint64_t bytes = sla2::api::copy_text(json, buffer, capacity);
    if (needed != nullptr) *needed = bytes;
  });
}

sla2_status sla2_model_open(const char* path, const sla2_params* params, sla2_model** model) {
  return guard([&] {
    sla2_model*& target = required(model, "sla2_model_open", "model");
    auto handle = std::make_unique<sla2_model>();
    handle->model = pipeline::Model::open(&required(path, "sla2_model_open", "path"), values_of(params));
    give(std::move(handle), target);
  });
}

void sla2_model_retain(sla2_model* model) {
  if (model != nullptr) model->references.fetch_add(1, std::memory_order_relaxed);
}

void sla2_model_close(sla2_model* model) {
  if (model != nullptr && model->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete model;
}

uint64_t sla2_model_describe(const sla2_model* model, char* buffer, uint64_t capacity) {
  return guard_text(buffer, capacity, [&] { return required(model, "sla2_model_describe", "model").model->describe(); });
}

sla2_status sla2_job_callbacks_init(sla2_job_callbacks* callbacks, uint32_t size) {
  return guard([&] { sla2::api::init_struct(callbacks, size, sla2_job_callbacks{}, kCallbacksName); });
}

sla2_status sla2_job_create(sla2_model* model, const sla2_params* params, const sla2_job_callbacks* callbacks, sla2_job** job) {
  return guard([&] {
    sla2_job*& target = required(job, "sla2_job_create", "job");
    auto handle = std::make_unique<sla2_job>();
    handle->job =
        pipeline::Job::start(required(model, "sla2_job_create", "model").model, values_of(params), wrap_callbacks(callbacks));
    give(std::move(handle), target);
  });
}

sla2_status sla2_job_resume(sla2_model* model, const char* checkpoint, const sla2_params* params,
                            const sla2_job_callbacks* callbacks, sla2_job** job) {
  return guard([&] {
    sla2_job*& target = required(job, "sla2_job_resume", "job");
    auto handle = std::make_unique<sla2_job>();
    handle->job = pipeline::Job::resume(required(model, "sla2_job_resume", "model").model,
                                        &required(checkpoint, "sla2_job_resume", "checkpoint"), values_of(params),
                                        wrap_callbacks(callbacks));
    give(std::move(handle), target);
  });
}

sla2_status sla2_checkpoint_params(const char* checkpoint, sla2_params** params) {
  return guard([&] {
    sla2_params*& target = required(params, "sla2_checkpoint_params", "params");
    auto handle = std::make_unique<sla2_params>();
    handle->values = pipeline::checkpoint_params(&required(checkpoint, "sla2_checkpoint_params", "checkpoint"));
    give(std::move(handle), target);
  });
}

void sla2_job_cancel(sla2_job* job) {
  if (job != nullptr) job->job->cancel();
}

void sla2_job_request_checkpoint(sla2_job* job) {
  if (job != nullptr) job->job->request_checkpoint();
}

sla2_status sla2_job_wait(sla2_job* job) {
  return guard([&] {
    pipeline::Job& handle = *required(job, "sla2_job_wait", "job").job;
    SLA2_CHECK(!handle.runs_here(), SLA2_E_STATE,
               "sla2_job_wait: called in a callback of the job itself; expected another thread. Return, and wait there");
    const pipeline::Outcome& outcome = handle.wait();
    if (outcome.status != SLA2_OK) sla2::fail(outcome.status, "{}", outcome.text);
  });
}

uint64_t sla2_job_report(const sla2_job* job, char* buffer, uint64_t capacity) {
  return guard_text(buffer, capacity, [&] { return required(job, "sla2_job_report", "job").job->report(); });
}

uint64_t sla2_job_memory_plan(const sla2_job* job, char* buffer, uint64_t capacity) {
  return guard_text(buffer, capacity, [&] { return required(job, "sla2_job_memory_plan", "job").job->memory_plan(); });
}

void sla2_job_destroy(sla2_job* job) {
  if (job != nullptr && job->job->runs_here()) return job->job->cancel();  // its own thread would wait for itself
  delete job;
}

}  // extern "C"
