// SPDX-License-Identifier: Apache-2.0
/// @file sla2.hpp  Header-only C++17 on top of the C door: handles that free themselves, statuses that throw.
/// Outside the ABI: everything here is compiled into your program.
///
///     sla2::Model model("presets/models/small_world");
///     sla2::Params params;
///     params.set("prompt", "a red balloon rises over the sea at sunset").set("steps", 20);
///     sla2::Job job(model, params, {[](const sla2_progress& p) { … }, {}, [](const sla2_frames& f) { …; return SLA2_OK; }});
///     job.wait();
#ifndef SLA2_SLA2_HPP
#define SLA2_SLA2_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "sla2/sla2.h"

namespace sla2 {

/// A failed call: its status and the library's text.
class Exception : public std::runtime_error {
 public:
  Exception(sla2_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  [[nodiscard]] sla2_status status() const noexcept { return status_; }

 private:
  sla2_status status_;
};

/// Throw if a call failed.
inline void require(sla2_status status) {
  if (status != SLA2_OK) throw Exception(status, sla2_last_error());
}

namespace detail {

/// The two-call pattern of functions that write text: ask for the size, then fill.
template <typename Call>
std::string read_text(Call&& call) {
  std::string text(static_cast<std::size_t>(call(nullptr, std::uint64_t{0})), '\0');
  if (text.empty()) throw Exception(SLA2_E_INTERNAL, sla2_last_error());
  for (;;) {  // a report may grow between two calls
    const auto needed = static_cast<std::size_t>(call(text.data(), static_cast<std::uint64_t>(text.size())));
    if (needed <= text.size()) {
      text.resize(needed - 1);
      return text;
    }
    text.resize(needed);
  }
}

/// Frees a handle of the C door.
template <typename Handle, void (*Destroy)(Handle*)>
struct Deleter {
  void operator()(Handle* handle) const noexcept { Destroy(handle); }
};
template <typename Handle, void (*Destroy)(Handle*)>
using Owner = std::unique_ptr<Handle, Deleter<Handle, Destroy>>;

}  // namespace detail

/// sla2_system_info() as text.
[[nodiscard]] inline std::string system_info() {
  return detail::read_text([](char* buffer, std::uint64_t capacity) { return sla2_system_info(buffer, capacity); });
}

/// sla2_file_info() as text.
[[nodiscard]] inline std::string file_info(const std::string& path) {
  return detail::read_text([&](char* buffer, std::uint64_t capacity) {
    std::uint64_t needed = 0;
    require(sla2_file_info(path.c_str(), buffer, capacity, &needed));
    return needed;
  });
}

/// An attention plan with a workspace of its own. One thread at a time.
///
///     auto config = sla2::Attention::defaults();  config.mode = SLA2_MODE_SLA2;  config.heads = 12;  …
///     sla2::Attention attention(config);
///     attention.run(qkv, outputs);
class Attention {
 public:
  [[nodiscard]] static sla2_attention_config defaults() {
    sla2_attention_config config;
    require(sla2_attention_config_init(&config, sizeof config));
    return config;
  }
  explicit Attention(const sla2_attention_config& config) {
    sla2_attention* made = nullptr;
    require(sla2_attention_create(&config, &made));
    handle_.reset(made);
    std::uint64_t bytes = 0;
    require(sla2_attention_workspace_size(get(), &bytes));
    workspace_bytes_ = bytes;
    workspace_ = std::make_unique<unsigned char[]>(static_cast<std::size_t>(bytes) + kAlignment);
  }

  void run(const sla2_qkv& in, const sla2_attention_outputs& outputs, const sla2_attention_params* params = nullptr,
           const sla2_exec* exec = nullptr) {
    require(sla2_attention_run(get(), exec, &in, params, aligned(workspace_), workspace_bytes_, &outputs));
  }
  void route(const sla2_qkv& in, sla2_block_list& list, const sla2_attention_params* params = nullptr,
             const sla2_exec* exec = nullptr) {
    require(sla2_attention_route(get(), exec, &in, params, aligned(workspace_), workspace_bytes_, &list));
  }
  /// The workspace of the gradients is made at the first call.
  void backward(const sla2_qkv& in, const sla2_attention_saved& saved, const sla2_attention_grads& grads,
                const sla2_attention_params* params = nullptr, const sla2_exec* exec = nullptr) {
    std::uint64_t bytes = 0;
    require(sla2_attention_backward_workspace_size(get(), &bytes));
    if (!backward_workspace_) backward_workspace_ = std::make_unique<unsigned char[]>(static_cast<std::size_t>(bytes) + kAlignment);
    require(sla2_attention_backward(get(), exec, &in, params, &saved, aligned(backward_workspace_), bytes, &grads));
  }

