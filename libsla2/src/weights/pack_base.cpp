// SPDX-License-Identifier: Apache-2.0
// What binds learned attention to a model: fingerprints of its weights, and SLA v1 projections that lie among them.
#include <algorithm>
#include <cmath>

#include "weights/weights.h"

namespace sla2::weights {
namespace {

std::string projection_name(int64_t layer, const char* part) { return fmt::format("blocks.{}.self_attn.proj_l.{}", layer, part); }

std::vector<float> finite_numbers(const Checkpoint& checkpoint, const std::string& name, const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  std::vector<float> values(static_cast<size_t>(count));
  checkpoint.read_f32(name, shape, values);
  const bool finite = std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  SLA2_CHECK(finite, SLA2_E_FILE_FORMAT, "{}: tensor '{}' holds NaN or infinity; fetch the file again", checkpoint.path(), name);
  return values;
}

}  // namespace

bool has_sla1_weights(const Checkpoint& checkpoint) {
  const std::vector<std::string> names = checkpoint.names();
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.starts_with("blocks.") && name.ends_with(".self_attn.proj_l.weight");
  });
}

RouterPack sla1_weights(const Checkpoint& checkpoint, int64_t layers, int64_t heads, int64_t head_dim) {
  RouterPack pack;
  pack.path = checkpoint.path();
  pack.in_weights = true;
  PackMetadata& m = pack.metadata;
  m.layers = layers, m.heads = heads, m.head_dim = head_dim;
  m.mode = "sla1", m.linear_scope = "global", m.smooth_k = false;
  for (int64_t i = 0; i < layers; ++i) {
    PackLayer layer;
    if (checkpoint.has(projection_name(i, "weight")))
      layer.proj = finite_numbers(checkpoint, projection_name(i, "weight"), {head_dim, head_dim});
    if (checkpoint.has(projection_name(i, "bias")))
      layer.proj_bias = finite_numbers(checkpoint, projection_name(i, "bias"), {head_dim});
    pack.layers.push_back(std::move(layer));
  }
  return pack;
}

std::string pack_base_shapes(const Checkpoint& checkpoint, int64_t layers) {
  Sha256 hash;
  for (int64_t i = 0; i < layers; ++i) {
    for (const char* which : {"q", "k"}) {
      const std::string name = fmt::format("blocks.{}.self_attn.{}.weight", i, which);
      hash.add(fmt::format("{}:{}\n", name, fmt::join(checkpoint.info(name).shape, "x")));
    }
  }
  return hash.hex();
}

std::string pack_base_weights(const Checkpoint& checkpoint) {
  const std::string name = "blocks.0.self_attn.q.weight";
  const TensorInfo& info = checkpoint.info(name);
  std::vector<bf16_t> values(static_cast<size_t>(info.element_count()));
  checkpoint.read_bf16(name, info.shape, values);
  Sha256 hash;
  hash.add(std::as_bytes(std::span(values)));  // every CPU this runs on is little-endian, as the hash is defined
  return hash.hex();
}

}  // namespace sla2::weights
