// SPDX-License-Identifier: Apache-2.0
// The whole model on a GPU: weights there or streaming there, one arena per grid, passes for one prompt or for two that share
// each block's weights. The CPU queues ahead by a block or two, so that cancelling is a matter of a few blocks.
#include <algorithm>
#include <map>
#include <vector>

#include "dit/gpu_model.h"
#include "kernels/elementwise.h"

namespace sla2::dit {

namespace {

constexpr int kPrompts = 2;          // at most in one pass
constexpr int64_t kBlocksAhead = 2;  // that the CPU may queue before it waits

/// What one prompt of a pass needs of its own.
struct Turn {
  const GpuPrompt* prompt = nullptr;
  attention::Plan* cross = nullptr;
  latent::Latent* velocity = nullptr;
  ForwardReport* report = nullptr;
};

class GpuDit final : public Dit {
 public:
  GpuDit(device::Gpu& gpu, std::shared_ptr<const weights::Checkpoint> checkpoint, const Options& options,
         const CancelToken& cancel, const std::function<void(double)>& on_progress)
      : gpu_(gpu),
        checkpoint_(std::move(checkpoint)),
        options_(options),
        config_(config::read_dit_config(*checkpoint_)),
        holding_(gpu_holding(options)),
        loader_(*checkpoint_, holding_),
        ops_(gpu),
        products_(ops_.find_blas()),
        block_places_(config_, holding_),
        fixed_places_(config_, holding_) {
    check_model(config_, loader_, options_);
    compute_ = device::Stream(gpu_);
    ops_.use_stream(compute_.get());
    fixed_ = device::Buffer(gpu_, fixed_places_.bytes);
    {
      const device::PinnedBuffer staging(gpu_, fixed_places_.bytes);
      read_fixed(loader_, config_, fixed_places_, staging.data());
      gpu_.copy_in(fixed_.get(), staging.data(), fixed_places_.bytes);
    }
    if (options_.pack != nullptr) pack_ = std::make_unique<GpuPack>(gpu_, *options_.pack);
    make_step_places();
    const auto fill = [&](int64_t layer, std::byte* target) {
      cancel.check();
      if (on_progress) on_progress(static_cast<double>(layer + 1) / static_cast<double>(config_.layers + 1));
      read_block(loader_, config_, layer, block_places_, target);
    };
    blocks_ = options_.weight_slots > 0 ? device::LayerStore::streamed(gpu_, compute_.get(), config_.layers, block_places_.bytes,
                                                                       options_.weight_slots, fill)
                                        : device::LayerStore::resident(gpu_, config_.layers, block_places_.bytes, fill);
    if (on_progress) on_progress(1);
  }
  ~GpuDit() override {
    try {
      gpu_.wait(compute_.get());
    } catch (const Error&) {  // a pass has failed and said so
    }
  }
  GpuDit(const GpuDit&) = delete;
  GpuDit& operator=(const GpuDit&) = delete;

  [[nodiscard]] const config::DitConfig& config() const noexcept override { return config_; }
  [[nodiscard]] uint64_t weight_bytes() const noexcept override {
    const int64_t held = streams() ? std::min<int64_t>(options_.weight_slots, config_.layers) : config_.layers;
    return fixed_.bytes() + static_cast<uint64_t>(held) * block_places_.bytes;
  }
  [[nodiscard]] std::string products() const override { return products_; }
  std::unique_ptr<PromptContext> prepare_prompt(const text::Embedding& embedding) override {
    return make_gpu_prompt(gpu_, ops_, config_, loader_, embedding);
  }
  void set_grid(const latent::Grid& grid) override;
  void forward(const latent::Latent& x, float timestep, const PromptContext& prompt, std::span<const LayerAttention> policy,
               const CancelToken& cancel, latent::Latent& velocity, ForwardReport* report) override {
    Turn turn = turn_of(prompt, velocity, report);
    pass({&turn, 1}, x, timestep, policy, cancel);
  }
  void forward_pair(const latent::Latent& x, float timestep, const PromptContext& first, const PromptContext& second,
                    std::span<const LayerAttention> policy, const CancelToken& cancel, latent::Latent& first_velocity,
                    latent::Latent& second_velocity, ForwardReport* first_report, ForwardReport* second_report) override {
    if (!streams())  // nothing is saved by sharing, and one residual stream is enough
      return Dit::forward_pair(x, timestep, first, second, policy, cancel, first_velocity, second_velocity, first_report,
                               second_report);
    Turn turns[kPrompts] = {turn_of(first, first_velocity, first_report), turn_of(second, second_velocity, second_report)};
    pass(turns, x, timestep, policy, cancel);
  }

