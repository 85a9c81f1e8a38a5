// SPDX-License-Identifier: Apache-2.0
#include "runner.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <sla2/generate.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "errors.h"
#include "params.h"

namespace py = pybind11;

namespace sla2::python {
namespace {

constexpr std::chrono::milliseconds kSignalInterval{100};  // how long Ctrl-C may wait

class Model {
 public:
  Model(const std::string& path, const py::dict& values) {
    const Params params = make_params(values);
    sla2_status status = SLA2_OK;
    std::string text;
    {
      const py::gil_scoped_release release;
      status = sla2_model_open(path.c_str(), params.get(), &handle_);
      if (status != SLA2_OK) text = sla2_last_error();
    }
    if (status != SLA2_OK) raise(status, text);
  }
  ~Model() { sla2_model_close(handle_); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  [[nodiscard]] std::string describe() const {
    return read_text([&](char* buffer, uint64_t capacity) { return sla2_model_describe(handle_, buffer, capacity); });
  }
  [[nodiscard]] sla2_model* get() const { return handle_; }

 private:
  sla2_model* handle_ = nullptr;
};

struct Pictures {
  int32_t first = 0, count = 0, total = 0, width = 0, height = 0, step = 0;
  double fps = 0;
  std::vector<uint8_t> rgb;  // packed rows
};

struct Progress {
  int32_t phase = 0, step = 0, steps = 0;
  double fraction = 0, elapsed = 0, left = 0;
  std::string message;
};

struct Event {
  enum class Kind : uint8_t { kProgress, kPreview, kFrames } kind = Kind::kProgress;
  Progress progress;
  Pictures pictures;
};

Pictures copy_pictures(const sla2_frames& frames, int32_t step) {
  Pictures p{frames.first, frames.count, frames.total, frames.width, frames.height, step, frames.fps, {}};
  const auto row = static_cast<size_t>(frames.width) * 3;
  p.rgb.resize(row * static_cast<size_t>(frames.height) * static_cast<size_t>(frames.count));
  for (size_t y = 0; y < p.rgb.size() / row; ++y)
    std::memcpy(p.rgb.data() + y * row, frames.rgb + static_cast<int64_t>(y) * frames.row_bytes, row);
  return p;
}

/// What the job's thread leaves and Python's thread takes.
class Mailbox {
 public:
  void put(Event event) {
    const std::lock_guard lock(mutex_);
    // Frames are never dropped. Of progress and previews only the newest matters to a slow reader, but a message is for people.
    if (!events_.empty() && event.kind != Event::Kind::kFrames && events_.back().kind == event.kind &&
        events_.back().progress.message.empty())
      events_.back() = std::move(event);
    else
      events_.push_back(std::move(event));
    ready_.notify_one();
  }
  void end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    ready_.notify_all();
  }
  /// false: nothing came in this time. `event` stays empty at the end.
  bool take(std::optional<Event>& event) {
    std::unique_lock lock(mutex_);
    if (!ready_.wait_for(lock, kSignalInterval, [&] { return ended_ || !events_.empty(); })) return false;
    if (!events_.empty()) {
      event = std::move(events_.front());
      events_.pop_front();
    }
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Event> events_;
  bool ended_ = false;
};

void on_progress(void* user, const sla2_progress* p) noexcept {
  Event event;
  event.progress = {p->phase, p->step, p->steps, p->fraction, p->seconds_elapsed, p->seconds_left, p->message};
  static_cast<Mailbox*>(user)->put(std::move(event));
}
void on_preview(void* user, const sla2_frames* frames, int32_t step) noexcept {
  static_cast<Mailbox*>(user)->put({Event::Kind::kPreview, {}, copy_pictures(*frames, step)});
}
sla2_status on_frames(void* user, const sla2_frames* frames) noexcept {
  try {
    static_cast<Mailbox*>(user)->put({Event::Kind::kFrames, {}, copy_pictures(*frames, 0)});
  } catch (const std::bad_alloc&) {
    return SLA2_E_MEMORY;
  }
  return SLA2_OK;
}

py::array to_array(Pictures pictures) {
  auto* const rgb = new std::vector<uint8_t>(std::move(pictures.rgb));
  const py::capsule owner(rgb, [](void* p) { delete static_cast<std::vector<uint8_t>*>(p); });
  return py::array(py::dtype::of<uint8_t>(), {pictures.count, pictures.height, pictures.width, 3}, rgb->data(), owner);
}

const char* phase_name(int32_t phase) {
  constexpr const char* kNames[] = {"", "load", "text", "sample", "decode", "done"};
  return phase >= SLA2_PHASE_LOAD && phase <= SLA2_PHASE_DONE ? kNames[phase] : "";
}

class Job {
 public:
  Job(std::shared_ptr<Model> model, const py::dict& values, const std::optional<std::string>& checkpoint, bool previews)
      : model_(std::move(model)) {
    const Params params = make_params(values);
    sla2_job_callbacks callbacks;
    require(sla2_job_callbacks_init(&callbacks, sizeof callbacks));
    callbacks.user = &mailbox_;
    callbacks.on_progress = on_progress;
    callbacks.on_frames = on_frames;
    if (previews) callbacks.on_preview = on_preview;
    sla2_status status = SLA2_OK;
    std::string text;
    {
      const py::gil_scoped_release release;
      status = checkpoint ? sla2_job_resume(model_->get(), checkpoint->c_str(), values.empty() ? nullptr : params.get(),
                                            &callbacks, &handle_)
                          : sla2_job_create(model_->get(), params.get(), &callbacks, &handle_);
      if (status != SLA2_OK) text = sla2_last_error();
    }
    if (status != SLA2_OK) raise(status, text);
    // Every end, good or bad, is seen by a thread that waits for it.
    waiter_ = std::thread([this] {
      status_ = sla2_job_wait(handle_);
      if (status_ != SLA2_OK) text_ = sla2_last_error();
      mailbox_.end();
    });
  }
  ~Job() {
    const py::gil_scoped_release release;
    sla2_job_cancel(handle_);
    if (waiter_.joinable()) waiter_.join();
    sla2_job_destroy(handle_);
  }
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// ("progress", dict) | ("preview", step, array) | ("frames", first, array) | None at the end; raises what stopped the job.
  py::object next() {
    std::optional<Event> event;
    for (bool came = false; !came;) {
      {
        const py::gil_scoped_release release;
        came = mailbox_.take(event);
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    if (!event) {
      finish();
      return py::none();
    }
    switch (event->kind) {
      case Event::Kind::kPreview: return py::make_tuple("preview", event->pictures.step, to_array(std::move(event->pictures)));
      case Event::Kind::kFrames: return py::make_tuple("frames", event->pictures.first, to_array(std::move(event->pictures)));
      default: break;
    }
    const Progress& p = event->progress;
    py::dict row;
    row["phase"] = phase_name(p.phase);
    row["step"] = p.step;
    row["steps"] = p.steps;
    row["fraction"] = p.fraction;
    row["seconds_elapsed"] = p.elapsed;
    row["seconds_left"] = p.left < 0 ? py::object(py::none()) : py::object(py::float_(p.left));
    row["message"] = p.message;
    return py::make_tuple("progress", row);
  }
  void cancel() { sla2_job_cancel(handle_); }
  void request_checkpoint() { sla2_job_request_checkpoint(handle_); }
  [[nodiscard]] std::string report() const {
    return read_text([&](char* buffer, uint64_t capacity) { return sla2_job_report(handle_, buffer, capacity); });
  }
  [[nodiscard]] std::string memory_plan() const {
    return read_text([&](char* buffer, uint64_t capacity) { return sla2_job_memory_plan(handle_, buffer, capacity); });
  }

 private:
  void finish() {
    {
      const py::gil_scoped_release release;
      if (waiter_.joinable()) waiter_.join();
    }
    if (status_ != SLA2_OK) raise(status_, text_);
  }

  std::shared_ptr<Model> model_;
  Mailbox mailbox_;
  sla2_job* handle_ = nullptr;
  std::thread waiter_;
  sla2_status status_ = SLA2_OK;
  std::string text_;
};

std::string file_info(const std::string& path) {
  return read_text([&](char* buffer, uint64_t capacity) {
    uint64_t needed = 0;
    require(sla2_file_info(path.c_str(), buffer, capacity, &needed));
    return needed;
  });
}

}  // namespace

void define_runner(py::module_& m) {
  py::class_<Model, std::shared_ptr<Model>>(m, "Model")
      .def(py::init<const std::string&, const py::dict&>(), py::arg("path"), py::arg("values"))
      .def("describe", &Model::describe);
  py::class_<Job>(m, "Job")
      .def(py::init<std::shared_ptr<Model>, const py::dict&, const std::optional<std::string>&, bool>(), py::arg("model"),
           py::arg("values"), py::arg("checkpoint"), py::arg("previews"))
      .def("next", &Job::next)
      .def("cancel", &Job::cancel)
      .def("request_checkpoint", &Job::request_checkpoint)
      .def("report", &Job::report)
      .def("memory_plan", &Job::memory_plan);
  m.def("file_info", &file_info, py::arg("path"));
  m.def("params", &describe_params);
  m.def("system_info",
        [] { return read_text([](char* buffer, uint64_t capacity) { return sla2_system_info(buffer, capacity); }); });
  m.def("checkpoint_params", [](const std::string& path) {
    sla2_params* made = nullptr;
    require(sla2_checkpoint_params(path.c_str(), &made));
    const Params params(made);
    return read_text([&](char* buffer, uint64_t capacity) { return sla2_params_to_json(params.get(), buffer, capacity); });
  });
  m.def("version", [] { return std::string(sla2_version()); });
}

}  // namespace sla2::python
