/* SPDX-License-Identifier: Apache-2.0 */
/* What a program compiled against the first public headers knows of the library: structs as they were then, before anything was
   appended to them, and the functions old_client.c calls. Frozen: it changes only when the ABI's number does. */
#ifndef SLA2_FIRST_HEADERS_H
#define SLA2_FIRST_HEADERS_H

#include <stdint.h>

typedef int32_t sla2_status;
enum { SLA2_OK = 0, SLA2_E_ARGUMENT = -100, SLA2_E_VERSION = -102 };
enum { SLA2_DTYPE_FLOAT = 2, SLA2_DEVICE_CPU = 1 };
enum { SLA2_MODE_FULL = 1, SLA2_MODE_SLA2 = 2 };

typedef struct sla2_tensor {
  uint32_t struct_size;
  uint8_t dtype_code;
  uint8_t dtype_bits;
  uint16_t dtype_lanes;
  void* data;
  int32_t ndim;
  int32_t device_type;
  int32_t device_id;
  int32_t reserved;
  int64_t shape[6];
  int64_t strides[6];
} sla2_tensor;

typedef struct sla2_exec {
  uint32_t struct_size;
  int32_t device_type;
  int32_t device_id;
  int32_t threads;
  void* stream;
} sla2_exec;

typedef struct sla2_attention_config {
  uint32_t struct_size;
  int32_t mode;
  int32_t layout;
  int32_t mix;
  int64_t batch, heads, query_tokens, key_tokens, head_dim;
  double sparsity;
  double softmax_scale;
  int32_t block_q, block_k;
  int32_t smooth_k;
  int32_t reserved;
  double mix_scale, mix_bias;
} sla2_attention_config;

typedef struct sla2_qkv {
  uint32_t struct_size;
  uint32_t reserved;
  const sla2_tensor *q, *k, *v;
} sla2_qkv;

typedef struct sla2_attention_stats {
  uint32_t struct_size;
  int32_t mode_used;
  double achieved_sparsity;
  int64_t blocks_kept, blocks_total;
} sla2_attention_stats;

typedef struct sla2_param_info {
  uint32_t struct_size;
  int32_t type;
  const char *name, *group, *help, *unit, *choices, *default_text;
  double minimum, maximum, step;
  int32_t advanced;
  int32_t reserved;
} sla2_param_info;

typedef struct sla2_attention sla2_attention;
typedef struct sla2_params sla2_params;

const char* sla2_last_error(void);
sla2_status sla2_tensor_init(sla2_tensor* tensor, uint32_t size);
sla2_status sla2_tensor_set_contiguous(sla2_tensor* tensor, void* data, uint8_t dtype_code, uint8_t dtype_bits, int32_t ndim,
                                       const int64_t* shape);
sla2_status sla2_exec_init(sla2_exec* exec, uint32_t size);
sla2_status sla2_attention_config_init(sla2_attention_config* config, uint32_t size);
sla2_status sla2_attention_create(const sla2_attention_config* config, sla2_attention** plan);
void sla2_attention_destroy(sla2_attention* plan);
sla2_status sla2_attention_workspace_size(const sla2_attention* plan, uint64_t* bytes);
sla2_status sla2_qkv_init(sla2_qkv* qkv, uint32_t size);
sla2_status sla2_attention_forward(sla2_attention* plan, const sla2_exec* exec, const sla2_qkv* in, void* workspace,
                                   uint64_t workspace_bytes, sla2_tensor* out);
sla2_status sla2_attention_stats_init(sla2_attention_stats* stats, uint32_t size);
sla2_status sla2_attention_get_stats(const sla2_attention* plan, sla2_attention_stats* stats);
sla2_status sla2_param_info_init(sla2_param_info* info, uint32_t size);
sla2_status sla2_param_find(const char* name, sla2_param_info* info);

#endif
