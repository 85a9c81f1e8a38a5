// SPDX-License-Identifier: Apache-2.0
// Sizes of a Wan DiT. Tensors decide; the configuration JSON adds head_dim, eps and table lengths and must agree with them.
#include <algorithm>
#include <array>

#include "config/config_json.h"
#include "config/model_config.h"

namespace sla2::config {
namespace {

using weights::Checkpoint;
using weights::ExpectedTensor;
using Keys = std::vector<std::string_view>;

constexpr int64_t kPublishedHeadDim = 128;
constexpr std::array<int64_t, 3> kPublishedWidths{1536, 3072, 5120};
constexpr int64_t kPatchVolume = 4;  // 1·2·2
constexpr std::array<std::string_view, 2> kDitClasses{"WanTransformer3DModel", "WanModel"};

void reject_variants(const Checkpoint& checkpoint) {
  const std::string& variant = checkpoint.identity().variant;
  SLA2_CHECK(variant == "t2v", SLA2_E_UNSUPPORTED, "{}: this is a {} model ({}); this version runs text-to-video (t2v) only",
             checkpoint.path(), variant, checkpoint.identity().summary);
  SLA2_CHECK(!checkpoint.has("blocks.0.self_attn.q.int8_weight"), SLA2_E_UNSUPPORTED,
             "{}: stored in TurboDiffusion's block-scaled int8, which this version does not read; use the bf16 edition",
             checkpoint.path());
}

int64_t count_blocks(const Checkpoint& checkpoint) {
  int64_t count = 0;
  while (checkpoint.has(fmt::format("blocks.{}.modulation", count))) ++count;
  return count;
}

int64_t find_head_dim(const Checkpoint& checkpoint, const ConfigJson& json, int64_t dim) {
  const auto heads = json.integer(Keys{"num_attention_heads", "num_heads"});
  auto head_dim = json.integer(Keys{"attention_head_dim"});
  if (!head_dim && heads && *heads > 0) head_dim = dim / *heads;
  if (!head_dim) {
    const bool published = std::find(kPublishedWidths.begin(), kPublishedWidths.end(), dim) != kPublishedWidths.end();
    SLA2_CHECK(dim % kPublishedHeadDim == 0, SLA2_E_FILE_FORMAT,
               "{}: width {} is no multiple of {}, so the head size cannot be guessed; put config.json with attention_head_dim "
               "beside the file",
               checkpoint.path(), dim, kPublishedHeadDim);
    if (!published) {
      log(SLA2_LOG_WARNING, "{}: no configuration tells the head size; {} is assumed", checkpoint.path(), kPublishedHeadDim);
    }
    head_dim = kPublishedHeadDim;
  }
  SLA2_CHECK(*head_dim > 0 && *head_dim % 2 == 0 && dim % *head_dim == 0 && (!heads || *heads * *head_dim == dim),
             SLA2_E_FILE_FORMAT, "{}: head size {} and {} heads do not make width {}", checkpoint.path(), *head_dim,
             heads ? *heads : dim / std::max<int64_t>(1, *head_dim), dim);
  return *head_dim;
}

void add_linear(std::vector<ExpectedTensor>& list, const std::string& name, int64_t out, int64_t in) {
  list.push_back({name + ".weight", {out, in}});
  list.push_back({name + ".bias", {out}});
}

std::vector<ExpectedTensor> expected_tensors(const DitConfig& c) {
  std::vector<ExpectedTensor> list;
  list.push_back({"patch_embedding.weight", {c.dim, c.in_channels, 1, 2, 2}});
  list.push_back({"patch_embedding.bias", {c.dim}});
  add_linear(list, "text_embedding.0", c.dim, c.text_dim);
  add_linear(list, "text_embedding.2", c.dim, c.dim);
  add_linear(list, "time_embedding.0", c.dim, c.freq_dim);
  add_linear(list, "time_embedding.2", c.dim, c.dim);
  add_linear(list, "time_projection.1", 6 * c.dim, c.dim);
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string block = fmt::format("blocks.{}.", i);
    list.push_back({block + "modulation", {1, 6, c.dim}});
    for (const char* attention : {"self_attn.", "cross_attn."}) {
      for (const char* linear : {"q", "k", "v", "o"}) add_linear(list, block + attention + linear, c.dim, c.dim);
      for (const char* norm : {"norm_q.weight", "norm_k.weight"}) list.push_back({block + attention + norm, {c.dim}});
    }
    if (c.cross_attn_norm) {
      for (const char* part : {"norm3.weight", "norm3.bias"}) list.push_back({block + part, {c.dim}});
    }
    // Optional: SLA v1's projection of the linear branch, which attention sla1 reads (weights::sla1_weights).
    list.push_back({block + "self_attn.proj_l.weight", {c.head_dim, c.head_dim}, false});
    list.push_back({block + "self_attn.proj_l.bias", {c.head_dim}, false});
    add_linear(list, block + "ffn.0", c.ffn_dim, c.dim);
    add_linear(list, block + "ffn.2", c.dim, c.ffn_dim);
  }
  list.push_back({"head.modulation", {1, 2, c.dim}});
  add_linear(list, "head.head", kPatchVolume * c.out_channels, c.dim);
  return list;
}

}  // namespace

