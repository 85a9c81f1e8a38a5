// SPDX-License-Identifier: Apache-2.0
// Queries as left-hand fragments. Each warp owns 16 rows of the query block: it reads them from the caller's tensor row by row
// (a lane takes two pairs of channels), leaves them rounded in its stretch of shared memory and picks up fragments, of which a
// lane holds rows g and g + 8. Rows past the end are zero.
#pragma once
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/params.h"
#include "kernels/cuda/rows.h"

namespace sla2::cuda {

struct QueryRows {
  int64_t head;    ///< over the batch
  int64_t first;   ///< token of the warp's first row
  int32_t inside;  ///< rows of the warp that exist, up to 16
  uint32_t warp, lane, g, t;
  uint32_t consumers = 0;  ///< threads of the block that have queries; 0: all
  [[nodiscard]] SLA2_DEVICE uint32_t threads() const { return consumers == 0 ? thread_count() : consumers; }
  /// Those threads meet.
  SLA2_DEVICE void sync() const {
    if (consumers == 0)
      sync_threads();
    else
      sync_some(1, consumers);
  }
  [[nodiscard]] SLA2_DEVICE bool has(int i) const { return static_cast<int32_t>(g) + 8 * i < inside; }
  [[nodiscard]] SLA2_DEVICE int64_t token(int i) const { return first + g + 8 * i; }
};

template <typename Place = GridPlace>
SLA2_DEVICE QueryRows query_rows(const AttendParams& p, const Place& at = {}) {
  QueryRows rows{};
  rows.head = at.head(), rows.warp = thread_index() / 32, rows.lane = thread_index() % 32;
  rows.g = rows.lane / 4, rows.t = rows.lane % 4;
  rows.first = static_cast<int64_t>(query_block(p, at)) * p.block_q + kWarpRows * rows.warp;
  const int64_t left = p.query_tokens - rows.first;
  rows.inside = left < 0 ? 0 : left < kWarpRows ? static_cast<int32_t>(left) : kWarpRows;
  return rows;
}

/// One row: channels 2·lane, 2·lane + 1 and those 64 further on.
template <int kWidth>
struct QueryLine {
  Pair x[kWidth / 64];
  SLA2_DEVICE QueryLine(const AttendParams& p, const QueryRows& rows, int32_t row) {
    const int64_t from = row_at(p.q, rows.head, rows.first + row);
#pragma unroll
    for (int i = 0; i < kWidth / 64; ++i)
      x[i] = row < rows.inside ? load_pair(p.q, from, static_cast<int32_t>(2 * rows.lane) + 64 * i, p.dim) : Pair{0, 0};
  }
};

/// A number per row, computed by the whole warp row by row, kept by the lanes that hold the row.
SLA2_DEVICE void keep(float (&mine)[2], const QueryRows& rows, int32_t row, float value) {
  if (row == static_cast<int32_t>(rows.g)) mine[0] = value;
  if (row == static_cast<int32_t>(rows.g) + 8) mine[1] = value;
}

/// a0 … a3 of 16 rows at `tile`, two chunks of k.
template <int kRowBytes>
SLA2_DEVICE void load_left(uint32_t tile, uint32_t chunk, uint32_t (&a)[4]) {
  const uint32_t lane = thread_index() % 32, matrix = lane / 8;
  load_matrices(tile + image_offset(kWarpRows, kRowBytes, matrix % 2 * 8 + lane % 8, (chunk + matrix / 2) * 16), a);
}

/// What the queries are in the products: fragments and, in int8, the scale of each row.
template <int kWidth, Products kProducts>
struct Queries {
  static constexpr bool kInt8 = kProducts != Products::kBf16;
  static constexpr int kRowBytes = kWidth * key_bytes(kProducts);
  static constexpr int kSteps = kRowBytes / 32;  ///< along the channels: 32 bytes of a key each
  uint32_t a[kSteps][4];
  float scale[2] = {1, 1};
  float shift[2] = {0,
                    0};  ///< s · q · μ · log2 e where a log-sum-exp is wanted: what subtracting the mean key took from the logits

  /// `scratch`: a word per warp, and then 16 rows per warp.
  SLA2_DEVICE void load(const AttendParams& p, const QueryRows& rows, uint32_t scratch) {
    const float top = kInt8 ? largest_magnitude(p, rows, scratch) : 0, inverse = top < kLeast ? 0.0F : kInt8Steps / top;
    const uint32_t tile = scratch + rows.warp * kWarpRows * kRowBytes;
    const float* const mean = p.shift == nullptr ? nullptr : p.shift + rows.head / p.heads_per_key * p.dim;
#pragma unroll 1
    for (int32_t row = 0; row < kWarpRows; ++row) {
      const QueryLine<kWidth> line(p, rows, row);
      float dot = 0;
      bool finite = true;
#pragma unroll
      for (int i = 0; i < kWidth / 64; ++i) {
        const Pair x = line.x[i];
        const uint32_t channel = 2 * rows.lane + 64 * static_cast<uint32_t>(i);
        const uint32_t at = tile + image_offset(kWarpRows, kRowBytes, static_cast<uint32_t>(row), channel * key_bytes(kProducts));
        if constexpr (kInt8) {
          finite = finite && is_finite(x.x) && is_finite(x.y);
          shared_store<uint16_t>(
              at, static_cast<uint16_t>((int8_steps(x.x, inverse) & 0xFF) | (int8_steps(x.y, inverse) & 0xFF) << 8));
        } else {
          shared_store<uint32_t>(at, pack_bf16(x.x, x.y));
        }
        if (mean != nullptr && channel < static_cast<uint32_t>(p.dim)) dot += x.x * mean[channel] + x.y * mean[channel + 1];
      }
      if (mean != nullptr) keep(shift, rows, row, warp_sum(dot) * p.scale);
      if constexpr (kInt8) {
        const bool all = ballot(finite) == 0xFFFFFFFFU;
        keep(scale, rows, row, !all ? not_a_number() : top < kLeast ? 0.0F : top / kInt8Steps);
      }
    }
    sync_warp();
#pragma unroll
    for (uint32_t step = 0; step < kSteps; ++step) load_left<kRowBytes>(tile, step * 2, a[step]);
    rows.sync();  // scratch is free again
  }

