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
  uint32_t struct_size;
  int32_t mode;          /**< SLA2_MODE_*; default SLA2_MODE_FULL */
  int32_t layout;        /**< SLA2_LAYOUT_*; default BHND */
  int32_t mix;           /**< SLA2_MIX_*; default HEAD_AFFINE_LSE */
  int64_t batch, heads, query_tokens, key_tokens, head_dim; /**< head_dim 32…256, multiple of 8 */
  double sparsity;       /**< fraction of key blocks skipped, 0…1; at least one block per row is kept */
  double softmax_scale;  /**< 0: 1/√D */
  int32_t block_q, block_k; /**< default 128, 64; query {32,64,128}, key {16,32,64,128} */
  int32_t smooth_k;      /**< 1 (default): subtract the mean key before φ (and before quantisation) */
  int32_t reserved;
  double mix_scale, mix_bias; /**< default 0.6, 0.5 */
} sla2_attention_config;

/** Set struct_size and defaults. @return SLA2_OK | SLA2_E_ARGUMENT. @since 0.1 */
SLA2_API sla2_status sla2_attention_config_init(sla2_attention_config *config, uint32_t size);

typedef struct sla2_attention sla2_attention; /**< a plan; one thread at a time */

/** Check the configuration and choose kernels. @return SLA2_OK | SLA2_E_ARGUMENT | SLA2_E_UNSUPPORTED. @since 0.1 */
SLA2_API sla2_status sla2_attention_create(const sla2_attention_config *config, sla2_attention **plan);
SLA2_API void sla2_attention_destroy(sla2_attention *plan); /**< NULL is fine */

/** Bytes of scratch one forward call needs. @since 0.1 */
SLA2_API sla2_status sla2_attention_workspace_size(const sla2_attention *plan, uint64_t *bytes);

typedef struct sla2_qkv {
  uint32_t struct_size;
  uint32_t reserved;
  const sla2_tensor *q, *k, *v; /**< [B,H,N,D] or [B,N,H,D] by plan layout; fp32, bf16 or fp16; unit innermost stride */
} sla2_qkv;
SLA2_API sla2_status sla2_qkv_init(sla2_qkv *qkv, uint32_t size);

/** out = attention(q, k, v); synchronous on the CPU.
 *  workspace >= sla2_attention_workspace_size() bytes, 64-byte aligned; scratch only. out like q; may not overlap inputs.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (shape, dtype, alignment; out untouched) | SLA2_E_UNSUPPORTED | SLA2_E_DEVICE
 *  Threads: one thread at a time per plan. @since 0.1 */
SLA2_API sla2_status sla2_attention_forward(sla2_attention *plan, const sla2_exec *exec, const sla2_qkv *in, void *workspace,
                                            uint64_t workspace_bytes, sla2_tensor *out);

/** Facts about the last forward call of this plan. */
typedef struct sla2_attention_stats {
  uint32_t struct_size;
  int32_t mode_used;          /**< SLA2_MODE_* that really ran */
  double achieved_sparsity;   /**< fraction of (query block, key block) pairs skipped */
  int64_t blocks_kept, blocks_total;
} sla2_attention_stats;
SLA2_API sla2_status sla2_attention_stats_init(sla2_attention_stats *stats, uint32_t size);
SLA2_API sla2_status sla2_attention_get_stats(const sla2_attention *plan, sla2_attention_stats *stats);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_ATTENTION_H */
