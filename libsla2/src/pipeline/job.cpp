// SPDX-License-Identifier: Apache-2.0
// A job: checked on the caller's thread, run on its own. Resuming is starting with a saved state.
#include <algorithm>
#include <array>
#include <thread>

#include "pipeline/context.h"
#include "pipeline/loras.h"
#include "pipeline/report.h"

namespace sla2::pipeline {

namespace {

/// What may change between a run and its continuation, because the frames do not depend on it.
constexpr std::array<std::string_view, 14> kFreeOnResume{"threads",       "checkpoint", "checkpoint_every",
                                                         "preview_every", "latent_out", "embedding_cache",
                                                         "memory_limit",  "model",      "vae",
                                                         "text_encoder",  "tokenizer",  "pack",
                                                         "lora",          "probe"};

class RunningJob final : public Job {
 public:
  explicit RunningJob(std::unique_ptr<JobContext> context) : context_(std::move(context)) {
    thread_ = std::thread([this] { run(); });
  }
  ~RunningJob() override {
    cancel();
    if (thread_.joinable()) thread_.join();
  }
  RunningJob(const RunningJob&) = delete;
  RunningJob& operator=(const RunningJob&) = delete;

  void cancel() noexcept override { context_->cancel.request(); }
  void request_checkpoint() noexcept override { context_->checkpoint_wanted.store(true); }
  const Outcome& wait() override {
    if (thread_.joinable()) thread_.join();
    return outcome_;
  }
  [[nodiscard]] std::string report() const override {
    const std::lock_guard lock(context_->record_mutex);
    return report_json(context_->parts(), context_->settings, context_->plan, context_->record);
  }
  [[nodiscard]] std::string memory_plan() const override { return context_->plan.text; }

 private:
  /// Exceptions cannot leave a thread, so they become an outcome here; api/ turns it into a status again.
  void run() noexcept {
    try {
      set_thread_count(context_->settings.threads);
      generate(*context_);
    } catch (const Error& error) {
      outcome_ = {error.status(), error.what()};
    } catch (const std::bad_alloc&) {
      outcome_.status = SLA2_E_MEMORY;
      outcome_.text = "an allocation failed: out of memory";
    } catch (const std::exception& error) {
      outcome_ = {SLA2_E_INTERNAL, error.what()};
    }
    context_->note([&](RunRecord& r) {
      r.status = outcome_.status;
      r.error = outcome_.text;
      r.finished = true;
    });
  }

