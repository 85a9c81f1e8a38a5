// SPDX-License-Identifier: Apache-2.0
// sla2 serve --stdio: the worker of the desktop app. Requests on standard input, events on standard output, one JSON object
// a line (docs/serve.md). Jobs run one after another on their own thread; everything else is answered at once.
#include <poll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <new>
#include <thread>

#include "clip_metadata.h"
#include "commands.h"
#include "json_events.h"
#include "prepare.h"
#include "reports.h"
#include "run_job.h"
#include "serve_protocol.h"
#include "signals.h"

namespace sla2::cli {

namespace {

using nlohmann::json;

constexpr size_t kReadSize = 65536;
constexpr size_t kMostQueued = 64;

/// Standard output, one event at a time from any thread.
class EventStream {
 public:
  void send(const json& id, json event) {
    event["id"] = id;
    const std::string line = event_line(event) + "\n";
    const std::lock_guard lock(mutex_);
    for (std::string_view rest = line; !rest.empty();) {
      const ssize_t done = ::write(STDOUT_FILENO, rest.data(), rest.size());
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) {
        broken_ = true;  // nobody listens any more; standard input will end as well
        return;
      }
      rest.remove_prefix(static_cast<size_t>(done));
    }
  }
  [[nodiscard]] bool broken() const { return broken_; }

 private:
  std::mutex mutex_;
  std::atomic<bool> broken_{false};
};

class JobEvents final : public JobObserver {
 public:
  JobEvents(EventStream& events, json id, bool previews) : events_(events), id_(std::move(id)), previews_(previews) {}
  void on_progress(const sla2_progress& progress) override { events_.send(id_, progress_event(progress)); }
  void on_preview(const sla2_frames& frames, int32_t step) override {
    if (previews_) events_.send(id_, preview_event(frames, step));
  }
  void on_note(const std::string& text) override { events_.send(id_, log_event(SLA2_LOG_INFO, text)); }

 private:
  EventStream& events_;
  json id_;
  bool previews_;
};

/// Jobs in order, on one thread.
class JobQueue {
 public:
  explicit JobQueue(EventStream& events) : events_(events), thread_([this] { work(); }) {}
  ~JobQueue() { stop(); }
  JobQueue(const JobQueue&) = delete;
  JobQueue& operator=(const JobQueue&) = delete;

  /// False if that id is already in use; throws ProtocolError where the queue is full.
  bool add(const json& id, JobOrder order) {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= kMostQueued) throw ProtocolError(id, fmt::format("{} jobs are waiting already", kMostQueued));
    if (id == running_id_) return false;
    for (const auto& entry : waiting_) {
      if (entry.id == id) return false;
    }
    events_.send(id, {{"type", "queued"}, {"before", waiting_.size() + (running_ ? 1 : 0)}});
    waiting_.push_back({id, std::move(order)});
    changed_.notify_all();
    return true;
  }

  /// False if no such job is waiting or running.
  bool cancel(const json& id) {
    const std::lock_guard lock(mutex_);
    if (running_ && running_id_ == id) {
      running_->cancel();
      return true;
    }
    for (auto entry = waiting_.begin(); entry != waiting_.end(); ++entry) {
      if (entry->id != id) continue;
      events_.send(id, error_event(SLA2_E_CANCELLED, "cancelled while it waited", ""));
      waiting_.erase(entry);
      return true;
    }
    return false;
  }

  /// Cancels everything and waits; the running job leaves its checkpoint.
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      for (const auto& entry : waiting_) events_.send(entry.id, error_event(SLA2_E_CANCELLED, "the worker ends", ""));
      waiting_.clear();
      if (running_) running_->cancel();
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  struct Entry {
    json id;
    JobOrder order;
  };

  void work() {
    for (;;) {
      Entry entry;
      CancelPoint cancel;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (stopping_) return;
        entry = std::move(waiting_.front());
        waiting_.pop_front();
        running_ = &cancel;
        running_id_ = entry.id;
      }
      run(entry, cancel);
      const std::lock_guard lock(mutex_);
      running_ = nullptr;
      running_id_ = nullptr;
    }
  }

  void run(const Entry& entry, CancelPoint& cancel) {
    std::string checkpoint = entry.order.checkpoint;
    JobEvents observer(events_, entry.id, entry.order.previews);
    try {
      events_.send(entry.id, {{"type", "started"}});
      const JobRequest request = prepare(entry.order);
      checkpoint = request.checkpoint;
      const JobResult result = run_job(request, observer, cancel, models_);
      events_.send(entry.id, done_event(result.written, result.report_path, result.seconds));
    } catch (const CliError& error) {
      events_.send(entry.id, error_event(error.status(), error.what(), resume_command(checkpoint)));
    } catch (const std::bad_alloc&) {
      events_.send(entry.id, error_event(SLA2_E_MEMORY, "out of memory; make the clip smaller", resume_command(checkpoint)));
    } catch (const std::exception& error) {
      events_.send(entry.id, error_event(SLA2_E_INTERNAL, error.what(), resume_command(checkpoint)));
    }
  }

  static JobRequest prepare(const JobOrder& order) {
    OutputChoice output;
    output.plan = {order.outputs, order.sheet, order.report, kDefaultQuality};
    output.keep_checkpoint = order.keep_checkpoint;
    if (order.quality) {
      if (*order.quality < 0 || *order.quality > kWorstQuality) {
        fail(SLA2_E_ARGUMENT, "quality = {} is out of range: expected 0 to {}", *order.quality, kWorstQuality);
      }
      output.plan.quality = static_cast<int>(*order.quality);
    }
    const auto text = [](const std::optional<int64_t>& number) { return number ? std::to_string(*number) : std::string(); };
    if (!order.checkpoint.empty())
      return prepare_resume(
          {order.checkpoint, order.model, order.pack, order.lora, text(order.threads), text(order.vae_tile), order.vae_precision},
          output);
    return prepare_generate({order.from, order.preset, order.values}, output);
  }

  EventStream& events_;
  ModelCache models_;  // the worker thread's
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> waiting_;
  CancelPoint* running_ = nullptr;
  json running_id_;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when everything else is there
};

