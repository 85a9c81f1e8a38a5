/* SPDX-License-Identifier: Apache-2.0 */
/* Every exported function with NULL for each of its pointers, sizes that cannot be and extents beyond any memory: a status and a
   text, never a crash, and outputs as they were. tests/python/test_headers.py sees to it that no function is missing. */
#define SLA2_UNSTABLE
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sla2/sla2.h"
#include "sla2/unstable.h"

enum { kTokens = 64, kDim = 32 };

static int failures = 0;

static void check(int good, const char* what) {
  if (good) return;
  printf("failed: %s (last error: %s)\n", what, sla2_last_error());
  ++failures;
}

#define CHECK(what) check((what) != 0, #what)
/* A call that must be refused because of a NULL, with a text that says so. */
#define REFUSED(call) check((call) == SLA2_E_ARGUMENT && strstr(sla2_last_error(), "NULL") != NULL, #call)
/* A call that must be refused for another reason. */
#define WRONG(call, status) check((call) == (status) && sla2_last_error()[0] != '\0', #call)

/* _init of a struct: NULL, sizes that are none, its own, and one that a newer program passes. */
#define CHECK_INIT(type)                                             \
  do {                                                               \
    struct {                                                         \
      type value;                                                    \
      unsigned char more[64];                                        \
    } s;                                                             \
    memset(&s, 0xA5, sizeof s);                                      \
    REFUSED(type##_init(NULL, (uint32_t)sizeof(type)));              \
    WRONG(type##_init(&s.value, 0), SLA2_E_ARGUMENT);                \
    WRONG(type##_init(&s.value, 3), SLA2_E_ARGUMENT);                \
    WRONG(type##_init(&s.value, UINT32_MAX), SLA2_E_ARGUMENT);       \
    CHECK(*(const unsigned char*)&s == 0xA5);                        \
    CHECK(type##_init(&s.value, (uint32_t)sizeof s) == SLA2_OK);     \
    CHECK(s.value.struct_size == sizeof s && s.more[63] == 0);       \
    s.more[0] = 0xA5;                                                \
    CHECK(type##_init(&s.value, (uint32_t)sizeof(type)) == SLA2_OK); \
    CHECK(s.value.struct_size == sizeof(type) && s.more[0] == 0xA5); \
  } while (0)

static void* never_called(void* user, uint64_t bytes, uint64_t alignment) {
  (void)user, (void)bytes, (void)alignment;
  return NULL;
}
static void never_released(void* user, void* memory, uint64_t bytes, uint64_t alignment) {
  (void)user, (void)memory, (void)bytes, (void)alignment;
}

static void base(void) {
  char text[8] = "xxxxxxx";
  CHECK(sla2_version()[0] != '\0');
  CHECK(sla2_abi_version() == SLA2_ABI_VERSION);
  CHECK(strcmp(sla2_status_name(12345), "SLA2_E_UNKNOWN") == 0);
  CHECK(sla2_last_error()[0] == '\0');
  sla2_log_set(NULL, NULL);
  CHECK(sla2_system_info(NULL, 0) > 100);
  CHECK(sla2_system_info(NULL, 100) > 100);
  CHECK(sla2_system_info(text, sizeof text) > 100 && text[7] == '\0');

  CHECK_INIT(sla2_allocator);
  sla2_allocator allocator;
  CHECK(sla2_allocator_init(&allocator, (uint32_t)sizeof allocator) == SLA2_OK);
  REFUSED(sla2_allocator_set(&allocator));
  allocator.allocate = never_called;
  REFUSED(sla2_allocator_set(&allocator));
  allocator.release = never_released;
  allocator.reserved = 1;
  WRONG(sla2_allocator_set(&allocator), SLA2_E_VERSION);
  CHECK(sla2_allocator_set(NULL) == SLA2_OK);
}

static void tensors(void) {
  static float data[16];
  const int64_t shape[2] = {4, 4}, huge[2] = {INT64_MAX, INT64_MAX}, none[2] = {4, 0};
  sla2_tensor t;
  REFUSED(sla2_tensor_init(NULL, (uint32_t)sizeof t));
  WRONG(sla2_tensor_init(&t, 4), SLA2_E_ARGUMENT);
  WRONG(sla2_tensor_init(&t, UINT32_MAX), SLA2_E_ARGUMENT);
  CHECK(sla2_tensor_init(&t, (uint32_t)sizeof t) == SLA2_OK);
  REFUSED(sla2_tensor_set_contiguous(NULL, data, SLA2_DTYPE_FLOAT, 32, 2, shape));
  REFUSED(sla2_tensor_set_contiguous(&t, NULL, SLA2_DTYPE_FLOAT, 32, 2, shape));
  REFUSED(sla2_tensor_set_contiguous(&t, data, SLA2_DTYPE_FLOAT, 32, 2, NULL));
  WRONG(sla2_tensor_set_contiguous(&t, data, SLA2_DTYPE_FLOAT, 32, 0, shape), SLA2_E_ARGUMENT);
  WRONG(sla2_tensor_set_contiguous(&t, data, SLA2_DTYPE_FLOAT, 32, INT32_MAX, shape), SLA2_E_ARGUMENT);
  WRONG(sla2_tensor_set_contiguous(&t, data, SLA2_DTYPE_FLOAT, 32, 2, huge), SLA2_E_ARGUMENT);
  WRONG(sla2_tensor_set_contiguous(&t, data, SLA2_DTYPE_FLOAT, 32, 2, none), SLA2_E_ARGUMENT);
  WRONG(sla2_tensor_set_contiguous(&t, data, 99, 32, 2, shape), SLA2_E_ARGUMENT);
  WRONG(sla2_tensor_set_contiguous(&t, (char*)data + 1, SLA2_DTYPE_FLOAT, 32, 2, shape), SLA2_E_ARGUMENT);
  CHECK(t.data == NULL && t.ndim == 0);
  CHECK_INIT(sla2_exec);
}

/** A plan and everything its calls take, all of it good. */
typedef struct {
  sla2_attention* plan;
  sla2_tensor t[4], d_out, dq;
  sla2_qkv qkv;
  sla2_exec exec;
  sla2_attention_params params;
  sla2_attention_outputs outputs;
  sla2_attention_saved saved;
  sla2_attention_grads grads;
  sla2_block_list list;
  int32_t index[64], count[8];
  void* workspace;
  uint64_t bytes;
} call_arguments;

static sla2_attention_config small_config(void) {
  sla2_attention_config config;
  CHECK(sla2_attention_config_init(&config, (uint32_t)sizeof config) == SLA2_OK);
  config.mode = SLA2_MODE_SLA2;
  config.heads = 1;
  config.query_tokens = config.key_tokens = kTokens;
  config.head_dim = kDim;
  config.block_q = 32;
  config.block_k = 16;
  config.sparsity = 0.5;
  return config;
}

static void make_arguments(call_arguments* a) {
  static _Alignas(64) float data[6][kTokens * kDim];
  const sla2_attention_config config = small_config();
  const int64_t shape[4] = {1, 1, kTokens, kDim};
  uint64_t backward = 0;
  memset(a, 0, sizeof *a);
  CHECK(sla2_attention_create(&config, &a->plan) == SLA2_OK);
  for (int i = 0; i < 6; ++i) {
    sla2_tensor* t = i < 4 ? &a->t[i] : i == 4 ? &a->d_out : &a->dq;
    CHECK(sla2_tensor_init(t, (uint32_t)sizeof *t) == SLA2_OK);
    CHECK(sla2_tensor_set_contiguous(t, data[i], SLA2_DTYPE_FLOAT, 32, 4, shape) == SLA2_OK);
    for (int j = 0; j < kTokens * kDim; ++j) data[i][j] = (float)((j * (i + 3)) % 7) - 3.0f;
  }
  sla2_qkv_init(&a->qkv, (uint32_t)sizeof a->qkv);
  a->qkv.q = &a->t[0], a->qkv.k = &a->t[1], a->qkv.v = &a->t[2];
  sla2_exec_init(&a->exec, (uint32_t)sizeof a->exec);
  a->exec.threads = 1;
  sla2_attention_params_init(&a->params, (uint32_t)sizeof a->params);
  sla2_block_list_init(&a->list, (uint32_t)sizeof a->list);
  a->list.index = a->index, a->list.count = a->count, a->list.capacity = 4;
  sla2_attention_outputs_init(&a->outputs, (uint32_t)sizeof a->outputs);
  a->outputs.out = &a->t[3], a->outputs.list = &a->list;
  sla2_attention_saved_init(&a->saved, (uint32_t)sizeof a->saved);
  a->saved.d_out = &a->d_out, a->saved.list = &a->list;
  sla2_attention_grads_init(&a->grads, (uint32_t)sizeof a->grads);
  a->grads.q = &a->dq;
  CHECK(sla2_attention_workspace_size(a->plan, &a->bytes) == SLA2_OK);
  CHECK(sla2_attention_backward_workspace_size(a->plan, &backward) == SLA2_OK);
  if (backward > a->bytes) a->bytes = backward;
  a->workspace = aligned_alloc(64, (size_t)((a->bytes + 63) / 64 * 64));
}

/** All subsets of the pointers of the four calls as NULL. Bits: 1 plan, 2 qkv, 4 workspace, 8 output, 16 saved; 32 exec and 64
 *  params may be NULL. */
static void calls_with_every_set_of_nulls(void) {
  call_arguments a;
  make_arguments(&a);
  for (unsigned nulls = 0; nulls < 128; ++nulls) {
    sla2_attention* plan = (nulls & 1u) != 0 ? NULL : a.plan;
    const sla2_qkv* qkv = (nulls & 2u) != 0 ? NULL : &a.qkv;
    void* workspace = (nulls & 4u) != 0 ? NULL : a.workspace;
    const int no_output = (nulls & 8u) != 0;
    const sla2_attention_saved* saved = (nulls & 16u) != 0 ? NULL : &a.saved;
    const sla2_exec* exec = (nulls & 32u) != 0 ? NULL : &a.exec;
    const sla2_attention_params* params = (nulls & 64u) != 0 ? NULL : &a.params;
    const sla2_status status[4] = {
        sla2_attention_run(plan, exec, qkv, params, workspace, a.bytes, no_output ? NULL : &a.outputs),
        sla2_attention_forward(plan, exec, qkv, workspace, a.bytes, no_output ? NULL : &a.t[3]),
        sla2_attention_route(plan, exec, qkv, params, workspace, a.bytes, no_output ? NULL : &a.list),
        sla2_attention_backward(plan, exec, qkv, params, saved, workspace, a.bytes, no_output ? NULL : &a.grads)};
    for (int i = 0; i < 4; ++i) {
      const unsigned needed = i == 3 ? 31u : 15u;
      if (status[i] == ((nulls & needed) != 0 ? SLA2_E_ARGUMENT : SLA2_OK)) continue;
      printf("failed: call %d with NULLs %#x: %s, %s\n", i, nulls, sla2_status_name(status[i]), sla2_last_error());
      ++failures;
    }
  }
  /* Structs that are there, with NULL inside. */
  sla2_qkv empty;
  sla2_attention_outputs nothing;
  sla2_attention_saved unsaved;
  sla2_attention_grads unwanted;
  sla2_block_list unlisted;
  CHECK(sla2_qkv_init(&empty, (uint32_t)sizeof empty) == SLA2_OK);
  CHECK(sla2_attention_outputs_init(&nothing, (uint32_t)sizeof nothing) == SLA2_OK);
  CHECK(sla2_attention_saved_init(&unsaved, (uint32_t)sizeof unsaved) == SLA2_OK);
  CHECK(sla2_attention_grads_init(&unwanted, (uint32_t)sizeof unwanted) == SLA2_OK);
  CHECK(sla2_block_list_init(&unlisted, (uint32_t)sizeof unlisted) == SLA2_OK);
  REFUSED(sla2_attention_forward(a.plan, NULL, &empty, a.workspace, a.bytes, &a.t[3]));
  REFUSED(sla2_attention_run(a.plan, NULL, &a.qkv, NULL, a.workspace, a.bytes, &nothing));
  WRONG(sla2_attention_route(a.plan, NULL, &a.qkv, NULL, a.workspace, a.bytes, &unlisted), SLA2_E_ARGUMENT);
  REFUSED(sla2_attention_backward(a.plan, NULL, &a.qkv, NULL, &unsaved, a.workspace, a.bytes, &a.grads));
  CHECK(sla2_attention_backward(a.plan, NULL, &a.qkv, NULL, &a.saved, a.workspace, a.bytes, &unwanted) == SLA2_OK);
  /* Structs of zeros, whose _init was forgotten. */
  memset(&empty, 0, sizeof empty);
  memset(&nothing, 0, sizeof nothing);
  WRONG(sla2_attention_forward(a.plan, NULL, &empty, a.workspace, a.bytes, &a.t[3]), SLA2_E_ARGUMENT);
  WRONG(sla2_attention_run(a.plan, NULL, &a.qkv, NULL, a.workspace, a.bytes, &nothing), SLA2_E_ARGUMENT);
  /* A workspace that is too small, or not aligned. */
  WRONG(sla2_attention_forward(a.plan, NULL, &a.qkv, a.workspace, 1, &a.t[3]), SLA2_E_ARGUMENT);
  WRONG(sla2_attention_forward(a.plan, NULL, &a.qkv, (char*)a.workspace + 16, a.bytes, &a.t[3]), SLA2_E_ARGUMENT);
  free(a.workspace);
  sla2_attention_destroy(a.plan);
}

static void plans(void) {
  sla2_attention *const sentinel = (sla2_attention*)&failures, *plan = sentinel;
  sla2_attention_config config = small_config();
  uint64_t bytes = 7;
  sla2_attention_stats stats;
  CHECK_INIT(sla2_attention_config);
  CHECK_INIT(sla2_qkv);
  CHECK_INIT(sla2_block_list);
  CHECK_INIT(sla2_attention_params);
  CHECK_INIT(sla2_attention_probe);
  CHECK_INIT(sla2_attention_outputs);
  CHECK_INIT(sla2_attention_saved);
  CHECK_INIT(sla2_attention_grads);
  CHECK_INIT(sla2_attention_stats);
  CHECK(sla2_attention_stats_init(&stats, (uint32_t)sizeof stats) == SLA2_OK);

  REFUSED(sla2_attention_create(NULL, &plan));
  REFUSED(sla2_attention_create(&config, NULL));
  REFUSED(sla2_attention_create_on(NULL, SLA2_DEVICE_CPU, 0, &plan));
  REFUSED(sla2_attention_create_on(&config, SLA2_DEVICE_CPU, 0, NULL));
  REFUSED(sla2_attention_create_on(&config, SLA2_DEVICE_CUDA, 0, NULL));
  WRONG(sla2_attention_create_on(&config, 0, 0, &plan), SLA2_E_ARGUMENT);
  for (int field = 0; field < 5; ++field) { /* extents beyond any memory, alone and together */
    sla2_attention_config huge = small_config();
    int64_t* const extent[4] = {&huge.batch, &huge.heads, &huge.query_tokens, &huge.key_tokens};
    for (int i = 0; i < 4; ++i)
      if (i == field || field == 4) *extent[i] = INT64_MAX;
    const sla2_status status = sla2_attention_create(&huge, &plan);
    CHECK(status == SLA2_E_ARGUMENT || status == SLA2_E_UNSUPPORTED || status == SLA2_E_MEMORY);
  }
  CHECK(plan == sentinel);

  REFUSED(sla2_attention_workspace_size(NULL, &bytes));
  REFUSED(sla2_attention_backward_workspace_size(NULL, &bytes));
  REFUSED(sla2_attention_blocks(NULL, NULL, NULL, NULL));
  REFUSED(sla2_attention_get_stats(NULL, &stats));
  CHECK(bytes == 7);
  CHECK(sla2_attention_create(&config, &plan) == SLA2_OK);
  REFUSED(sla2_attention_workspace_size(plan, NULL));
  REFUSED(sla2_attention_backward_workspace_size(plan, NULL));
  REFUSED(sla2_attention_get_stats(plan, NULL));
  CHECK(sla2_attention_blocks(plan, NULL, NULL, NULL) == SLA2_OK);
  sla2_attention_destroy(plan);
  sla2_attention_destroy(NULL);

  int32_t order[8] = {0};
  REFUSED(sla2_token_order(SLA2_ORDER_RASTER, 1, 1, 1, 1, 1, 1, NULL));
  WRONG(sla2_token_order(0, 1, 1, 1, 1, 1, 1, order), SLA2_E_ARGUMENT);
  WRONG(sla2_token_order(SLA2_ORDER_TILES, INT64_MAX, INT64_MAX, INT64_MAX, 1, 1, 1, order), SLA2_E_ARGUMENT);
  WRONG(sla2_token_order(SLA2_ORDER_TILES, 1, 2, 2, 0, 1, 1, order), SLA2_E_ARGUMENT);
  REFUSED(sla2_token_order_invert(NULL, 8, order));
  REFUSED(sla2_token_order_invert(order, 8, NULL));
  WRONG(sla2_token_order_invert(order, INT64_MAX, order), SLA2_E_ARGUMENT);
}

static void params(void) {
  sla2_params *const sentinel = (sla2_params*)&failures, *set = sentinel;
  sla2_param_info info;
  char text[8] = "";
  CHECK_INIT(sla2_param_info);
  CHECK(sla2_param_info_init(&info, (uint32_t)sizeof info) == SLA2_OK);
  CHECK(sla2_param_count() > 10);
  REFUSED(sla2_param_get(0, NULL));
  WRONG(sla2_param_get(UINT32_MAX, &info), SLA2_E_ARGUMENT);
  REFUSED(sla2_param_find(NULL, &info));
  REFUSED(sla2_param_find("steps", NULL));
  CHECK(info.name[0] == '\0');
  REFUSED(sla2_params_create(NULL));
  REFUSED(sla2_params_copy(NULL, &set));
  CHECK(set == sentinel);
  REFUSED(sla2_params_set_text(NULL, "steps", "1"));
  REFUSED(sla2_params_set_int(NULL, "steps", 1));
  REFUSED(sla2_params_set_float(NULL, "cfg_scale", 1));
  REFUSED(sla2_params_unset(NULL, "steps"));
  REFUSED(sla2_params_get_text(NULL, "steps", NULL, 0, NULL, NULL));
  REFUSED(sla2_params_merge_json(NULL, "{}"));
  CHECK(sla2_params_to_json(NULL, text, sizeof text) == 0);

  CHECK(sla2_params_create(&set) == SLA2_OK);
  REFUSED(sla2_params_copy(set, NULL));
  REFUSED(sla2_params_set_text(set, NULL, "1"));
  REFUSED(sla2_params_set_text(set, "steps", NULL));
  REFUSED(sla2_params_set_int(set, NULL, 1));
  WRONG(sla2_params_set_int(set, "steps", INT64_MIN), SLA2_E_ARGUMENT);
  REFUSED(sla2_params_set_float(set, NULL, 1));
  WRONG(sla2_params_set_float(set, "cfg_scale", strtod("nan", NULL)), SLA2_E_ARGUMENT);
  REFUSED(sla2_params_unset(set, NULL));
  REFUSED(sla2_params_get_text(set, NULL, NULL, 0, NULL, NULL));
  CHECK(sla2_params_get_text(set, "steps", NULL, 0, NULL, NULL) == SLA2_OK);
  CHECK(sla2_params_get_text(set, "steps", NULL, 9, NULL, NULL) == SLA2_OK);
  REFUSED(sla2_params_merge_json(set, NULL));
  CHECK(sla2_params_to_json(set, NULL, 0) > 2);
  sla2_params_destroy(set);
  sla2_params_destroy(NULL);
}

/** What a job's own callbacks must not do to it, done. */
typedef struct {
  _Atomic(sla2_job*) job;
  int tried;
} itself;

static sla2_status wait_and_destroy(void* user, const sla2_frames* frames) {
  itself* own = user;
  sla2_job* job = NULL;
  (void)frames;
  while (job == NULL) job = atomic_load(&own->job); /* the first callback may come before the handle */
  WRONG(sla2_job_wait(job), SLA2_E_STATE);
  sla2_job_destroy(job); /* only cancels */
  own->tried = 1;
  return SLA2_OK;
}

static void from_its_own_callback(sla2_model* model) {
  static itself own;
  sla2_job* job = NULL;
  sla2_job_callbacks callbacks;
  sla2_params* set = NULL;
  CHECK(sla2_job_callbacks_init(&callbacks, (uint32_t)sizeof callbacks) == SLA2_OK);
  callbacks.user = &own;
  callbacks.on_frames = wait_and_destroy;
  CHECK(sla2_params_create(&set) == SLA2_OK);
  CHECK(sla2_params_merge_json(set, "{\"width\": 32, \"height\": 32, \"frames\": 5, \"steps\": 4, \"prompt\": \"a boat\"}") ==
        SLA2_OK);
  CHECK(sla2_job_create(model, set, &callbacks, &job) == SLA2_OK);
  atomic_store(&own.job, job);
  const sla2_status status = sla2_job_wait(job);
  CHECK(own.tried == 1 && (status == SLA2_OK || status == SLA2_E_CANCELLED));
  CHECK(sla2_job_wait(job) == status);
  CHECK(sla2_job_report(job, NULL, 0) > 2 && sla2_job_memory_plan(job, NULL, 0) > 2);
  sla2_job_destroy(job);
  sla2_params_destroy(set);
}

static void models_and_jobs(const char* path) {
  sla2_model *const no_model = (sla2_model*)&failures, *model = no_model;
  sla2_job *const no_job = (sla2_job*)&failures, *job = no_job;
  sla2_params *const no_params = (sla2_params*)&failures, *set = no_params;
  sla2_job_callbacks callbacks;
  char text[8] = "xxxxxxx";
  uint64_t needed = 7;
  CHECK_INIT(sla2_job_callbacks);
  REFUSED(sla2_file_info(NULL, text, sizeof text, &needed));
  CHECK(needed == 7 && text[0] == 'x');
  char file[1024];
  snprintf(file, sizeof file, "%s/dit.safetensors", path);
  CHECK(sla2_file_info(file, NULL, 0, NULL) == SLA2_OK);
  REFUSED(sla2_model_open(NULL, NULL, &model));
  REFUSED(sla2_model_open(path, NULL, NULL));
  CHECK(sla2_model_describe(NULL, NULL, 0) == 0 && sla2_model_describe(NULL, text, sizeof text) == 0 && text[0] == '\0');
  sla2_model_retain(NULL);
  sla2_model_close(NULL);
  REFUSED(sla2_job_create(NULL, NULL, NULL, &job));
  REFUSED(sla2_job_resume(NULL, "none", NULL, NULL, &job));
  REFUSED(sla2_checkpoint_params(NULL, &set));
  REFUSED(sla2_checkpoint_params("none", NULL));
  CHECK(model == no_model);
  CHECK(sla2_model_open(path, NULL, &model) == SLA2_OK);
  REFUSED(sla2_job_create(model, NULL, NULL, NULL));
  REFUSED(sla2_job_resume(model, NULL, NULL, NULL, &job));
  REFUSED(sla2_job_resume(model, "none", NULL, NULL, NULL));
  CHECK(sla2_job_callbacks_init(&callbacks, (uint32_t)sizeof callbacks) == SLA2_OK);
  callbacks.reserved = 1;
  WRONG(sla2_job_create(model, NULL, &callbacks, &job), SLA2_E_VERSION);
  memset(&callbacks, 0, sizeof callbacks);
  WRONG(sla2_job_create(model, NULL, &callbacks, &job), SLA2_E_ARGUMENT);
  CHECK(job == no_job && set == no_params);
  CHECK(sla2_model_describe(model, NULL, 0) > 2);
  from_its_own_callback(model);
  sla2_model_retain(model);
  sla2_model_close(model);
  sla2_model_close(model);
  sla2_job_cancel(NULL);
  sla2_job_request_checkpoint(NULL);
  REFUSED(sla2_job_wait(NULL));
  CHECK(sla2_job_report(NULL, NULL, 0) == 0 && sla2_job_memory_plan(NULL, NULL, 0) == 0);
  sla2_job_destroy(NULL);
}

int main(int argc, char** argv) {
  if (argc < 2) return printf("usage: %s MODEL\n", argv[0]), 2;
  base();
  tensors();
  plans();
  calls_with_every_set_of_nulls();
  params();
  models_and_jobs(argv[1]);
  printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
