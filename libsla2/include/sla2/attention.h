/* SPDX-License-Identifier: Apache-2.0 */
/** @file attention.h  Attention over long sequences: full, or SLA2 (block-sparse softmax + linear attention over the rest).
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
 *  Letters: B batch, H heads, N tokens, D head dimension. Source: SLA2, arXiv 2602.12675.
 */
#ifndef SLA2_ATTENTION_H
#define SLA2_ATTENTION_H

#include "sla2/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { /* what is computed */
  SLA2_MODE_FULL = 1,  /**< softmax(Q Kᵀ/√D) V over all keys */
  SLA2_MODE_SLA2 = 2   /**< a·sparse + (1−a)·linear over the complement; router identity unless weights are given */
};

enum { /* how the two branches are mixed; a = sigmoid(logit) */
  SLA2_MIX_HEAD_AFFINE_LSE = 1, /**< logit = s·(L_sparse − L_rest,pooled) + b per head; default (s, b) = (0.6, 0.5) */
  SLA2_MIX_CONST = 2            /**< logit = b */
};

enum { SLA2_LAYOUT_BHND = 1, SLA2_LAYOUT_BNHD = 2 };

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
                              max(1, round((1 - sparsity) * ceil(key_tokens / block_k))); default 0 */
  double softmax_scale;  /**< factor on q.k, > 0; 0 (default) means 1/sqrt(D) */
  int32_t block_q;       /**< SLA2: queries per routed block, 32, 64 or 128; default 128 */
  int32_t block_k;       /**< SLA2: keys per block, 16, 32, 64 or 128; default 64 */
  int32_t smooth_k;      /**< SLA2: 1 (default) subtracts the mean key before the feature map; 0 feeds keys as they are */
  int32_t reserved;      /**< 0 */
  double mix_scale;      /**< s of HEAD_AFFINE_LSE; default 0.6 */
  double mix_bias;       /**< b; default 0.5 */
} sla2_attention_config;

/** Set struct_size and defaults. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). @since 0.1 */
SLA2_API sla2_status sla2_attention_config_init(sla2_attention_config *config, uint32_t size);

typedef struct sla2_attention sla2_attention; /**< a plan: one thread at a time; any number of plans */

/** Check the configuration, choose kernels for this CPU, fix sizes. The configuration is copied.
 *  The plan keeps the number of CPUs there are now: later calls use at most that many threads.
 *  @param[out] plan  a new plan, freed with sla2_attention_destroy(); untouched on failure
 *  @return SLA2_OK | SLA2_E_ARGUMENT (the text names the field) | SLA2_E_VERSION | SLA2_E_UNSUPPORTED | SLA2_E_MEMORY.
 *  Any thread. @since 0.1 */
SLA2_API sla2_status sla2_attention_create(const sla2_attention_config *config, sla2_attention **plan);

/** Free a plan; NULL is fine. Not while a call on it runs. @since 0.1 */
SLA2_API void sla2_attention_destroy(sla2_attention *plan);

/** Bytes of scratch one forward call needs; constant for a plan. @return SLA2_OK | SLA2_E_ARGUMENT. @since 0.1 */
SLA2_API sla2_status sla2_attention_workspace_size(const sla2_attention *plan, uint64_t *bytes);

typedef struct sla2_qkv {
  uint32_t struct_size;
  uint32_t reserved;    /**< 0 */
  const sla2_tensor *q; /**< [B,H,N,D] or [B,N,H,D] by the plan's layout; fp32, bf16 or fp16; last stride 1, others free */
  const sla2_tensor *k; /**< as q, with key_tokens; its element type may differ */
  const sla2_tensor *v; /**< as k */
} sla2_qkv;

/** Set struct_size and NULL tensors. @return SLA2_OK | SLA2_E_ARGUMENT. @since 0.1 */
SLA2_API sla2_status sla2_qkv_init(sla2_qkv *qkv, uint32_t size);

/** out = attention(q, k, v); synchronous on the CPU. Allocates nothing; the same bits for any number of threads.
 *  @param exec             NULL: all CPUs of this process
 *  @param workspace        at least sla2_attention_workspace_size() bytes, 64-byte aligned; scratch, not kept
 *  @param out              shape and element type of q; strides of its own; overlaps neither inputs nor workspace
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, shape, strides, alignment, overlap, workspace) | SLA2_E_VERSION |
 *          SLA2_E_UNSUPPORTED (element type, device). On failure `out` is untouched.
 *  NaN in an input reaches the output; it is not an error here. One thread at a time per plan. @since 0.1 */
SLA2_API sla2_status sla2_attention_forward(sla2_attention *plan, const sla2_exec *exec, const sla2_qkv *in, void *workspace,
                                            uint64_t workspace_bytes, sla2_tensor *out);

/** Facts about a plan and its last forward call. */
typedef struct sla2_attention_stats {
  uint32_t struct_size;
  int32_t mode_used;        /**< SLA2_MODE_* that runs: SLA2 with every block kept runs as FULL */
  double achieved_sparsity; /**< fraction of (query block, key block) pairs skipped */
  int64_t blocks_kept;      /**< pairs kept, over batch and heads; in FULL mode in tiles of the library's choice */
  int64_t blocks_total;     /**< all pairs */
} sla2_attention_stats;

/** Set struct_size and zeros. @return SLA2_OK | SLA2_E_ARGUMENT. @since 0.1 */
SLA2_API sla2_status sla2_attention_stats_init(sla2_attention_stats *stats, uint32_t size);

/** @return SLA2_OK | SLA2_E_ARGUMENT. One thread at a time per plan. @since 0.1 */
SLA2_API sla2_status sla2_attention_get_stats(const sla2_attention *plan, sla2_attention_stats *stats);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_ATTENTION_H */
