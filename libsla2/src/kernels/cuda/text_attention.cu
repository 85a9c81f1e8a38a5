// SPDX-License-Identifier: Apache-2.0
// Attention of one prompt with a relative bias: few tokens, scores of any size (T5 does not divide them by √d), so fp32
// throughout and no tensor cores. A block has 16 queries of a head, two to a warp, and keeps their scores with all keys in shared
// memory: the softmax is the plain one in two passes, and any head_dim does. Keys and values pass in tiles of 32 rows and 64
// channels.
#include "kernels/cuda/text_rows.h"

namespace sla2::cuda {
namespace {

constexpr int32_t kMine = kTextQueries / (kTextThreads / 32);  // queries of a warp
constexpr int32_t kStride = kTextChannels + 1;                 // of a tile: lanes on different keys then hit different banks

struct TextBlock {
  const TextAttentionParams& p;
  int32_t head, first;       // query
  int32_t padded;            // tokens
  uint32_t queries, tile;    // where they begin in shared memory; scores begin it
  int32_t lane, warp_query;  // of this thread: its lane, its warp's first query in the block

  SLA2_DEVICE uint32_t score(int32_t query, int32_t key) const { return static_cast<uint32_t>(query * padded + key) * 4; }
  SLA2_DEVICE const float* row(int32_t part, int32_t token) const {
    return p.qkv + ((static_cast<int64_t>(token) * 3 + part) * p.heads + head) * p.head_dim;
  }

  /// Queries beyond the last repeat it; nobody keeps what they give.
  SLA2_DEVICE void load_queries() const {
    for (auto i = static_cast<int32_t>(thread_index()); i < kTextQueries * p.head_dim; i += kTextThreads) {
      const int32_t token = first + i / p.head_dim;
      shared_store<float>(queries + static_cast<uint32_t>(i) * 4,
                          row(0, token < p.tokens ? token : p.tokens - 1)[i % p.head_dim]);
    }
  }
  /// Part 1: keys, 2: values; zeros beyond tokens and channels.
  SLA2_DEVICE void load_tile(int32_t part, int32_t key, int32_t channel) const {
    sync_threads();  // what was there has been read
    for (auto i = static_cast<int32_t>(thread_index()); i < kTextKeys * kTextChannels; i += kTextThreads) {
      const int32_t k = i / kTextChannels, c = i % kTextChannels;
      const bool real = key + k < p.tokens && channel + c < p.head_dim;
      shared_store<float>(tile + static_cast<uint32_t>(k * kStride + c) * 4, real ? row(part, key + k)[channel + c] : 0.0F);
    }
    sync_threads();
  }

  SLA2_DEVICE float bias(int32_t query, int32_t key) const {
    const int32_t token = first + query < p.tokens ? first + query : p.tokens - 1;
    return p.bias_table[p.bucket_of[key - token + p.tokens - 1] * p.heads + head];
  }

  /// A lane takes a key of each tile.
  SLA2_DEVICE void write_scores() const {
    for (int32_t from = 0; from < p.tokens; from += kTextKeys) {
      float s[kMine] = {};
      for (int32_t channel = 0; channel < p.head_dim; channel += kTextChannels) {
        load_tile(1, from, channel);
        const int32_t left = p.head_dim - channel, count = left < kTextChannels ? left : kTextChannels;
        for (int32_t c = 0; c < count; ++c) {
          const auto k = shared_load<float>(tile + static_cast<uint32_t>(lane * kStride + c) * 4);
#pragma unroll
          for (int32_t j = 0; j < kMine; ++j)
            s[j] += k * shared_load<float>(queries + static_cast<uint32_t>((warp_query + j) * p.head_dim + channel + c) * 4);
        }
      }
      const int32_t key = from + lane;
#pragma unroll
      for (int32_t j = 0; j < kMine; ++j)
        shared_store<float>(score(warp_query + j, key), key < p.tokens ? s[j] + bias(warp_query + j, key) : -infinity());
    }
  }

  /// Scores of a query to exp(score - largest); a lane reads those that it wrote. @return 1 / their sum
  SLA2_DEVICE float exponentials(int32_t query) const {
    float top = -infinity(), sum = 0;
    for (int32_t key = lane; key < padded; key += 32) top = largest(top, shared_load<float>(score(query, key)));
    top = warp_max(top);
    for (int32_t key = lane; key < padded; key += 32) {
      const float e = exp_of(shared_load<float>(score(query, key)) - top);
      shared_store<float>(score(query, key), e);
      sum += e;
    }
    return 1 / warp_sum(sum);
  }

  /// A lane takes two channels of each tile, 32 apart.
  SLA2_DEVICE void write_output(const float (&factor)[kMine]) const {
    for (int32_t channel = 0; channel < p.head_dim; channel += kTextChannels) {
      float sum[kMine][2] = {};
      for (int32_t from = 0; from < p.tokens; from += kTextKeys) {
        load_tile(2, from, channel);
        for (int32_t k = 0; k < kTextKeys; ++k) {
          const uint32_t at = tile + static_cast<uint32_t>(k * kStride + lane) * 4;
          const auto low = shared_load<float>(at), high = shared_load<float>(at + 32 * 4);
#pragma unroll
          for (int32_t j = 0; j < kMine; ++j) {
            const auto weight = shared_load<float>(score(warp_query + j, from + k));
            sum[j][0] += weight * low, sum[j][1] += weight * high;
          }
        }
      }
#pragma unroll
      for (int32_t j = 0; j < kMine; ++j) {
        const int32_t token = first + warp_query + j;
        if (token >= p.tokens) continue;
        const int64_t at = (static_cast<int64_t>(token) * p.heads + head) * p.head_dim;
        const SplitPair both = split({sum[j][0] * factor[j], sum[j][1] * factor[j]});
        store(at, channel + lane, both.high & 0xFFFFU, both.low & 0xFFFFU);
        store(at, channel + lane + 32, both.high >> 16U, both.low >> 16U);
      }
    }
  }
  SLA2_DEVICE void store(int64_t at, int32_t channel, uint32_t high, uint32_t low) const {
    if (channel >= p.head_dim) return;
    p.out.high[at + channel] = static_cast<uint16_t>(high);
    p.out.low[at + channel] = static_cast<uint16_t>(low);
  }
};

}  // namespace

SLA2_KERNEL(sla2_text_attention, kTextThreads, 1, TextAttentionParams) {
  const int32_t padded = (p.tokens + kTextKeys - 1) / kTextKeys * kTextKeys;
  const auto queries = static_cast<uint32_t>(kTextQueries * padded) * 4;
  const TextBlock block{p,
                        static_cast<int32_t>(block_y()),
                        static_cast<int32_t>(block_x()) * kTextQueries,
                        padded,
                        queries,
                        queries + static_cast<uint32_t>(kTextQueries * p.head_dim) * 4,
                        static_cast<int32_t>(thread_index() % 32),
                        static_cast<int32_t>(thread_index() / 32) * kMine};
  block.load_queries();  // read after the first tile's barrier
  block.write_scores();
  float factor[kMine];
#pragma unroll
  for (int32_t j = 0; j < kMine; ++j) factor[j] = block.exponentials(block.warp_query + j);
  block.write_output(factor);  // its first tile's barrier comes before it reads scores
}

}  // namespace sla2::cuda
