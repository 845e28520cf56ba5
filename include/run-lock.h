#pragma once
/*
 * The lock of `lockspacefs run`: an open file in a mode directory of a mount,
 * found by the path of the lock file. Waiting for it is an open(2) that
 * blocks, with the signals as the caller left them: what would end the program
 * ends it.
 *
 * Once held, a lock is lost when its lockspace was removed by force, or its
 * daemon is gone. A daemon that was told to end keeps it.
 */
#include "lockspacefs.h"
#include "mode.h"
#include <stdint.h>

/* A GError's code is the exit status, but for RUN_REFUSED. */
#define RUN_ERROR run_error_quark()
GQuark run_error_quark(void);
#define RUN_REFUSED (-1)                        /* somebody else has it, and the time is up: nothing to be said */

typedef struct RunWish {
        const char *path;                       /* of the lock file */
        const char *mode;                       /* "ex" … "NL"; NULL: as the path says, else EX */
        gboolean try;                           /* do not wait */
        double timeout_s;                       /* negative: none */
} RunWish;

typedef struct RunLock RunLock;

gboolean run_lock_take(const RunWish *wish, RunLock **ret_lock, GError **error);
LockMode run_lock_mode(const RunLock *lock);

/* Becomes readable when something has happened; then look. */
int run_lock_watch_fd(const RunLock *lock);
/* Has somebody begun to wait for it? */
gboolean run_lock_look(RunLock *lock);
/* NULL: it is held. Else how it was lost, for a person. */
const char *run_lock_find_loss(const RunLock *lock);

/* -EIO: lost; -EBADF: the permissions allow to lock, but not to read. */
int run_lock_read(const RunLock *lock, uint8_t ret_value[static LOCKSPACEFS_VALUE_LEN]);
int run_lock_write(RunLock *lock, const uint8_t value[static LOCKSPACEFS_VALUE_LEN]);

/* Let go of it: when this returns, others can have it. NULL is fine. */
void run_lock_free(RunLock *lock);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RunLock, run_lock_free)
