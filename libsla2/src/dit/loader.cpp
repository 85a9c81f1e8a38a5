// SPDX-License-Identifier: Apache-2.0
#include "dit/loader.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace sla2::dit {

namespace {

/// Below this size as fp32 a model is widened once: its memory is small beside the process, and products skip the
/// widening of panels. 1.3B (5.7 GB as fp32) is above, the small models that ship are far below.
constexpr uint64_t kSmallModelBytes = uint64_t{512} << 20;
constexpr size_t kMissingShown = 8;
constexpr int64_t kPatchArea = 4;  // patch (1, 2, 2)

template <typename T>
std::span<T> as(std::span<std::byte> bytes) {
  return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
}

uint64_t resident_parameters(const config::DitConfig& c) {
  uint64_t sum = 0;
  for (const LinearSpec& spec : resident_linears(c)) sum += static_cast<uint64_t>(spec.in * spec.out());
  return sum;
}

}  // namespace

std::string block_name(int64_t layer, const char* tensor) { return fmt::format("blocks.{}.{}", layer, tensor); }

LinearSpec spec_patch(const config::DitConfig& c) { return {{"patch_embedding"}, c.in_channels * kPatchArea, c.dim}; }
LinearSpec spec_time_in(const config::DitConfig& c) { return {{"time_embedding.0"}, c.freq_dim, c.dim}; }
LinearSpec spec_time_out(const config::DitConfig& c) { return {{"time_embedding.2"}, c.dim, c.dim}; }
LinearSpec spec_time_projection(const config::DitConfig& c) { return {{"time_projection.1"}, c.dim, 6 * c.dim}; }
LinearSpec spec_text_in(const config::DitConfig& c) { return {{"text_embedding.0"}, c.text_dim, c.dim}; }
LinearSpec spec_text_out(const config::DitConfig& c) { return {{"text_embedding.2"}, c.dim, c.dim}; }
LinearSpec spec_head(const config::DitConfig& c) { return {{"head.head"}, c.dim, c.out_channels * kPatchArea}; }
LinearSpec spec_qkv(const config::DitConfig& c, int64_t layer) {
  return {
      {block_name(layer, "self_attn.q"), block_name(layer, "self_attn.k"), block_name(layer, "self_attn.v")}, c.dim, c.dim, true};
}
LinearSpec spec_self_out(const config::DitConfig& c, int64_t layer) {
  return {{block_name(layer, "self_attn.o")}, c.dim, c.dim, true};
}
LinearSpec spec_cross(const config::DitConfig& c, int64_t layer, const char* which) {
  const bool every_step = *which == 'q' || *which == 'o';  // k and v are computed once per prompt
  return {{block_name(layer, "cross_attn.") + which}, c.dim, c.dim, every_step};
}
LinearSpec spec_ffn_in(const config::DitConfig& c, int64_t layer) {
  return {{block_name(layer, "ffn.0")}, c.dim, c.ffn_dim, true};
}
LinearSpec spec_ffn_out(const config::DitConfig& c, int64_t layer) {
  return {{block_name(layer, "ffn.2")}, c.ffn_dim, c.dim, true};
}

std::vector<LinearSpec> resident_linears(const config::DitConfig& c) {
  std::vector<LinearSpec> all{spec_patch(c), spec_time_in(c), spec_time_out(c), spec_time_projection(c), spec_head(c)};
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    all.insert(all.end(), {spec_qkv(c, layer), spec_self_out(c, layer), spec_cross(c, layer, "q"), spec_cross(c, layer, "o"),
                           spec_ffn_in(c, layer), spec_ffn_out(c, layer)});
  }
  return all;
}

Precision resolved(Precision precision) {
  if (precision != Precision::kAuto) return precision;
  return has_fast_bf16() ? Precision::kBf16 : Precision::kF32;
}

Holding choose_holding(const config::DitConfig& config, DType stored, const Options& options) {
  SLA2_CHECK(options.linear_bits == 16 || options.linear_bits == 8, SLA2_E_ARGUMENT, "linear_bits is {}, expected 16 or 8",
             options.linear_bits);
  const bool eight = options.linear_bits == 8;
  if (resolved(options.precision) == Precision::kBf16) return {{DType::kBF16, kernels::Compute::kBf16}, eight};
  const bool small = resident_parameters(config) * sizeof(float) <= kSmallModelBytes;
  if (small || stored == DType::kF32 || stored == DType::kF64) return {{DType::kF32, kernels::Compute::kF32}, eight};
  // fp8 · scale is rounded to bf16: 2^-9 of it, where fp8 itself was rounded to 2^-4.
  return {{stored == DType::kF16 ? DType::kF16 : DType::kBF16, kernels::Compute::kF32}, eight};
}

