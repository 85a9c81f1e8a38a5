// SPDX-License-Identifier: Apache-2.0
// Scalar elementwise kernels: the reference for every other version, and the code of CPUs without AVX2.
#include "kernels/elementwise.h"

#include <cmath>

namespace sla2::kernels {

namespace {

constexpr float kSqrt2OverPi = 0.7978845608028654F, kGeluCubic = 0.044715F;

float gelu_tanh(float v) { return 0.5F * v * (1.0F + std::tanh(kSqrt2OverPi * (v + kGeluCubic * v * v * v))); }

void widen_bf16(const bf16_t* source, float* target, size_t count) {
  for (size_t i = 0; i < count; ++i) target[i] = bf16_to_f32(source[i]);
}
void widen_f16(const uint16_t* source, float* target, size_t count) {
  for (size_t i = 0; i < count; ++i) target[i] = f16_to_f32(source[i]);
}
void narrow_bf16(const float* source, bf16_t* target, size_t count) { convert_to_bf16(source, target, count); }
void round_to_bf16(const float* source, float* target, size_t count) {
  for (size_t i = 0; i < count; ++i) target[i] = bf16_to_f32(f32_to_bf16(source[i]));
}
void add_bias(const float* x, const float* bias, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = x[i] + bias[i];
}
void bias_gelu_tanh(const float* x, const float* bias, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = gelu_tanh(x[i] + bias[i]);
}
void bias_silu(const float* x, const float* bias, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float v = x[i] + bias[i];
    y[i] = v / (1.0F + std::exp(-v));
  }
}
void add_gated(const float* y, const float* bias, const float* gate, float* x, size_t count) {
  for (size_t i = 0; i < count; ++i) x[i] += gate[i] * (y[i] + bias[i]);
}
bool all_finite(const float* values, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (!std::isfinite(values[i])) return false;
  return true;
}

}  // namespace

const ElementwiseTable& elementwise_ref() {
  static constexpr ElementwiseTable kTable{widen_bf16,     widen_f16, narrow_bf16, round_to_bf16, add_bias,
                                           bias_gelu_tanh, bias_silu, add_gated,   all_finite};
  return kTable;
}

}  // namespace sla2::kernels
