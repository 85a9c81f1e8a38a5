/* SPDX-License-Identifier: Apache-2.0 */
/* Uses the installed library as anybody would: version, parameters, an error, attention on numbers whose answer is known. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sla2/sla2.h"

#ifdef SLA2_STATIC
#error "SLA2_STATIC must not reach consumers"
#endif

#define TOKENS 48
#define DIM 32

static int fail(const char* what) {
  printf("%s: %s\n", what, sla2_last_error());
  return 1;
}

/** With equal keys every key weighs the same, so each output row is the mean of v. */
static int attention_gives_the_mean(void) {
  static _Alignas(64) float q[TOKENS * DIM], k[TOKENS * DIM], v[TOKENS * DIM], out[TOKENS * DIM];
  for (int i = 0; i < TOKENS * DIM; ++i) {
    q[i] = (float)(i % 7) - 3.0f;
    k[i] = 0.5f;
    v[i] = (float)(i / DIM);
  }
  sla2_attention_config config;
  if (sla2_attention_config_init(&config, sizeof config) != SLA2_OK) return fail("config");
  config.batch = 1;
  config.heads = 1;
  config.query_tokens = config.key_tokens = TOKENS;
  config.head_dim = DIM;
  sla2_attention* plan = NULL;
  if (sla2_attention_create(&config, &plan) != SLA2_OK) return fail("create");
  uint64_t bytes = 0;
  if (sla2_attention_workspace_size(plan, &bytes) != SLA2_OK) return fail("workspace");
  void* workspace = aligned_alloc(64, (size_t)((bytes + 64) / 64 * 64));
  const int64_t shape[4] = {1, 1, TOKENS, DIM};
  sla2_tensor t[4];
  float* data[4] = {q, k, v, out};
  for (int i = 0; i < 4; ++i) {
    sla2_tensor_init(&t[i], sizeof t[i]);
    if (sla2_tensor_set_contiguous(&t[i], data[i], SLA2_DTYPE_FLOAT, 32, 4, shape) != SLA2_OK) return fail("tensor");
  }
  sla2_qkv qkv;
  sla2_qkv_init(&qkv, sizeof qkv);
  qkv.q = &t[0];
  qkv.k = &t[1];
  qkv.v = &t[2];
  sla2_exec exec;
  sla2_exec_init(&exec, sizeof exec);
  if (sla2_attention_forward(plan, &exec, &qkv, workspace, bytes, &t[3]) != SLA2_OK) return fail("forward");
  sla2_attention_destroy(plan);
  free(workspace);
  const float mean = (float)(TOKENS - 1) / 2.0f;
  for (int i = 0; i < TOKENS * DIM; ++i) {
    const float error = out[i] - mean;
    if (!(error < 1e-4f && error > -1e-4f)) return printf("attention: out[%d] is %g, expected %g\n", i, out[i], mean), 1;
  }
  return 0;
}

int main(void) {
  if (sla2_abi_version() != SLA2_ABI_VERSION) return printf("ABI %u, header %u\n", sla2_abi_version(), SLA2_ABI_VERSION), 1;
  sla2_params* params = NULL;
  if (sla2_params_create(&params) != SLA2_OK) return fail("params");
  if (sla2_params_set_text(params, "steps", "20") != SLA2_OK) return fail("steps");
  if (sla2_params_set_text(params, "stepz", "20") != SLA2_E_ARGUMENT || strstr(sla2_last_error(), "steps") == NULL)
    return fail("suggestion");
  sla2_params_destroy(params);

  sla2_model* model = NULL;
  if (sla2_model_open("/no/such/model", NULL, &model) != SLA2_E_FILE_NOT_FOUND || model != NULL) return fail("missing model");
  if (attention_gives_the_mean() != 0) return 1;
  printf("sla2 %s, %u parameters", sla2_version(), sla2_param_count());
  return 0;
}