 private:
  [[nodiscard]] bool streams() const noexcept { return options_.weight_slots > 0; }
  Turn turn_of(const PromptContext& context, latent::Latent& velocity, ForwardReport* report) const {
    const auto* prompt = dynamic_cast<const GpuPrompt*>(&context);
    SLA2_CHECK(prompt != nullptr, SLA2_E_ARGUMENT, "diffusion model: the prompt does not come from prepare_prompt");
    check_prompt(config_, prompt->dim, prompt->layers);
    return {prompt, nullptr, &velocity, report};
  }
  template <typename T>
  [[nodiscard]] const T* fixed(uint64_t place) const {
    return fixed_.at<const T>(place);
  }

  void make_step_places();
  void embed_time(float timestep);
  void read_input(const latent::Latent& x);
  attention::Plan& keep(std::unique_ptr<attention::Plan>& slot, const attention::Config& config);
  void pass(std::span<Turn> turns, const latent::Latent& x, float timestep, std::span<const LayerAttention> policy,
            const CancelToken& cancel);
  void queue_blocks(std::span<Turn> turns, std::span<attention::Plan* const> self, std::span<const LayerAttention> policy,
                    const CancelToken& cancel);
  void queue_heads(std::span<Turn> turns, const latent::Latent& x);
  void report_on(std::span<Turn> turns, std::span<attention::Plan* const> self);
  void watch(int64_t block);
  [[nodiscard]] int32_t* bad(size_t turn, int64_t block) const {
    return bad_ + static_cast<int64_t>(turn) * (config_.layers + 1) + block;
  }
  device::Event& mark(size_t turn, int64_t layer, int which) {
    const auto index =
        (turn * static_cast<size_t>(config_.layers) + static_cast<size_t>(layer)) * kMarks + static_cast<size_t>(which);
    while (marks_.size() <= index) marks_.emplace_back(gpu_);
    return marks_[index];
  }
  enum : int { kBegin, kAttention, kAttentionEnd, kEnd, kMarks };

  device::Gpu& gpu_;
  std::shared_ptr<const weights::Checkpoint> checkpoint_;
  Options options_;
  config::DitConfig config_;
  Holding holding_;
  Loader loader_;
  device::Ops ops_;
  std::string products_;
  BlockPlaces block_places_;
  FixedPlaces fixed_places_;
  device::Buffer fixed_;
  std::unique_ptr<GpuPack> pack_;

  // What depends on the timestep alone.
  float timestep_ = std::numeric_limits<float>::quiet_NaN();
  device::Buffer step_;
  uint16_t *wave_ = nullptr, *time_hidden_ = nullptr, *silu_e_ = nullptr;
  float *e_ = nullptr, *e0_ = nullptr, *blocks_modulation_ = nullptr, *head_modulation_ = nullptr;

