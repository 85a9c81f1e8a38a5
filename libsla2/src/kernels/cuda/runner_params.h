// SPDX-License-Identifier: Apache-2.0
// The one parameter of each kernel of the Wan2.1 runner, which is products and rows. Rows lie one after the other where nothing
// else is said; widths are multiples of 8, so that a row starts on 16 bytes.
#pragma once
#include <cstdint>

#include "kernels/cuda/params.h"

namespace sla2::cuda {

inline constexpr int kGemmThreads = 256, kGemmRows = 128, kGemmColumns = 128;
inline constexpr int kGemmStepBytes = 64;  ///< of each row at a time: 32 bf16 or 64 int8, two steps of mma
inline constexpr int kGemmStages = 3;      ///< 48 KB: two blocks on the 100 KB of shared memory of 8.6, 8.9 and 12.0
inline constexpr uint32_t kGemmBytes = kGemmStages * (kGemmRows + kGemmColumns) * kGemmStepBytes;

enum GemmFinish : int32_t {
  kGemmStore = 0,     ///< y = v
  kGemmGeluTanh = 1,  ///< y = gelu_tanh(v)
  kGemmSilu = 2,      ///< y = silu(v)
  kGemmAddGated = 3,  ///< y = y + gate · v; y fp32
};

/// sla2_gemm_*: y [rows, out] = finish(x [rows, in] · w [out, in]ᵀ + bias). Grid (ceil(out / 128), ceil(rows / 128)).
struct GemmParams {
  const void *x, *w;                      ///< bf16, or int8 with scales
  const float *row_scale, *column_scale;  ///< int8: x ≈ row_scale · steps, w ≈ column_scale · steps
  const float *bias, *gate;               ///< [out]; null: 0, 1
  void* y;
  int64_t stride_x, stride_y;  ///< elements from row to row
  int32_t rows, in, out;
  int32_t finish;   ///< GemmFinish
  int32_t element;  ///< of y: kElementF32 or kElementBf16
};

inline constexpr int kRowThreads = 256, kRowsPerBlock = kRowThreads / 32;  ///< a warp takes a row

/// Rows that leave a kernel, as a product takes them: bf16, or int8 with a scale for each row.
struct ProductRows {
  uint16_t* bf16;  ///< or null
  int8_t* steps;   ///< then these
  float* scale;    ///< [rows]
};

/// sla2_layer_norm: (x - mean)·rsqrt(var + eps)·scale + shift. Grid (ceil(rows / 8), 1).
struct LayerNormParams {
  const float* x;              ///< [rows, width]
  const float *scale, *shift;  ///< [width]; null: 1, 0. Null both and `plain`: x itself
  ProductRows y;               ///< [rows, width]
  int32_t* bad;                ///< set to 1 where a row has NaN or infinity; or null
  int32_t rows, width, plain;  ///< plain: no norm, only conversion (and the look for NaN)
  float eps;
};

/// sla2_quantise: rows of bf16 to int8. Grid (ceil(rows / 8), 1).
struct QuantiseParams {
  const uint16_t* x;
  ProductRows y;
  int64_t stride_x;
  int32_t rows, width;
};

/// Rotary embedding of an axis: [positions, pairs].
struct RopeTableParams {
  const float *cosine, *sine;
  int32_t pairs, positions;
};

/// sla2_rms_norm: x·rsqrt(mean(x²) + eps)·weight over whole rows, then rotation of each head; bf16, in place.
/// Grid (ceil(rows / 8), parts): part i begins i·part_stride further on and has weight[i] (q and k of one product).
struct RmsNormParams {
  uint16_t* x;
  const float* weight[2];  ///< [width]
  int64_t stride_x, part_stride;
  RopeTableParams t, h, w;  ///< t.cosine null: no rotation
  const int32_t* order;     ///< [tokens] place in t, h, w order of the i-th token; null: its number
  int32_t rows, width, head_dim, first_token;
  float eps;
};

/// sla2_modulate: out[i] = base[i] + offset[i mod period], plus 1 where bit (i / dim mod 32) of `ones` is set: scales have their
/// 1 added. Grid (ceil(count / 256), 1).
struct ModulateParams {
  const float *base, *offset;
  float* out;
  int64_t count;
  int32_t period, dim, vectors;  ///< vectors: of dim numbers, after which `ones` starts again
  uint32_t ones;
};

}  // namespace sla2::cuda
