/* SPDX-License-Identifier: Apache-2.0 */
/** @file params.h  The one parameter table: name, type, range, default, unit, help. Command line, presets, widgets and
 *  keywords are all made from it. */
#ifndef SLA2_PARAMS_H
#define SLA2_PARAMS_H

#include "sla2/base.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SLA2_PARAM_INT = 1, SLA2_PARAM_FLOAT = 2, SLA2_PARAM_BOOL = 3, SLA2_PARAM_STRING = 4, SLA2_PARAM_CHOICE = 5, SLA2_PARAM_PATH = 6,
       SLA2_PARAM_FLOAT_LIST = 7 };

/** One row of the table. All strings are static. */
typedef struct sla2_param_info {
  uint32_t struct_size;
  int32_t type;              /**< SLA2_PARAM_* */
  const char *name;          /**< "cfg_scale"; the command line flag is --cfg-scale */
  const char *group;         /**< heading in --help and in a settings panel */
  const char *help;          /**< one sentence */
  const char *unit;          /**< "px", "s", "" */
  const char *choices;       /**< for CHOICE: "euler|unipc|dpmpp_2m"; else "" */
  const char *default_text;  /**< as sla2_params_set_text() takes it; "" where the model decides */
  double minimum, maximum, step; /**< numbers only; step 0: free */
  int32_t advanced;          /**< 1: show only on request */
  int32_t reserved;
} sla2_param_info;

SLA2_API sla2_status sla2_param_info_init(sla2_param_info *info, uint32_t size);
/** Number of rows. Any thread. @since 0.1 */
SLA2_API uint32_t sla2_param_count(void);
/** Row by position, 0 <= index < count. @return SLA2_OK | SLA2_E_ARGUMENT. @since 0.1 */
SLA2_API sla2_status sla2_param_get(uint32_t index, sla2_param_info *info);
/** Row by name. @return SLA2_OK | SLA2_E_ARGUMENT (unknown; the text suggests the nearest name). @since 0.1 */
SLA2_API sla2_status sla2_param_find(const char *name, sla2_param_info *info);

typedef struct sla2_params sla2_params; /**< values for the table's rows; one thread at a time */

/** All values unset (defaults apply). @since 0.1 */
SLA2_API sla2_status sla2_params_create(sla2_params **params);
SLA2_API void sla2_params_destroy(sla2_params *params); /**< NULL is fine */
SLA2_API sla2_status sla2_params_copy(const sla2_params *params, sla2_params **copy);

/** Set one value from text ("30", "5.5", "true", "euler", "1,0.9,0.5"). The range is checked.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (unknown name with a suggestion; not a number; out of range). @since 0.1 */
SLA2_API sla2_status sla2_params_set_text(sla2_params *params, const char *name, const char *value);
SLA2_API sla2_status sla2_params_set_int(sla2_params *params, const char *name, int64_t value);
SLA2_API sla2_status sla2_params_set_float(sla2_params *params, const char *name, double value);
/** Back to unset. */
SLA2_API sla2_status sla2_params_unset(sla2_params *params, const char *name);
/** Value (or default) as text into `buffer`; `is_set` may be NULL. `needed` gets the size with terminator and may be NULL.
 *  @return SLA2_OK | SLA2_E_ARGUMENT. @since 0.1 */
SLA2_API sla2_status sla2_params_get_text(const sla2_params *params, const char *name, char *buffer, uint64_t capacity,
                                          uint64_t *needed, int32_t *is_set);
/** Set every value of a preset or metadata object {"steps": 20, "cfg_scale": 5.0, …}; nothing is changed on failure.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (line and key in the text). @since 0.1 */
SLA2_API sla2_status sla2_params_merge_json(sla2_params *params, const char *json);
/** The set values as a JSON object. @return bytes needed with terminator. @since 0.1 */
SLA2_API uint64_t sla2_params_to_json(const sla2_params *params, char *buffer, uint64_t capacity);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_PARAMS_H */