json file_report(const std::string& path) {
  if (std::optional<json> clip = read_metadata(path)) return *clip;
  if (const std::string media = media_summary(path); !media.empty())
    return {{"path", path}, {"kind", "clip"}, {"summary", media}};
  return json::parse(text_of([&](char* buffer, uint64_t capacity) {
    uint64_t needed = 0;
    require(sla2_file_info(path.c_str(), buffer, capacity, &needed));
    return needed;
  }));
}

class Worker {
 public:
  Worker() : jobs_(events_) {
    sla2_log_set(
        [](void* user, int32_t level, const char* text) {
          if (level <= SLA2_LOG_WARNING) static_cast<EventStream*>(user)->send(nullptr, log_event(level, text));
        },
        &events_);
  }
  ~Worker() {
    jobs_.stop();
    sla2_log_set(nullptr, nullptr);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  ExitCode run(int stop_descriptor) {
    events_.send(nullptr,
                 {{"type", "hello"}, {"protocol", kProtocolVersion}, {"version", sla2_version()}, {"abi", sla2_abi_version()}});
    std::array<char, kReadSize> buffer{};
    while (!shutdown_ && !events_.broken()) {
      std::array<pollfd, 2> watched{pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{stop_descriptor, POLLIN, 0}};
      if (::poll(watched.data(), watched.size(), -1) < 0 && errno == EINTR) continue;
      if (watched[1].revents != 0) break;
      const ssize_t got = ::read(STDIN_FILENO, buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;  // the app is gone
      splitter_.feed({buffer.data(), static_cast<size_t>(got)});
      while (!shutdown_) {
        const auto line = splitter_.next();
        if (!line) break;
        handle(*line);
      }
    }
    jobs_.stop();
    return ExitCode::kOk;
  }

 private:
  void handle(const LineSplitter::Line& line) {
    json id;
    try {
      if (line.too_long) throw ProtocolError(nullptr, fmt::format("a line may hold {} bytes", kLongestLine));
      const Request request = parse_request(line.text);
      id = request.id;
      answer(request);
    } catch (const ProtocolError& error) {
      events_.send(error.id, error_event(SLA2_E_ARGUMENT, error.what(), ""));
    } catch (const CliError& error) {
      events_.send(id, error_event(error.status(), error.what(), ""));
    } catch (const std::exception& error) {
      events_.send(id, error_event(SLA2_E_INTERNAL, error.what(), ""));
    }
  }

  void answer(const Request& request) {
    switch (request.method) {
      case Method::kGenerate:
      case Method::kResume: {
        JobOrder order = request.method == Method::kGenerate ? parse_generate(request) : parse_resume(request);
        if (!jobs_.add(request.id, std::move(order))) throw ProtocolError(request.id, "a job of this id is waiting or running");
        return;
      }
      case Method::kCancel: return result(request, {{"cancelled", jobs_.cancel(parse_cancel(request))}});
      case Method::kInfo: return result(request, file_report(parse_info(request)));
      case Method::kPresets: return result(request, list_presets());
      case Method::kParams: return result(request, param_table());
      case Method::kDoctor: return result(request, doctor_report());
      case Method::kShutdown: shutdown_ = true; return result(request, json::object());
    }
  }

  void result(const Request& request, const json& value) { events_.send(request.id, {{"type", "result"}, {"result", value}}); }

  EventStream events_;
  LineSplitter splitter_;
  bool shutdown_ = false;
  JobQueue jobs_;
};

ExitCode serve() {
  std::array<int, 2> stop{};
  if (::pipe(stop.data()) != 0) fail(SLA2_E_INTERNAL, "no pipe for signals: {}", errno_text(errno));
  ExitCode code;
  {
    const SignalWatcher watcher([&](int) { ::close(stop[1]); });
    Worker worker;
    code = worker.run(stop[0]);
  }
  ::close(stop[0]);
  if (SignalWatcher::received() == 0) ::close(stop[1]);
  return code;
}

}  // namespace

json param_table() {
  json table = json::array();
  for_each_param([&](const sla2_param_info& info) {
    constexpr std::array kTypes{"", "int", "float", "bool", "string", "choice", "path", "float_list"};
    table.push_back({{"name", info.name},
                     {"type", kTypes.at(static_cast<size_t>(info.type))},
                     {"group", info.group},
                     {"help", info.help},
                     {"unit", info.unit},
                     {"choices", info.choices},
                     {"default", info.default_text},
                     {"minimum", info.minimum},
                     {"maximum", info.maximum},
                     {"step", info.step},
                     {"advanced", info.advanced != 0}});
  });
  return table;
}

void add_serve(CLI::App& app, Action& action) {
  const auto stdio = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("serve", "Worker for other programs: JSON lines in and out");
  command->add_flag("--stdio", *stdio, "Talk over standard input and output (the only way there is)")->required();
  command->footer("Example:\n  echo '{\"id\": 1, \"method\": \"presets\"}' | sla2 serve --stdio\n");
  command->callback([&action] { action = [] { return serve(); }; });
}

}  // namespace sla2::cli
