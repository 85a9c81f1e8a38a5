// SPDX-License-Identifier: Apache-2.0
// Router packs (docs/router_pack.md): what SLA2 learned about one model, read and fully checked. Part of the door of weights.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sla2::weights {

class SafetensorsFile;
class Checkpoint;

inline constexpr std::string_view kPackFormat = "libsla2.router_pack";

/// The strings of the metadata, checked; words as in the document.
struct PackMetadata {
  int64_t layers = 0, heads = 0, head_dim = 0;
  int32_t block_q = 128, block_k = 64;
  std::vector<double> kappa;
  std::string mode = "sla2", alpha_mode = "head_affine_lse", linear_scope = "complement", router = "sla2";
  std::string token_order = "raster";  ///< raster, tiles (of 4x4x4) or hilbert
  bool smooth_k = true;
  int32_t bits = 16, stage = 0;
  std::array<int64_t, 3> grid{};  ///< frames, height, width in tokens; zeros: not told
  std::string schedule, base, base_shapes, base_weights, needs, errors, created_by, licence;

  [[nodiscard]] int64_t tokens() const noexcept { return grid[0] * grid[1] * grid[2]; }
  /// Index of the κ nearest to 1 - sparsity; of two as near the smaller.
  [[nodiscard]] size_t nearest_kappa(double sparsity) const;
};
/// Throws FILE_FORMAT | VERSION | UNSUPPORTED naming `where` and the key.
PackMetadata parse_pack_metadata(const std::map<std::string, std::string>& metadata, const std::string& where);

/// What was learned for one layer, fp32; empty: the default (identity, 0.6 and 0.5, no projection).
struct PackLayer {
  std::vector<float> router_q, router_k;  ///< [router_heads, D, D]
  int64_t router_heads = 1;
  std::vector<std::vector<float>> mix;  ///< one per κ: [H, 2], [H] or [H, T_m]
  std::vector<float> proj, proj_bias;   ///< [D, D], [D]
  [[nodiscard]] bool empty() const noexcept { return router_q.empty() && mix.empty() && proj.empty(); }
};

struct RouterPack {
  std::string path;
  std::string digest;       ///< SHA-256 of the file; of SLA v1 weights ""
  bool in_weights = false;  ///< SLA v1 projections among the model's weights
  PackMetadata metadata;
  std::vector<PackLayer> layers;
  [[nodiscard]] uint64_t bytes() const noexcept;
  [[nodiscard]] int64_t learned_layers() const noexcept;
};

/// Read a pack whole; low-rank routers are multiplied out. Throws FILE_* | VERSION | UNSUPPORTED: a pack is understood or
/// refused.
RouterPack read_router_pack(const std::string& path);
/// The same without the digest; also the fuzzing entrance.
RouterPack read_router_pack(const SafetensorsFile& file);
/// SHA-256 of a file's bytes. Throws FILE_*.
std::string file_sha256(const std::string& path);

/// SLA v1 (canonical `blocks.{i}.self_attn.proj_l.{weight,bias}`) among a model's weights.
bool has_sla1_weights(const Checkpoint& checkpoint);
/// Those as a pack: mode sla1, scope global, keys not smoothed, 128 x 64. Throws FILE_FORMAT | MODEL_MISMATCH.
RouterPack sla1_weights(const Checkpoint& checkpoint, int64_t layers, int64_t heads, int64_t head_dim);

/// The two fingerprints of a DiT by which a pack knows its model.
std::string pack_base_shapes(const Checkpoint& checkpoint, int64_t layers);
std::string pack_base_weights(const Checkpoint& checkpoint);

}  // namespace sla2::weights
