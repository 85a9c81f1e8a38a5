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

/// Rows that a warp reads and sums up side by side: one alone would wait for memory, and then for each of its shuffles.
inline constexpr int kRowsAhead = 4;

/// A few rows, of each the channels 2·lane, 2·lane + 1 and those 64 further on. Loads come first, in one branch: what converts
/// them would wait.
template <int kWidth>
struct QueryLines {
  static constexpr int kPairs = kWidth / 64;
  uint32_t words[kRowsAhead][kPairs][2];  ///< fp32 in both; else in the first
  int32_t element;

  SLA2_DEVICE QueryLines(const AttendParams& p, const QueryRows& rows, int32_t first) : element(p.q.element) {
    if (element == kElementF32)
      read(p, rows, first, [&](int64_t at, uint32_t(&to)[2]) {
        const uint32_t* const two = static_cast<const uint32_t*>(p.q.data) + at;
        to[0] = two[0], to[1] = two[1];
      });
    else if (p.q.pairs != 0)
      read(p, rows, first, [&](int64_t at, uint32_t(&to)[2]) {
        to[0] = *reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(p.q.data) + at);
      });
    else
      read(p, rows, first, [&](int64_t at, uint32_t(&to)[2]) {
        const uint16_t* const two = static_cast<const uint16_t*>(p.q.data) + at;
        to[0] = two[0] | static_cast<uint32_t>(two[1]) << 16U;
      });
  }
  [[nodiscard]] SLA2_DEVICE Pair at(int row, int i) const {
    const uint32_t low = words[row][i][0];
    if (element == kElementF32) return {bits_to_float(low), bits_to_float(words[row][i][1])};
    if (element == kElementBf16) return {from_bf16(low & 0xFFFFU), bits_to_float(low & 0xFFFF0000U)};
    return {from_f16(static_cast<uint16_t>(low)), from_f16(static_cast<uint16_t>(low >> 16U))};
  }

 private:
  template <typename Read>
  SLA2_DEVICE void read(const AttendParams& p, const QueryRows& rows, int32_t first, const Read& one) {
#pragma unroll
    for (int row = 0; row < kRowsAhead; ++row) {
      const int64_t from = row_at(p.q, rows.head, rows.first + first + row);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int32_t channel = static_cast<int32_t>(2 * rows.lane) + 64 * i;
        words[row][i][0] = words[row][i][1] = 0;
        if (first + row < rows.inside && channel < p.dim) one(from + channel, words[row][i]);
      }
    }
  }
};

