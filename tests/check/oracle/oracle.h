// SPDX-License-Identifier: Apache-2.0
// What attention must compute, one head at a time, written from the formulas: SLA2 (arXiv 2602.12675), SLA (2509.24006) and
// docs/numerics.md. Shares nothing with the library. The same code in three arithmetics: fp64 is the truth, plain fp32, bf16
// and int8 are the yardsticks that budgets are cut from.
//
// Per block row b, key block j: Ws(b,j) weighs the block's keys in the softmax branch, Wl(b,j) in the linear branch.
//   O_s, L = softmax over keys with weights Ws·exp(s·q·k)         O_l = φ(q)·H / φ(q)·Z,  H = Σ_j Wl·φ(K_j)ᵀV_j
// Every mode is a choice of Ws, Wl and of how O_s and O_l are joined.
#pragma once
#include "oracle/matrix.h"

namespace sla2::check {

enum class Mode : uint8_t { kFull, kSla2, kSla1, kSparseOnly, kLinearOnly, kLPlusS, kPooled };
enum class Router : uint8_t { kSla2, kSla1, kVsa, kVmoba, kSparge, kGiven };
enum class AMode : uint8_t { kHeadAffineLse, kConst, kHeadScalar, kBlock };
enum class Scope : uint8_t { kComplement, kGlobal };  ///< which keys the linear branch of sla1 sees
enum class Rule : uint8_t { kTopK, kCdf, kHybrid };   ///< router sparge
enum class Arithmetic : uint8_t { kExact, kF32, kBf16, kInt8, kFp8 };

struct Problem {
  Mode mode = Mode::kFull;
  Router router = Router::kSla2;
  AMode a_mode = AMode::kHeadAffineLse;
  Scope scope = Scope::kComplement;
  Rule rule = Rule::kTopK;
  int64_t queries = 0, keys = 0, dim = 0, block_q = 128, block_k = 64;
  double sparsity = 0;    ///< kept = max(1, round((1 − sparsity)·T_n)) key blocks per query block
  double scale = 0;       ///< 0: 1/√D
  bool smooth_k = true;   ///< φ sees K − μ; false: K
  double negligible = 0;  ///< sla1: this fraction of the blocks, the least, is left out of both branches
  double tau = 0;         ///< > 0: SoftTop-k of this temperature instead of the hard mask
  double top_p = 0.25;    ///< vmoba, sparge cdf and hybrid
  double theta = -1;      ///< sparge: blocks whose mean cosine is below are always kept; −1: none
  int64_t protect_first = 0, protect_last = 0, protect_near = -1;  ///< key blocks always kept; near: self ± that many; −1: none

  [[nodiscard]] double softmax_scale() const { return scale > 0 ? scale : 1 / std::sqrt(static_cast<double>(dim)); }
  [[nodiscard]] int64_t query_blocks() const { return blocks_of(queries, block_q); }
  [[nodiscard]] int64_t key_blocks() const { return blocks_of(keys, block_k); }
};

/// One head's numbers. Empty: absent (router weights: identity).
struct Head {
  Table q, k, v;                  ///< [N_q, D], [N_k, D]
  std::vector<double> key_bias;   ///< [N_k], added to the logits
  Table w_q, w_k;                 ///< [D, D]: R = s · (Q̄ W_q)(K̄ W_k)ᵀ
  std::vector<double> a;          ///< head_affine_lse {s, b}; const and head_scalar {b}; block [T_m]
  Table proj;                     ///< sla1: [D, D] as torch's Linear, O_s + O_l · projᵀ + proj_bias
  std::vector<double> proj_bias;  ///< [D]
  Table gate;                     ///< vsa: [N_q, D]
  Table given;                    ///< router given: [T_m, T_n] of 0 and 1
  std::vector<double> frozen;     ///< [N_q] L − L_rest held at these values (a constant for gradients); empty: computed
};

/// Which blocks each query block sees, always in fp64.
struct Selection {
  Table mask;                 ///< M [T_m, T_n]: 0 or 1, or in between (SoftTop-k)
  Table sparse, linear;       ///< Ws, Wl [T_m, T_n]
  Table scores;               ///< R of the router
  Table identity;             ///< s · Q̄ · K̄ᵀ on K − μ, what L_rest is made of
  double closest = INFINITY;  ///< smallest gap between a kept and a skipped score, relative to the row's spread: how safe M is
};
Selection select(const Problem& problem, const Head& head);

struct Output {
  Table o;                             ///< [N_q, D]
  std::vector<double> lse;             ///< [N_q] of the unsmoothed keys, over what the softmax branch saw
  std::vector<double> lse_minus_rest;  ///< [N_q] L − L_rest, what `frozen` takes
  std::vector<double> linear_weight;   ///< [N_q] 1 − a (sla2; elsewhere 0)
};
Output forward(const Problem& problem, const Head& head, const Selection& selection, Arithmetic arithmetic);

struct Gradients {
  Table q, k, v, w_q, w_k, proj, gate;
  std::vector<double> proj_bias, a;
};
/// L − L_rest is a constant here (the published listings' choice). Hard mask: W_q, W_k get zeros. given: what forward returned;
/// then O_s and the log-sum-exp of the softmax are taken from there (as fp32), not from these sums: the paper's way.
Gradients backward(const Problem& problem, const Head& head, const Selection& selection, const Table& d_out,
                   Arithmetic arithmetic = Arithmetic::kExact, const Output* given = nullptr);

}  // namespace sla2::check
