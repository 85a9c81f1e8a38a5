// SPDX-License-Identifier: Apache-2.0
#include "vae/gpu_stream.h"

#include <algorithm>
#include <cmath>

namespace sla2::vae {

using device::ConvCall;
using device::LinearWeight;

GpuStream::GpuStream(device::Gpu& gpu, device::Ops& ops, device::FrameOps& frames, const Where& where)
    : gpu_(gpu), ops_(ops), frames_(frames), where_(where), states_(where.places.blocks().size()) {
  for (const auto& [kind, shelf] : where.layout.shelves)
    for (int i = 0; i < shelf.count; ++i)
      free_[kind].push_back(at<uint16_t>(shelf.place) + static_cast<int64_t>(i) * kind.channels * kind.pixels());
}

void GpuStream::push(int64_t t, const std::function<float*()>& target) {
  target_ = &target;
  // The first two blocks: pointwise straight into what the input convolution remembers.
  const GpuBlock &pointwise = block(0), &input = block(1);
  const FrameKind kind = where_.layout.entering(input.spec);
  uint16_t* const latent = at<uint16_t>(where_.layout.latents) + t * kind.pixels() * pointwise.spec.in;
  ConvCall call;
  call.y = at<float>(where_.layout.x);
  causal(
      states_[1].memories[0], input.convs[0], kind,
      [&](uint16_t* newest) {
        ops_.linear(linear_of(pointwise.convs[0]), {latent, nullptr, nullptr}, kind.pixels(), {newest});
      },
      call);
  run_from(2);
}

void GpuStream::causal(Memory& memory, const ConvPlace& place, const FrameKind& kind, const Fill& fill, ConvCall call) {
  std::vector<uint16_t*>& shelf = free_[kind];
  SLA2_CHECK(!shelf.empty(), SLA2_E_INTERNAL, "VAE on a GPU: no frame is free for {}", place.name);
  uint16_t* const newest = shelf.back();
  shelf.pop_back();
  fill(newest);
  call.frames = {memory.past[0], memory.past[1], newest};
  call.height = kind.height, call.width = kind.width;
  frames_.conv(conv_of(place), call);
  // The oldest is read for the last time by what has just been queued; whoever takes it next writes after that.
  if (memory.past[0] != nullptr) shelf.push_back(const_cast<uint16_t*>(memory.past[0]));
  memory.past = {memory.past[1], newest};
}

void GpuStream::run_from(size_t index) {
  if (index == states_.size()) return;
  switch (block(index).spec.kind) {
    case BlockKind::kResidual: return residual(index);
    case BlockKind::kAttention: return attention(index);
    case BlockKind::kUpsample2d:
    case BlockKind::kUpsample3d: return upsample(index);
    case BlockKind::kHead: return head(index);
    default: fail(SLA2_E_INTERNAL, "VAE on a GPU: block {} has no place there", block(index).spec.name);
  }
}

void GpuStream::residual(size_t index) {
  const GpuLayout& l = where_.layout;
  const GpuBlock& b = block(index);
  const FrameKind in = l.entering(b.spec);
  const FrameKind out{b.spec.out, in.height, in.width};
  float* const x = at<float>(l.x);
  auto* const hidden = at<uint16_t>(l.hidden);
  const auto normed = [&](const void* from, DType type, const FrameKind& kind, const GammaPlace& gamma) {
    return [this, from, type, kind, values = gamma_of(gamma)](uint16_t* to) {
      frames_.norm(from, type, kind.pixels(), kind.channels, values, true, to);
    };
  };
  ConvCall call;
  call.y = hidden, call.element = DType::kBF16;
  causal(states_[index].memories[0], b.convs[0], in, normed(x, DType::kF32, in, b.gammas[0]), call);
  call.y = x, call.element = DType::kF32, call.residual = x;
  if (b.convs.size() > 2) {
    auto* const narrow = at<uint16_t>(l.narrow);
    auto* const sum = at<float>(l.sum);
    frames_.norm(x, DType::kF32, in.pixels(), in.channels, nullptr, false, narrow);
    ops_.linear(linear_of(b.convs[2]), {narrow, nullptr, nullptr}, in.pixels(), {sum, DType::kF32});
    call.residual = sum;
  }
  causal(states_[index].memories[1], b.convs[1], out, normed(hidden, DType::kBF16, out, b.gammas[1]), call);
  run_from(index + 1);
}

void GpuStream::attention(size_t index) {
  const GpuLayout& l = where_.layout;
  const GpuBlock& b = block(index);
  const int64_t c = b.spec.in, tokens = l.tokens;
  float* const x = at<float>(l.x);
  auto *const rows = at<uint16_t>(l.normed), *const q = at<uint16_t>(l.query), *const k = at<uint16_t>(l.key),
              *const v = at<uint16_t>(l.value), *const weights = at<uint16_t>(l.weights);
  float* const scores = at<float>(l.scores);
  frames_.norm(x, DType::kF32, tokens, c, gamma_of(b.gammas[0]), false, rows);
  if (l.filled > tokens)  // their values are multiplied by zeros and must be numbers
    gpu_.queue_fill(rows + tokens * c, 0, static_cast<uint64_t>((l.filled - tokens) * c) * sizeof(bf16_t), ops_.stream());
  const LinearWeight qkv = linear_of(b.convs[0]);
  const auto third = [&](int64_t which) {
    LinearWeight part = qkv;
    part.weight = static_cast<const uint16_t*>(qkv.weight) + which * c * c;
    part.bias = qkv.bias + which * c;
    part.out = c;
    return part;
  };
  ops_.linear(third(0), {rows, nullptr, nullptr}, tokens, {q});
  ops_.linear(third(1), {rows, nullptr, nullptr}, tokens, {k});
  // vᵀ = Wᵥ · rowsᵀ is what the last product takes; its bias, which every row of weights sums to once, is added there.
  const LinearWeight value = third(2);
  ops_.linear({rows, nullptr, nullptr, c, l.filled},
              {const_cast<uint16_t*>(static_cast<const uint16_t*>(value.weight)), nullptr, nullptr}, c, {v});
  const float scale = 1 / std::sqrt(static_cast<float>(c));
  for (int64_t first = 0; first < tokens; first += l.query_rows) {
    const int64_t queries = std::min(l.query_rows, tokens - first);
    ops_.linear({k, nullptr, nullptr, c, l.filled}, {q + first * c, nullptr, nullptr}, queries, {scores, DType::kF32});
    frames_.softmax(scores, queries, tokens, l.filled, scale, weights, l.filled);
    ops_.linear({v, nullptr, value.bias, l.filled, c}, {weights, nullptr, nullptr}, queries, {q + first * c});
  }
  ops_.linear(linear_of(b.convs[1]), {q, nullptr, nullptr}, tokens, {x, DType::kF32, 0, cuda::kGemmAddGated});
  run_from(index + 1);
}

void GpuStream::upsample(size_t index) {
  const GpuLayout& l = where_.layout;
  const GpuBlock& b = block(index);
  const FrameKind in = l.entering(b.spec);
  const auto narrow_to = [&](uint16_t* to) {
    frames_.norm(at<float>(l.x), DType::kF32, in.pixels(), in.channels, nullptr, false, to);
  };
  const auto double_and_go_on = [&](const uint16_t* frame, int64_t stride) {
    ConvCall call;
    call.frames[0] = frame;
    call.height = in.height, call.width = in.width, call.stride_x = stride;
    call.doubled = true;
    call.y = at<float>(l.x);
    frames_.conv(conv_of(b.convs[0]), call);
    run_from(index + 1);
  };
  State& state = states_[index];
  if (b.spec.kind == BlockKind::kUpsample2d || !state.begun) {
    state.begun = true;  // the first frame skips time and leaves no trace
    narrow_to(at<uint16_t>(l.narrow));
    double_and_go_on(at<uint16_t>(l.narrow), in.channels);
    return;
  }
  auto* const halves = at<uint16_t>(l.halves[index]);
  ConvCall call;
  call.y = halves, call.element = DType::kBF16;
  causal(state.memories[0], b.convs[1], in, narrow_to, call);
  for (int64_t half = 0; half < 2; ++half) double_and_go_on(halves + half * in.channels, 2 * in.channels);
}

void GpuStream::head(size_t index) {
  const GpuLayout& l = where_.layout;
  const GpuBlock& b = block(index);
  const FrameKind in = l.entering(b.spec);
  float* const pictures = at<float>(l.pictures);
  ConvCall call;
  call.y = pictures;
  causal(
      states_[index].memories[0], b.convs[0], in,
      [&](uint16_t* to) { frames_.norm(at<float>(l.x), DType::kF32, in.pixels(), in.channels, gamma_of(b.gammas[0]), true, to); },
      call);
  frames_.planes(pictures, in.pixels(), b.convs[0].out, kVideoChannels, (*target_)());
}

}  // namespace sla2::vae