  std::unique_ptr<JobContext> context_;
  Outcome outcome_;
  std::thread thread_;
};

const OpenModel& opened(const Model& model) { return static_cast<const OpenModel&>(model); }

void tokenize(JobContext& job) {
  const ModelParts& parts = job.parts();
  const auto tokenizer = text::Tokenizer::beside(*parts.text_encoder, parts.tokenizer);
  SLA2_CHECK(tokenizer->vocabulary_size() <= parts.encoder_config.vocabulary, SLA2_E_MODEL_MISMATCH,
             "the tokenizer does not fit the text encoder: {} pieces, {} has {} rows; use the spiece.model that came with it",
             tokenizer->vocabulary_size(), parts.text_encoder->path(), parts.encoder_config.vocabulary);
  const auto limit = static_cast<int>(parts.dit_config.text_len);
  RunRecord& record = job.record;
  job.ids = tokenizer->encode(job.settings.prompt, limit, &record.prompt_dropped);
  record.prompt_tokens = static_cast<int>(job.ids.size());
  if (!job.settings.guided()) return;
  job.negative_ids = tokenizer->encode(job.settings.negative, limit, &record.negative_dropped);
  record.negative_tokens = static_cast<int>(job.negative_ids.size());
}

/// The clip before its first step: noise, and the generator where it then stands.
void draw_initial_noise(JobContext& job) {
  JobState& state = job.state;
  state.x = job.settings.shape;
  state.x.values.resize(static_cast<size_t>(state.x.size()));
  latent::NoiseSource noise(job.settings.seed);
  noise.fill_normal(state.x.values);
  const float scale = job.settings.schedule.initial_scale;
  if (scale != 1.0f) {
    for (float& value : state.x.values) value *= scale;
  }
  state.noise_state = noise.save();
}

std::unique_ptr<JobContext> make_context(std::shared_ptr<const Model> model, const config::ParamSet& params, Callbacks callbacks,
                                         device::Gpu* stand_in = nullptr) {
  auto job = std::make_unique<JobContext>();
  job->model = std::static_pointer_cast<const OpenModel>(std::move(model));
  job->callbacks = std::move(callbacks);
  job->settings = resolve_settings(job->parts(), params, stand_in);
  tokenize(*job);
  job->plan = check_memory(job->parts(), job->settings, std::max(job->record.prompt_tokens, job->record.negative_tokens));
  job->rung = job->plan.gpu.rung;
  job->settings.dit_on_gpu = job->rung != Rung::kCpu;
  job->settings.vae_on_gpu = job->plan.decode.on_gpu;
  job->settings.vae_tile = job->plan.decode.tile;
  job->settings.values.set_text("vae_tile", std::to_string(job->settings.vae_tile));  // a resumed run must decode the same way
  if (job->settings.values.text("device") == "auto")  // so must this: other products, other last digits
    job->settings.values.set_text("device", job->rung == Rung::kCpu ? "cpu" : "cuda");
  return job;
}

config::ParamSet merged_for_resume(const config::ParamSet& saved, const config::ParamSet& changes) {
  config::ParamSet values = saved;
  for (const auto& [name, value] : changes.values()) {
    const bool is_free = std::find(kFreeOnResume.begin(), kFreeOnResume.end(), name) != kFreeOnResume.end();
    SLA2_CHECK(is_free || saved.text(name) == value, SLA2_E_ARGUMENT,
               "resume: {} = {} differs from the checkpoint's {}; the clip would not be the one that was begun. Leave it out, or "
               "start anew",
               name, value, saved.text(name));
    values.set_text(name, value);
  }
  return values;
}

void check_same_weights(const SavedJob& saved, const ModelParts& model, const std::string& path) {
  const auto check = [&](const char* role, const std::string& before, const std::string& now, const std::string& file) {
    SLA2_CHECK(before == now, SLA2_E_MODEL_MISMATCH,
               "resume: {} was written with another {}: digest {}, {} has {}; use the same file", path, role, before, file, now);
  };
  check("DiT", saved.dit_digest, model.dit_digest, model.dit->path());
  check("VAE", saved.vae_digest, model.vae_digest, model.vae->path());
  check("text encoder", saved.encoder_digest, model.encoder_digest, model.text_encoder->path());
}

/// The pack may lie elsewhere by now, but its bytes must be the same.
void check_same_pack(const SavedJob& saved, const config::ParamSet& values, const std::string& path) {
  const std::string pack = values.text("pack"), before = saved.values.text("pack");
  constexpr const char* kRemedy =
      "put the file back, or name where it is now with the parameter pack (`sla2 resume --pack FILE`)";
  if (saved.pack_digest.empty()) {
    SLA2_CHECK(pack.empty(), SLA2_E_ARGUMENT, "resume: {} was begun without a router pack; expected none, got {}: leave pack out",
               path, pack);
    return;
  }
  SLA2_CHECK(!pack.empty(), SLA2_E_MODEL_MISMATCH, "resume: {} was begun with the router pack {}, digest {}; got none: {}", path,
             before, saved.pack_digest, kRemedy);
  std::string now;
  try {
    now = weights::file_sha256(pack);
  } catch (const Error& error) {
    fail(error.status(), "resume: {} was begun with the router pack {}, digest {}; got {}: {}", path, before, saved.pack_digest,
         error.what(), kRemedy);
  }
  SLA2_CHECK(now == saved.pack_digest, SLA2_E_MODEL_MISMATCH,
             "resume: {} was begun with a router pack of digest {}; {} has {}: it was changed. {}", path, saved.pack_digest, pack,
             now, kRemedy);
}

/// A note where the products are not those that the run was begun with: its frames will not be bit-identical.
std::vector<std::string> other_machine(const SavedJob& saved, const Settings& settings, const std::string& path) {
  const auto before = nlohmann::ordered_json::parse(saved.machine, nullptr, false);
  if (!before.is_object()) return {};
  const nlohmann::ordered_json now = machine_facts(settings);
  std::string changes;
  for (const char* key : {"isa", "precision"})
    if (before.contains(key) && before[key] != now[key])
      changes += fmt::format("{}{} was {}, is {}", changes.empty() ? "" : "; ", key, before[key].dump(), now[key].dump());
  if (changes.empty()) return {};
  return {
      fmt::format("WARNING: {} was written on another machine ({}): the clip will not be bit for bit that of an uninterrupted "
                  "run; go on where it was begun, or with SLA2_ISA as there, for that",
                  path, changes)};
}

void check_state_fits(const SavedJob& saved, const JobContext& job, const std::string& path) {
  const latent::Latent& x = saved.state.x;
  const latent::Latent& shape = job.settings.shape;
  const bool same_shape =
      x.channels == shape.channels && x.frames == shape.frames && x.height == shape.height && x.width == shape.width;
  const text::Embedding &positive = saved.state.positive, &negative = saved.state.negative;
  const int64_t width = job.parts().encoder_config.d_model;
  const bool texts_fit = !saved.state.encoded || (positive.tokens > 0 && positive.width == width &&
                                                  (!job.settings.guided() || (negative.tokens > 0 && negative.width == width)));
  SLA2_CHECK(same_shape && texts_fit && saved.sigmas == job.settings.schedule.sigmas &&
                 saved.state.step <= job.settings.steps() && (saved.state.step == 0 || saved.state.encoded),
             SLA2_E_FILE_FORMAT,
             "{}: the checkpoint's latent, sigmas or embeddings do not agree with its own settings; it is damaged", path);
}

}  // namespace

std::unique_ptr<Job> Job::start(std::shared_ptr<const Model> model, const config::ParamSet& params, Callbacks callbacks,
                                device::Gpu* stand_in) {
  auto job = make_context(std::move(model), params, std::move(callbacks), stand_in);
  draw_initial_noise(*job);
  job->state.prompt_tokens = job->record.prompt_tokens;
  job->state.negative_tokens = job->record.negative_tokens;
  return std::make_unique<RunningJob>(std::move(job));
}

std::unique_ptr<Job> Job::resume(std::shared_ptr<const Model> model, const std::string& checkpoint,
                                 const config::ParamSet& changes, Callbacks callbacks) {
  SavedJob saved = read_checkpoint(checkpoint);
  weights::discard_partial(checkpoint);  // the stopped run may have been killed while it wrote the next one
  check_same_weights(saved, opened(*model).parts(), checkpoint);
  const config::ParamSet values = merged_for_resume(saved.values, changes);
  check_same_pack(saved, values, checkpoint);
  auto job = make_context(std::move(model), values, std::move(callbacks));
  check_same_loras(saved.lora_digest, job->settings, checkpoint);
  check_state_fits(saved, *job, checkpoint);
  job->settings.notes = other_machine(saved, job->settings, checkpoint);  // the rest was told by the first run: state.notes
  job->record.resumed_from = job->record.steps_done = saved.state.step;
  job->record.fallbacks = saved.state.notes;
  job->record.attention = saved.state.attention;
  job->record.use_fp32 = saved.state.use_fp32;
  job->state = std::move(saved.state);
  return std::make_unique<RunningJob>(std::move(job));
}

}  // namespace sla2::pipeline
