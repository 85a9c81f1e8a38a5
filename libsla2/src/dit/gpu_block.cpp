// SPDX-License-Identifier: Apache-2.0
// One transformer block on a GPU, as block.cpp does it on the CPU: x [tokens, dim] in fp32 and in place, rows on their way into
// products in bf16, or in bytes where the block's Linears are.
#include <algorithm>

#include "dit/gpu_model.h"

namespace sla2::dit {

namespace {

class BlockQueue {
 public:
  BlockQueue(device::Ops& ops, const GpuBlockCall& call, const GpuWorkspace& work)
      : ops_(ops), call_(call), work_(work), dim_(call.config.dim), eps_(static_cast<float>(call.config.eps)) {}

  void self_attention(const std::function<void()>& around_attention) {
    const float *shift = call_.modulation, *scale = shift + dim_, *gate = scale + dim_;
    const int64_t width = 3 * dim_;
    for_chunks([&](int64_t row, int64_t rows) {
      uint16_t* const qkv = work_.qkv + row * width;
      const device::ProductRows normed = rows_for(call_.places.qkv);
      ops_.layer_norm(work_.x + row * dim_, rows, dim_, scale, shift, eps_, normed, call_.bad);
      ops_.linear(call_.places.qkv.on(call_.weights), normed, rows, {qkv, DType::kBF16, width, cuda::kGemmStore, nullptr});
      ops_.rms_norm({qkv, width, rows, dim_, vector(call_.places.norm_q), vector(call_.places.norm_k), dim_, row, eps_},
                    work_.rope);
    });
    around_attention();
    attention::Forward in;
    in.q = heads_of(work_.qkv, width);
    in.k = heads_of(work_.qkv + dim_, width);
    in.v = heads_of(work_.qkv + 2 * dim_, width);
    in.out = {work_.self_out, DType::kBF16, 0, call_.config.head_dim, dim_};
    in.parameters = call_.learned;
    in.stream = ops_.stream();
    call_.self.forward(in, work_.attention);
    around_attention();
    add_product(call_.places.self_out, work_.self_out, dim_, gate);
  }

  void cross_attention() {
    const bool has_norm = call_.config.cross_attn_norm;
    for_chunks([&](int64_t row, int64_t rows) {
      uint16_t* const q = work_.cross_q + row * dim_;
      const device::ProductRows normed = rows_for(call_.places.cross_query);
      const float* const x = work_.x + row * dim_;
      if (has_norm)
        ops_.layer_norm(x, rows, dim_, vector(call_.places.norm3_weight), vector(call_.places.norm3_bias), eps_, normed);
      else
        ops_.convert(x, rows, dim_, normed);
      ops_.linear(call_.places.cross_query.on(call_.weights), normed, rows, {q, DType::kBF16, 0, cuda::kGemmStore, nullptr});
      ops_.rms_norm({q, dim_, rows, dim_, vector(call_.places.cross_norm_q), nullptr, 0, 0, eps_}, {});
    });
    attention::Forward in;
    in.q = heads_of(work_.cross_q, dim_);
    in.k = heads_of(call_.prompt.k(call_.layer), dim_);
    in.v = heads_of(call_.prompt.v(call_.layer), dim_);
    in.out = {work_.cross_out, DType::kBF16, 0, call_.config.head_dim, dim_};
    in.key_bias = call_.prompt.key_bias.at<float>();
    in.stream = ops_.stream();
    call_.cross.forward(in, work_.attention);
    add_product(call_.places.cross_out, work_.cross_out, dim_, nullptr);
  }

  void feed_forward() {
    const float *shift = call_.modulation + 3 * dim_, *scale = shift + dim_, *gate = scale + dim_;
    const int64_t hidden = call_.config.ffn_dim;
    for_chunks([&](int64_t row, int64_t rows) {
      const device::ProductRows normed = rows_for(call_.places.ffn_in);
      ops_.layer_norm(work_.x + row * dim_, rows, dim_, scale, shift, eps_, normed);
      ops_.linear(call_.places.ffn_in.on(call_.weights), normed, rows,
                  {work_.hidden, DType::kBF16, 0, cuda::kGemmGeluTanh, nullptr});
      add_rows(call_.places.ffn_out, work_.hidden, row, rows, hidden, gate);
    });
  }

 private:
  template <typename Body>
  void for_chunks(const Body& body) {
    for (int64_t row = 0; row < work_.tokens; row += work_.chunk) body(row, std::min(work_.chunk, work_.tokens - row));
  }
  [[nodiscard]] const float* vector(uint64_t place) const { return reinterpret_cast<const float*>(call_.weights + place); }
  [[nodiscard]] attention::Operand heads_of(const uint16_t* data, int64_t stride) const {
    return {data, DType::kBF16, 0, call_.config.head_dim, stride};
  }
  /// Where rows on their way into this Linear go.
  [[nodiscard]] device::ProductRows rows_for(const LinearPlace& linear) const {
    if (linear.eight_bits) return {nullptr, work_.steps, work_.scale};
    return {work_.normed, nullptr, nullptr};
  }
  /// x += gate · Linear(input); rows first … of x, input's own rows from 0.
  void add_rows(const LinearPlace& linear, uint16_t* input, int64_t first, int64_t rows, int64_t width, const float* gate) {
    device::ProductRows in{input, nullptr, nullptr};
    if (linear.eight_bits) {
      in = {nullptr, work_.steps, work_.scale};
      ops_.quantise(input, rows, width, in);
    }
    ops_.linear(linear.on(call_.weights), in, rows, {work_.x + first * dim_, DType::kF32, 0, cuda::kGemmAddGated, gate});
  }
  void add_product(const LinearPlace& linear, uint16_t* input, int64_t width, const float* gate) {
    if (!linear.eight_bits) return add_rows(linear, input, 0, work_.tokens, width, gate);
    for_chunks([&](int64_t row, int64_t rows) { add_rows(linear, input + row * width, row, rows, width, gate); });
  }

  device::Ops& ops_;
  const GpuBlockCall& call_;
  const GpuWorkspace& work_;
  int64_t dim_;
  float eps_;
};

}  // namespace

void queue_gpu_block(device::Ops& ops, const GpuBlockCall& call, const GpuWorkspace& work,
                     const std::function<void()>& around_attention) {
  BlockQueue queue(ops, call, work);
  queue.self_attention(around_attention);
  queue.cross_attention();
  queue.feed_forward();
}

}  // namespace sla2::dit