/// Sums and maxima over the warp, of as many rows at a time: each step of one waits for nothing but the others'.
SLA2_DEVICE void warp_sums(float (&x)[kRowsAhead]) {
#pragma unroll
  for (uint32_t mask = 1; mask < 32; mask *= 2)
#pragma unroll
    for (float& one : x) one += shuffle_xor(one, mask);
}
SLA2_DEVICE void warp_maxima(float (&x)[kRowsAhead]) {
#pragma unroll
  for (uint32_t mask = 1; mask < 32; mask *= 2)
#pragma unroll
    for (float& one : x) one = largest(one, shuffle_xor(one, mask));
}

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
    for (int32_t first = 0; first < kWarpRows; first += kRowsAhead) {
      const QueryLines<kWidth> lines(p, rows, first);
      float dots[kRowsAhead] = {};
#pragma unroll
      for (int ahead = 0; ahead < kRowsAhead; ++ahead) {
        const int32_t row = first + ahead;
        bool finite = true;
#pragma unroll
        for (int i = 0; i < kWidth / 64; ++i) {
          const Pair x = lines.at(ahead, i);
          const uint32_t channel = 2 * rows.lane + 64 * static_cast<uint32_t>(i);
          const uint32_t at =
              tile + image_offset(kWarpRows, kRowBytes, static_cast<uint32_t>(row), channel * key_bytes(kProducts));
          if constexpr (kInt8) {
            finite = finite && is_finite(x.x) && is_finite(x.y);
            shared_store<uint16_t>(
                at, static_cast<uint16_t>((int8_steps(x.x, inverse) & 0xFF) | (int8_steps(x.y, inverse) & 0xFF) << 8));
          } else {
            shared_store<uint32_t>(at, pack_bf16(x.x, x.y));
          }
          if (mean != nullptr && channel < static_cast<uint32_t>(p.dim))
            dots[ahead] += x.x * mean[channel] + x.y * mean[channel + 1];
        }
        if constexpr (kInt8) {
          const bool all = ballot(finite) == 0xFFFFFFFFU;
          keep(scale, rows, row, !all ? not_a_number() : top < kLeast ? 0.0F : top / kInt8Steps);
        }
      }
      if (mean == nullptr) continue;
      warp_sums(dots);
#pragma unroll
      for (int ahead = 0; ahead < kRowsAhead; ++ahead) keep(shift, rows, first + ahead, dots[ahead] * p.scale);
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
    for (int32_t first = 0; first < rows.inside; first += kRowsAhead) {
      const QueryLines<kWidth> lines(p, rows, first);
#pragma unroll
      for (int ahead = 0; ahead < kRowsAhead; ++ahead)
#pragma unroll
        for (int i = 0; i < kWidth / 64; ++i) {
          const Pair x = lines.at(ahead, i);
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
      for (int32_t first = 0; first < kWarpRows; first += kRowsAhead) {
        const QueryLines<kWidth> lines(p, rows, first);
        Pair phis[kRowsAhead];
        feature_pairs(p, rows, lines, panel, phis);
        const uint32_t channel = 2 * rows.lane + 64 * static_cast<uint32_t>(panel);
        const float rest_low = shared_load<float>(z_rest + channel * 4), rest_high = shared_load<float>(z_rest + channel * 4 + 4),
                    all_low = shared_load<float>(z_all + channel * 4), all_high = shared_load<float>(z_all + channel * 4 + 4);
        float in_rest[kRowsAhead], in_all[kRowsAhead];
#pragma unroll
        for (int ahead = 0; ahead < kRowsAhead; ++ahead) {
          const int32_t row = first + ahead;
          const uint32_t bits = pack_bf16(phis[ahead].x, phis[ahead].y);
          shared_store<uint32_t>(tile + image_offset(kWarpRows, kPanelBytes, static_cast<uint32_t>(row), rows.lane * 4), bits);
          const float low = from_bf16(bits & 0xFFFFU), high = bits_to_float(bits & 0xFFFF0000U);
          in_rest[ahead] = low * rest_low + high * rest_high, in_all[ahead] = low * all_low + high * all_high;
        }
        warp_sums(in_rest), warp_sums(in_all);
#pragma unroll
        for (int ahead = 0; ahead < kRowsAhead; ++ahead)
          keep(part_rest, rows, first + ahead, in_rest[ahead]), keep(part_all, rows, first + ahead, in_all[ahead]);
      }
      for (int i = 0; i < 2; ++i) rest[i] += part_rest[i], all[i] += part_all[i];
      sync_warp();
#pragma unroll
      for (uint32_t step = 0; step < 4; ++step) load_left<kPanelBytes>(tile, step * 2, a[4 * panel + step]);
      sync_warp();  // before the next panel
    }
  }

 private:
  /// Softmax over each row's channels, of this lane's pair of a panel; 0 from `dim` on.
  static SLA2_DEVICE void feature_pairs(const AttendParams& p, const QueryRows& rows, const QueryLines<kWidth>& lines, int panel,
                                        Pair (&phis)[kRowsAhead]) {
    const auto inside = [&](int i) { return static_cast<int32_t>(2 * rows.lane) + 64 * i < p.dim; };
    float top[kRowsAhead], sum[kRowsAhead] = {};
#pragma unroll
    for (int row = 0; row < kRowsAhead; ++row) {
      top[row] = -infinity();
#pragma unroll
      for (int i = 0; i < kWidth / 64; ++i)
        if (inside(i)) top[row] = largest(top[row], largest(lines.at(row, i).x, lines.at(row, i).y));
    }
    warp_maxima(top);
#pragma unroll
    for (int row = 0; row < kRowsAhead; ++row) {
      phis[row] = {0, 0};
#pragma unroll
      for (int i = 0; i < kWidth / 64; ++i) {
        if (!inside(i)) continue;
        const Pair x = lines.at(row, i), e{exp2_fast((x.x - top[row]) * kLog2E), exp2_fast((x.y - top[row]) * kLog2E)};
        sum[row] += e.x + e.y;
        if (i == panel) phis[row] = e;
      }
    }
    warp_sums(sum);
#pragma unroll
    for (int row = 0; row < kRowsAhead; ++row) {
      const float scale = 1 / sum[row];
      phis[row] = {phis[row].x * scale, phis[row].y * scale};
    }
  }
};

}  // namespace sla2::cuda
