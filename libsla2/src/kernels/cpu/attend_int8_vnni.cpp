// SPDX-License-Identifier: Apache-2.0
// Eight-bit attention on AVX-512 with VNNI and without BF16.
#include "kernels/cpu/attend_int8_f32.h"

namespace sla2::kernels::avx512_vnni {
void attend_int8(const AttendInt8& args) { attend_int8_with<ByteProducts<16>>(args); }
}  // namespace sla2::kernels::avx512_vnni
