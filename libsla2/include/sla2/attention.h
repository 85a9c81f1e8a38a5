/* SPDX-License-Identifier: Apache-2.0 */
/** @file attention.h  Attention over long sequences: full, SLA2 (block-sparse softmax + linear attention over the rest), relatives.
 *
 *  Plan once per shape, ask for the workspace, call as often as you like:
 *
 *      sla2_attention_config config;  sla2_attention_config_init(&config, sizeof config);
 *      config.mode = SLA2_MODE_SLA2;  config.sparsity = 0.9;
 *      config.batch = 1; config.heads = 12; config.query_tokens = config.key_tokens = 32760; config.head_dim = 128;
 *      sla2_attention *plan;          sla2_attention_create(&config, &plan);
 *      uint64_t bytes;                sla2_attention_workspace_size(plan, &bytes);
 *      sla2_attention_forward(plan, &exec, &qkv, workspace, bytes, &out);
 *
 *  More than an output (lists of blocks, log-sum-exps, a probe) and learned tensors: sla2_attention_run().
 *  Letters: B batch, H heads, N tokens, D head dimension, T_m and T_n query and key blocks (sla2_attention_blocks()).
 *  Source: SLA2, arXiv 2602.12675; formulas: docs/numerics.md.
 */
#ifndef SLA2_ATTENTION_H
#define SLA2_ATTENTION_H

#include "sla2/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { /* what is computed; O_s softmax over the kept key blocks, O_l linear attention */
  SLA2_MODE_FULL = 1,        /**< softmax(Q Kᵀ/√D) V over all keys */
  SLA2_MODE_SLA2 = 2,        /**< a·O_s + (1−a)·O_l, O_l over the blocks that were not kept */
  SLA2_MODE_SLA1 = 3,        /**< O_s + Proj(O_l) (SLA, arXiv 2509.24006) */
  SLA2_MODE_SPARSE_ONLY = 4, /**< O_s */
  SLA2_MODE_LINEAR_ONLY = 5, /**< O_l over all keys; no router */
  SLA2_MODE_L_PLUS_S = 6,    /**< O_s + O_l over all keys */
  SLA2_MODE_POOLED = 7       /**< softmax over the kept keys and the mean key of each other block; an extension of this library */
};

enum { /* who picks the blocks: R = s·(Q̄ W_q)(K̄ W_k)ᵀ on block means, then a rule */
  SLA2_ROUTER_SLA2 = 1,   /**< the largest R of a row */
  SLA2_ROUTER_SLA1 = 2,   /**< as SLA2 */
  SLA2_ROUTER_VSA = 3,    /**< the largest R, count rounded up; adds gate ⊙ (softmax(R)·V̄) where a gate is given */
  SLA2_ROUTER_VMOBA = 4,  /**< until top_p of the stretched scores; the query block's own key blocks as well */
  SLA2_ROUTER_SPARGE = 5, /**< by rule; blocks whose rows are unlike each other (theta) are always kept */
  SLA2_ROUTER_GIVEN = 6   /**< you: a block list or a byte mask */
};

enum { /* how the two branches of SLA2 are mixed; a = sigmoid(logit) */
  SLA2_MIX_HEAD_AFFINE_LSE = 1, /**< logit = s·(L_sparse − L_rest,pooled) + b per head; default (s, b) = (0.6, 0.5) */
  SLA2_MIX_CONST = 2,           /**< logit = b */
  SLA2_MIX_HEAD_SCALAR = 3,     /**< logit = b of the head */
  SLA2_MIX_BLOCK = 4            /**< logit = b of the head and query block */
};

enum { SLA2_SCOPE_COMPLEMENT = 1, SLA2_SCOPE_GLOBAL = 2 };           /* SLA1: keys of the linear branch */
enum { SLA2_RULE_TOPK = 1, SLA2_RULE_CDF = 2, SLA2_RULE_HYBRID = 3 }; /* router SPARGE: by sparsity, by top_p, by either */
enum { SLA2_PRODUCTS_F32 = 1, SLA2_PRODUCTS_BF16 = 2 };              /* what Q·Kᵀ and P·V multiply; sums are fp32 */

