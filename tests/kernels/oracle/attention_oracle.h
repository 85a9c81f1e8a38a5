// SPDX-License-Identifier: Apache-2.0
// What attention must compute, straight from the formulas (SLA2, arXiv 2602.12675; docs/numerics.md), in fp64 or, as the
// yardstick for errors, in plain fp32. One head, contiguous [N, D]; every score is a number in a matrix. Shares nothing with
// the library.
#pragma once
#include <cstdint>
#include <vector>

namespace sla2::oracle {

struct Problem {
  int64_t queries = 0, keys = 0, dim = 0;
  int64_t block_q = 128, block_k = 64;
  bool sparse = false;  ///< SLA2; otherwise full
  double sparsity = 0, scale = 0;
  bool smooth_k = true, mix_const = false;
  double mix_scale = 0.6, mix_bias = 0.5;
};

/// q [queries, dim], k and v [keys, dim], bias [keys] or empty. T is double (truth) or float (plain fp32).
template <typename T>
std::vector<T> attention(const Problem& problem, const std::vector<float>& q, const std::vector<float>& k,
                         const std::vector<float>& v, const std::vector<float>& bias = {});

}  // namespace sla2::oracle