  latent::Grid grid_{};
  TokenPlaces places_;
  device::Buffer arena_, tables_, attention_workspace_;
  device::PinnedBuffer input_, output_, flags_, wave_staging_;
  GpuWorkspace work_;
  float* x_[kPrompts] = {};
  int32_t* bad_ = nullptr;
  std::map<LayerAttention, std::unique_ptr<attention::Plan>> self_plans_;
  std::map<int64_t, std::unique_ptr<attention::Plan>> cross_plans_;
  std::vector<device::Event> marks_;
  std::unique_ptr<device::LayerStore> blocks_;
  device::Stream compute_;  // goes first: what is queued on it uses the others
};

void GpuDit::make_step_places() {
  const auto dim = static_cast<uint64_t>(config_.dim), layers = static_cast<uint64_t>(config_.layers);
  const auto wave_bytes = static_cast<uint64_t>(config_.freq_dim) * sizeof(bf16_t);
  device::Stretch s;
  const uint64_t wave = s.take(wave_bytes), hidden = s.take(dim * sizeof(bf16_t)), silu_e = s.take(dim * sizeof(bf16_t)),
                 e = s.take(2 * dim * sizeof(float)), e0 = s.take(kModulationVectors * dim * sizeof(float)),
                 blocks = s.take(layers * kModulationVectors * dim * sizeof(float)), head = s.take(2 * dim * sizeof(float));
  step_ = device::Buffer(gpu_, s.bytes());
  wave_ = step_.at<uint16_t>(wave), time_hidden_ = step_.at<uint16_t>(hidden), silu_e_ = step_.at<uint16_t>(silu_e);
  e_ = step_.at<float>(e), e0_ = step_.at<float>(e0), blocks_modulation_ = step_.at<float>(blocks);
  head_modulation_ = step_.at<float>(head);
  wave_staging_ = device::PinnedBuffer(gpu_, wave_bytes);
}

void GpuDit::embed_time(float timestep) {
  if (timestep_ == timestep) return;
  const std::vector<float> wave = sinusoid(static_cast<double>(timestep), config_.freq_dim);
  convert_to_bf16(wave.data(), reinterpret_cast<bf16_t*>(wave_staging_.data()), wave.size());
  gpu_.queue_copy_in(wave_, wave_staging_.data(), wave_staging_.bytes(), compute_.get());
  const std::byte* const base = fixed_.at();
  const auto linear = [&](const LinearPlace& place, uint16_t* x, void* y, DType element, cuda::GemmFinish finish) {
    ops_.linear(place.on(base), {x, nullptr, nullptr}, 1, {y, element, 0, finish, nullptr});
  };
  linear(fixed_places_.time_in, wave_, time_hidden_, DType::kBF16, cuda::kGemmSilu);
  linear(fixed_places_.time_out, time_hidden_, e_, DType::kF32, cuda::kGemmStore);
  linear(fixed_places_.time_out, time_hidden_, silu_e_, DType::kBF16, cuda::kGemmSilu);
  linear(fixed_places_.time_projection, silu_e_, e0_, DType::kF32, cuda::kGemmStore);
  constexpr uint32_t kBlockScales = 0b010010, kHeadScale = 0b10;  // shift, scale, gate twice; shift, scale
  const int64_t dim = config_.dim, six = kModulationVectors * dim;
  ops_.modulate(fixed<float>(fixed_places_.modulation), e0_, blocks_modulation_, config_.layers * six, six, dim,
                kModulationVectors, kBlockScales);
  // The head adds e itself to both rows: no SiLU, no projection.
  ops_.modulate(fixed<float>(fixed_places_.head_modulation), e_, head_modulation_, 2 * dim, dim, dim, 2, kHeadScale);
  timestep_ = timestep;
}

void GpuDit::set_grid(const latent::Grid& grid) {
  check_grid(config_, grid);
  gpu_.wait(compute_.get());
  self_plans_.clear();
  cross_plans_.clear();
  arena_ = {}, attention_workspace_ = {}, tables_ = {};  // give back before asking for more
  grid_ = {};
  const GpuActivations plan(config_, holding_, grid.tokens(), options_.token_chunk, streams() ? kPrompts : 1);
  arena_ = device::Buffer(gpu_, plan.memory.total_bytes());
  const auto at = [&](size_t index) { return arena_.at(plan.memory.offset(index)); };
  const auto narrow = [&](size_t index) { return reinterpret_cast<uint16_t*>(at(index)); };
  const auto wide = [&](size_t index) { return reinterpret_cast<float*>(at(index)); };
  x_[0] = wide(plan.x[0]), x_[1] = wide(plan.x[1]);
  bad_ = reinterpret_cast<int32_t*>(at(plan.bad));
  work_ = {};
  work_.tokens_in = narrow(plan.tokens_in), work_.qkv = narrow(plan.qkv), work_.self_out = narrow(plan.self_out);
  work_.cross_q = narrow(plan.cross_q), work_.cross_out = narrow(plan.cross_out), work_.normed = narrow(plan.normed);
  work_.hidden = narrow(plan.hidden), work_.tokens_out = wide(plan.tokens_out);
  if (holding_.eight_bits) work_.steps = reinterpret_cast<int8_t*>(at(plan.steps)), work_.scale = wide(plan.scale);
  work_.tokens = plan.tokens, work_.chunk = plan.chunk;

  places_ = token_places(options_.token_order, grid);
  const latent::RopeTables rope = latent::make_rope_tables(config_.head_dim, grid);
  const std::vector<float>* const sources[] = {&rope.cos_t, &rope.sin_t, &rope.cos_h, &rope.sin_h, &rope.cos_w, &rope.sin_w};
  device::Stretch s;
  uint64_t at_table[std::size(sources)] = {};
  for (size_t i = 0; i < std::size(sources); ++i) at_table[i] = s.take(sources[i]->size() * sizeof(float));
  const uint64_t order = s.take(places_.order.size() * sizeof(int32_t));
  tables_ = device::Buffer(gpu_, s.bytes());
  for (size_t i = 0; i < std::size(sources); ++i)
    gpu_.copy_in(tables_.at(at_table[i]), sources[i]->data(), sources[i]->size() * sizeof(float));
  const auto axis = [&](size_t i, int64_t pairs, int64_t positions) {
    return cuda::RopeTableParams{tables_.at<float>(at_table[i]), tables_.at<float>(at_table[i + 1]), static_cast<int32_t>(pairs),
                                 static_cast<int32_t>(positions)};
  };
  work_.rope = {axis(0, rope.pairs_t, grid.frames), axis(2, rope.pairs_h, grid.height), axis(4, rope.pairs_w, grid.width),
                nullptr, config_.head_dim};
  if (!places_.order.empty()) {
    gpu_.copy_in(tables_.at(order), places_.order.data(), places_.order.size() * sizeof(int32_t));
    work_.rope.order = tables_.at<int32_t>(order);
  }
  const auto tokens = static_cast<uint64_t>(grid.tokens());
  input_ = device::PinnedBuffer(gpu_, tokens * static_cast<uint64_t>(fixed_places_.patch.in) * sizeof(bf16_t));
  output_ = device::PinnedBuffer(gpu_, kPrompts * tokens * static_cast<uint64_t>(fixed_places_.head.out) * sizeof(float));
  flags_ = device::PinnedBuffer(gpu_, kPrompts * static_cast<uint64_t>(config_.layers + 1) * sizeof(int32_t));
  grid_ = grid;
  keep(self_plans_[{}], self_attention_config(config_, grid_.tokens(), {}, holding_.compute));
}

attention::Plan& GpuDit::keep(std::unique_ptr<attention::Plan>& slot, const attention::Config& config) {
  if (slot == nullptr) {
    slot = attention::Plan::create(config, gpu_);
    if (slot->workspace_bytes() > attention_workspace_.bytes()) {
      gpu_.wait(compute_.get());
      attention_workspace_ = {};
      attention_workspace_ = device::Buffer(gpu_, slot->workspace_bytes());
    }
    work_.attention = attention_workspace_.get();
  }
  return *slot;
}

void GpuDit::read_input(const latent::Latent& x) {
  const int64_t width = fixed_places_.patch.in, tokens = work_.tokens;
  std::vector<float> patches(static_cast<size_t>(tokens * width));
  latent::patchify(x, patches);
  if (!places_.order.empty()) permute_rows(patches.data(), tokens, width, places_.order.data());
  convert_to_bf16(patches.data(), reinterpret_cast<bf16_t*>(input_.data()), patches.size());
  gpu_.queue_copy_in(work_.tokens_in, input_.data(), input_.bytes(), compute_.get());
}

void GpuDit::watch(int64_t block) {
  if (!options_.on_block) return;
  std::vector<float> x(static_cast<size_t>(work_.tokens * config_.dim));
  gpu_.queue_copy_out(x.data(), work_.x, x.size() * sizeof(float), compute_.get());
  gpu_.wait(compute_.get());
  options_.on_block(block, x);
}

void GpuDit::pass(std::span<Turn> turns, const latent::Latent& x, float timestep, std::span<const LayerAttention> policy,
                  const CancelToken& cancel) {
  check_call(config_, grid_, options_, x, policy);
  gpu_.wait(compute_.get());  // a pass that was cancelled may still be reading what is written below
  std::vector<attention::Plan*> self;
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    const LayerAttention kind = policy.empty() ? LayerAttention{} : policy[static_cast<size_t>(layer)];
    check_gpu_attention(kind);
    self.push_back(&keep(self_plans_[kind], self_attention_config(config_, grid_.tokens(), kind, holding_.compute)));
  }
  for (Turn& turn : turns) {
    const int64_t keys = turn.prompt->keys;
    turn.cross = &keep(cross_plans_[keys], cross_attention_config(config_, grid_.tokens(), keys, holding_.compute));
    if (turn.report != nullptr) *turn.report = {};
  }
  gpu_.queue_fill(bad_, 0, flags_.bytes(), compute_.get());
  embed_time(timestep);
  read_input(x);
  for (size_t i = 0; i < turns.size(); ++i) {
    work_.x = x_[i];
    ops_.linear(fixed_places_.patch.on(fixed_.at()), {work_.tokens_in, nullptr, nullptr}, work_.tokens,
                {work_.x, DType::kF32, 0, cuda::kGemmStore, nullptr});
    watch(-1);
  }
  queue_blocks(turns, self, policy, cancel);
  cancel.check();
  queue_heads(turns, x);
  report_on(turns, self);
}

void GpuDit::queue_blocks(std::span<Turn> turns, std::span<attention::Plan* const> self, std::span<const LayerAttention> policy,
                          const CancelToken& cancel) {
  blocks_->begin();
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    if (layer >= kBlocksAhead) gpu_.wait_for(mark(turns.size() - 1, layer - kBlocksAhead, kEnd).get());
    cancel.check();
    const std::byte* const weights = blocks_->fetch(layer);
    for (size_t i = 0; i < turns.size(); ++i) {
      work_.x = x_[i];
      gpu_.record(mark(i, layer, kBegin).get(), compute_.get());
      const auto index = static_cast<size_t>(layer);
      const bool learned = !policy.empty() && policy[index].learned;
      const GpuBlockCall call{config_,
                              block_places_,
                              weights,
                              blocks_modulation_ + layer * kModulationVectors * config_.dim,
                              *turns[i].prompt,
                              layer,
                              *self[index],
                              *turns[i].cross,
                              learned ? pack_->of(layer, policy[index]) : attention::Parameters{},
                              bad(i, layer)};
      int which = kAttention;
      queue_gpu_block(ops_, call, work_, [&] { gpu_.record(mark(i, layer, which++).get(), compute_.get()); });
      gpu_.record(mark(i, layer, kEnd).get(), compute_.get());
      watch(layer);
    }
    blocks_->done(layer);
  }
}

