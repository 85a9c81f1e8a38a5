// SPDX-License-Identifier: Apache-2.0
// fp32 logarithm and sine/cosine with the exact roundings of PyTorch's AVX2 normal fill. Private to the room.
#pragma once

namespace sla2::latent {

/// Natural logarithm of a positive normal number.
float single_log(float value) noexcept;
/// Sine and cosine of an angle in [0, 2 pi].
void single_sincos(float angle, float& sine, float& cosine) noexcept;

}  // namespace sla2::latent
