// SPDX-License-Identifier: Apache-2.0
// Self-attention of one UMT5 layer. Private to the room.
#pragma once
#include <cstdint>
#include <vector>

namespace sla2::text {

struct AttentionShape {
  int64_t tokens, heads, head_dim;
};

/// Bucket of each relative position key - query = -(tokens-1) … tokens-1, bidirectional T5 rule.
std::vector<int32_t> relative_buckets(int64_t tokens, int64_t buckets, int64_t max_distance);

/// out[n, heads*d] = softmax(q kᵀ + bias) v per head, without 1/sqrt(d); q, k, v, out: [tokens, heads*d] fp32.
/// `bias_table`: [buckets, heads]. `scores`: scratch of thread_count() * tokens * tokens numbers.
void umt5_attention(const AttentionShape& shape, const float* q, const float* k, const float* v, const float* bias_table,
                    const std::vector<int32_t>& bucket_of, float* scores, float* out);

}  // namespace sla2::text
