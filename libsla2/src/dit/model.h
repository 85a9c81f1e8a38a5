// SPDX-License-Identifier: Apache-2.0
// The loaded parts of a model and what one pass hands from part to part.
#pragma once
#include <limits>
#include <span>
#include <vector>

#include "dit/loader.h"
#include "dit/plan.h"
#include "kernels/rope.h"

namespace sla2::dit {

inline constexpr int64_t kModulationVectors = 6;

struct TimeEmbedding {
  kernels::PackedLinear in, out, projection;
  AlignedBuffer<float> head_modulation;  ///< [2, dim]
};

/// One transformer block's resident weights.
struct Block {
  kernels::PackedLinear qkv, self_out, cross_query, cross_out, ffn_in, ffn_out;
  AlignedBuffer<float> modulation;                    ///< [6, dim]
  AlignedBuffer<float> norm_q, norm_k, cross_norm_q;  ///< [dim], RMSNorm over all heads
  AlignedBuffer<float> norm3_weight, norm3_bias;      ///< [dim]; empty without cross_attn_norm
};
Block load_block(const Loader& loader, const config::DitConfig& config, int64_t layer);

/// Everything that depends on the timestep alone. Scales have their 1 added.
struct StepVectors {
  float timestep = std::numeric_limits<float>::quiet_NaN();  ///< equal to nothing: not computed yet
  AlignedBuffer<float> blocks;  ///< [layers, 6, dim]: shift1, 1 + scale1, gate1, shift2, 1 + scale2, gate2
  AlignedBuffer<float> head;    ///< [2, dim]: shift, 1 + scale
};
TimeEmbedding load_time_embedding(const Loader& loader, const config::DitConfig& config);
void embed_time(const config::DitConfig& config, const TimeEmbedding& time, const std::vector<Block>& blocks, float timestep,
                void* scratch, StepVectors& step);

/// K and V of every layer's cross-attention for one prompt; see prompt.cpp.
class Prompt final : public PromptContext {
 public:
  [[nodiscard]] uint64_t bytes() const noexcept override { return (values.size() + key_bias.size()) * sizeof(float); }
  [[nodiscard]] const float* k(int64_t layer) const noexcept { return values.data() + 2 * layer * keys * dim; }
  [[nodiscard]] const float* v(int64_t layer) const noexcept { return k(layer) + keys * dim; }
  int64_t keys = 0, dim = 0, layers = 0;
  AlignedBuffer<float> values;    ///< [layers, 2, keys, dim]
  AlignedBuffer<float> key_bias;  ///< [keys]; empty if no row stands for padding
};
std::unique_ptr<Prompt> make_prompt(const config::DitConfig& config, const Loader& loader, const text::Embedding& embedding);

/// Pointers into the arena for one grid, and what attention needs.
struct Workspace {
  float *x, *tokens_in, *qkv, *self_out, *cross_q, *cross_out, *qkv_norm, *cross_norm, *ffn_norm, *head_norm, *hidden,
      *tokens_out;
  void* scratch;
  void* attention;
  int64_t tokens, chunk;
  kernels::RopeGrid rope;          ///< its `order` is that of all rows of tokens
  const int32_t* place = nullptr;  ///< [tokens] the inverse of rope.order; null: t, h, w order
};
/// x [rows, width] := its rows order[0], order[1], …; in place.
void permute_rows(float* x, int64_t rows, int64_t width, const int32_t* order);

/// [cos(t·w_i) | sin(t·w_i)], w_i = 10000^(-i / half); in fp64.
std::vector<float> sinusoid(double timestep, int64_t width);

// What every model checks, wherever it runs.
void check_model(const config::DitConfig& config, const Loader& loader, const Options& options);
void check_grid(const config::DitConfig& config, const latent::Grid& grid);
void check_call(const config::DitConfig& config, const latent::Grid& grid, const Options& options, const latent::Latent& x,
                std::span<const LayerAttention> policy);
void check_prompt(const config::DitConfig& config, int64_t dim, int64_t layers);
/// Text rows as the model expects them: those of the prompt and one of zeros for all padding; see prompt.cpp.
struct PromptRows {
  int64_t keys = 0;
  std::vector<float> rows;      ///< [keys, text_dim]
  std::vector<float> key_bias;  ///< [keys]; empty if no row stands for padding
};
PromptRows prompt_rows(const config::DitConfig& config, const text::Embedding& embedding);

/// Places of tokens in the blocks: [tokens] in t, h, w order of the i-th, and the inverse; empty in raster order.
struct TokenPlaces {
  std::vector<int32_t> order, place;
};
TokenPlaces token_places(attention::Order order, const latent::Grid& grid);

struct BlockTimes {
  double attention_seconds = 0;
};
/// What attention reads of a pack in one layer.
attention::Parameters learned_parameters(const weights::PackLayer& learned, const LayerAttention& layer);
/// x += self-attention, cross-attention, FFN. `modulation` [6, dim] of this layer and timestep; `probe` may be null.
BlockTimes run_block(const config::DitConfig& config, const Block& block, const float* modulation, const Prompt& prompt,
                     int64_t layer, attention::Plan& self_plan, const attention::Parameters& learned, attention::Probe* probe,
                     attention::Plan& cross_plan, const Workspace& work);

void embed_patches(const kernels::PackedLinear& patch, const latent::Latent& input, const config::DitConfig& config,
                   const Workspace& work);
void run_head(const kernels::PackedLinear& head, const config::DitConfig& config, const StepVectors& step, const Workspace& work,
              latent::Latent& velocity);

}  // namespace sla2::dit