enum { SLA2_LAYOUT_BHND = 1, SLA2_LAYOUT_BNHD = 2 };                 /* order of the axes: heads before tokens, or after */

/** What a plan is for. @since 0.1 */
typedef struct sla2_attention_config {
  uint32_t struct_size;  /**< sizeof of the caller; set by _init */
  int32_t mode;          /**< SLA2_MODE_*; default SLA2_MODE_FULL */
  int32_t layout;        /**< SLA2_LAYOUT_* of q, k, v and out alike; default SLA2_LAYOUT_BHND */
  int32_t mix;           /**< SLA2_MIX_*; default SLA2_MIX_HEAD_AFFINE_LSE; read in SLA2 mode only */
  int64_t batch;         /**< B >= 1; default 1 */
  int64_t heads;         /**< H >= 1; no default */
  int64_t query_tokens;  /**< tokens of q and out, >= 1, any number; no default */
  int64_t key_tokens;    /**< tokens of k and v, >= 1, any number; no default */
  int64_t head_dim;      /**< D, 32 to 256 in steps of 8; no default */
  double sparsity;       /**< SLA2: fraction of key blocks skipped, 0 to 1; each query block keeps
                              max(1, round((1 - sparsity) * ceil(key_tokens / block_k))); default 0.
                              Routers VMOBA, GIVEN and SPARGE's rule CDF do not read it */
  double softmax_scale;  /**< factor on q.k, > 0; 0 (default) means 1/sqrt(D) */
  int32_t block_q;       /**< SLA2: queries per routed block, 32, 64 or 128; default 128 */
  int32_t block_k;       /**< SLA2: keys per block, 16, 32, 64 or 128; default 64 */
  int32_t smooth_k;      /**< SLA2: 1 (default) subtracts the mean key before the feature map; 0 feeds keys as they are */
  int32_t reserved;      /**< 0 */
  double mix_scale;      /**< s of HEAD_AFFINE_LSE; default 0.6 */
  double mix_bias;       /**< b; default 0.5 */
  int32_t router;        /**< SLA2_ROUTER_*; default SLA2_ROUTER_SLA2 */
  int32_t scope;         /**< SLA1: SLA2_SCOPE_*; default SLA2_SCOPE_COMPLEMENT */
  int32_t rule;          /**< router SPARGE: SLA2_RULE_*; default SLA2_RULE_TOPK */
  int32_t products;      /**< SLA2_PRODUCTS_*; default SLA2_PRODUCTS_F32. A CPU without AVX-512 BF16 runs BF16 as F32:
                              products_used of sla2_attention_stats says what runs */
  int32_t bits;          /**< 16 (default), or 8: Q·Kᵀ in int8 with one scale per block, P·V on bf16 values, whatever `products`.
                              With tau > 0, and on a CPU without AVX2, it runs as 16 with F32: bits_used of
                              sla2_attention_stats says what runs */
  int32_t fp8_values;    /**< with 8 bits: 1 gives P·V the numerics of a GPU's fp8 units (slow, for studies); default 0 */
  int64_t kv_heads;      /**< heads of k and v, a divisor of H; query head h reads h / (H / kv_heads); 0 (default): H */
  double negligible;     /**< SLA1: this fraction of the blocks, the least, is in neither branch; default 0 */
  double tau;            /**< > 0: SoftTop-k of this temperature, weights instead of a choice; routers SLA2 and SLA1; default 0 */
  double top_p;          /**< routers VMOBA and SPARGE: share to reach, 0 to 1; default 0.25 */
  double theta;          /**< router SPARGE: blocks whose mean cosine is below are always kept, −1 to 1; default −1: none */
  int32_t protect_first; /**< key blocks always kept at the start; protected blocks count among the kept; default 0 */
  int32_t protect_last;  /**< and at the end; default 0 */
  int32_t protect_near;  /**< n >= 0: those that share a token index with the query block, and n beside; default −1: none */
  int32_t reserved2;     /**< 0 */
  int64_t min_tokens;    /**< SLA2, SPARSE_ONLY and POOLED run as FULL below this many key tokens; default 0 */
} sla2_attention_config;

