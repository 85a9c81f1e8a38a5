// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/arch.h"
#include "kernels/cuda/trial.h"

namespace sla2::cuda {
namespace {

union Bits {
  float number;
  int32_t integer;
  uint32_t word;
};

}  // namespace

SLA2_KERNEL(sla2_trial, 32, 1, TrialParams) {
  const uint32_t lane = thread_index();
  const uint32_t* const in = p.in + static_cast<int64_t>(block_x()) * kTrialIn;
  uint32_t* const out = p.out + static_cast<int64_t>(block_x()) * kTrialOut + lane * 4;
  uint32_t r[4] = {};
  if (p.trial >= kTrialMatrices) {
    for (uint32_t i = 0; i < 4; ++i) shared_store<uint32_t>(lane * 16 + i * 4, in[lane * 4 + i]);
    sync_warp();
    if (p.trial == kTrialMatrices)
      load_matrices(lane * 16, r);
    else
      load_matrices_transposed(lane * 16, r);
  } else {
    const uint32_t* const mine = in + lane * 6;
    const uint32_t a[4] = {mine[0], mine[1], mine[2], mine[3]};
    float d[4] = {};
    int32_t sums[4] = {};
    uint32_t halves[2] = {};
    if (p.trial == kTrialBf16) multiply_bf16(d, a, mine[4], mine[5]);
    if (p.trial == kTrialE4m3) multiply_e4m3(d, a, mine[4], mine[5]);
    if (p.trial == kTrialE4m3Half) multiply_e4m3(halves, a, mine[4], mine[5]);
    if (p.trial == kTrialInt8) multiply_int8(sums, a, mine[4], mine[5]);
    for (int i = 0; i < 4; ++i) {
      Bits bits{};
      if (p.trial == kTrialInt8)
        bits.integer = sums[i];
      else if (p.trial == kTrialE4m3Half)
        bits.word = i < 2 ? halves[i] : 0;
      else
        bits.number = d[i];
      r[i] = bits.word;
    }
  }
  for (int i = 0; i < 4; ++i) out[i] = r[i];
}

}  // namespace sla2::cuda