LinearForm form_of(const LinearSpec& spec, const Holding& holding) {
  if (holding.eight_bits && spec.bears_eight_bits) return {DType::kI8, kernels::Compute::kInt8};
  return holding;
}

LinearBits linear_bits(const config::DitConfig& config, const Options& options) {
  const Holding holding = choose_holding(config, DType::kBF16, options);
  if (!holding.eight_bits) return {};
  constexpr int kAllLevels = 255, kBits = 8;
  LinearBits bits{kBits, kernels::activation_levels() == kAllLevels ? kBits : kBits - 1, {}};
  const std::string first = block_name(0, "");
  std::vector<LinearSpec> all = resident_linears(config);
  all.insert(all.end(), {spec_text_in(config), spec_text_out(config), spec_cross(config, 0, "k"), spec_cross(config, 0, "v")});
  for (const LinearSpec& spec : all) {
    if (form_of(spec, holding).compute == kernels::Compute::kInt8) continue;
    for (const std::string& name : spec.names)
      bits.full.push_back(name.starts_with(first) ? "blocks.*." + name.substr(first.size()) : name);
  }
  return bits;
}

void Loader::check_complete(const config::DitConfig& c) const {
  std::vector<LinearSpec> linears = resident_linears(c);
  linears.insert(linears.end(), {spec_text_in(c), spec_text_out(c)});
  std::vector<std::string> names{"head.modulation"};
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    linears.insert(linears.end(), {spec_cross(c, layer, "k"), spec_cross(c, layer, "v")});
    for (const char* tensor : {"modulation", "self_attn.norm_q.weight", "self_attn.norm_k.weight", "cross_attn.norm_q.weight",
                               "cross_attn.norm_k.weight"})
      names.push_back(block_name(layer, tensor));
    if (c.cross_attn_norm) names.insert(names.end(), {block_name(layer, "norm3.weight"), block_name(layer, "norm3.bias")});
  }
  for (const LinearSpec& spec : linears)
    for (const std::string& name : spec.names) names.insert(names.end(), {name + ".weight", name + ".bias"});
  std::erase_if(names, [&](const std::string& name) { return checkpoint_.has(name); });
  if (names.empty()) return;
  const size_t missing = names.size();
  names.resize(std::min(missing, kMissingShown));
  fail(SLA2_E_FILE_FORMAT, "{}: {} tensor{} of the diffusion model missing: {}{}. The file is incomplete; fetch it again.",
       checkpoint_.path(), missing, missing == 1 ? " is" : "s are", fmt::join(names, ", "), missing > kMissingShown ? ", …" : "");
}

void Loader::read_weight(const std::string& name, int64_t out, int64_t in, DType held, std::span<std::byte> target) const {
  // The patch embedding is stored as a convolution [out, C, 1, 2, 2] or as a Linear [out, C·4]: the same bytes.
  const weights::TensorInfo& info = checkpoint_.info(name);
  SLA2_CHECK(!info.shape.empty() && info.shape[0] == out && info.element_count() == out * in, SLA2_E_MODEL_MISMATCH,
             "{}: {} has shape [{}], expected [{}, {}]", checkpoint_.path(), name, fmt::join(info.shape, ", "), out, in);
  switch (held) {
    case DType::kBF16: return checkpoint_.read_bf16(name, info.shape, as<bf16_t>(target));
    case DType::kF16:
      if (info.dtype == DType::kF16) return checkpoint_.read_raw(name, target);
      break;
    default: return checkpoint_.read_f32(name, info.shape, as<float>(target));
  }
  AlignedBuffer<float> wide(static_cast<size_t>(out * in));  // one tensor of another type in an fp16 file
  checkpoint_.read_f32(name, info.shape, wide.span());
  std::transform(wide.data(), wide.data() + wide.size(), as<uint16_t>(target).data(), f32_to_f16);
}

kernels::PackedLinear Loader::linear(const LinearSpec& spec) const {
  const LinearForm form = form_of(spec, holding_);
  kernels::PackedLinear linear(spec.in, spec.out(), form.held, form.compute);
  const size_t part = linear.weight().size() / spec.names.size(), bias_part = static_cast<size_t>(spec.out_each);
  for (size_t i = 0; i < spec.names.size(); ++i) {
    read_weight(spec.names[i] + ".weight", spec.out_each, spec.in, form.held, linear.weight().subspan(i * part, part));
    const int64_t shape[] = {spec.out_each};
    checkpoint_.read_f32(spec.names[i] + ".bias", shape, linear.bias().subspan(i * bias_part, bias_part));
  }
  linear.pack();
  return linear;
}

AlignedBuffer<float> Loader::vector(const std::string& name, const std::vector<int64_t>& shape) const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  AlignedBuffer<float> values(static_cast<size_t>(count));
  checkpoint_.read_f32(name, shape, values.span());
  return values;
}

}  // namespace sla2::dit