/** Set struct_size and defaults. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_config_init(sla2_attention_config *config, uint32_t size);

/** A plan. One thread at a time; any number of plans. @since 0.1 */
typedef struct sla2_attention sla2_attention;

/** Check the configuration, choose kernels for this CPU, fix sizes. The configuration is copied.
 *  The plan keeps the number of CPUs there are now: later calls use at most that many threads.
 *  @param[out] plan  a new plan, freed with sla2_attention_destroy(); untouched on failure
 *  @return SLA2_OK | SLA2_E_ARGUMENT (the text names the field) | SLA2_E_VERSION | SLA2_E_UNSUPPORTED | SLA2_E_MEMORY.
 *  Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_create(const sla2_attention_config *config, sla2_attention **plan);

/** Free a plan; NULL is fine. One thread at a time per plan: not while a call on it runs. @since 0.1 */
SLA2_API void sla2_attention_destroy(sla2_attention *plan);

/** Bytes of scratch one forward call needs; constant for a plan. @return SLA2_OK | SLA2_E_ARGUMENT (NULL). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_workspace_size(const sla2_attention *plan, uint64_t *bytes);

/** What attention reads. Borrowed: until the call returns, on a GPU until the stream passes it. @since 0.1 */
typedef struct sla2_qkv {
  uint32_t struct_size;
  uint32_t reserved;    /**< 0 */
  const sla2_tensor *q; /**< [B,H,N,D] or [B,N,H,D] by the plan's layout; fp32, bf16 or fp16; last stride 1, others free */
  const sla2_tensor *k; /**< as q, with key_tokens and kv_heads; its element type may differ */
  const sla2_tensor *v; /**< as k */
} sla2_qkv;

/** Set struct_size and NULL tensors. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_qkv_init(sla2_qkv *qkv, uint32_t size);

/** out = attention(q, k, v); synchronous on the CPU. Allocates nothing; the same bits for any number of threads.
 *  @param exec             NULL: all CPUs of this process; with its `run`, on the host's threads
 *  @param workspace        at least sla2_attention_workspace_size() bytes, 64-byte aligned (checked); scratch, not kept
 *  @param out              shape and element type of q; strides of its own; overlaps neither inputs nor workspace
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, shape, strides, alignment, overlap, workspace) | SLA2_E_VERSION |
 *          SLA2_E_UNSUPPORTED (element type, device). On failure `out` is untouched.
 *  NaN in an input reaches the output; it is not an error here. One thread at a time per plan. @since 0.1 */
SLA2_API sla2_status sla2_attention_forward(sla2_attention *plan, const sla2_exec *exec, const sla2_qkv *in, void *workspace,
                                            uint64_t workspace_bytes, sla2_tensor *out);

/** T_m, T_n and the most blocks a row of a list can hold, for lists and masks of this plan. Any pointer may be NULL.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL plan). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_blocks(const sla2_attention *plan, int64_t *query_blocks, int64_t *key_blocks,
                                           int64_t *max_kept);

/** Which key blocks each query block keeps, ascending; rows ordered [B,H,T_m]. Full attention and a soft mask keep all,
 *  LINEAR_ONLY none. Memory is yours; entries past a row's count are neither read nor written. @since 0.1 */
typedef struct sla2_block_list {
  uint32_t struct_size;
  uint32_t reserved; /**< 0 */
  int32_t *index;    /**< [B,H,T_m,capacity] */
  int32_t *count;    /**< [B,H,T_m]; where the library reads 1 to capacity */
  int64_t capacity;  /**< where the library writes at least max_kept of sla2_attention_blocks() */
} sla2_block_list;

/** Set struct_size and zeros. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_block_list_init(sla2_block_list *list, uint32_t size);

/** What a layer learned and what a call is told; NULL members take the default named. Tensors are contiguous fp32 unless said
 *  otherwise. A member that the plan's mode or router would not read is refused: it would be a mistake unnoticed. @since 0.1 */