DitConfig read_dit_config(const Checkpoint& checkpoint) {
  expect_kind(checkpoint, weights::Kind::kWanDit, "a Wan DiT");
  reject_variants(checkpoint);
  const ConfigJson json(checkpoint, kDitClasses);

  DitConfig c;
  c.dim = extent(checkpoint, "head.modulation", 3, 2);
  c.layers = count_blocks(checkpoint);
  SLA2_CHECK(c.layers > 0, SLA2_E_FILE_FORMAT, "{}: a Wan DiT without blocks: 'blocks.0.modulation' is missing",
             checkpoint.path());
  c.ffn_dim = extent(checkpoint, "blocks.0.ffn.0.weight", 2, 0);
  c.text_dim = extent(checkpoint, "text_embedding.0.weight", 2, 1);
  c.freq_dim = extent(checkpoint, "time_embedding.0.weight", 2, 1);
  c.in_channels = extent(checkpoint, "patch_embedding.weight", 5, 1);
  const int64_t head_rows = extent(checkpoint, "head.head.weight", 2, 0);
  SLA2_CHECK(head_rows % kPatchVolume == 0, SLA2_E_FILE_FORMAT, "{}: 'head.head.weight' has {} rows, no multiple of {}",
             checkpoint.path(), head_rows, kPatchVolume);
  c.out_channels = head_rows / kPatchVolume;
  c.cross_attn_norm = checkpoint.has("blocks.0.norm3.weight");
  SLA2_CHECK(c.freq_dim % 2 == 0, SLA2_E_FILE_FORMAT, "{}: time embedding of odd width {}", checkpoint.path(), c.freq_dim);

  c.head_dim = find_head_dim(checkpoint, json, c.dim);
  c.heads = c.dim / c.head_dim;
  if (const auto eps = json.number("eps")) c.eps = *eps;
  if (const auto length = json.integer(Keys{"text_len"})) c.text_len = *length;
  if (const auto length = json.integer(Keys{"rope_max_seq_len"})) c.rope_max = *length;
  if (!(c.eps > 0 && c.eps < 1)) json.wrong("eps", "a number between 0 and 1");
  if (c.text_len <= 0) json.wrong("text_len", "a positive number");
  if (c.rope_max <= 0) json.wrong("rope_max_seq_len", "a positive number");

  json.agrees(Keys{"dim"}, c.dim);
  json.agrees(Keys{"num_layers"}, c.layers);
  json.agrees(Keys{"ffn_dim"}, c.ffn_dim);
  json.agrees(Keys{"text_dim"}, c.text_dim);
  json.agrees(Keys{"freq_dim"}, c.freq_dim);
  json.agrees(Keys{"in_channels", "in_dim"}, c.in_channels);
  json.agrees(Keys{"out_channels", "out_dim"}, c.out_channels);
  json.agrees("patch_size", {1, 2, 2});
  check_tensors(checkpoint, expected_tensors(c), "Wan DiT");
  return c;
}

}  // namespace sla2::config
