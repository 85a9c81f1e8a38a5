// SPDX-License-Identifier: Apache-2.0
// What a checkpoint says of a UMT5 encoder, and what every implementation checks. Private to the room.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/text.h"

namespace sla2::text {

inline constexpr float kNormEpsilon = 1e-6f;  // of every UMT5 norm
inline constexpr int64_t kMaxTokens = 4096;   // Wan uses 512; scores grow with the square

/// Name of a layer's weight: layer_name(3, "0.SelfAttention.q").
std::string layer_name(int64_t layer, std::string_view rest);

/// The sizes, from shapes; every tensor has its place and size before any work begins. Throws MODEL_MISMATCH.
EncoderConfig read_encoder_config(const weights::Checkpoint& checkpoint);

/// 1 to kMaxTokens ids of the vocabulary. Throws ARGUMENT, MODEL_MISMATCH.
void check_ids(const weights::Checkpoint& checkpoint, const EncoderConfig& config, const std::vector<int32_t>& ids);
/// Their rows of the embedding table: target [ids, d_model].
void read_token_rows(const weights::Checkpoint& checkpoint, const EncoderConfig& config, const std::vector<int32_t>& ids,
                     std::span<float> target);
/// Throws NUMERIC where the result is not finite.
void check_finite(const weights::Checkpoint& checkpoint, const Embedding& embedding);

}  // namespace sla2::text
