/* SPDX-License-Identifier: Apache-2.0 */
/** @file base.h  Version, status, error text, log, allocator.
 *
 *  Rules that hold for every function of this library:
 *  - A function that can fail returns sla2_status; on failure its outputs are untouched unless it says otherwise.
 *  - sla2_last_error() says what, where, expected, got and remedy.
 *  - Strings are UTF-8 both ways. No exception, abort, exit or print crosses this door.
 *  - Structs start with struct_size, filled by their _init function; they grow only at the end.
 *  - A NULL where a pointer is needed is SLA2_E_ARGUMENT (0 from functions that return a size); where NULL means something the
 *    comment says so. Destroying, closing or cancelling NULL does nothing.
 *  - "Any thread": may be called from any thread at any time. "One thread at a time": calls on the same handle or struct must not
 *    overlap; calls on different ones may.
 *  - Pointers given to a call are borrowed until it returns, unless it says otherwise. Constants are there since 0.1 unless they
 *    say otherwise.
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

/** On a declaration that lives for two more minor versions; the text says what to use instead. */
#if defined(__GNUC__)
#define SLA2_DEPRECATED(text) __attribute__((deprecated(text)))
#elif defined(_MSC_VER)
#define SLA2_DEPRECATED(text) __declspec(deprecated(text))
#else
#define SLA2_DEPRECATED(text)
#endif

/** Release this header is of; sla2_version() is that of the library that runs. */
#define SLA2_VERSION_MAJOR 0
#define SLA2_VERSION_MINOR 1
#define SLA2_VERSION_PATCH 0

/** Number of the C ABI, and of the SONAME (libsla2.so.1): raised when something a program relies on is removed or changed, never by
 *  an addition. It is not the release: see docs/abi.md. */
#define SLA2_ABI_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/** 0 is success, negatives are errors by class: -1xx your call, -2xx the environment, -3xx not supported,
 *  -4xx stopped, -5xx numbers, -9xx our bug. Values are frozen; new ones may come. @since 0.1 */
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

/** Library version "major.minor.patch". @return a static text. Any thread. @since 0.1 */
SLA2_API const char *sla2_version(void);

/** ABI number of the library that runs. @return SLA2_ABI_VERSION it was built with: a program runs with any library whose number
 *  equals its header's. Any thread. @since 0.1 */
SLA2_API uint32_t sla2_abi_version(void);

/** Name of a status, such as "SLA2_E_ARGUMENT". @return a static text, "SLA2_E_UNKNOWN" for other values. Any thread. @since 0.1 */
SLA2_API const char *sla2_status_name(sla2_status status);

/** What went wrong in this thread's last failed call. @return a text of the library, "" if no call failed; valid until this thread's
 *  next sla2 call. Any thread, each has its own. @since 0.1 */
SLA2_API const char *sla2_last_error(void);

/** How much a line of the log matters. */
enum { SLA2_LOG_ERROR = 1, SLA2_LOG_WARNING = 2, SLA2_LOG_INFO = 3, SLA2_LOG_DEBUG = 4 };

/** Receives one line, without newline; `level` is SLA2_LOG_*; the text is valid during the call. Called on whichever thread has
 *  something to say, on several at once, with no lock of the library held: any sla2 function may be called from inside, and lines
 *  that such calls give rise to on that thread are dropped. It must return: no exception, no longjmp. @since 0.1 */
typedef void (*sla2_log_fn)(void *user, int32_t level, const char *text);

/** Install the log sink (NULL: silent, the default). Process-wide, because a log is; what belongs to one job arrives in its callbacks.
 *  On return the former sink is running nowhere and will not be called again, so that its `user` may be freed; do not hold a lock
 *  that the sink takes. Called from inside a sink it does not wait: then the former may still be running on other threads.
 *  `user` is kept, not touched. Any thread. @since 0.1 */
SLA2_API void sla2_log_set(sla2_log_fn sink, void *user);

/** A host's allocator for the large buffers of the runner: weights as the kernels hold them, activations, frames in flight and what
 *  the VAE keeps of the past, the text encoder's rows. Not through it: C++ containers (latents, decoded frames, text, tables),
 *  scratch that oneDNN takes for itself, mapped files, memory of a GPU and pages pinned for it. Attention plans take none: their
 *  workspace is yours. Functions are called on any thread, on several at once, with no lock of the library held, and must not call
 *  the library. @since 0.1 */
typedef struct sla2_allocator {
  uint32_t struct_size;
  uint32_t reserved; /**< 0 */
  void *user;        /**< first argument of both */
  /** @return `bytes` (> 0) bytes at a multiple of `alignment` (64), or NULL: the call or job then ends with SLA2_E_MEMORY. */
  void *(*allocate)(void *user, uint64_t bytes, uint64_t alignment);
  /** Takes back what allocate() gave, once, with the same numbers. Never NULL. */
  void (*release)(void *user, void *memory, uint64_t bytes, uint64_t alignment);
} sla2_allocator;

/** Set struct_size and NULL members. @return SLA2_OK | SLA2_E_ARGUMENT (NULL, impossible size). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_allocator_init(sla2_allocator *allocator, uint32_t size);

/** Use this allocator from now on (NULL: the C++ runtime's, the default). Process-wide: call it before the first job, and again
 *  with NULL when the last one is destroyed if `user` is to go. The struct is copied; what it points to must last until then.
 *  @return SLA2_OK | SLA2_E_ARGUMENT (a member is NULL) | SLA2_E_VERSION | SLA2_E_STATE (buffers are in use; destroy
 *  the jobs first). Any thread. @since 0.1 */
SLA2_API sla2_status sla2_allocator_set(const sla2_allocator *allocator);

/** What this machine offers, as a JSON object: cpu, isa, threads, memory, libraries.
 *  Writes at most `capacity` bytes, always terminated when capacity > 0; `buffer` may be NULL.
 *  @return bytes needed, terminator included; call with (NULL, 0) to ask; 0 on failure. Any thread. @since 0.1 */
SLA2_API uint64_t sla2_system_info(char *buffer, uint64_t capacity);

#ifdef __cplusplus
}
#endif
#endif /* SLA2_BASE_H */