void GpuDit::queue_heads(std::span<Turn> turns, const latent::Latent& x) {
  const int64_t dim = config_.dim, width = fixed_places_.head.out;
  const uint64_t bytes = static_cast<uint64_t>(work_.tokens * width) * sizeof(float);
  const float *shift = head_modulation_, *scale = shift + dim;
  for (size_t i = 0; i < turns.size(); ++i) {
    for (int64_t row = 0; row < work_.tokens; row += work_.chunk) {
      const int64_t rows = std::min(work_.chunk, work_.tokens - row);
      const device::ProductRows normed{work_.normed, nullptr, nullptr};
      ops_.layer_norm(x_[i] + row * dim, rows, dim, scale, shift, static_cast<float>(config_.eps), normed,
                      bad(i, config_.layers));
      ops_.linear(fixed_places_.head.on(fixed_.at()), normed, rows,
                  {work_.tokens_out + row * width, DType::kF32, 0, cuda::kGemmStore, nullptr});
    }
    gpu_.queue_copy_out(output_.data() + i * bytes, work_.tokens_out, bytes, compute_.get());
  }
  gpu_.queue_copy_out(flags_.data(), bad_, flags_.bytes(), compute_.get());
  gpu_.wait(compute_.get());
  for (size_t i = 0; i < turns.size(); ++i) {
    auto* const tokens = reinterpret_cast<float*>(output_.data() + i * bytes);
    if (!places_.place.empty()) permute_rows(tokens, work_.tokens, width, places_.place.data());
    latent::Latent& velocity = *turns[i].velocity;
    velocity.channels = config_.out_channels;
    velocity.frames = x.frames, velocity.height = x.height, velocity.width = x.width;
    velocity.values.resize(static_cast<size_t>(velocity.size()));
    latent::unpatchify({tokens, static_cast<size_t>(work_.tokens * width)}, velocity);
  }
}

