// SPDX-License-Identifier: Apache-2.0
// The one parameter of each kernel of a T5 encoder beside its products. A prompt is a few hundred rows and every layer's weights
// are used once, so that copying weights takes the time: rows are fp32 wherever no product reads them, and go into products as
// two bf16 numbers, which costs a second product and no accuracy.
#pragma once
#include <cstdint>

namespace sla2::cuda {

/// Rows for products: number ≈ high + low, both bf16, to within 2^-17 of it. [rows, width]
struct SplitRows {
  uint16_t *high, *low;
};

/// sla2_text_norm: x·rsqrt(mean(x²) + eps)·weight, T5's norm. Grid (ceil(rows / 8), 1).
struct TextNormParams {
  const float *x, *weight;  ///< [rows, width], [width]
  SplitRows y;              ///< or, where high is null,
  float* wide;              ///< [rows, width]; may be x
  int32_t rows, width;      ///< width even
  float eps;
};

/// sla2_text_gate: gelu_tanh(gate)·up, where each row of x holds gate and then up. Grid (ceil(rows / 8), 1).
struct TextGateParams {
  const float* x;       ///< [rows, 2·width]
  SplitRows y;          ///< [rows, width]
  int32_t rows, width;  ///< width even
};

inline constexpr int kTextThreads = 256;
inline constexpr int kTextQueries = 16;  ///< of a block, two to a warp: the scores of 512 tokens are then 32 KB
inline constexpr int kTextKeys = 32;     ///< of a tile: a lane each
inline constexpr int kTextChannels = 64;

/// sla2_text_attention: softmax(q·kᵀ + bias)·v of each head, no 1/√d, all fp32; bias = table[bucket_of[key - query + tokens -
/// 1]]. Grid (ceil(tokens / 16), heads); shared memory as text_attention_bytes says.
struct TextAttentionParams {
  const float* qkv;          ///< [tokens, 3, heads, head_dim]
  const float* bias_table;   ///< [buckets, heads]
  const int32_t* bucket_of;  ///< [2·tokens - 1]
  SplitRows out;             ///< [tokens, heads, head_dim]
  int32_t tokens, heads, head_dim;
};
/// Scores [16][tokens, rounded up to 32], queries [16][head_dim], a tile of keys or values [32][65].
constexpr uint64_t text_attention_bytes(int64_t tokens, int64_t head_dim) {
  const auto padded = static_cast<uint64_t>((tokens + kTextKeys - 1) / kTextKeys * kTextKeys);
  return sizeof(float) * (kTextQueries * (padded + static_cast<uint64_t>(head_dim)) + kTextKeys * (kTextChannels + 1));
}

}  // namespace sla2::cuda