  struct Blocks {
    std::int64_t query = 0, key = 0, max_kept = 0;
  };
  [[nodiscard]] Blocks blocks() const {
    Blocks b;
    require(sla2_attention_blocks(get(), &b.query, &b.key, &b.max_kept));
    return b;
  }
  [[nodiscard]] sla2_attention_stats stats() const {
    sla2_attention_stats stats;
    require(sla2_attention_stats_init(&stats, sizeof stats));
    require(sla2_attention_get_stats(get(), &stats));
    return stats;
  }
  [[nodiscard]] sla2_attention* get() const noexcept { return handle_.get(); }

 private:
  static constexpr std::size_t kAlignment = 64;
  static void* aligned(const std::unique_ptr<unsigned char[]>& memory) noexcept {
    const auto at = reinterpret_cast<std::uintptr_t>(memory.get());
    return memory.get() + (kAlignment - at % kAlignment) % kAlignment;
  }

  detail::Owner<sla2_attention, sla2_attention_destroy> handle_;
  std::unique_ptr<unsigned char[]> workspace_, backward_workspace_;
  std::uint64_t workspace_bytes_ = 0;
};

/// Values for the parameter table. One thread at a time.
class Params {
 public:
  Params() {
    sla2_params* made = nullptr;
    require(sla2_params_create(&made));
    handle_.reset(made);
  }
  explicit Params(sla2_params* owned) : handle_(owned) {}
  Params(const Params& other) {
    sla2_params* made = nullptr;
    require(sla2_params_copy(other.get(), &made));
    handle_.reset(made);
  }
  Params(Params&&) noexcept = default;
  Params& operator=(Params other) noexcept {
    handle_ = std::move(other.handle_);
    return *this;
  }
  ~Params() = default;

  Params& set(const std::string& name, const std::string& value) {
    require(sla2_params_set_text(get(), name.c_str(), value.c_str()));
    return *this;
  }
  Params& set(const std::string& name, const char* value) { return set(name, std::string(value)); }
  Params& set(const std::string& name, double value) {
    require(sla2_params_set_float(get(), name.c_str(), value));
    return *this;
  }
  Params& set(const std::string& name, int value) { return set(name, static_cast<std::int64_t>(value)); }
  Params& set(const std::string& name, std::int64_t value) {
    require(sla2_params_set_int(get(), name.c_str(), value));
    return *this;
  }
  Params& set(const std::string& name, bool value) { return set(name, std::string(value ? "true" : "false")); }
  /// Every value of a preset or settings object.
  Params& merge(const std::string& json) {
    require(sla2_params_merge_json(get(), json.c_str()));
    return *this;
  }
  [[nodiscard]] std::string text(const std::string& name) const {
    return detail::read_text([&](char* buffer, std::uint64_t capacity) {
      std::uint64_t needed = 0;
      require(sla2_params_get_text(get(), name.c_str(), buffer, capacity, &needed, nullptr));
      return needed;
    });
  }
  [[nodiscard]] std::string json() const {
    return detail::read_text([&](char* buffer, std::uint64_t capacity) { return sla2_params_to_json(get(), buffer, capacity); });
  }
  [[nodiscard]] sla2_params* get() const noexcept { return handle_.get(); }

 private:
  detail::Owner<sla2_params, sla2_params_destroy> handle_;
};

/// An opened model; copies share it. Immutable: use from any thread.
class Model {
 public:
  explicit Model(const std::string& path) : Model(path, nullptr) {}
  Model(const std::string& path, const Params& params) : Model(path, params.get()) {}
  Model(const Model& other) noexcept : handle_(other.get()) { sla2_model_retain(get()); }
  Model(Model&&) noexcept = default;
  Model& operator=(Model other) noexcept {
    handle_ = std::move(other.handle_);
    return *this;
  }
  ~Model() = default;

  [[nodiscard]] std::string describe() const {
    return detail::read_text([&](char* buffer, std::uint64_t capacity) { return sla2_model_describe(get(), buffer, capacity); });
  }
  [[nodiscard]] sla2_model* get() const noexcept { return handle_.get(); }

