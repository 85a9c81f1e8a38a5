// SPDX-License-Identifier: Apache-2.0
#include "run_job.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <exception>
#include <functional>
#include <future>
#include <new>
#include <nlohmann/json.hpp>

#include "clip_metadata.h"
#include "report_file.h"
#include "resume_note.h"

namespace sla2::cli {

namespace {

struct ClipTexts {
  std::string title, metadata;
};

/// Takes the job's callbacks; frames go to the outputs, and the first failure of an output stops the job.
class Bridge {
 public:
  Bridge(Outputs& outputs, FrameSink* tap, JobObserver& observer) : outputs_(outputs), tap_(tap), observer_(observer) {}

  [[nodiscard]] sla2_job_callbacks callbacks() {
    sla2_job_callbacks calls;
    require(sla2_job_callbacks_init(&calls, sizeof calls));
    calls.user = this;
    calls.on_progress = [](void* user, const sla2_progress* progress) { self(user).observer_.on_progress(*progress); };
    calls.on_preview = [](void* user, const sla2_frames* frames, int32_t step) {
      self(user).observer_.on_preview(*frames, step);
    };
    calls.on_frames = [](void* user, const sla2_frames* frames) { return self(user).take(*frames); };
    return calls;
  }

  /// What the first frame waits for: who tells title and metadata, known once the job exists. Called on the job's thread.
  void set_texts(std::function<ClipTexts()> texts) { texts_.set_value(std::move(texts)); }
  [[nodiscard]] std::exception_ptr failure() const { return failure_; }  ///< after the job ended
  [[nodiscard]] int frames() const { return next_; }
  [[nodiscard]] bool complete() const { return next_ > 0 && next_ == total_; }

 private:
  static Bridge& self(void* user) { return *static_cast<Bridge*>(user); }

  sla2_status take(const sla2_frames& frames) noexcept {
    try {
      if (next_ == 0) {
        const auto [title, metadata] = texts_.get_future().get()();
        total_ = frames.total;
        const ClipInfo clip{frames.width, frames.height, frames.total, frames.fps, title, metadata};
        if (tap_ != nullptr) tap_->begin(clip);
        outputs_.begin(clip);
      }
      if (frames.first != next_) fail(SLA2_E_INTERNAL, "frame {} arrived, expected frame {}", frames.first, next_);
      for (int32_t i = 0; i < frames.count; ++i, ++next_) {
        const Picture picture{frames.rgb + int64_t{i} * frames.height * frames.row_bytes, frames.row_bytes};
        if (tap_ != nullptr) tap_->add(picture);
        outputs_.add(picture);
      }
      return SLA2_OK;
    } catch (const CliError& error) {
      failure_ = std::current_exception();
      return error.status();
    } catch (...) {
      failure_ = std::current_exception();
      return SLA2_E_INTERNAL;
    }
  }

  Outputs& outputs_;
  FrameSink* tap_;
  JobObserver& observer_;
  std::promise<std::function<ClipTexts()>> texts_;
  std::exception_ptr failure_;
  int next_ = 0, total_ = 0;
};

/// Tells a checkpoint this run wrote from one that lay there before.
struct FileState {
  fs::file_time_type time{};
  bool exists = false;
  bool operator==(const FileState&) const = default;
};

FileState state_of(const std::string& path) {
  FileState state;
  std::error_code error;
  if (path.empty() || !fs::exists(path, error)) return state;
  state.time = fs::last_write_time(path, error);
  state.exists = true;
  return state;
}

Job start_job(const JobRequest& request, sla2_model* model, const sla2_job_callbacks& calls) {
  sla2_job* job = nullptr;
  require(request.resume ? sla2_job_resume(model, request.checkpoint.c_str(), request.changes.get(), &calls, &job)
                         : sla2_job_create(model, request.params.get(), &calls, &job));
  return Job(job);
}

/// Detaches before the job dies, whichever way the scope is left.
class Attached {
 public:
  Attached(CancelPoint& point, sla2_job* job) : point_(point) { point_.attach(job); }
  ~Attached() { point_.detach(); }
  Attached(const Attached&) = delete;
  Attached& operator=(const Attached&) = delete;

