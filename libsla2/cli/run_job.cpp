// SPDX-License-Identifier: Apache-2.0
#include "run_job.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <exception>
#include <future>
#include <nlohmann/json.hpp>

#include "clip_metadata.h"
#include "resume_note.h"

namespace sla2::cli {

namespace {

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

  /// What the first frame waits for: title and metadata, known once the job exists.
  void set_texts(std::string title, std::string metadata) { texts_.set_value({std::move(title), std::move(metadata)}); }
  [[nodiscard]] std::exception_ptr failure() const { return failure_; }  ///< after the job ended
  [[nodiscard]] int frames() const { return next_; }
  [[nodiscard]] bool complete() const { return next_ > 0 && next_ == total_; }

 private:
  static Bridge& self(void* user) { return *static_cast<Bridge*>(user); }

  sla2_status take(const sla2_frames& frames) noexcept {
    try {
      if (next_ == 0) {
        const auto [title, metadata] = texts_.get_future().get();
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
  std::promise<std::pair<std::string, std::string>> texts_;
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

std::string report_with_outputs(const std::string& report, const Outputs& outputs) {
  nlohmann::ordered_json object = nlohmann::ordered_json::parse(report, nullptr, false);
  if (!object.is_object()) return report;
  for (const WrittenFile& file : outputs.written()) object["outputs"].push_back({{"path", file.path}, {"encoder", file.encoder}});
  return object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
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

/// Says which LoRA files are not those of the run that is repeated. The library reads their digests when the job starts.
void tell_changed_loras(const std::vector<std::string>& expected, const std::string& report, JobObserver& observer) {
  if (expected.empty()) return;
  const auto told = nlohmann::json::parse(report, nullptr, false);
  if (!told.is_object() || !told.contains("lora") || !told["lora"].is_array()) return;
  for (size_t i = 0; i < std::min(expected.size(), told["lora"].size()); ++i) {
    const auto& lora = told["lora"][i];
    if (expected[i].empty() || lora.value("digest", "") == expected[i]) continue;
    observer.on_note(
        fmt::format("WARNING: --from: {} is not the LoRA that the run was made with (digest {}, now {}): the clip will differ",
                    lora.value("path", ""), expected[i], lora.value("digest", "")));
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
  Outputs outputs(request.plan);  // first: an unwritable target is found before anything is loaded
  std::unique_ptr<TempFile> report_file;
  if (!request.plan.report.empty()) report_file = std::make_unique<TempFile>(request.plan.report);
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
  JobResult result;
  sla2_status status = SLA2_OK;
  {
    const Attached attached(cancel, job.get());
    std::exception_ptr trouble;
    try {
      const std::string early =
          text_of([&](char* buffer, uint64_t capacity) { return sla2_job_report(job.get(), buffer, capacity); });
      outputs.check_room(clip_pixels(early, request.params.get()));
      tell_changed_loras(request.lora_digests, early, observer);
      bridge.set_texts(param_text(request.params.get(), "prompt"), make_metadata(request.params.get(), early));
    } catch (...) {
      trouble = std::current_exception();
      bridge.set_texts("", "");  // so that a waiting frame does not wait for ever
      sla2_job_cancel(job.get());
    }
    status = sla2_job_wait(job.get());
    if (trouble) std::rethrow_exception(trouble);
  }
  try {
    if (bridge.failure()) std::rethrow_exception(bridge.failure());
    require(status);
    if (bridge.complete())
      outputs.finish();
    else if (!outputs.written().empty())
      fail(SLA2_E_INTERNAL, "the job ended after {} frames without saying why", bridge.frames());
    result.report = text_of([&](char* buffer, uint64_t capacity) { return sla2_job_report(job.get(), buffer, capacity); });
    if (report_file) {
      const std::string text = report_with_outputs(result.report, outputs);
      report_file->write({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
      report_file->commit();
    }
  } catch (...) {
    forget_note();
    throw;
  }
  result.written = outputs.written();
  result.report_path = request.plan.report;
  result.frames = bridge.frames();
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
  if (percent != std::string::npos) first = first.substr(0, percent) + "frames";  // frame_%04d.png → frame_frames.sla2ckpt
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
