// SPDX-License-Identifier: Apache-2.0
// The middle block's single-head self-attention over the pixels of one frame: norm, q|k|v, softmax(q k^T / sqrt(C)) v,
// projection, added to the input. Scores exist for kQueryRows queries at a time, never [N,N]. fp32, every sum in a fixed order.
#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/gemm.h"
#include "kernels/rms_silu.h"
#include "vae/stage.h"

namespace sla2::vae {

namespace {

using kernels::FrameShape;

constexpr int64_t kQueryRows = 256;

struct AttentionWeights {
  std::vector<float> gamma, qkv, qkv_bias, projection, projection_bias;  // [C], [3C,C], [3C], [C,C], [C]
};

void softmax_rows(float* scores, int64_t rows, int64_t columns) {
  parallel_for(rows, [&](int64_t row, int) {
    float* s = scores + row * columns;
    const float top = *std::max_element(s, s + columns);
    double sum = 0.0;
    for (int64_t i = 0; i < columns; ++i) {
      s[i] = std::exp(s[i] - top);
      sum += s[i];
    }
    const float inverse = static_cast<float>(1.0 / sum);
    for (int64_t i = 0; i < columns; ++i) s[i] *= inverse;
  });
}

/// Elements of Workspace::side: rows [N,C], q|k|v [N,3C], scores.
int64_t side_elements(int64_t tokens, int64_t channels) { return 4 * tokens * channels + std::min(kQueryRows, tokens) * tokens; }

class AttentionStage final : public Stage {
 public:
  AttentionStage(const AttentionWeights& weights, const FrameShape& shape) : weights_(weights), shape_(shape) {}

  void push(Workspace& workspace, const Next& next) override {
    const int64_t tokens = shape_.pixels(), c = shape_.channels;
    float* rows = workspace.side.data();
    float* qkv = rows + tokens * c;
    float* scores = qkv + 3 * tokens * c;
    kernels::rms_silu(shape_, workspace.x.data(), weights_.gamma.data(), false, workspace.y.data());
    kernels::frame_to_rows(shape_, workspace.y.data(), rows);
    for (int64_t row = 0; row < tokens; ++row) std::copy_n(weights_.qkv_bias.data(), 3 * c, qkv + row * 3 * c);
    kernels::gemm_f32(tokens, 3 * c, c, rows, c, false, weights_.qkv.data(), c, true, qkv, 3 * c, 1.0F, 1.0F);

    const float scale = 1.0F / std::sqrt(static_cast<float>(c));
    for (int64_t first = 0; first < tokens; first += kQueryRows) {
      const int64_t queries = std::min(kQueryRows, tokens - first);
      kernels::gemm_f32(queries, tokens, c, qkv + first * 3 * c, 3 * c, false, qkv + c, 3 * c, true, scores, tokens, scale);
      softmax_rows(scores, queries, tokens);
      kernels::gemm_f32(queries, c, tokens, scores, tokens, false, qkv + 2 * c, 3 * c, false, rows + first * c, c);
    }
    float* projected = workspace.y.data();  // [N,C]; the normalised frame is not needed any more
    kernels::gemm_f32(tokens, c, c, rows, c, false, weights_.projection.data(), c, true, projected, c);
    kernels::add_rows_to_frame(shape_, projected, weights_.projection_bias.data(), workspace.x.data());
    next();
  }

 private:
  const AttentionWeights& weights_;
  FrameShape shape_;
};

class AttentionBlock final : public Block {
 public:
  AttentionBlock(const WeightReader& reader, const BlockSpec& spec) : channels_(spec.in), block_(reader.format().block) {
    const int64_t c = channels_;
    weights_.gamma = reader.gamma(spec.name + ".norm", c, 3);
    weights_.qkv = reader.read(spec.name + ".to_qkv.weight", {3 * c, c, 1, 1});
    weights_.qkv_bias = reader.read(spec.name + ".to_qkv.bias", {3 * c});
    weights_.projection = reader.read(spec.name + ".proj.weight", {c, c, 1, 1});
    weights_.projection_bias = reader.read(spec.name + ".proj.bias", {c});
  }
  std::unique_ptr<Stage> start(int64_t height, int64_t width) const override {
    return std::make_unique<AttentionStage>(weights_, FrameShape{channels_, height, width, block_});
  }

 private:
  AttentionWeights weights_;
  int64_t channels_, block_;
};

}  // namespace

std::unique_ptr<Block> load_attention(const WeightReader& reader, const BlockSpec& spec) {
  return std::make_unique<AttentionBlock>(reader, spec);
}

BlockCost attention_cost(const BlockSpec& spec, int64_t height, int64_t width, const Format& format) {
  BlockCost cost;
  cost.weight_bytes = static_cast<uint64_t>(4 * spec.in * spec.in + 5 * spec.in) * sizeof(float);
  cost.frame_elements = FrameShape{spec.in, height, width, format.block}.elements();
  cost.side_elements = side_elements(height * width, spec.in);
  return cost;
}

}  // namespace sla2::vae