 private:
  /// Of what is finite in the whole query block: int8 has one step for all of it.
  static SLA2_DEVICE float largest_magnitude(const AttendParams& p, const QueryRows& rows, uint32_t scratch) {
    float top = 0;
#pragma unroll 1
    for (int32_t row = 0; row < rows.inside; ++row) {
      const QueryLine<kWidth> line(p, rows, row);
#pragma unroll
      for (const Pair& x : line.x) {
        if (is_finite(x.x)) top = largest(top, x.x < 0 ? -x.x : x.x);
        if (is_finite(x.y)) top = largest(top, x.y < 0 ? -x.y : x.y);
      }
    }
    top = warp_max(top);
    if (rows.lane == 0) shared_store<float>(scratch + rows.warp * 4, top);
    rows.sync();
    for (uint32_t w = 0; w < rows.threads() / 32; ++w) top = largest(top, shared_load<float>(scratch + w * 4));
    rows.sync();
    return top;
  }
};

/// φ(Q) in bf16 as left-hand fragments, and φ·z for two sums in shared memory, [W] fp32 each.
template <int kWidth>
struct QueryFeatures {
  static constexpr int kPanelBytes = 128;  ///< 64 channels at a time go through shared memory: 2 KB per warp
  uint32_t a[kWidth / 16][4];
  float rest[2], all[2];

  SLA2_DEVICE void load(const AttendParams& p, const QueryRows& rows, uint32_t z_rest, uint32_t z_all, uint32_t scratch) {
    const uint32_t tile = scratch + rows.warp * kWarpRows * kPanelBytes;
    float part_rest[2] = {0, 0}, part_all[2] = {0, 0};
    for (int i = 0; i < 2; ++i) rest[i] = all[i] = 0;
#pragma unroll
    for (int panel = 0; panel < kWidth / 64; ++panel) {
#pragma unroll 1
      for (int32_t row = 0; row < kWarpRows; ++row) {
        const QueryLine<kWidth> line(p, rows, row);
        const Pair phi = feature_pair(p, rows, line, panel);
        const uint32_t channel = 2 * rows.lane + 64 * static_cast<uint32_t>(panel), bits = pack_bf16(phi.x, phi.y);
        shared_store<uint32_t>(tile + image_offset(kWarpRows, kPanelBytes, static_cast<uint32_t>(row), rows.lane * 4), bits);
        const float low = from_bf16(bits & 0xFFFFU), high = bits_to_float(bits & 0xFFFF0000U);
        const float in_rest =
            low * shared_load<float>(z_rest + channel * 4) + high * shared_load<float>(z_rest + channel * 4 + 4);
        const float in_all = low * shared_load<float>(z_all + channel * 4) + high * shared_load<float>(z_all + channel * 4 + 4);
        keep(part_rest, rows, row, warp_sum(in_rest));
        keep(part_all, rows, row, warp_sum(in_all));
      }
      for (int i = 0; i < 2; ++i) rest[i] += part_rest[i], all[i] += part_all[i];
      sync_warp();
#pragma unroll
      for (uint32_t step = 0; step < 4; ++step) load_left<kPanelBytes>(tile, step * 2, a[4 * panel + step]);
      sync_warp();  // before the next panel
    }
  }

 private:
  /// Softmax over the row's channels, of this lane's pair of a panel; 0 from `dim` on.
  static SLA2_DEVICE Pair feature_pair(const AttendParams& p, const QueryRows& rows, const QueryLine<kWidth>& line, int panel) {
    float top = -infinity(), sum = 0;
    Pair phi{0, 0};
#pragma unroll
    for (int i = 0; i < kWidth / 64; ++i)
      if (static_cast<int32_t>(2 * rows.lane) + 64 * i < p.dim) top = largest(top, largest(line.x[i].x, line.x[i].y));
    top = warp_max(top);
#pragma unroll
    for (int i = 0; i < kWidth / 64; ++i) {
      if (static_cast<int32_t>(2 * rows.lane) + 64 * i >= p.dim) continue;
      const Pair e{exp2_fast((line.x[i].x - top) * kLog2E), exp2_fast((line.x[i].y - top) * kLog2E)};
      sum += e.x + e.y;
      if (i == panel) phi = e;
    }
    const float scale = 1 / warp_sum(sum);
    return {phi.x * scale, phi.y * scale};
  }
};

}  // namespace sla2::cuda
