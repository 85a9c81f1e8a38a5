// SPDX-License-Identifier: Apache-2.0
// The door of dit: Wan2.1's diffusion transformer. Latent and timestep in, velocity out. Knows no files' formats.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "config/model_config.h"
#include "core/core.h"
#include "latent/latent.h"
#include "text/text.h"
#include "weights/weights.h"

namespace sla2::device {
class Gpu;
}

namespace sla2::dit {

enum class Precision : uint8_t {
  kAuto,  ///< bf16 where the CPU has fast bf16 products, else fp32 products on the weights as stored
  kF32,
  kBf16,  ///< bf16 inputs to matrix products, fp32 accumulation, fp32 residual stream, norms and modulation
};

/// What kAuto means on this machine; the others themselves.
[[nodiscard]] Precision resolved(Precision precision);

/// What self-attention does in one layer of one step.
struct LayerAttention {
  attention::Mode mode = attention::Mode::kFull;
  double sparsity = 0;
  int32_t block_q = attention::Config{}.block_q, block_k = attention::Config{}.block_k;
  int32_t bits = attention::Config{}.bits;
  attention::Router router = attention::Config{}.router;
  attention::Mix mix = attention::Config{}.mix;
  attention::Scope scope = attention::Config{}.scope;
  bool smooth_k = attention::Config{}.smooth_k;
  int64_t min_tokens = 0;  ///< fewer tokens than this run as full where that is the same kind of thing; see attention::Config
  bool learned = false;    ///< reads what Options::pack holds for the layer
  int32_t mix_set = 0;     ///< and of its mixing numbers those of this κ
  attention::Rule rule = attention::Config{}.rule;
  double top_p = attention::Config{}.top_p, theta = attention::Config{}.theta;
  double negligible = 0;  ///< mode sla1 alone
  double mix_scale = attention::Config{}.mix_scale, mix_bias = attention::Config{}.mix_bias;
  int32_t protect_first = 0, protect_last = 0, protect_near = attention::Config{}.protect_near;
  double probe = 0;  ///< > 0: this fraction of the query blocks is compared with full attention; on the CPU
  auto operator<=>(const LayerAttention&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 reads a 0 into it
};

struct Options {
  Precision precision = Precision::kAuto;
  int linear_bits = 16;  ///< 8: the blocks' Linears in whole bytes (W8A8), scales per token and channel; the rest as precision
  attention::Order token_order = attention::Order::kRaster;  ///< of tokens in the blocks: what a block of keys stands for

