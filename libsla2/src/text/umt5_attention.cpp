// SPDX-License-Identifier: Apache-2.0
// Heads in parallel, each as two plain matrix products around an fp32 softmax; a few hundred tokens at most.
#include "text/umt5_attention.h"

#include <algorithm>
#include <cmath>

#include "core/core.h"
#include "kernels/gemm.h"

namespace sla2::text {
namespace {

/// scores[query, key] += bias, then softmax over the keys.
void bias_and_softmax(float* row, const float* bias, int64_t keys) {
  float largest = -INFINITY;
  for (int64_t key = 0; key < keys; ++key) {
    row[key] += bias[key];
    largest = std::max(largest, row[key]);
  }
  float sum = 0;
  for (int64_t key = 0; key < keys; ++key) {
    row[key] = std::exp(row[key] - largest);
    sum += row[key];
  }
  const float scale = 1.0f / sum;
  for (int64_t key = 0; key < keys; ++key) row[key] *= scale;
}

}  // namespace

std::vector<int32_t> relative_buckets(int64_t tokens, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2, exact = half / 2;
  // fp32 in this order of operations, as the references: at d = 16, 32, 64 the quotient is a whole number
  const float log_span = static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  std::vector<int32_t> bucket_of;
  for (int64_t relative = -(tokens - 1); relative < tokens; ++relative) {
    const int64_t distance = std::abs(relative);
    int64_t bucket = distance;
    if (distance >= exact) {
      const float ratio =
          std::log(static_cast<float>(distance) / static_cast<float>(exact)) / log_span * static_cast<float>(half - exact);
      bucket = std::min(half - 1, exact + static_cast<int64_t>(ratio));
    }
    bucket_of.push_back(static_cast<int32_t>(bucket + (relative > 0 ? half : 0)));
  }
  return bucket_of;
}

void umt5_attention(const AttentionShape& shape, const float* q, const float* k, const float* v, const float* bias_table,
                    const std::vector<int32_t>& bucket_of, float* scores, float* out) {
  const int64_t n = shape.tokens, d = shape.head_dim, width = shape.heads * d;
  std::vector<float> bias(static_cast<size_t>(shape.heads) * bucket_of.size());  // [heads, relative position]
  for (int64_t head = 0; head < shape.heads; ++head) {
    for (size_t at = 0; at < bucket_of.size(); ++at)
      bias[head * bucket_of.size() + at] = bias_table[bucket_of[at] * shape.heads + head];
  }
  parallel_for(shape.heads, [&](int64_t head, int worker) {
    float* s = scores + static_cast<int64_t>(worker) * n * n;  // [n, n]
    kernels::gemm_f32_serial(n, n, d, q + head * d, width, false, k + head * d, width, true, s, n);
    for (int64_t query = 0; query < n; ++query) {
      bias_and_softmax(s + query * n, bias.data() + head * bucket_of.size() + (n - 1 - query), n);
    }
    kernels::gemm_f32_serial(n, d, n, s, n, false, v + head * d, width, false, out + head * d, width);
  });
}

}  // namespace sla2::text
