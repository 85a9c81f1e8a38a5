/* SPDX-License-Identifier: Apache-2.0 */
/* A host's allocator under a whole job: everything taken comes back, and whichever buffer cannot be had, the job ends with
   SLA2_E_MEMORY and leaves nothing behind. argv[1]: a model. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sla2/sla2.h"

enum { kAlignment = 64, kShift = 8 };

typedef struct {
  atomic_llong calls, alive, bytes, most_bytes;
  long long fail_at; /* this call gives NULL; -1: none */
  int shifted;       /* break the promise of alignment */
  atomic_int wrong;  /* something the library promised did not hold */
} host;

static int failures = 0;

static void check(int good, const char* what) {
  if (good) return;
  printf("failed: %s (last error: %s)\n", what, sla2_last_error());
  ++failures;
}

static void* host_allocate(void* user, uint64_t bytes, uint64_t alignment) {
  host* h = user;
  if (bytes == 0 || alignment != kAlignment) atomic_store(&h->wrong, 1);
  if (atomic_fetch_add(&h->calls, 1) == h->fail_at) return NULL;
  char* memory = aligned_alloc(kAlignment, (size_t)((bytes + 2 * kAlignment - 1) / kAlignment * kAlignment));
  if (memory == NULL) return NULL;
  atomic_fetch_add(&h->alive, 1);
  const long long now = atomic_fetch_add(&h->bytes, (long long)bytes) + (long long)bytes;
  long long most = atomic_load(&h->most_bytes);
  while (now > most && !atomic_compare_exchange_weak(&h->most_bytes, &most, now)) {
  }
  return h->shifted ? memory + kShift : memory;
}

static void host_release(void* user, void* memory, uint64_t bytes, uint64_t alignment) {
  host* h = user;
  if (memory == NULL || bytes == 0 || alignment != kAlignment) atomic_store(&h->wrong, 1);
  atomic_fetch_sub(&h->alive, 1);
  atomic_fetch_sub(&h->bytes, (long long)bytes);
  free(h->shifted ? (char*)memory - kShift : memory);
}

static sla2_allocator allocator_of(host* h) {
  sla2_allocator allocator;
  sla2_allocator_init(&allocator, (uint32_t)sizeof allocator);
  allocator.user = h;
  allocator.allocate = host_allocate;
  allocator.release = host_release;
  return allocator;
}

typedef struct {
  sla2_status set_while_sampling; /* of sla2_allocator_set() in the middle of the job */
  int frames;
} seen;

static void on_progress(void* user, const sla2_progress* progress) {
  seen* s = user;
  if (progress->phase == SLA2_PHASE_SAMPLE && progress->step == 1) s->set_while_sampling = sla2_allocator_set(NULL);
}

static sla2_status on_frames(void* user, const sla2_frames* frames) {
  ((seen*)user)->frames += frames->count;
  return SLA2_OK;
}

/** One tiny clip from opening the model to closing it. `text` gets what went wrong. */
static sla2_status run_job(const char* path, seen* s, char* text, size_t capacity) {
  sla2_model* model = NULL;
  sla2_params* params = NULL;
  sla2_job* job = NULL;
  sla2_job_callbacks callbacks;
  memset(s, 0, sizeof *s);
  sla2_status status = sla2_model_open(path, NULL, &model);
  if (status == SLA2_OK) status = sla2_params_create(&params);
  if (status == SLA2_OK)
    status =
        sla2_params_merge_json(params, "{\"width\": 32, \"height\": 32, \"frames\": 5, \"steps\": 2, \"attention\": \"sla2\"}");
  if (status == SLA2_OK) status = sla2_params_set_text(params, "prompt", "a red ball");
  sla2_job_callbacks_init(&callbacks, (uint32_t)sizeof callbacks);
  callbacks.user = s;
  callbacks.on_progress = on_progress;
  callbacks.on_frames = on_frames;
  if (status == SLA2_OK) status = sla2_job_create(model, params, &callbacks, &job);
  if (status == SLA2_OK) status = sla2_job_wait(job);
  snprintf(text, capacity, "%s", status == SLA2_OK ? "" : sla2_last_error());
  sla2_job_destroy(job);
  sla2_params_destroy(params);
  sla2_model_close(model);
  return status;
}

int main(int argc, char** argv) {
  char text[1024];
  seen s;
  host h = {.fail_at = -1};
  sla2_allocator allocator = allocator_of(&h);
  if (argc < 2) return printf("usage: %s MODEL\n", argv[0]), 2;

  check(sla2_allocator_set(&allocator) == SLA2_OK, "set before the first job");
  memset(&allocator, 0xA5, sizeof allocator); /* copied: it may go */
  check(run_job(argv[1], &s, text, sizeof text) == SLA2_OK, text);
  check(s.frames == 5, "the clip has its frames");
  check(s.set_while_sampling == SLA2_E_STATE, "no other allocator while buffers are in use");
  check(atomic_load(&h.calls) > 50 && atomic_load(&h.most_bytes) > 4000000, "weights and activations came from the host");
  check(atomic_load(&h.alive) == 0 && atomic_load(&h.bytes) == 0, "all of it went back");
  const long long calls = atomic_load(&h.calls);
  printf("%lld buffers, at most %lld bytes at a time\n", calls, (long long)atomic_load(&h.most_bytes));

  int refused = 0;
  for (long long at = 0; at < calls; at = at * 2 + 1) { /* a job of the text encoder, of weights, of activations, of frames */
    atomic_store(&h.calls, 0);
    h.fail_at = at;
    const sla2_status status = run_job(argv[1], &s, text, sizeof text);
    refused += status == SLA2_E_MEMORY;
    if (status != SLA2_E_MEMORY || strstr(text, "allocator") == NULL || strstr(text, "smaller clip") == NULL) {
      printf("failed: buffer %lld of %lld was refused: %s, %s\n", at, calls, sla2_status_name(status), text);
      ++failures;
    }
    check(atomic_load(&h.alive) == 0 && atomic_load(&h.bytes) == 0, "a job that failed holds nothing");
  }
  h.fail_at = calls - 1; /* the last one of all */
  atomic_store(&h.calls, 0);
  check(run_job(argv[1], &s, text, sizeof text) == SLA2_E_MEMORY, "the last buffer is refused as well");
  check(refused >= 6, "several phases were tried");

  h.fail_at = -1;
  h.shifted = 1;
  check(run_job(argv[1], &s, text, sizeof text) == SLA2_E_ARGUMENT && strstr(text, "alignment") != NULL,
        "unaligned memory is refused");
  check(atomic_load(&h.alive) == 0, "and given back");
  h.shifted = 0;

  check(sla2_allocator_set(NULL) == SLA2_OK, "back to the default");
  atomic_store(&h.calls, 0);
  check(run_job(argv[1], &s, text, sizeof text) == SLA2_OK, text);
  check(atomic_load(&h.calls) == 0, "which asks the host for nothing");
  check(atomic_load(&h.wrong) == 0, "sizes and alignments were as promised");
  printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