typedef struct sla2_attention_params {
  uint32_t struct_size;
  uint32_t reserved;            /**< 0 */
  const sla2_tensor *router_q;  /**< W_q [1,D,D] (shared by heads) or [H,D,D]; default identity */
  const sla2_tensor *router_k;  /**< W_k, first axis as router_q's; default identity */
  const sla2_tensor *mix;       /**< SLA2: [H,2] (s, b), [H] or [H,T_m] as the config's mix says; default mix_scale, mix_bias */
  const sla2_tensor *proj;      /**< SLA1: [D,D], O_s + O_l·projᵀ as torch's Linear; default zeros */
  const sla2_tensor *proj_bias; /**< SLA1: [D]; default zeros */
  const sla2_tensor *gate;      /**< router VSA: shape and layout of q, fp32, bf16 or fp16; default: no coarse branch */
  const sla2_tensor *key_bias;  /**< FULL: [key_tokens], added to the logits, −inf masks a key; default none */
  const sla2_block_list *given; /**< router GIVEN: this or given_mask */
  const sla2_tensor *given_mask; /**< uint8 or bool [B,H,T_m,T_n], not 0 keeps, at least one per row */
} sla2_attention_params;

/** Set struct_size and NULL members. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_params_init(sla2_attention_params *params, uint32_t size);

/** Full attention on some query blocks beside what was returned: what sparsity costs on this input. @since 0.1 */
typedef struct sla2_attention_probe {
  uint32_t struct_size;
  uint32_t reserved;  /**< 0 */
  double fraction;    /**< in: of the query blocks, above 0 to 1, evenly spread, at least one per head; costs that share of FULL */
  double relative_l1; /**< out: Σ|out − full| / Σ|full| over the rows probed */
  double cosine;      /**< out: between them */
  int64_t blocks;     /**< out: query blocks probed */
} sla2_attention_probe;

/** Set struct_size and zeros. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_probe_init(sla2_attention_probe *probe, uint32_t size);

/** Where results go; everything but out may be NULL. Memory is yours and overlaps nothing else of the call. @since 0.1 */
typedef struct sla2_attention_outputs {
  uint32_t struct_size;
  uint32_t reserved;           /**< 0 */
  sla2_tensor *out;            /**< as for sla2_attention_forward() */
  sla2_tensor *lse;            /**< fp32 [B,H,query_tokens], contiguous: natural log-sum-exp of the keys as they were given (not
                                    minus their mean) over what the softmax saw; −inf in LINEAR_ONLY */
  sla2_block_list *list;       /**< the blocks kept */
  sla2_attention_probe *probe; /**< costs its fraction of a full call */
} sla2_attention_outputs;

/** Set struct_size and NULL members. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_outputs_init(sla2_attention_outputs *outputs, uint32_t size);

/** sla2_attention_forward() with learned tensors and further outputs. @param params NULL: all defaults.
 *  @return as sla2_attention_forward(). One thread at a time per plan. @since 0.1 */
SLA2_API sla2_status sla2_attention_run(sla2_attention *plan, const sla2_exec *exec, const sla2_qkv *in,
                                        const sla2_attention_params *params, void *workspace, uint64_t workspace_bytes,
                                        const sla2_attention_outputs *outputs);

/** Only choose blocks: the list that sla2_attention_run() would write, without attention. in->v may be NULL.
 *  @return as sla2_attention_forward(). One thread at a time per plan. @since 0.1 */
SLA2_API sla2_status sla2_attention_route(sla2_attention *plan, const sla2_exec *exec, const sla2_qkv *in,
                                          const sla2_attention_params *params, void *workspace, uint64_t workspace_bytes,
                                          sla2_block_list *list);

/** The gradient of the loss by out, and what the forward call returned. @since 0.1 */
typedef struct sla2_attention_saved {
  uint32_t struct_size;
  uint32_t reserved;           /**< 0 */
  const sla2_tensor *d_out;    /**< shape of out; any of its element types and strides */
  const sla2_tensor *out;      /**< NULL: computed again in high precision (see sla2_attention_backward()) */
  const sla2_tensor *lse;      /**< NULL: as out; either NULL is both */
  const sla2_block_list *list; /**< required unless every block is kept or the mask is soft */
} sla2_attention_saved;

/** Set struct_size and NULL members. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_saved_init(sla2_attention_saved *saved, uint32_t size);

/** Where gradients go; NULL: not wanted. q, k, v and gate have the shapes of their inputs and element types of their own;
 *  the others are contiguous fp32 in the shapes of sla2_attention_params. Overwritten. @since 0.1 */
