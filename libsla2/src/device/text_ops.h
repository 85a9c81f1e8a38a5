// SPDX-License-Identifier: Apache-2.0
// What a T5 encoder does on a GPU beside plain products. Rows are fp32; on their way into a product each number is two bf16, so
// that with weights of bf16 the product is fp32's.
#pragma once
#include "device/ops.h"
#include "kernels/cuda/text_params.h"

namespace sla2::device {

class TextOps {
 public:
  /// Loads the kernels. Everything is queued on the stream that `ops` has when it is called. Both outlive it.
  TextOps(Gpu& gpu, Ops& ops);

  /// y [rows, out] = x·weightᵀ, or y += that; fp32, stride 0: out. `weight`: bf16, no bias.
  void linear(const LinearWeight& weight, const cuda::SplitRows& x, int64_t rows, float* y, bool add);
  /// T5's RMSNorm of fp32 rows (no mean, no shift): x·rsqrt(mean(x²) + eps)·weight.
  void norm(const float* x, int64_t rows, int64_t width, const float* weight, float eps, const cuda::SplitRows& y);
  void norm(const float* x, int64_t rows, int64_t width, const float* weight, float eps, float* y);  ///< y may be x
  /// gelu_tanh(gate)·up of x [rows, 2·width], gate before up in each row.
  void gate(const float* x, int64_t rows, int64_t width, const cuda::SplitRows& y);
  /// Attention of one prompt: all tokens with all, a relative bias, no 1/√d.
  void attention(const cuda::TextAttentionParams& attention);
  /// Most tokens that attention() takes on this GPU; 0 where not even one fits.
  [[nodiscard]] static int64_t most_tokens(const Gpu& gpu, int64_t head_dim);

 private:
  Gpu& gpu_;
  Ops& ops_;
};

}  // namespace sla2::device
