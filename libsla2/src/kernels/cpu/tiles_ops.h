// SPDX-License-Identifier: Apache-2.0
// The ops of attention's tiles that have one source for AVX2 and AVX-512.
#pragma once
#include "kernels/cpu/attend_int8_f32.h"
#include "kernels/cpu/block_sum.h"
#include "kernels/cpu/feature_map.h"
#include "kernels/cpu/online_softmax.h"
#include "kernels/cpu/panel_gemm.h"
#include "kernels/cpu/softmax_gradient.h"

/// The ops of one instruction set, in a file compiled for it.
#define SLA2_TILE_OPS(space, lanes)                                                                                       \
  namespace space {                                                                                                       \
  void panel_gemm(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,   \
                  int64_t c_row, bool accumulate) {                                                                       \
    panel_gemm_with<lanes>(rows, depth, a, a_row, a_step, b, c, c_row, accumulate);                                       \
  }                                                                                                                       \
  bool online_softmax(int64_t rows, int64_t cols, float* s, int64_t s_row, const float* bias, float* m, float* l,         \
                      float* rescale) {                                                                                   \
    return online_softmax_with<lanes>(rows, cols, s, s_row, bias, m, l, rescale);                                         \
  }                                                                                                                       \
  void rescale_rows(int64_t rows, int64_t panels, const float* rescale, float* acc) {                                     \
    rescale_rows_with<lanes>(rows, panels, rescale, acc);                                                                 \
  }                                                                                                                       \
  void feature_map(int64_t rows, int64_t dim, float* x) { feature_map_with<lanes>(rows, dim, x); }                        \
  void block_sum(int64_t count, const float* blocks, int64_t stride, const int32_t* list, int64_t list_size, double sign, \
                 const double* base, double* out) {                                                                       \
    block_sum_with<lanes>(count, blocks, stride, list, list_size, sign, base, out);                                       \
  }                                                                                                                       \
  void softmax_gradient(const SoftmaxGradient& args) { softmax_gradient_with<lanes>(args); }                              \
  void attend_int8(const AttendInt8& args) { attend_int8_with<WordProducts<lanes>>(args); }                               \
  }
