// SPDX-License-Identifier: Apache-2.0
#include "dit/gpu_weights.h"

#include <algorithm>
#include <cmath>

#include "dit/model.h"

namespace sla2::dit {

namespace {

constexpr float kSteps = 127, kLeast = 1e-35F;

uint64_t floats(int64_t count) { return static_cast<uint64_t>(count) * sizeof(float); }

void read_vector(const Loader& loader, const std::string& name, const std::vector<int64_t>& shape, std::byte* target) {
  const AlignedBuffer<float> values = loader.vector(name, shape);
  std::copy_n(values.data(), values.size(), reinterpret_cast<float*>(target));
}

void quantise_rows(const float* rows, int64_t count, int64_t width, float* scale, int8_t* steps) {
  parallel_for(count, [&](int64_t row, int) {
    const float* const x = rows + row * width;
    float top = 0;
    for (int64_t i = 0; i < width; ++i) top = std::max(top, std::abs(x[i]));
    const float inverse = top < kLeast ? 0.0F : kSteps / top;
    for (int64_t i = 0; i < width; ++i) steps[row * width + i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
    scale[row] = top < kLeast ? 0.0F : top / kSteps;
  });
}

}  // namespace

LinearPlace::LinearPlace(device::Stretch& stretch, const LinearSpec& spec, const Holding& holding)
    : in(spec.in), out(spec.out()), eight_bits(form_of(spec, holding).compute == kernels::Compute::kInt8) {
  weight = stretch.take(static_cast<uint64_t>(in * out) * (eight_bits ? 1 : sizeof(bf16_t)));
  if (eight_bits) scale = stretch.take(floats(out));
  bias = stretch.take(floats(out));
  if (!eight_bits) bias16 = stretch.take(static_cast<uint64_t>(out) * sizeof(bf16_t));
}

device::LinearWeight LinearPlace::on(const std::byte* base) const {
  return {base + weight,
          eight_bits ? reinterpret_cast<const float*>(base + scale) : nullptr,
          reinterpret_cast<const float*>(base + bias),
          in,
          out,
          eight_bits ? nullptr : reinterpret_cast<const uint16_t*>(base + bias16)};
}

void read_linear(const Loader& loader, const LinearSpec& spec, const LinearPlace& place, std::byte* base) {
  AlignedBuffer<float> wide(place.eight_bits ? static_cast<size_t>(spec.out_each * spec.in) : 0);
  for (size_t i = 0; i < spec.names.size(); ++i) {
    const auto row = static_cast<uint64_t>(spec.out_each) * i, at = row * static_cast<uint64_t>(spec.in);
    const auto count = static_cast<size_t>(spec.out_each * spec.in);
    const std::string& name = spec.names[i];
    if (place.eight_bits) {
      loader.read_weight(name + ".weight", spec.out_each, spec.in, DType::kF32, std::as_writable_bytes(wide.span()));
      quantise_rows(wide.data(), spec.out_each, spec.in, reinterpret_cast<float*>(base + place.scale) + row,
                    reinterpret_cast<int8_t*>(base + place.weight) + at);
    } else {
      loader.read_weight(name + ".weight", spec.out_each, spec.in, DType::kBF16,
                         {base + place.weight + at * sizeof(bf16_t), count * sizeof(bf16_t)});
    }
    std::byte* const bias = base + place.bias + row * sizeof(float);
    read_vector(loader, name + ".bias", {spec.out_each}, bias);
    if (!place.eight_bits)
      convert_to_bf16(reinterpret_cast<const float*>(bias), reinterpret_cast<bf16_t*>(base + place.bias16) + row,
                      static_cast<size_t>(spec.out_each));
  }
}

BlockPlaces::BlockPlaces(const config::DitConfig& c, const Holding& holding) {
  device::Stretch stretch;
  qkv = {stretch, spec_qkv(c, 0), holding};
  self_out = {stretch, spec_self_out(c, 0), holding};
  cross_query = {stretch, spec_cross(c, 0, "q"), holding};
  cross_out = {stretch, spec_cross(c, 0, "o"), holding};
  ffn_in = {stretch, spec_ffn_in(c, 0), holding};
  ffn_out = {stretch, spec_ffn_out(c, 0), holding};
  norm_q = stretch.take(floats(c.dim));
  norm_k = stretch.take(floats(c.dim));
  cross_norm_q = stretch.take(floats(c.dim));
  if (c.cross_attn_norm) norm3_weight = stretch.take(floats(c.dim)), norm3_bias = stretch.take(floats(c.dim));
  bytes = stretch.bytes();
}

void read_block(const Loader& loader, const config::DitConfig& c, int64_t layer, const BlockPlaces& at, std::byte* base) {
  read_linear(loader, spec_qkv(c, layer), at.qkv, base);
  read_linear(loader, spec_self_out(c, layer), at.self_out, base);
  read_linear(loader, spec_cross(c, layer, "q"), at.cross_query, base);
  read_linear(loader, spec_cross(c, layer, "o"), at.cross_out, base);
  read_linear(loader, spec_ffn_in(c, layer), at.ffn_in, base);
  read_linear(loader, spec_ffn_out(c, layer), at.ffn_out, base);
  const auto vector = [&](const char* tensor, uint64_t place) {
    read_vector(loader, block_name(layer, tensor), {c.dim}, base + place);
  };
  vector("self_attn.norm_q.weight", at.norm_q);
  vector("self_attn.norm_k.weight", at.norm_k);
  vector("cross_attn.norm_q.weight", at.cross_norm_q);
  if (!c.cross_attn_norm) return;
  vector("norm3.weight", at.norm3_weight);
  vector("norm3.bias", at.norm3_bias);
}

FixedPlaces::FixedPlaces(const config::DitConfig& c, const Holding& holding) {
  device::Stretch stretch;
  patch = {stretch, spec_patch(c), holding};
  time_in = {stretch, spec_time_in(c), holding};
  time_out = {stretch, spec_time_out(c), holding};
  time_projection = {stretch, spec_time_projection(c), holding};
  head = {stretch, spec_head(c), holding};
  modulation = stretch.take(floats(c.layers * kModulationVectors * c.dim));
  head_modulation = stretch.take(floats(2 * c.dim));
  bytes = stretch.bytes();
}

void read_fixed(const Loader& loader, const config::DitConfig& c, const FixedPlaces& at, std::byte* base) {
  read_linear(loader, spec_patch(c), at.patch, base);
  read_linear(loader, spec_time_in(c), at.time_in, base);
  read_linear(loader, spec_time_out(c), at.time_out, base);
  read_linear(loader, spec_time_projection(c), at.time_projection, base);
  read_linear(loader, spec_head(c), at.head, base);
  read_vector(loader, "head.modulation", {1, 2, c.dim}, base + at.head_modulation);
  for (int64_t layer = 0; layer < c.layers; ++layer)
    read_vector(loader, block_name(layer, "modulation"), {1, kModulationVectors, c.dim},
                base + at.modulation + floats(layer * kModulationVectors * c.dim));
}

}  // namespace sla2::dit
