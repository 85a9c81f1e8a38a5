// SPDX-License-Identifier: Apache-2.0
// The elementwise step of attention's backward over one tile of queries against keys, logits in base 2:
//
//   P[r, n] = weight[r] · 2^(log_scale · s[r, n] (+ bias[n]) - top[r])        dS[r, n] = scale · P[r, n] · (d[r, n] - mean[r])
//
// s holds q·k, d holds dO·v, mean the row's dO·O. top and weight: the largest logit of the whole row and 1 / Σ, with logits
// computed as here (a saturated softmax then gives 1 and 0, whatever a logit's last digit is worth); or log-sum-exp and 1.
// Columns from `cols` to the next multiple of kPanel become zero. fp32: s becomes P and d becomes dS. bf16: operands of the next
// products, in pairs.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace sla2::kernels {

struct SoftmaxGradient {
  int64_t rows, cols;  ///< of the tile; stride >= cols rounded up to kPanel
  float *s, *d;        ///< [rows][stride]
  int64_t stride;
  const float *top, *weight, *mean;  ///< [rows]
  const float* bias;                 ///< [cols rounded up to kPanel], base 2, or null
  float log_scale, scale;            ///< what turns s into base 2; softmax scale
};

/// Where the bf16 version leaves its results, each with room for whole pairs of rows and `stride` columns.
struct GradientPairs {
  bf16_t* p_pairs;   ///< [rows / 2][stride][2] P of two rows beside each other: left-hand side of Pᵀ·dO
  bf16_t* ds_pairs;  ///< the same of dS: left-hand side of dSᵀ·Q
  bf16_t* ds;        ///< [rows][stride] dS: left-hand side of dS·K
};

using SoftmaxGradientOp = void (*)(const SoftmaxGradient& args);
using SoftmaxGradientBf16 = void (*)(const SoftmaxGradient& args, const GradientPairs& out);

namespace ref {
void softmax_gradient(const SoftmaxGradient& args);
void softmax_gradient_bf16(const SoftmaxGradient& args, const GradientPairs& out);
}  // namespace ref
namespace avx2 {
void softmax_gradient(const SoftmaxGradient& args);
}
namespace avx512 {
void softmax_gradient(const SoftmaxGradient& args);
}
namespace avx512_bf16 {
void softmax_gradient_bf16(const SoftmaxGradient& args, const GradientPairs& out);
}

}  // namespace sla2::kernels
