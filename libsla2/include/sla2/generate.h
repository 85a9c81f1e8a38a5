/* SPDX-License-Identifier: Apache-2.0 */
/** @file generate.h  A prompt becomes frames: model, job, progress, frames.
 *
 *      sla2_model *model;   sla2_model_open("small_world", NULL, &model);
 *      sla2_params *params; sla2_params_create(&params);
 *      sla2_params_set_text(params, "prompt", "a red balloon rises over the sea at sunset");
 *      sla2_job *job;       sla2_job_create(model, params, &callbacks, &job);
 *      sla2_status status = sla2_job_wait(job);      // runs on its own thread; frames arrive in callbacks.on_frames
 *      sla2_job_destroy(job); sla2_params_destroy(params); sla2_model_close(model);
 */
#ifndef SLA2_GENERATE_H
#define SLA2_GENERATE_H

#include "sla2/params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sla2_model sla2_model; /**< immutable, ref-counted: share freely between threads */
typedef struct sla2_job sla2_job;     /**< cancel: any thread; the rest: one thread at a time */

/** Say what a weights file, router pack, folder, sharded index, latent or checkpoint is, from its header alone (a pack's digest is of
 *  the whole file), as a JSON object:
 *  kind, naming, dtype, sizes, "summary" (one sentence), "fits" (what goes with it), "tensors".
 *  Writes at most `capacity` bytes; `needed` (may be NULL) gets the size with terminator.
 *  @return SLA2_OK | SLA2_E_FILE_NOT_FOUND | SLA2_E_FILE_READ | SLA2_E_FILE_FORMAT. Any thread. @since 0.1 */
SLA2_API sla2_status sla2_file_info(const char *path, char *buffer, uint64_t capacity, uint64_t *needed);

/** Open a model: a folder with model.json, a diffusers folder, or a DiT file (then "vae" and "text_encoder" in `params`
 *  name the other files). Headers are checked against each other here; weights are loaded when a job needs them.
 *  params: NULL or values of the group "Model" (vae, text_encoder, tokenizer).
 *  @return SLA2_OK | SLA2_E_FILE_* | SLA2_E_MODEL_MISMATCH | SLA2_E_MEMORY. @since 0.1 */
SLA2_API sla2_status sla2_model_open(const char *path, const sla2_params *params, sla2_model **model);
SLA2_API void sla2_model_retain(sla2_model *model);
SLA2_API void sla2_model_close(sla2_model *model); /**< drops one reference; NULL is fine */
/** Sizes, files, defaults and digests as JSON. @return bytes needed with terminator. @since 0.1 */
SLA2_API uint64_t sla2_model_describe(const sla2_model *model, char *buffer, uint64_t capacity);

enum { SLA2_PHASE_LOAD = 1, SLA2_PHASE_TEXT = 2, SLA2_PHASE_SAMPLE = 3, SLA2_PHASE_DECODE = 4, SLA2_PHASE_DONE = 5 };

typedef struct sla2_progress {
  uint32_t struct_size;
  int32_t phase;            /**< SLA2_PHASE_* */
  int32_t step, steps;      /**< finished and all units of this phase; steps 0: unknown */
  double fraction;          /**< of the whole job, 0…1 */
  double seconds_elapsed;   /**< since the job started */
  double seconds_left;      /**< estimate; negative: not known yet */
  const char *message;      /**< "" or a line for people, such as a fallback; valid during the call */
} sla2_progress;

/** A picture or run of frames: RGB, 8 bits, rows from the top; valid during the call. */
typedef struct sla2_frames {
  uint32_t struct_size;
  int32_t width, height;
  int32_t first;            /**< index of the first frame */
  int32_t count;
  int32_t total;            /**< frames of the whole clip */
  const uint8_t *rgb;       /**< count · height · row_bytes */
  int64_t row_bytes;
  double fps;
} sla2_frames;

/** All called on the job's thread, one at a time, with no lock held. From inside, sla2_job_cancel() and sla2_job_report() are allowed.
 *  A NULL member is skipped. */
typedef struct sla2_job_callbacks {
  uint32_t struct_size;
  uint32_t reserved;
  void *user;
  void (*on_progress)(void *user, const sla2_progress *progress);
  void (*on_preview)(void *user, const sla2_frames *frames, int32_t step); /**< rough pictures of the predicted clip */
  /** Final frames, in order, as they are decoded. Return SLA2_OK, or an error status to stop the job with it. */
  sla2_status (*on_frames)(void *user, const sla2_frames *frames);
} sla2_job_callbacks;

SLA2_API sla2_status sla2_job_callbacks_init(sla2_job_callbacks *callbacks, uint32_t size);

/** Check the parameters, make the memory plan and start working on a new thread. params and callbacks are copied.
 *  With params "checkpoint" = PATH the job writes its state there every checkpoint_every steps, when cancelled, and
 *  before decoding.
 *  @return SLA2_OK | SLA2_E_ARGUMENT | SLA2_E_MEMORY (plan and remedy in the text) | SLA2_E_MODEL_MISMATCH. @since 0.1 */
SLA2_API sla2_status sla2_job_create(sla2_model *model, const sla2_params *params, const sla2_job_callbacks *callbacks, sla2_job **job);

/** Go on from a checkpoint; bit-identical to an uninterrupted run on the same machine. `params` may change only
 *  "threads", "checkpoint", preview settings and where files lie ("pack" among them: its digest must be the same); NULL: as saved.
 *  @return as sla2_job_create, or SLA2_E_FILE_* | SLA2_E_MODEL_MISMATCH (other weights, another router pack). @since 0.1 */
SLA2_API sla2_status sla2_job_resume(sla2_model *model, const char *checkpoint, const sla2_params *params,
                                     const sla2_job_callbacks *callbacks, sla2_job **job);

/** The values saved in a checkpoint, model path included ("model"). Destroy the result. @since 0.1 */
SLA2_API sla2_status sla2_checkpoint_params(const char *checkpoint, sla2_params **params);

/** Ask the job to stop; it does so within one DiT block and leaves its checkpoint. Any thread, also in a callback. @since 0.1 */
SLA2_API void sla2_job_cancel(sla2_job *job);

/** Write the checkpoint after the current step without stopping (for SIGTERM handlers use cancel). Any thread. @since 0.1 */
SLA2_API void sla2_job_request_checkpoint(sla2_job *job);

/** Block until the job ends. @return its status: SLA2_OK | SLA2_E_CANCELLED | SLA2_E_NUMERIC | … ; text in sla2_last_error(). @since 0.1 */
SLA2_API sla2_status sla2_job_wait(sla2_job *job);

/** The run report as JSON: settings as resolved, sigmas, seconds per phase, achieved sparsity per layer, fallbacks,
 *  memory planned and peak, digests, version. Complete after the job ended. @return bytes needed with terminator. @since 0.1 */
SLA2_API uint64_t sla2_job_report(const sla2_job *job, char *buffer, uint64_t capacity);

/** The memory plan of the job as text, one line per buffer. @return bytes needed with terminator. @since 0.1 */
SLA2_API uint64_t sla2_job_memory_plan(const sla2_job *job, char *buffer, uint64_t capacity);

/** Cancels if running, waits, frees. NULL is fine. */
SLA2_API void sla2_job_destroy(sla2_job *job);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_GENERATE_H */
