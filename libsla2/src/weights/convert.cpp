// SPDX-License-Identifier: Apache-2.0
#include "weights/convert.h"

namespace sla2::weights {

void to_f32(DType dtype, const std::byte* source, float* target, size_t count) {
  size_t done = 0;
#if defined(__x86_64__)
  if (active_isa() >= Isa::kAvx2) done = to_f32_avx2(dtype, source, target, count);
#endif
  if (done < count) convert_to_f32(dtype, source + done * dtype_size(dtype), target + done, count - done);
}

}  // namespace sla2::weights
