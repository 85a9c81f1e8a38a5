/* SPDX-License-Identifier: Apache-2.0 */
/** @file params.h  The one parameter table: name, type, range, default, unit, help. Command line, presets, widgets and
 *  keywords are all made from it. */
#ifndef SLA2_PARAMS_H
#define SLA2_PARAMS_H

#include "sla2/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Type of a parameter. */
enum { SLA2_PARAM_INT = 1, SLA2_PARAM_FLOAT = 2, SLA2_PARAM_BOOL = 3, SLA2_PARAM_STRING = 4, SLA2_PARAM_CHOICE = 5, SLA2_PARAM_PATH = 6,
       SLA2_PARAM_FLOAT_LIST = 7 };

/** One row of the table. All strings are static and never NULL. @since 0.1 */
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
  int32_t reserved;          /**< 0 */
} sla2_param_info;

/** Set struct_size, empty strings and zeros. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_param_info_init(sla2_param_info *info, uint32_t size);

/** How long the table is. @return its number of rows, the same for the life of the process. Any thread. @since 0.1 */
SLA2_API uint32_t sla2_param_count(void);

/** Row by position, 0 <= index < count, into a struct from sla2_param_info_init().
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, past the last row). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_param_get(uint32_t index, sla2_param_info *info);

/** Row by name, into a struct from sla2_param_info_init().
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL, unknown; the text suggests the nearest name). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_param_find(const char *name, sla2_param_info *info);

/** Values for the table's rows. One thread at a time. @since 0.1 */
typedef struct sla2_params sla2_params;

/** A set with every value unset: defaults apply. @param[out] params  yours, freed with sla2_params_destroy()
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL) | SLA2_E_MEMORY. Any thread. @since 0.1 */
SLA2_API sla2_status sla2_params_create(sla2_params **params);

/** Free a set; NULL is fine. Models and jobs made with it have copies. One thread at a time per set. @since 0.1 */
SLA2_API void sla2_params_destroy(sla2_params *params);

/** A second set with the same values, independent of the first. @param[out] copy  yours, freed with sla2_params_destroy()
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL) | SLA2_E_MEMORY. One thread at a time per set. @since 0.1 */
SLA2_API sla2_status sla2_params_copy(const sla2_params *params, sla2_params **copy);

/** Set one value from text ("30", "5.5", "true", "euler", "1,0.9,0.5"). The range is checked, the text copied.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL; unknown name, with a suggestion; not a number; out of range). One thread at a time per
 *  set. @since 0.1 */
SLA2_API sla2_status sla2_params_set_text(sla2_params *params, const char *name, const char *value);

/** sla2_params_set_text() with the number as text. @return as there. One thread at a time per set. @since 0.1 */
SLA2_API sla2_status sla2_params_set_int(sla2_params *params, const char *name, int64_t value);

/** sla2_params_set_text() with the number as text that reads back as the same one; NaN and infinity are out of every range.
 *  @return as there. One thread at a time per set. @since 0.1 */
SLA2_API sla2_status sla2_params_set_float(sla2_params *params, const char *name, double value);

/** Back to unset: the default applies again. @return SLA2_OK (also where it was unset) | SLA2_E_ARGUMENT (NULL, unknown name). One
 *  thread at a time per set. @since 0.1 */
SLA2_API sla2_status sla2_params_unset(sla2_params *params, const char *name);

/** Value (or default) as text into `buffer`, at most `capacity` bytes, terminated where capacity > 0. `buffer`, `needed` (the size
 *  with terminator) and `is_set` (1 where a value was set) may be NULL.
 *  @return SLA2_OK (also where the text was cut: compare `needed`) | SLA2_E_ARGUMENT (NULL, unknown name). One thread at a time per
 *  set. @since 0.1 */
SLA2_API sla2_status sla2_params_get_text(const sla2_params *params, const char *name, char *buffer, uint64_t capacity,
                                          uint64_t *needed, int32_t *is_set);

/** Set every value of a preset or metadata object {"steps": 20, "cfg_scale": 5.0, …}; nothing is changed on failure.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (NULL; line and key in the text). One thread at a time per set. @since 0.1 */
SLA2_API sla2_status sla2_params_merge_json(sla2_params *params, const char *json);

/** The set values as a JSON object into `buffer` (may be NULL), at most `capacity` bytes, terminated where capacity > 0.
 *  @return bytes needed with terminator; 0 on failure. One thread at a time per set. @since 0.1 */
SLA2_API uint64_t sla2_params_to_json(const sla2_params *params, char *buffer, uint64_t capacity);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_PARAMS_H */
