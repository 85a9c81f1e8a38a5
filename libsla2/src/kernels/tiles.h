// SPDX-License-Identifier: Apache-2.0
// Every tile size of attention on the CPU, with its reason. What a kernel's inner loop holds is counted in registers: AVX2 has 16
// of 8 floats, AVX-512 32 of 16 floats. A core is taken to have 32 KB of L1 and 512 KB of L2 or more. (CUDA: cuda/tiles.h.)
#pragma once
#include <cstdint>

namespace sla2::kernels {

// ---- What attention cuts its work into -------------------------------------------------------------------------------------

/// The full path has no geometry of its own to keep, so it takes the tile that fits L2: q 64 KB, logits 32 KB, output 64 KB, one
/// block of keys and values 64 KB at D 128. Its backward takes the same: no list to keep to.
inline constexpr int64_t kFullBlockQ = 128, kFullBlockK = 64;
/// Heads are prepared together until there are this many query blocks to share among threads; more would only cost memory.
inline constexpr int64_t kTasksPerGroup = 128;
/// Parts, both ways, that the tiles of a backward unit are cut into: so many workers find work in one unit, and a part's queries
/// and their gradients (3 MB of 30,000 tokens in bf16 at D 128) stay in L3 while its keys pass.
inline constexpr int64_t kBackwardParts = 16;

// ---- Layouts ----------------------------------------------------------------------------------------------------------------

/// Columns of a packed panel: two AVX2 registers wide, so that 6 rows fill 12 accumulators and leave 4 registers; one of AVX-512.
inline constexpr int64_t kPanel = 16;
/// Router scores are padded to this: one AVX-512 register of fp64 sums, two of AVX2.
inline constexpr int64_t kRouteLanes = 8;

// ---- AVX2 -------------------------------------------------------------------------------------------------------------------

/// fp32 products, 6 x 16: 12 accumulators, 2 registers of B, 1 broadcast. Per k 12 FMA for 2 loads and 6 broadcasts: the two FMA
/// ports are the limit, not the two load ports.
inline constexpr int64_t kGemmRows = 6;
/// 8-bit scores: 4 rows x 8 keys are 8 accumulators, 2 registers of widened keys, 1 broadcast and room for the product.
inline constexpr int64_t kInt8Rows = 4;

// ---- AVX-512 ----------------------------------------------------------------------------------------------------------------

/// fp32 products, 16 x 16: 16 accumulators, 1 register of B; a broadcast is part of its FMA. Half of them would hide the FMA's
/// latency on two full-width ports; twice as many halve the loads of B, and 16 divides a block of 128.
inline constexpr int64_t kWideGemmRows = 16;

// ---- AVX-512 with BF16 ------------------------------------------------------------------------------------------------------

/// Scores, and all other bf16 products: 4 rows x 64 columns are 16 accumulators and 4 registers of the right-hand side, and the
/// softmax of a tile is short enough (16 vectors) to overlap with the products of the next one in the reorder buffer; 6 x 64
/// needs fewer loads but was 2 % slower for that reason.
inline constexpr int kBf16Rows = 4, kBf16Vecs = 4;
/// Rows whose weights are made and used in one go: 64 x 64 in bf16 are 8 KB, beside 16 KB of values in L1.
inline constexpr int64_t kWeighedRows = 64;

}  // namespace sla2::kernels
