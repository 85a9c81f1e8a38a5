// SPDX-License-Identifier: Apache-2.0
// The whole model: load, one arena per grid, one pass through all blocks with cancel, times and the hunt for NaN.
#include <chrono>
#include <map>
#include <vector>

#include "dit/model.h"
#include "kernels/elementwise.h"

namespace sla2::dit {

namespace {

class LoadedDit final : public Dit {
 public:
  LoadedDit(std::shared_ptr<const weights::Checkpoint> checkpoint, const Options& options, const CancelToken& cancel,
            const std::function<void(double)>& on_progress)
      : checkpoint_(std::move(checkpoint)),
        options_(options),
        config_(config::read_dit_config(*checkpoint_)),
        holding_(choose_holding(config_, stored_type(*checkpoint_), options)),
        loader_(*checkpoint_, holding_) {
    check_model(config_, loader_, options_);
    const auto progress = [&](int64_t parts) {
      cancel.check();
      if (on_progress) on_progress(static_cast<double>(parts) / static_cast<double>(config_.layers + 1));
    };
    patch_ = loader_.linear(spec_patch(config_));
    head_ = loader_.linear(spec_head(config_));
    time_ = load_time_embedding(loader_, config_);
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      progress(layer + 1);
      blocks_.push_back(load_block(loader_, config_, layer));
    }
    progress(config_.layers + 1);
    step_.blocks = AlignedBuffer<float>(static_cast<size_t>(config_.layers * kModulationVectors * config_.dim));
    step_.head = AlignedBuffer<float>(static_cast<size_t>(2 * config_.dim));
  }

  [[nodiscard]] const config::DitConfig& config() const noexcept override { return config_; }
  [[nodiscard]] uint64_t weight_bytes() const noexcept override { return resident_bytes(config_, holding_); }
  std::unique_ptr<PromptContext> prepare_prompt(const text::Embedding& embedding) override {
    return make_prompt(config_, loader_, embedding);
  }
  void set_grid(const latent::Grid& grid) override;
  void forward(const latent::Latent& x, float timestep, const PromptContext& prompt, std::span<const LayerAttention> policy,
               const CancelToken& cancel, latent::Latent& velocity, ForwardReport* report) override;

 private:
  attention::Plan& self_plan(const LayerAttention& layer);
  attention::Plan& cross_plan(int64_t keys);
  attention::Plan& keep(std::unique_ptr<attention::Plan>& slot, const attention::Config& config);

  std::shared_ptr<const weights::Checkpoint> checkpoint_;
  Options options_;
  config::DitConfig config_;
  Holding holding_;
  Loader loader_;
  kernels::PackedLinear patch_, head_;
  TimeEmbedding time_;
  std::vector<Block> blocks_;
  StepVectors step_;

