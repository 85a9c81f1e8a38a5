/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of other ages against today's library: one compiled against the first headers, whose structs are shorter, and one
   against headers to come, whose structs are longer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "first_headers.h"

enum { kTokens = 256, kDim = 64, kGuard = 64 };

static int failures = 0;

static void check(int good, const char* what) {
  if (good) return;
  printf("failed: %s: %s\n", what, sla2_last_error());
  ++failures;
}

/** What follows a short struct belongs to the program: the library may not touch it. */
typedef struct guarded_config {
  sla2_attention_config value;
  unsigned char guard[kGuard];
} guarded_config;
typedef struct guarded_stats {
  sla2_attention_stats value;
  unsigned char guard[kGuard];
} guarded_stats;
typedef struct guarded_exec {
  sla2_exec value;
  unsigned char guard[kGuard];
} guarded_exec;

static int guard_is(const unsigned char* guard, int byte) {
  for (int i = 0; i < kGuard; ++i)
    if (guard[i] != byte) return 0;
  return 1;
}

/** Attention of one head over constant v, whatever is kept: each row is v's row. */
static void old_program(int32_t mode) {
  static float q[kTokens * kDim], k[kTokens * kDim], v[kTokens * kDim], out[kTokens * kDim];
  for (int i = 0; i < kTokens * kDim; ++i) {
    q[i] = (float)(i * 7 % 13) - 6.0f;
    k[i] = (float)(i * 5 % 11) - 5.0f;
    v[i] = (float)(i % kDim);
  }
  guarded_config config;
  memset(&config, 0xA5, sizeof config); /* read as fields to come, this would be refused or change the result */
  check(sla2_attention_config_init(&config.value, sizeof config.value) == SLA2_OK, "an old config");
  check(guard_is(config.guard, 0xA5), "init writes no more than it was told");
  check(config.value.batch == 1 && config.value.block_q == 128 && config.value.block_k == 64, "its defaults");
  config.value.mode = mode;
  config.value.heads = 1;
  config.value.query_tokens = config.value.key_tokens = kTokens;
  config.value.head_dim = kDim;
  config.value.sparsity = 0.5;
  sla2_attention* plan = NULL;
  check(sla2_attention_create(&config.value, &plan) == SLA2_OK, "an old plan");
  if (plan == NULL) return;

  guarded_exec exec;
  memset(&exec, 0xA5, sizeof exec); /* a thread runner behind the old fields would be a jump into nowhere */
  check(sla2_exec_init(&exec.value, sizeof exec.value) == SLA2_OK && guard_is(exec.guard, 0xA5), "an old exec");
  const int64_t shape[4] = {1, 1, kTokens, kDim};
  sla2_tensor t[4];
  float* data[4] = {q, k, v, out};
  for (int i = 0; i < 4; ++i)
    check(sla2_tensor_init(&t[i], sizeof t[i]) == SLA2_OK &&
              sla2_tensor_set_contiguous(&t[i], data[i], SLA2_DTYPE_FLOAT, 32, 4, shape) == SLA2_OK,
          "an old tensor");
  sla2_qkv qkv;
  check(sla2_qkv_init(&qkv, sizeof qkv) == SLA2_OK, "an old qkv");
  qkv.q = &t[0];
  qkv.k = &t[1];
  qkv.v = &t[2];
  uint64_t bytes = 0;
  check(sla2_attention_workspace_size(plan, &bytes) == SLA2_OK, "workspace size");
  void* workspace = aligned_alloc(64, (size_t)((bytes + 64) / 64 * 64));
  check(sla2_attention_forward(plan, &exec.value, &qkv, workspace, bytes, &t[3]) == SLA2_OK, "forward");
  for (int i = 0; i < kTokens * kDim; ++i) {
    const float error = out[i] - v[i];
    if (error < 1e-3f && error > -1e-3f) continue;
    printf("failed: mode %d: out[%d] is %g, expected %g\n", mode, i, out[i], v[i]);
    ++failures;
    break;
  }
  guarded_stats stats;
  memset(&stats, 0xA5, sizeof stats);
  check(sla2_attention_stats_init(&stats.value, sizeof stats.value) == SLA2_OK, "old stats");
  check(sla2_attention_get_stats(plan, &stats.value) == SLA2_OK, "filled");
  check(guard_is(stats.guard, 0xA5), "stats write no more than the old fields");
  check(stats.value.struct_size == sizeof stats.value && stats.value.mode_used == mode, "and say which mode ran");
  check(stats.value.achieved_sparsity == (mode == SLA2_MODE_SLA2 ? 0.5 : 0.0), "and its sparsity");
  free(workspace);
  sla2_attention_destroy(plan);
}

static void old_params(void) {
  struct {
    sla2_param_info value;
    unsigned char guard[kGuard];
  } info;
  memset(&info, 0xA5, sizeof info);
  check(sla2_param_info_init(&info.value, sizeof info.value) == SLA2_OK && info.value.name[0] == '\0', "an old row");
  check(sla2_param_find("steps", &info.value) == SLA2_OK && strcmp(info.value.name, "steps") == 0, "found");
  check(guard_is(info.guard, 0xA5), "a row writes no more than the old fields");
}

/** A longer struct is taken as long as the library need not know what the new fields mean. */
static void program_to_come(void) {
  struct {
    sla2_attention_config value;
    unsigned char more[1024];
  } config;
  sla2_attention* plan = NULL;
  check(sla2_attention_config_init(&config.value, sizeof config) == SLA2_OK, "a longer config");
  check(config.more[1023] == 0, "is zero behind what is known");
  config.value.heads = 1;
  config.value.query_tokens = config.value.key_tokens = kTokens;
  config.value.head_dim = kDim;
  check(sla2_attention_create(&config.value, &plan) == SLA2_OK, "accepted while it is zero");
  sla2_attention_destroy(plan);
  plan = NULL;
  config.more[1023] = 1;
  check(sla2_attention_create(&config.value, &plan) == SLA2_E_VERSION && plan == NULL, "refused with a field that is not known");
  check(strstr(sla2_last_error(), "newer library") != NULL, "with the remedy");
}

int main(void) {
  old_program(SLA2_MODE_FULL);
  old_program(SLA2_MODE_SLA2);
  old_params();
  program_to_come();
  printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
