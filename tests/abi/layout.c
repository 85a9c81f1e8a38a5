/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes and offsets of every public struct on LP64, frozen: structs may only grow at their end, so offsets never change
   and a size changes together with a new last field. */
#include <stddef.h>

#include "sla2/sla2.h"

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "size of " #type " changed")
#define FIELD(type, field, bytes) _Static_assert(offsetof(type, field) == (bytes), #type "." #field " moved")
/* struct_size comes first in every struct, so that any version can be told. */
#define FIRST(type) FIELD(type, struct_size, 0)

#if defined(__LP64__)
SIZE(sla2_tensor, 128);
FIRST(sla2_tensor);
FIELD(sla2_tensor, dtype_code, 4);
FIELD(sla2_tensor, dtype_bits, 5);
FIELD(sla2_tensor, dtype_lanes, 6);
FIELD(sla2_tensor, data, 8);
FIELD(sla2_tensor, ndim, 16);
FIELD(sla2_tensor, device_type, 20);
FIELD(sla2_tensor, device_id, 24);
FIELD(sla2_tensor, shape, 32);
FIELD(sla2_tensor, strides, 80);
SIZE(sla2_exec, 24);
FIRST(sla2_exec);
FIELD(sla2_exec, device_type, 4);
FIELD(sla2_exec, device_id, 8);
FIELD(sla2_exec, threads, 12);
FIELD(sla2_exec, stream, 16);
SIZE(sla2_attention_config, 104);
FIRST(sla2_attention_config);
FIELD(sla2_attention_config, mode, 4);
FIELD(sla2_attention_config, layout, 8);
FIELD(sla2_attention_config, mix, 12);
FIELD(sla2_attention_config, batch, 16);
FIELD(sla2_attention_config, heads, 24);
FIELD(sla2_attention_config, query_tokens, 32);
FIELD(sla2_attention_config, key_tokens, 40);
FIELD(sla2_attention_config, head_dim, 48);
FIELD(sla2_attention_config, sparsity, 56);
FIELD(sla2_attention_config, softmax_scale, 64);
FIELD(sla2_attention_config, block_q, 72);
FIELD(sla2_attention_config, block_k, 76);
FIELD(sla2_attention_config, smooth_k, 80);
FIELD(sla2_attention_config, mix_scale, 88);
FIELD(sla2_attention_config, mix_bias, 96);
SIZE(sla2_qkv, 32);
FIRST(sla2_qkv);
FIELD(sla2_qkv, q, 8);
FIELD(sla2_qkv, k, 16);
FIELD(sla2_qkv, v, 24);
SIZE(sla2_attention_stats, 32);
FIRST(sla2_attention_stats);
FIELD(sla2_attention_stats, mode_used, 4);
FIELD(sla2_attention_stats, achieved_sparsity, 8);
FIELD(sla2_attention_stats, blocks_kept, 16);
FIELD(sla2_attention_stats, blocks_total, 24);
SIZE(sla2_param_info, 88);
FIRST(sla2_param_info);
FIELD(sla2_param_info, type, 4);
FIELD(sla2_param_info, name, 8);
FIELD(sla2_param_info, group, 16);
FIELD(sla2_param_info, help, 24);
FIELD(sla2_param_info, unit, 32);
FIELD(sla2_param_info, choices, 40);
FIELD(sla2_param_info, default_text, 48);
FIELD(sla2_param_info, minimum, 56);
FIELD(sla2_param_info, maximum, 64);
FIELD(sla2_param_info, step, 72);
FIELD(sla2_param_info, advanced, 80);
SIZE(sla2_progress, 48);
FIRST(sla2_progress);
FIELD(sla2_progress, phase, 4);
FIELD(sla2_progress, step, 8);
FIELD(sla2_progress, steps, 12);
FIELD(sla2_progress, fraction, 16);
FIELD(sla2_progress, seconds_elapsed, 24);
FIELD(sla2_progress, seconds_left, 32);
FIELD(sla2_progress, message, 40);
SIZE(sla2_frames, 48);
FIRST(sla2_frames);
FIELD(sla2_frames, width, 4);
FIELD(sla2_frames, height, 8);
FIELD(sla2_frames, first, 12);
FIELD(sla2_frames, count, 16);
FIELD(sla2_frames, total, 20);
FIELD(sla2_frames, rgb, 24);
FIELD(sla2_frames, row_bytes, 32);
FIELD(sla2_frames, fps, 40);
SIZE(sla2_job_callbacks, 40);
FIRST(sla2_job_callbacks);
FIELD(sla2_job_callbacks, user, 8);
FIELD(sla2_job_callbacks, on_progress, 16);
FIELD(sla2_job_callbacks, on_preview, 24);
FIELD(sla2_job_callbacks, on_frames, 32);
#endif

_Static_assert(sizeof(sla2_status) == 4, "sla2_status is 32 bits everywhere");