  latent::Grid grid_{};
  latent::RopeTables rope_;
  TokenPlaces places_;
  Arena arena_;
  AlignedBuffer<std::byte> attention_workspace_;
  Workspace work_{};
  std::map<LayerAttention, std::unique_ptr<attention::Plan>> self_plans_;
  std::map<int64_t, std::unique_ptr<attention::Plan>> cross_plans_;
};

void LoadedDit::set_grid(const latent::Grid& grid) {
  check_grid(config_, grid);
  const Activations plan(config_, holding_, grid.tokens(), options_.token_chunk);
  self_plans_.clear();
  cross_plans_.clear();
  arena_ = Arena();  // give back before asking for more
  attention_workspace_ = {};
  grid_ = {};
  try {
    arena_ = Arena(plan.memory.total_bytes());
  } catch (const std::bad_alloc&) {
    fail(SLA2_E_MEMORY, "diffusion model: {} bytes of activations for {} tokens cannot be had; make a smaller or shorter clip",
         plan.memory.total_bytes(), grid.tokens());
  }
  const auto at = [&](size_t index) { return arena_.at<float>(plan.memory.offset(index)); };
  rope_ = latent::make_rope_tables(config_.head_dim, grid);
  work_ = {at(plan.x),
           at(plan.tokens_in),
           at(plan.qkv),
           at(plan.self_out),
           at(plan.cross_q),
           at(plan.cross_out),
           at(plan.qkv_norm),
           at(plan.cross_norm),
           at(plan.ffn_norm),
           at(plan.head_norm),
           at(plan.hidden),
           at(plan.tokens_out),
           at(plan.scratch),
           nullptr,
           plan.tokens,
           plan.chunk,
           {{rope_.cos_t.data(), rope_.sin_t.data(), rope_.pairs_t, grid.frames},
            {rope_.cos_h.data(), rope_.sin_h.data(), rope_.pairs_h, grid.height},
            {rope_.cos_w.data(), rope_.sin_w.data(), rope_.pairs_w, grid.width}},
           nullptr};
  places_ = token_places(options_.token_order, grid);
  if (!places_.order.empty()) work_.rope.order = places_.order.data(), work_.place = places_.place.data();
  grid_ = grid;
  self_plan({});
}

attention::Plan& LoadedDit::keep(std::unique_ptr<attention::Plan>& slot, const attention::Config& config) {
  if (slot == nullptr) {
    slot = attention::Plan::create(config);
    if (slot->workspace_bytes() > attention_workspace_.size()) {
      attention_workspace_ = {};
      attention_workspace_ = AlignedBuffer<std::byte>(slot->workspace_bytes());
    }
    work_.attention = attention_workspace_.data();
  }
  return *slot;
}
attention::Plan& LoadedDit::self_plan(const LayerAttention& layer) {
  const attention::Config config = self_attention_config(config_, grid_.tokens(), layer, holding_.compute);
  return keep(self_plans_[layer], config);
}
attention::Plan& LoadedDit::cross_plan(int64_t keys) {
  return keep(cross_plans_[keys], cross_attention_config(config_, grid_.tokens(), keys, holding_.compute));
}

void LoadedDit::forward(const latent::Latent& x, float timestep, const PromptContext& context,
                        std::span<const LayerAttention> policy, const CancelToken& cancel, latent::Latent& velocity,
                        ForwardReport* report) {
  const auto* prompt = dynamic_cast<const Prompt*>(&context);
  SLA2_CHECK(prompt != nullptr, SLA2_E_ARGUMENT, "diffusion model: the prompt does not come from prepare_prompt");
  check_call(config_, grid_, options_, x, policy);
  check_prompt(config_, prompt->dim, prompt->layers);
  const size_t values = static_cast<size_t>(work_.tokens * config_.dim);
  const auto watch = [&](int64_t block) {
    if (options_.on_block) options_.on_block(block, {work_.x, values});
  };
  if (report != nullptr) *report = {};
  const auto note_bad = [&](int64_t block, const float* data, size_t count) {
    if (report != nullptr && report->first_bad_block < 0 && !kernels::all_finite(data, static_cast<int64_t>(count)))
      report->first_bad_block = static_cast<int>(block);
  };

  attention::Plan& cross = cross_plan(prompt->keys);
  if (step_.timestep != timestep) embed_time(config_, time_, blocks_, timestep, work_.scratch, step_);
  embed_patches(patch_, x, config_, work_);
  watch(-1);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    cancel.check();
    const auto start = std::chrono::steady_clock::now();
    const auto index = static_cast<size_t>(layer);
    const LayerAttention kind = policy.empty() ? LayerAttention{} : policy[index];
    const attention::Parameters learned =
        kind.learned ? learned_parameters(options_.pack->layers[index], kind) : attention::Parameters{};
    attention::Plan& self = self_plan(kind);
    attention::Probe probe{kind.probe};
    // A call that runs as full has nothing to be compared with.
    const bool probed = kind.probe > 0 && self.stats().mode_used != attention::Mode::kFull;
    const BlockTimes times = run_block(config_, blocks_[index], step_.blocks.data() + layer * kModulationVectors * config_.dim,
                                       *prompt, layer, self, learned, probed ? &probe : nullptr, cross, work_);
    if (report != nullptr) {
      note_bad(layer, work_.x, values);
      const double spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      report->layers.push_back({spent, times.attention_seconds, self.stats(), probed ? probe : attention::Probe{}});
    }
    watch(layer);
  }
  cancel.check();
  velocity.channels = config_.out_channels;
  velocity.frames = x.frames;
  velocity.height = x.height;
  velocity.width = x.width;
  velocity.values.resize(static_cast<size_t>(velocity.size()));
  run_head(head_, config_, step_, work_, velocity);
  note_bad(config_.layers, velocity.values.data(), velocity.values.size());
}

}  // namespace

DType stored_type(const weights::Checkpoint& checkpoint) { return checkpoint.info("blocks.0.ffn.0.weight").dtype; }

std::unique_ptr<Dit> Dit::load(std::shared_ptr<const weights::Checkpoint> checkpoint, const Options& options,
                               const CancelToken& cancel, const std::function<void(double)>& on_progress) {
  return std::make_unique<LoadedDit>(std::move(checkpoint), options, cancel, on_progress);
}

}  // namespace sla2::dit
