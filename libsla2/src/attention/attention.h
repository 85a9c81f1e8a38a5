// SPDX-License-Identifier: Apache-2.0
// The door of attention for rooms inside the library (api/ wraps it for C). Semantics: SLA2, arXiv 2602.12675; see
// docs/numerics.md. Letters: B batch, H heads, N tokens, D head dimension.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "attention/token_order.h"
#include "core/core.h"

namespace sla2::device {
class Launcher;
}

namespace sla2::attention {

/// What is computed; numbers as in the C header. O_s softmax over the kept key blocks, O_l linear attention (docs/numerics.md).
enum class Mode : uint8_t {
  kFull = 1,        ///< softmax over all keys
  kSla2 = 2,        ///< a·O_s + (1 - a)·O_l, O_l over the blocks that were not kept
  kSla1 = 3,        ///< O_s + Proj(O_l) (SLA, arXiv 2509.24006)
  kSparseOnly = 4,  ///< O_s
  kLinearOnly = 5,  ///< O_l over all keys
  kLPlusS = 6,      ///< O_s + O_l over all keys
  kPooled = 7,      ///< softmax over the kept keys and the mean key of every other block (extension of this project)
};
enum class Router : uint8_t { kSla2 = 1, kSla1 = 2, kVsa = 3, kVmoba = 4, kSparge = 5, kGiven = 6 };
enum class Mix : uint8_t { kHeadAffineLse = 1, kConst = 2, kHeadScalar = 3, kBlock = 4 };  ///< where a of sla2 comes from
enum class Scope : uint8_t { kComplement = 1, kGlobal = 2 };                               ///< keys of sla1's linear branch
enum class Rule : uint8_t { kTopK = 1, kCdf = 2, kHybrid = 3 };                            ///< router sparge: how many blocks

struct Config {
  Mode mode = Mode::kFull;
  Router router = Router::kSla2;
  Mix mix = Mix::kHeadAffineLse;
  Scope scope = Scope::kComplement;
  Rule rule = Rule::kTopK;
  int64_t batch = 1, heads = 0, query_tokens = 0, key_tokens = 0, head_dim = 0;
  int64_t kv_heads = 0;      ///< divides heads; 0: as heads. Query head h reads key head h / (heads / kv_heads)
  double sparsity = 0;       ///< fraction of key blocks skipped; kept = max(1, round((1 - sparsity) * T_n))
  double softmax_scale = 0;  ///< 0: 1/sqrt(D)
  int32_t block_q = 128, block_k = 64;
  bool smooth_k = true;  ///< φ sees K minus its mean
  double mix_scale = 0.6, mix_bias = 0.5;
  double negligible = 0;  ///< sla1: this fraction of the blocks, the least, is in neither branch
  double tau = 0;         ///< > 0: SoftTop-k of this temperature instead of the hard mask
  double top_p = 0.25;    ///< vmoba, sparge cdf and hybrid: share to reach
  double theta = -1;      ///< sparge: blocks whose mean cosine is below are always kept; -1: none
  /// Key blocks always kept, counted among the kept: at the start, at the end, the query block's own ± near (-1: none).
  int32_t protect_first = 0, protect_last = 0, protect_near = -1;
  /// Fewer key tokens than this: sla2, sparse_only and pooled run as full, which is faster there. Routers vsa and given never do.
  int64_t min_tokens = 0;
  /// kBF16: Q·Kᵀ and P·V multiply bf16 numbers. CPUs without AVX-512 BF16 multiply fp32: Stats::products_used.
  DType products = DType::kF32;
  /// 8: Q·Kᵀ in int8 with one scale per query block and key block, P·V on bf16 values; the linear branch multiplies bf16 where
  /// there is AVX-512 BF16, elsewhere fp32. All in fp32 with a soft mask (tau > 0) and on CPUs without AVX2: Stats::bits_used.
  int32_t bits = 16;
  bool fp8_values = false;  ///< with 8 bits: P·V with the numerics of the GPU's fp8 units (slow; for studies)
};

/// A strided view [B,H,N,D] of any layout; strides in elements, last axis contiguous.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride_batch = 0, stride_head = 0, stride_token = 0;
};
struct MutableOperand {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride_batch = 0, stride_head = 0, stride_token = 0;
};

/// What was learned for a layer; fp32, contiguous; null: the default named.
struct Parameters {
  const float *router_q = nullptr, *router_k = nullptr;  ///< [router_heads, D, D] W: R = s·(Q̄ W_q)(K̄ W_k)ᵀ; null: identity
  int64_t router_heads = 1;                              ///< 1 (shared) or heads
  const float* mix = nullptr;   ///< head_affine_lse [H, 2] (s, b); head_scalar [H]; block [H, T_m]; null: mix_scale, mix_bias
  const float* proj = nullptr;  ///< sla1 [D, D] as torch's Linear, one for all heads: O_s + O_l·projᵀ + proj_bias; null: zeros
  const float* proj_bias = nullptr;  ///< [D]; null: zeros
  Operand gate;                      ///< vsa: [B,H,N_q,D], O += gate ⊙ (softmax(R)·V̄); data null: no coarse branch
};

/// Kept key blocks per query block, ascending; [B·H][T_m] rows, in configured blocks whatever ran. Full and a soft mask keep all,
/// linear_only none.
struct BlockList {
  int32_t* index = nullptr;  ///< [B·H][T_m][capacity]; past the count nothing is read or written
  int32_t* count = nullptr;  ///< [B·H][T_m]; where the library reads 1 to capacity
  int64_t capacity = 0;      ///< >= max_kept() where the library writes; at most T_n
};

