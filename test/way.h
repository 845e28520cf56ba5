#pragma once
/*
 * The ways in which a program can take the lock of a file: what the helper
 * programs of the tests (race, cycles, hold) have in common. A lock lives in a
 * descriptor of its own; close() drops it.
 */
#include <stdbool.h>

typedef enum Way {
        WAY_FLOCK,                              /* flock(2), LOCK_EX */
        WAY_FLOCK_SHARED,                       /* flock(2), LOCK_SH */
        WAY_POSIX,                              /* fcntl(2), F_WRLCK of the process */
        WAY_OFD,                                /* fcntl(2), F_WRLCK of the open file */
        WAY_OPEN,                               /* open(2) in .ex */
} Way;

/* "flock", "flock-shared", "posix", "ofd", "open"; ends the program otherwise. */
Way way_from_string(const char *string);

/* Open @name in the lockspace @directory and lock it. -1: refused, because
 * somebody else has it, which can only be without @wait. Any other error ends
 * the program. */
int way_take(Way way, const char *directory, const char *name, bool wait);