void GpuDit::report_on(std::span<Turn> turns, std::span<attention::Plan* const> self) {
  const auto* const flags = reinterpret_cast<const int32_t*>(flags_.data());
  for (size_t i = 0; i < turns.size(); ++i) {
    ForwardReport* const report = turns[i].report;
    if (report == nullptr) continue;
    const int32_t* const mine = flags + static_cast<int64_t>(i) * (config_.layers + 1);
    // A mark is of what came into a block: of the one before. NaN from the patch embedding shows in block 0 as well.
    for (int64_t block = 0; block < config_.layers && report->first_bad_block < 0; ++block)
      if (mine[block + 1] != 0) report->first_bad_block = static_cast<int>(block);
    const std::vector<float>& values = turns[i].velocity->values;
    if (report->first_bad_block < 0 && !kernels::all_finite(values.data(), static_cast<int64_t>(values.size())))
      report->first_bad_block = static_cast<int>(config_.layers);
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const auto seconds = [&](int from, int to) {
        return gpu_.seconds_between(mark(i, layer, from).get(), mark(i, layer, to).get());
      };
      report->layers.push_back(
          {seconds(kBegin, kEnd), seconds(kAttention, kAttentionEnd), self[static_cast<size_t>(layer)]->stats()});
    }
  }
}

}  // namespace

void Dit::forward_pair(const latent::Latent& x, float timestep, const PromptContext& first, const PromptContext& second,
                       std::span<const LayerAttention> policy, const CancelToken& cancel, latent::Latent& first_velocity,
                       latent::Latent& second_velocity, ForwardReport* first_report, ForwardReport* second_report) {
  forward(x, timestep, first, policy, cancel, first_velocity, first_report);
  if (second_report != nullptr) *second_report = {};
  if (first_report != nullptr && first_report->first_bad_block >= 0) return;  // the other would not help
  forward(x, timestep, second, policy, cancel, second_velocity, second_report);
}

std::unique_ptr<Dit> Dit::load_on(device::Gpu& gpu, std::shared_ptr<const weights::Checkpoint> checkpoint, const Options& options,
                                  const CancelToken& cancel, const std::function<void(double)>& on_progress) {
  return std::make_unique<GpuDit>(gpu, std::move(checkpoint), options, cancel, on_progress);
}

}  // namespace sla2::dit
