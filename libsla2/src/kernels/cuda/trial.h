// SPDX-License-Identifier: Apache-2.0
// One warp-wide instruction on operands out of memory: what a device's fragment maps are measured with (tests/gpu).
#pragma once
#include <cstdint>

namespace sla2::cuda {

enum Trial : int32_t { kTrialBf16, kTrialInt8, kTrialE4m3, kTrialMatrices, kTrialMatricesTransposed };

/// Words of a case. Products: a lane brings a0 … a3, b0, b1 and takes away d0 … d3. load_matrices: 32 rows of 4 words in shared
/// memory; a lane takes away r0 … r3.
inline constexpr int kTrialIn = 32 * 6, kTrialOut = 32 * 4;

/// sla2_trial. Grid (cases, 1), 32 threads.
struct TrialParams {
  const uint32_t* in;  ///< [cases][kTrialIn]
  uint32_t* out;       ///< [cases][kTrialOut]
  int32_t trial;
};

}  // namespace sla2::cuda
