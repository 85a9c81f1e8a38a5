// SPDX-License-Identifier: Apache-2.0
#include "device/text_ops.h"

#include "core/core.h"
#include "device/device.h"

namespace sla2::device {

TextOps::TextOps(Gpu& gpu, Ops& ops) : gpu_(gpu), ops_(ops) {
  for (const char* const kernel : {"sla2_text_norm", "sla2_text_gate"}) gpu_.prepare(kernel, 0);
  gpu_.prepare("sla2_text_attention", gpu_.shared_bytes());
}

void TextOps::linear(const LinearWeight& weight, const cuda::SplitRows& x, int64_t rows, float* y, bool add) {
  SLA2_CHECK(weight.scale == nullptr && weight.bias == nullptr, SLA2_E_INTERNAL, "GPU: a T5 product has no scale and no bias");
  ops_.linear(weight, {x.high, nullptr, nullptr}, rows,
              {y, DType::kF32, 0, add ? cuda::kGemmAddGated : cuda::kGemmStore, nullptr});
  ops_.linear(weight, {x.low, nullptr, nullptr}, rows, {y, DType::kF32, 0, cuda::kGemmAddGated, nullptr});
}

void TextOps::norm(const float* x, int64_t rows, int64_t width, const float* weight, float eps, const cuda::SplitRows& y) {
  const cuda::TextNormParams p{x, weight, y, nullptr, static_cast<int32_t>(rows), static_cast<int32_t>(width), eps};
  start(gpu_, "sla2_text_norm", ceil_div(rows, cuda::kRowsPerBlock), 1, cuda::kRowThreads, 0, p, ops_.stream());
}

void TextOps::norm(const float* x, int64_t rows, int64_t width, const float* weight, float eps, float* y) {
  const cuda::TextNormParams p{x, weight, {}, y, static_cast<int32_t>(rows), static_cast<int32_t>(width), eps};
  start(gpu_, "sla2_text_norm", ceil_div(rows, cuda::kRowsPerBlock), 1, cuda::kRowThreads, 0, p, ops_.stream());
}

void TextOps::gate(const float* x, int64_t rows, int64_t width, const cuda::SplitRows& y) {
  const cuda::TextGateParams p{x, y, static_cast<int32_t>(rows), static_cast<int32_t>(width)};
  start(gpu_, "sla2_text_gate", ceil_div(rows, cuda::kRowsPerBlock), 1, cuda::kRowThreads, 0, p, ops_.stream());
}

int64_t TextOps::most_tokens(const Gpu& gpu, int64_t head_dim) {
  const uint64_t fixed = cuda::text_attention_bytes(0, head_dim), all = gpu.shared_bytes();
  if (all <= fixed) return 0;
  const auto tokens = static_cast<int64_t>((all - fixed) / (sizeof(float) * cuda::kTextQueries));
  return tokens / cuda::kTextKeys * cuda::kTextKeys;
}

void TextOps::attention(const cuda::TextAttentionParams& p) {
  const int64_t most = most_tokens(gpu_, p.head_dim);
  SLA2_CHECK(p.tokens <= most, SLA2_E_UNSUPPORTED,
             "GPU: a prompt of {} tokens; its text attention takes at most {} of heads of {}: shorten it, or encode on the CPU",
             p.tokens, most, p.head_dim);
  start(gpu_, "sla2_text_attention", ceil_div(p.tokens, cuda::kTextQueries), p.heads, cuda::kTextThreads,
        static_cast<uint32_t>(cuda::text_attention_bytes(p.tokens, p.head_dim)), p, ops_.stream());
}

}  // namespace sla2::device
