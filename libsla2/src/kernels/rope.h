// SPDX-License-Identifier: Apache-2.0
// Rotary embedding of video tokens: adjacent pairs, each head split t | h | w, angles from three small tables that are
// indexed by the token's place, so that no [tokens, head_dim] table is ever streamed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace sla2::kernels {

/// Tables [positions, pairs] of one axis.
struct RopeAxis {
  const float* cosine = nullptr;
  const float* sine = nullptr;
  int64_t pairs = 0, positions = 0;
};
/// Tokens in t, h, w order, or in the order given; head_dim = 2·(t.pairs + h.pairs + w.pairs).
struct RopeGrid {
  RopeAxis t, h, w;
  const int32_t* order = nullptr;  ///< [tokens] place in t, h, w order of the i-th token
  [[nodiscard]] int64_t head_dim() const noexcept { return 2 * (t.pairs + h.pairs + w.pairs); }
};

struct RopeTable {
  /// One token: rotate each of `heads` runs of head_dim = 2·pairs; cosine and sine [pairs] of this token.
  /// (a, b) -> (a·c - b·s, a·s + b·c)
  void (*rotate_row)(float* x, const float* cosine, const float* sine, size_t heads, size_t pairs);
};

[[nodiscard]] const RopeTable& rope_ref();
[[nodiscard]] const RopeTable& rope_avx2();
[[nodiscard]] const RopeTable& rope();

/// x [rows, heads·head_dim], in place: RMSNorm over the full row (q and k of Wan are normed before the head split), then
/// rotation for tokens first_token, first_token + 1, …
void rms_norm_rope(float* x, int64_t ldx, const float* weight, float eps, const RopeGrid& grid, int64_t first_token, int64_t rows,
                   int64_t heads);

}  // namespace sla2::kernels
