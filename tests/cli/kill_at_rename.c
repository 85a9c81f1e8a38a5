/* SPDX-License-Identifier: Apache-2.0
 * Preloaded into sla2: kill -9 just before or just after the rename whose target ends as KILL_TARGET says.
 * KILL_WHEN=before|after; KILL_COUNT: which of several (1 is the first). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int seen;

static int is_target(const char* to) {
  const char *wanted = getenv("KILL_TARGET"), *count = getenv("KILL_COUNT");
  if (wanted == NULL || strlen(to) < strlen(wanted) || strcmp(to + strlen(to) - strlen(wanted), wanted) != 0) return 0;
  return ++seen == (count == NULL ? 1 : atoi(count));
}

static void die_if(int target, const char* when) {
  const char* wanted = getenv("KILL_WHEN");
  if (target && wanted != NULL && strcmp(wanted, when) == 0) kill(getpid(), SIGKILL);
}

int rename(const char* from, const char* to) {
  int (*real)(const char*, const char*);
  *(void**)&real = dlsym(RTLD_NEXT, "rename");
  const int target = is_target(to);
  die_if(target, "before");
  const int result = real(from, to);
  die_if(target, "after");
  return result;
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
  int (*real)(int, const char*, int, const char*, unsigned);
  *(void**)&real = dlsym(RTLD_NEXT, "renameat2");
  const int target = is_target(to);
  die_if(target, "before");
  const int result = real(from_folder, from, to_folder, to, flags);
  die_if(target, "after");
  return result;
}
