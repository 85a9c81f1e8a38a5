// SPDX-License-Identifier: Apache-2.0
// The caller's tensors as kernels see them.
#pragma once
#include "attention/attention.h"
#include "kernels/cuda/params.h"

namespace sla2::attention {

[[nodiscard]] inline int32_t element_of(DType dtype) {
  return dtype == DType::kBF16 ? cuda::kElementBf16 : dtype == DType::kF16 ? cuda::kElementF16 : cuda::kElementF32;
}

/// A view for kernels. Pairs of channels are read at once where every row starts at an even element of aligned memory.
template <typename Operand>
[[nodiscard]] cuda::Rows rows(const Operand& x, int64_t heads) {
  const auto size = dtype_size(x.dtype);
  const auto even = [](int64_t stride) { return stride % 2 == 0; };
  const bool pairs = reinterpret_cast<uintptr_t>(x.data) % (2 * size) == 0 && even(x.stride_batch) && even(x.stride_head) &&
                     even(x.stride_token);
  return {const_cast<void*>(static_cast<const void*>(x.data)),
          x.stride_batch,
          x.stride_head,
          x.stride_token,
          static_cast<int32_t>(heads),
          element_of(x.dtype),
          pairs ? 1 : 0};
}

}  // namespace sla2::attention