typedef struct sla2_attention_grads {
  uint32_t struct_size;
  uint32_t reserved; /**< 0 */
  sla2_tensor *q, *k, *v;
  sla2_tensor *router_q, *router_k, *mix, *proj, *proj_bias, *gate;
} sla2_attention_grads;

/** Set struct_size and NULL members. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_grads_init(sla2_attention_grads *grads, uint32_t size);

/** Bytes of scratch one backward call needs; constant for a plan. @return SLA2_OK | SLA2_E_ARGUMENT (NULL). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_backward_workspace_size(const sla2_attention *plan, uint64_t *bytes);

/** Gradients of sla2_attention_run() with the same qkv and params; the same bits for any number of threads.
 *  After a forward call with 8 bits, saved->out and saved->lse choose whose softmax it is. NULL ("hp_stats", what Python does by
 *  default): both are computed again from the kept blocks in fp32 or with bf16 products, so that the weights add up to one.
 *  Given ("paper"): those of the 8-bit forward, as SLA2's paper has it; one pass over the kept blocks less, and less exact.
 *  @return as sla2_attention_forward(). One thread at a time per plan. @since 0.1 */
SLA2_API sla2_status sla2_attention_backward(sla2_attention *plan, const sla2_exec *exec, const sla2_qkv *in,
                                             const sla2_attention_params *params, const sla2_attention_saved *saved,
                                             void *workspace, uint64_t workspace_bytes, const sla2_attention_grads *grads);

enum { /* orders of the tokens of f x h x w positions */
  SLA2_ORDER_RASTER = 1, /**< frame by frame, line by line */
  SLA2_ORDER_TILES = 2,  /**< boxes of tile_f x tile_h x tile_w one after the other, cut off at the borders: no padding */
  SLA2_ORDER_HILBERT = 3 /**< a curve from neighbour to neighbour through any box; tile_* are not read */
};

/** order[i] = raster index ((frame·height + y)·width + x) of the i-th token; a permutation of 0 … f·h·w − 1, which together are
 *  at most 2^31 − 1. Bring q, k and v into this order and the output back: key blocks are then compact in space.
 *  HILBERT: consecutive tokens are neighbours; all steps are straight where every extent is even, and where one is odd a few go
 *  diagonally (under 2 % on video grids, at most one in a single frame).
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, kind, extents, tiles below 1). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_token_order(int32_t kind, int64_t frames, int64_t height, int64_t width, int64_t tile_f,
                                      int64_t tile_h, int64_t tile_w, int32_t *order);

/** inverse[order[i]] = i, which brings outputs back. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, not a permutation; inverse is
 *  then undefined). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_token_order_invert(const int32_t *order, int64_t count, int32_t *inverse);

/** Facts about a plan and its last forward or route call. @since 0.1 */
typedef struct sla2_attention_stats {
  uint32_t struct_size;
  int32_t mode_used;        /**< SLA2_MODE_* that runs: a sparse mode with every block kept, or few tokens, runs as FULL */
  double achieved_sparsity; /**< fraction of (query block, key block) pairs skipped */
  int64_t blocks_kept;      /**< pairs kept, over batch and heads; in FULL mode in tiles of the library's choice */
  int64_t blocks_total;     /**< all pairs */
  double mean_linear_weight; /**< SLA2: mean of 1 − a over rows */
  int32_t bits_used;         /**< of Q·Kᵀ: 8 or 16, whatever the configuration asks for; see `bits` there. @since 0.1 */
  int32_t products_used;     /**< SLA2_PRODUCTS_* of P·V, and of Q·Kᵀ with 16 bits */
} sla2_attention_stats;

/** Set struct_size and zeros. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_stats_init(sla2_attention_stats *stats, uint32_t size);

/** Fill a struct from sla2_attention_stats_init(). @return SLA2_OK | SLA2_E_ARGUMENT (NULL). One thread at a time per plan.
 *  @since 0.1 */
SLA2_API sla2_status sla2_attention_get_stats(const sla2_attention *plan, sla2_attention_stats *stats);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_ATTENTION_H */