struct Stats {
  Mode mode_used = Mode::kFull;
  double achieved_sparsity = 0;               ///< of the last call; before the first one what `sparsity` asks for
  int64_t blocks_kept = 0, blocks_total = 0;  ///< pairs over batch and heads; a soft mask counts by its weights
  double mean_linear_weight = 0;              ///< mean of (1 - a) over rows: how much the linear branch speaks
  int32_t bits_used = 16;                     ///< of Q·Kᵀ: 8 or 16
  DType products_used = DType::kF32;          ///< what P·V, and Q·Kᵀ with 16 bits, multiply
};

/// Full attention on some query blocks, beside what was returned.
struct Probe {
  double fraction = 0;                 ///< in: of the query blocks that run, above 0, evenly spread, at least one per head
  double relative_l1 = 0, cosine = 0;  ///< out: over all rows probed
  int64_t blocks = 0;                  ///< out: how many query blocks were probed
};

/// Parts of a call, for measuring.
enum class Part : uint8_t {
  kRouter,  ///< pooling, scores, choosing blocks
  kPack,    ///< keys, values and queries into the tiles' layout and type: with 8 bits, quantising
  kSparse,  ///< the softmax branch; backward: S, dP, dS and what they give
  kLinear,  ///< φ, the blocks' states and their totals, φ(Q)·H; backward: what the keys receive through them
  kMix      ///< weighing, merging, writing out; backward: statistics of the queries, a, writing out
};
constexpr int kParts = 5;
/// Wall seconds: those of each worker over their number. What is missing to the whole is waiting.
struct PartTimes {
  double seconds[kParts] = {};
};

struct Forward {
  Operand q, k, v;                  ///< [B,H,N_q,D], [B,H_kv,N_k,D] twice
  MutableOperand out;               ///< as q
  const float* key_bias = nullptr;  ///< [N_k] added to the logits; full mode only (cross-attention's collapsed padding row)
  Parameters parameters;
  const BlockList* given = nullptr;     ///< router given: the blocks to keep
  const uint8_t* given_mask = nullptr;  ///< or as bytes, [B·H][T_m][T_n]: not 0 keeps
  float* lse = nullptr;                 ///< [B·H, N_q] out: natural log-sum-exp of the unsmoothed keys over what the softmax saw
  BlockList* list = nullptr;            ///< out: the blocks kept
  Probe* probe = nullptr;               ///< costs `fraction` of a dense call
  PartTimes* times = nullptr;           ///< out; on the CPU only
  void* stream = nullptr;               ///< plans on a device: CUstream on which everything is ordered; the CPU has none
};

/// Gradients; data null: not wanted. Parameter gradients are fp32, shaped as in Parameters, and overwritten.
struct Gradients {
  MutableOperand q, k, v, gate;
  float *router_q = nullptr, *router_k = nullptr, *mix = nullptr, *proj = nullptr, *proj_bias = nullptr;
};

struct Backward {
  Operand q, k, v, d_out;
  /// What forward returned: after 8 bits its rounding is in the gradients (the paper's way). Null: this and lse are computed
  /// again from the list in high precision (hp_stats).
  Operand out;
  const float* lse = nullptr;  ///< [B·H, N_q]; null: as out
  Parameters parameters;
  const BlockList* list = nullptr;  ///< the blocks forward kept; required where the mask is hard
  Gradients gradients;
  PartTimes* times = nullptr;  ///< out; on the CPU only
  void* stream = nullptr;      ///< as in Forward
};

/// Shapes checked, kernels chosen. One thread at a time; calls allocate nothing. Workspaces are 64-byte aligned.
class Plan {
 public:
  static std::unique_ptr<Plan> create(const Config& config);  ///< throws ARGUMENT | UNSUPPORTED
  /// With the kernels of one instruction set; kScalar runs bf16 and 8 bits as defined (tests).
  static std::unique_ptr<Plan> create(const Config& config, Isa isa);
  /// On a GPU: tensors, parameters, lists and workspace are in its memory; calls return before it has finished. `gpu` outlives
  /// the plan. Throws UNSUPPORTED with the reason where a configuration is not built for it.
  static std::unique_ptr<Plan> create(const Config& config, device::Launcher& gpu);
  virtual ~Plan() = default;
  [[nodiscard]] virtual bool on_device() const noexcept { return false; }
  [[nodiscard]] virtual const Config& config() const noexcept = 0;
  [[nodiscard]] virtual int64_t query_blocks() const noexcept = 0;  ///< T_m, T_n of the configured blocks
  [[nodiscard]] virtual int64_t key_blocks() const noexcept = 0;
  [[nodiscard]] virtual int64_t max_kept() const noexcept = 0;  ///< most blocks a row of `list` can hold
  [[nodiscard]] virtual uint64_t workspace_bytes() const noexcept = 0;
  [[nodiscard]] virtual uint64_t backward_workspace_bytes() const noexcept = 0;
  virtual void forward(const Forward& call, void* workspace) = 0;
  /// Only the blocks that forward would keep. v is not read except by router vsa's gate.
  virtual void route(const Forward& call, void* workspace) = 0;
  /// Gradients of forward. 8 bits: the softmax is recomputed in high precision on the kept blocks. Same bits for any number of
  /// threads.
  virtual void backward(const Backward& call, void* workspace) = 0;
  [[nodiscard]] virtual const Stats& stats() const noexcept = 0;

  /// forward without the extras, for callers that have none.
  void forward(const Operand& q, const Operand& k, const Operand& v, const float* key_bias, void* workspace,
               const MutableOperand& out) {
    Forward call;
    call.q = q, call.k = k, call.v = v, call.out = out, call.key_bias = key_bias;
    forward(call, workspace);
  }
};

}  // namespace sla2::attention