 private:
  CancelPoint& point_;
};

/// Of all frames, as the job has resolved them: user, then model, then table.
int64_t clip_pixels(const std::string& report, const sla2_params* params) {
  const auto told = nlohmann::json::parse(report, nullptr, false);
  int64_t pixels = 1;
  for (const char* name : {"width", "height", "frames"})
    pixels *= told.is_object() && told["settings"].contains(name) ? told["settings"][name].get<int64_t>()
                                                                  : std::stoll(param_text(params, name));
  return pixels;
}

void run_to_end(const JobRequest& request, JobObserver& observer, CancelPoint& cancel, ModelCache& models, Outputs& outputs,
                ReportFile& report_file) {
  if (!request.checkpoint.empty()) require(sla2_params_set_text(request.params.get(), "checkpoint", request.checkpoint.c_str()));
  sla2_model* model = models.open(request.model, request.params.get());

  Bridge bridge(outputs, request.tap, observer);
  const sla2_job_callbacks calls = bridge.callbacks();
  const FileState before = state_of(request.checkpoint);
  if (cancel.cancelled()) fail(SLA2_E_CANCELLED, "stopped before the first step");
  const std::string earlier_note = note_text(request.checkpoint);
  const auto forget_note = [&] {  // unless there is something to go on from
    const FileState now = state_of(request.checkpoint);
    if (!request.resume && (!now.exists || now == before)) put_note_back(request.checkpoint, earlier_note);
  };
  // Before the job, which writes its first checkpoint at once: whoever kills us finds both.
  if (!request.checkpoint.empty()) write_note(request.checkpoint, {request.plan, request.keep_checkpoint});
  Job job;
  try {
    job = start_job(request, model, calls);
  } catch (...) {
    forget_note();
    throw;
  }
  const Attached attached(cancel, job.get());
  std::exception_ptr trouble;
  try {
    const std::string early = job_report(job.get());
    outputs.check_room(clip_pixels(early, request.params.get()));
    for (const std::string& told : differences(request.earlier, early)) observer.on_note(told);
    bridge.set_texts([&] {
      return ClipTexts{param_text(request.params.get(), "prompt"), make_metadata(request.params.get(), job_report(job.get()))};
    });
  } catch (...) {
    trouble = std::current_exception();
    bridge.set_texts([] { return ClipTexts{}; });  // so that a waiting frame does not wait for ever
    sla2_job_cancel(job.get());
  }
  const sla2_status status = sla2_job_wait(job.get());
  const std::string words = status == SLA2_OK ? "" : sla2_last_error();
  report_file.take(job_report(job.get()));
  if (trouble) std::rethrow_exception(trouble);
  try {
    if (bridge.failure()) std::rethrow_exception(bridge.failure());
    if (status != SLA2_OK) throw CliError(status, words);
    if (bridge.complete())
      outputs.finish();
    else if (!outputs.written().empty())
      fail(SLA2_E_INTERNAL, "the job ended after {} frames without saying why", bridge.frames());
    report_file.write(outputs);
  } catch (...) {
    forget_note();
    throw;
  }
}

}  // namespace

void CancelPoint::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (job_ != nullptr) sla2_job_cancel(job_);
}

void CancelPoint::attach(sla2_job* job) {
  const std::lock_guard lock(mutex_);
  job_ = job;
  if (cancelled_) sla2_job_cancel(job_);
}

void CancelPoint::detach() {
  const std::lock_guard lock(mutex_);
  job_ = nullptr;
}

bool CancelPoint::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

sla2_model* ModelCache::open(const std::string& path, const sla2_params* params) {
  const Params chosen = model_params(params);
  const std::string key = path + "\n" + params_json(chosen.get());
  if (model_ && key == key_) return model_.get();
  model_.reset();  // the old one's memory first
  sla2_model* model = nullptr;
  require(sla2_model_open(path.c_str(), chosen.get(), &model));
  model_.reset(model);
  key_ = key;
  return model;
}

JobResult run_job(const JobRequest& request, JobObserver& observer, CancelPoint& cancel, ModelCache& models) {
  const auto started = std::chrono::steady_clock::now();
  for (const std::string& note : request.notes) observer.on_note(note);
  Outputs outputs(request.plan);  // first: an unwritable target is found before anything is loaded
  ReportFile report_file(request.plan.report);
  JobResult result;
  try {
    run_to_end(request, observer, cancel, models, outputs, report_file);
  } catch (const CliError& error) {
    report_file.write_failure(error.status(), error.what());
    throw;
  } catch (const std::bad_alloc&) {
    report_file.write_failure(SLA2_E_MEMORY, "out of memory");
    throw;
  } catch (const std::exception& error) {
    report_file.write_failure(SLA2_E_INTERNAL, error.what());
    throw;
  }
  result.report = report_file.job_report();
  result.written = outputs.written();
  result.report_path = request.plan.report;
  result.frames = nlohmann::json::parse(result.report).value("frames", 0);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  if (!request.checkpoint.empty()) {
    std::error_code ignored;
    fs::remove(note_path(request.checkpoint), ignored);
    if (!request.keep_checkpoint) fs::remove(request.checkpoint, ignored);
  }
  return result;
}

std::string default_checkpoint(const OutputPlan& plan) {
  std::string first = !plan.outputs.empty() ? plan.outputs.front() : plan.sheet;
  while (first.size() > 1 && first.ends_with('/')) first.pop_back();
  const size_t percent = first.find('%', first.rfind('/') == std::string::npos ? 0 : first.rfind('/'));
  if (percent != std::string::npos) {
    // frame_%04d.png → frame_frames.sla2ckpt; beside a folder that the frames are to make, where nothing may lie before them
    const fs::path folder = fs::path(first).parent_path();
    const bool made = !folder.empty() && !fs::exists(folder);
    first = made ? folder.string() : first.substr(0, percent) + "frames";
  }
  return first.empty() ? "" : first + ".sla2ckpt";
}

std::string shell_quoted(const std::string& word) {
  constexpr std::string_view kPlain = "_-./=:,+@%";
  const auto plain = [&](unsigned char c) {
    return std::isalnum(c) || c >= 0x80 || kPlain.find(static_cast<char>(c)) != kPlain.npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string resume_command(const std::string& checkpoint) {
  std::error_code error;
  // The note goes with every checkpoint of a stopped run; a checkpoint without it is somebody else's or an old one.
  if (checkpoint.empty() || !fs::exists(checkpoint, error) || !fs::exists(note_path(checkpoint), error)) return {};
  return "sla2 resume " + shell_quoted(checkpoint);
}

}  // namespace sla2::cli