 private:
  Model(const std::string& path, const sla2_params* params) {
    sla2_model* made = nullptr;
    require(sla2_model_open(path.c_str(), params, &made));
    handle_.reset(made);
  }
  detail::Owner<sla2_model, sla2_model_close> handle_;
};

/// All called on the job's thread. An empty member is skipped. An exception stops the job at its next frames; wait() throws it
/// again. To stop at once, call Job::cancel().
struct Callbacks {
  std::function<void(const sla2_progress&)> on_progress;
  std::function<void(const sla2_frames&, int step)> on_preview;
  std::function<sla2_status(const sla2_frames&)> on_frames;
};

/// A running generation. The destructor cancels and waits; so does assigning another job to it.
class Job {
 public:
  Job(Job&&) noexcept = default;
  Job& operator=(Job&& other) noexcept {
    handle_ = std::move(other.handle_);  // waits for the job that was here, whose callbacks are still there
    shared_ = std::move(other.shared_);
    return *this;
  }
  ~Job() = default;
  Job(const Model& model, const Params& params, Callbacks callbacks = {}) : shared_(std::make_unique<Shared>()) {
    const sla2_job_callbacks c = wrap(std::move(callbacks));
    sla2_job* made = nullptr;
    require(sla2_job_create(model.get(), params.get(), &c, &made));
    handle_.reset(made);
  }
  static Job resume(const Model& model, const std::string& checkpoint, Callbacks callbacks = {}) {
    return Job(model, checkpoint, nullptr, std::move(callbacks));
  }
  static Job resume(const Model& model, const std::string& checkpoint, const Params& changes, Callbacks callbacks = {}) {
    return Job(model, checkpoint, changes.get(), std::move(callbacks));
  }

  /// Any thread, also from inside a callback.
  void cancel() noexcept { sla2_job_cancel(get()); }
  void request_checkpoint() noexcept { sla2_job_request_checkpoint(get()); }
  /// Block until the job ends; throws what stopped it.
  void wait() {
    const sla2_status status = sla2_job_wait(get());
    if (shared_->thrown) std::rethrow_exception(std::exchange(shared_->thrown, nullptr));
    require(status);
  }
  [[nodiscard]] std::string report() const {
    return detail::read_text([&](char* buffer, std::uint64_t capacity) { return sla2_job_report(get(), buffer, capacity); });
  }
  [[nodiscard]] std::string memory_plan() const {
    return detail::read_text([&](char* buffer, std::uint64_t capacity) { return sla2_job_memory_plan(get(), buffer, capacity); });
  }
  [[nodiscard]] sla2_job* get() const noexcept { return handle_.get(); }

 private:
  /// What the C callbacks reach through `user`; its address stays when the Job moves.
  struct Shared {
    Callbacks callbacks;
    std::exception_ptr thrown;
    bool stopping = false;
    void keep_exception() noexcept {
      if (!thrown) thrown = std::current_exception();
      stopping = true;
    }
  };

  Job(const Model& model, const std::string& checkpoint, const sla2_params* changes, Callbacks callbacks)
      : shared_(std::make_unique<Shared>()) {
    const sla2_job_callbacks c = wrap(std::move(callbacks));
    sla2_job* made = nullptr;
    require(sla2_job_resume(model.get(), checkpoint.c_str(), changes, &c, &made));
    handle_.reset(made);
  }

  sla2_job_callbacks wrap(Callbacks callbacks) {
    shared_->callbacks = std::move(callbacks);
    sla2_job_callbacks c;
    require(sla2_job_callbacks_init(&c, sizeof c));
    c.user = shared_.get();
    if (shared_->callbacks.on_progress) c.on_progress = &on_progress;
    if (shared_->callbacks.on_preview) c.on_preview = &on_preview;
    c.on_frames = &on_frames;  // also where a job whose other callbacks threw is stopped
    return c;
  }
  // Exceptions must not pass through C, so they wait in Shared until wait().
  static void on_progress(void* user, const sla2_progress* progress) {
    auto& shared = *static_cast<Shared*>(user);
    if (shared.stopping) return;
    try {
      shared.callbacks.on_progress(*progress);
    } catch (...) {
      shared.keep_exception();
    }
  }
  static void on_preview(void* user, const sla2_frames* frames, std::int32_t step) {
    auto& shared = *static_cast<Shared*>(user);
    if (shared.stopping) return;
    try {
      shared.callbacks.on_preview(*frames, step);
    } catch (...) {
      shared.keep_exception();
    }
  }
  static sla2_status on_frames(void* user, const sla2_frames* frames) {
    auto& shared = *static_cast<Shared*>(user);
    if (shared.stopping) return SLA2_E_CANCELLED;
    if (!shared.callbacks.on_frames) return SLA2_OK;
    try {
      return shared.callbacks.on_frames(*frames);
    } catch (...) {
      shared.keep_exception();
      return SLA2_E_CANCELLED;
    }
  }

  std::unique_ptr<Shared> shared_;  // outlives the handle below, whose destructor waits for the job's thread
  detail::Owner<sla2_job, sla2_job_destroy> handle_;
};

}  // namespace sla2

#endif  // SLA2_SLA2_HPP
