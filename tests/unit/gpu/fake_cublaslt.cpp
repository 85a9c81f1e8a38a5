// SPDX-License-Identifier: Apache-2.0
// A library with cuBLASLt's names that multiplies on the host, column-major as cuBLASLt does, and refuses what the real one
// would: attributes it does not know, a workspace that was not offered. With SLA2_WRONG_BLAS it forgets the bias.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace {

constexpr int kSuccess = 0, kInvalid = 7;

struct Desc {
  int transa = 0, epilogue = 1;
  const uint16_t* bias = nullptr;
};
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
};
struct Result {
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
float at(const void* data, int64_t i) { return sla2::bf16_to_f32(static_cast<const uint16_t*>(data)[i]); }

}  // namespace

#pragma GCC visibility push(default)
extern "C" {
int cublasLtCreate(void** handle) {
  *handle = new int(1);
  return kSuccess;
}
int cublasLtDestroy(void* handle) {
  delete static_cast<int*>(handle);
  return kSuccess;
}
int cublasLtMatmulDescCreate(void** desc, int compute, int scale) {
  *desc = new Desc;
  return compute == 68 && scale == 0 ? kSuccess : kInvalid;
}
int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t bytes) {
  Desc& d = *static_cast<Desc*>(desc);
  if (attribute == 3 && bytes == sizeof d.transa) return std::memcpy(&d.transa, value, bytes), kSuccess;
  if (attribute == 7 && bytes == sizeof d.epilogue) return std::memcpy(&d.epilogue, value, bytes), kSuccess;
  if (attribute == 8 && bytes == sizeof d.bias) return std::memcpy(&d.bias, value, bytes), kSuccess;
  return kInvalid;
}
int cublasLtMatmulDescDestroy(void* desc) {
  delete static_cast<Desc*>(desc);
  return kSuccess;
}
int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  *layout = new Layout{type, rows, columns, ld};
  return type == 14 && ld >= static_cast<int64_t>(rows) ? kSuccess : kInvalid;
}
int cublasLtMatrixLayoutDestroy(void* layout) {
  delete static_cast<Layout*>(layout);
  return kSuccess;
}
int cublasLtMatmulPreferenceCreate(void** preference) {
  *preference = new int(0);
  return kSuccess;
}
int cublasLtMatmulPreferenceSetAttribute(void*, int attribute, const void*, size_t bytes) {
  return attribute == 1 && bytes == sizeof(size_t) ? kSuccess : kInvalid;
}
int cublasLtMatmulPreferenceDestroy(void* preference) {
  delete static_cast<int*>(preference);
  return kSuccess;
}
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int asked, Result* result, int* found) {
  *result = {};
  result->algorithm[0] = 42;
  *found = asked;
  return kSuccess;
}
int cublasLtMatmul(void*, void* desc, const void* alpha, const void* a, void* layout_a, const void* b, void* layout_b,
                   const void*, const void*, void*, void* d, void* layout_d, const void* algorithm, void*, size_t, void*) {
  const Desc& what = *static_cast<const Desc*>(desc);
  const Layout &la = *static_cast<const Layout*>(layout_a), &lb = *static_cast<const Layout*>(layout_b),
               &ld = *static_cast<const Layout*>(layout_d);
  if (what.transa != 1 || la.rows != lb.rows || la.columns != ld.rows || lb.columns != ld.columns ||
      *static_cast<const uint64_t*>(algorithm) != 42)
    return kInvalid;
  for (uint64_t column = 0; column < ld.columns; ++column)
    for (uint64_t row = 0; row < ld.rows; ++row) {
      double v = 0;
      for (uint64_t k = 0; k < la.rows; ++k)
        v += static_cast<double>(at(a, static_cast<int64_t>(row) * la.ld + static_cast<int64_t>(k))) *
             static_cast<double>(at(b, static_cast<int64_t>(column) * lb.ld + static_cast<int64_t>(k)));
      v *= static_cast<double>(*static_cast<const float*>(alpha));
#if !defined(SLA2_WRONG_BLAS)
      if ((what.epilogue & 4) != 0) v += static_cast<double>(at(what.bias, static_cast<int64_t>(row)));
#endif
      if ((what.epilogue & 32) != 0) v = 0.5 * v * (1 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
      static_cast<uint16_t*>(d)[static_cast<int64_t>(column) * ld.ld + static_cast<int64_t>(row)] =
          sla2::f32_to_bf16(static_cast<float>(v));
    }
  return kSuccess;
}
}
