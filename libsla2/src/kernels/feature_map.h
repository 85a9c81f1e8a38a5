// SPDX-License-Identifier: Apache-2.0
// φ, the feature map of linear attention: softmax over the channels of each token (SLA2 §3; no 1/√d).
//   in x [rows, dim], row stride dim; out the same memory; fp32; dim a multiple of 8.
#pragma once
#include <cstdint>

namespace sla2::kernels {

using FeatureMap = void (*)(int64_t rows, int64_t dim, float* x);

namespace ref {
void feature_map(int64_t rows, int64_t dim, float* x);
}
namespace avx2 {
void feature_map(int64_t rows, int64_t dim, float* x);
}
namespace avx512 {
void feature_map(int64_t rows, int64_t dim, float* x);
}

}  // namespace sla2::kernels
