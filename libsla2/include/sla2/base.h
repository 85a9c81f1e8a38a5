/* SPDX-License-Identifier: Apache-2.0 */
/** @file base.h  Version, status, error text, log.
 *
 *  Rules that hold for every function of this library:
 *  - A function that can fail returns sla2_status; on failure its outputs are untouched unless it says otherwise.
 *  - sla2_last_error() says what, where, expected, got and remedy.
 *  - Strings are UTF-8 both ways. No exception, abort, exit or print crosses this door.
 *  - Structs start with struct_size, filled by their _init function; they grow only at the end.
 */
#ifndef SLA2_BASE_H
#define SLA2_BASE_H

#include <stddef.h>
#include <stdint.h>

#if defined(SLA2_STATIC) && !defined(SLA2_BUILDING)
#define SLA2_API
#elif defined(_WIN32)
#if defined(SLA2_BUILDING)
#define SLA2_API __declspec(dllexport)
#else
#define SLA2_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define SLA2_API __attribute__((visibility("default")))
#else
#define SLA2_API
#endif

#if defined(__GNUC__)
#define SLA2_DEPRECATED(text) __attribute__((deprecated(text)))
#else
#define SLA2_DEPRECATED(text)
#endif

/** Version of the header; sla2_version() is the version of the library that runs. */
#define SLA2_VERSION_MAJOR 0
#define SLA2_VERSION_MINOR 1
#define SLA2_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/** 0 is success, negatives are errors by class: -1xx your call, -2xx the environment, -3xx not supported,
 *  -4xx stopped, -5xx numbers, -9xx our bug. Values are frozen once released. */
typedef int32_t sla2_status;
enum {
  SLA2_OK = 0,
  SLA2_E_ARGUMENT = -100,    /**< a value or combination of values is wrong */
  SLA2_E_STATE = -101,       /**< right call, wrong moment */
  SLA2_E_VERSION = -102,     /**< struct or file from a newer version */
  SLA2_E_FILE_NOT_FOUND = -200,
  SLA2_E_FILE_READ = -201,   /**< exists but cannot be read */
  SLA2_E_FILE_WRITE = -202,  /**< cannot be created or written: permission, full disk */
  SLA2_E_FILE_FORMAT = -203, /**< not what it claims to be: truncated, corrupt, hostile */
  SLA2_E_MEMORY = -204,      /**< the plan does not fit, or an allocation failed */
  SLA2_E_DEVICE = -205,
  SLA2_E_MODEL_MISMATCH = -206, /**< a sound file of the wrong kind: other text encoder, other VAE, other sizes */
  SLA2_E_UNSUPPORTED = -300,
  SLA2_E_CANCELLED = -400,
  SLA2_E_NUMERIC = -500,     /**< NaN or infinity where a number must be */
  SLA2_E_INTERNAL = -900
};

/** Library version "major.minor.patch". Static. Any thread. @since 0.1 */
SLA2_API const char *sla2_version(void);

/** ABI number: equal major numbers are compatible. @since 0.1 */
SLA2_API uint32_t sla2_abi_version(void);

/** Name of a status, such as "SLA2_E_ARGUMENT"; "SLA2_E_UNKNOWN" for other values. Static. @since 0.1 */
SLA2_API const char *sla2_status_name(sla2_status status);

/** Text of this thread's last failed call, "" if none. Valid until this thread's next sla2 call. @since 0.1 */
SLA2_API const char *sla2_last_error(void);

enum { SLA2_LOG_ERROR = 1, SLA2_LOG_WARNING = 2, SLA2_LOG_INFO = 3, SLA2_LOG_DEBUG = 4 };

/** Receives one line, without newline; the text is valid during the call. Called from any thread of the library,
 *  one call at a time; must not call sla2_log_set(). */
typedef void (*sla2_log_fn)(void *user, int32_t level, const char *text);

/** Install the log sink (NULL: silent, the default). Process-wide, because a log is. Any thread. @since 0.1 */
SLA2_API void sla2_log_set(sla2_log_fn sink, void *user);

/** What this machine offers, as a JSON object: cpu, isa, threads, memory, libraries.
 *  Writes at most `capacity` bytes, always terminated when capacity > 0.
 *  @return bytes needed, terminator included; call with (NULL, 0) to ask. Any thread. @since 0.1 */
SLA2_API uint64_t sla2_system_info(char *buffer, uint64_t capacity);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_BASE_H */