  std::shared_ptr<const weights::RouterPack>
      pack{};               ///< learned tensors of layers whose attention asks for them; of this geometry
  int64_t token_chunk = 0;  ///< rows at a time in QKV and FFN, so that only attention sees whole-sequence tensors; 0: see plan.h
  /// On a GPU: 0: every block's weights stay there; 2 or 3: blocks stream through so many places from pinned memory.
  int weight_slots = 0;
  /// For tests: called after each block with x [tokens, dim]; block -1 is the patch embedding.
  std::function<void(int64_t block, std::span<const float> x)> on_block{};
};

/// Per-prompt constants: text MLP and every layer's cross-attention K and V, padding collapsed into one biased key.
class PromptContext {
 public:
  virtual ~PromptContext() = default;
  [[nodiscard]] virtual uint64_t bytes() const noexcept = 0;
};

struct LayerReport {
  double seconds = 0, attention_seconds = 0;
  attention::Stats attention;
  attention::Probe probe{};  ///< fraction 0: nothing was compared
};

struct ForwardReport {
  std::vector<LayerReport> layers;
  int first_bad_block = -1;  ///< first block whose output has NaN or infinity; layers() for the head; -1: none
};

/// One loaded model for one grid size at a time. One thread at a time.
class Dit {
 public:
  /// Check every tensor's shape against the configuration; load and pack weights.
  static std::unique_ptr<Dit> load(std::shared_ptr<const weights::Checkpoint> checkpoint, const Options& options,
                                   const CancelToken& cancel, const std::function<void(double fraction)>& on_progress);
  /// The same on a GPU: products in bf16 or bytes on its tensor cores, the residual stream and norms in fp32. `gpu` outlives it.
  /// Throws MEMORY where its memory does not do, UNSUPPORTED where its kernels do not.
  static std::unique_ptr<Dit> load_on(device::Gpu& gpu, std::shared_ptr<const weights::Checkpoint> checkpoint,
                                      const Options& options, const CancelToken& cancel,
                                      const std::function<void(double fraction)>& on_progress);
  virtual ~Dit() = default;
  [[nodiscard]] virtual const config::DitConfig& config() const noexcept = 0;
  /// Bytes of weights as held, and of activations for a grid: known without loading (see plan()).
  [[nodiscard]] virtual uint64_t weight_bytes() const noexcept = 0;
  /// Whose products these are, in words.
  [[nodiscard]] virtual std::string products() const { return "oneDNN"; }
  virtual std::unique_ptr<PromptContext> prepare_prompt(const text::Embedding& embedding) = 0;
  /// Allocate the activation arena for a grid. Throws MEMORY.
  virtual void set_grid(const latent::Grid& grid) = 0;
  /// velocity [C_out,F,H,W] = model(x, t, prompt). `policy` has one entry per layer, or is empty (all full).
  /// Cancels between blocks. `report` may be null; when given, each block's output is checked for NaN and infinity.
  virtual void forward(const latent::Latent& x, float timestep, const PromptContext& prompt,
                       std::span<const LayerAttention> policy, const CancelToken& cancel, latent::Latent& velocity,
                       ForwardReport* report) = 0;
  /// forward for two prompts at the same x and timestep, as guidance asks for. Where weights stream, each block's serve both
  /// before the next arrives; elsewhere one goes after the other, and a first velocity that is not finite ends it.
  virtual void forward_pair(const latent::Latent& x, float timestep, const PromptContext& first, const PromptContext& second,
                            std::span<const LayerAttention> policy, const CancelToken& cancel, latent::Latent& first_velocity,
                            latent::Latent& second_velocity, ForwardReport* first_report, ForwardReport* second_report);
};

/// The static plan: weights, prompt constants and the activation arena for a grid, from the configuration alone.
struct PlanSummary {
  uint64_t weight_bytes = 0, prompt_bytes = 0, activation_bytes = 0;
  std::string text;  ///< one line per buffer
  [[nodiscard]] uint64_t total() const noexcept { return weight_bytes + prompt_bytes + activation_bytes; }
};
/// `stored`: element type of the checkpoint's matrices, see stored_type(); it decides how weights are held.
/// `kinds`: what self-attention does beside full attention in 16 bits, each once.
PlanSummary plan(const config::DitConfig& config, const latent::Grid& grid, int64_t prompt_tokens, const Options& options,
                 std::span<const LayerAttention> kinds = {}, DType stored = DType::kBF16);
/// The same of a GPU's memory, options.weight_slots included; `prompts`: 2 with guidance.
PlanSummary plan_on(device::Gpu& gpu, const config::DitConfig& config, const latent::Grid& grid, int64_t prompt_tokens,
                    const Options& options, std::span<const LayerAttention> kinds, int prompts);
DType stored_type(const weights::Checkpoint& checkpoint);

/// What linear_bits means for a model on this machine.
struct LinearBits {
  int weights = 16, activations = 16;  ///< bits; without VNNI activations have 7 of 8, see kernels/packed_linear.h
  std::vector<std::string> full;       ///< Linears that stay in 16 or 32 bits; empty if all do
};
LinearBits linear_bits(const config::DitConfig& config, const Options& options);

/// A model with LoRAs: reads like the base, with their products added in fp32 before a weight takes the form it is held in. Where
/// several files change one tensor they are added in their order. `base` itself where there are none.
std::shared_ptr<const weights::Checkpoint> with_loras(std::shared_ptr<const weights::Checkpoint> base,
                                                      std::vector<weights::LoraFile> loras);

}  // namespace sla2::dit
