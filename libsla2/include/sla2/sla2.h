/* SPDX-License-Identifier: Apache-2.0 */
/** @file sla2.h  Everything, in one include.
 *
 *  Three levels, each usable alone:
 *  - attention.h: SLA2 or full attention on your own tensors.
 *  - params.h: the parameter table, for front ends that build their controls from it.
 *  - generate.h: a prompt becomes frames.
 *
 *  A prompt becomes frames in C (error handling cut short):
 *
 *      static sla2_status on_frames(void *user, const sla2_frames *f) {
 *        return fwrite(f->rgb, (size_t)f->row_bytes, (size_t)(f->height * f->count), (FILE *)user) ? SLA2_OK : SLA2_E_FILE_WRITE;
 *      }
 *
 *      sla2_model *model;
 *      if (sla2_model_open("presets/models/small_world", NULL, &model) != SLA2_OK) { puts(sla2_last_error()); return 1; }
 *      sla2_params *params;
 *      sla2_params_create(&params);
 *      sla2_params_set_text(params, "prompt", "a red balloon rises over the sea at sunset");
 *      sla2_job_callbacks callbacks;
 *      sla2_job_callbacks_init(&callbacks, sizeof callbacks);
 *      callbacks.user = stdout;
 *      callbacks.on_frames = on_frames;
 *      sla2_job *job;
 *      if (sla2_job_create(model, params, &callbacks, &job) != SLA2_OK || sla2_job_wait(job) != SLA2_OK) puts(sla2_last_error());
 */
#ifndef SLA2_SLA2_H
#define SLA2_SLA2_H

#include "sla2/attention.h"
#include "sla2/base.h"
#include "sla2/generate.h"
#include "sla2/params.h"
#include "sla2/tensor.h"

#endif /* SLA2_SLA2_H */
