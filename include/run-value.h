#pragma once
/*
 * The value block of the lock, as the command of `lockspacefs run` sees it: in
 * the environment, and in a file that it may write. The file is memory of
 * ours, so nothing is left behind, and the value of the lock is what it was
 * until the command has ended well.
 */
#include "run-lock.h"

typedef struct RunValue RunValue;

/* Reads the value of @lock, and puts LOCKSPACEFS_VALUE… into the environment. */
gboolean run_value_new(RunLock *lock, RunValue **ret_value, GError **error);
/* The command has ended well: write the value of its file if it wrote one, else
 * @constant if that is not NULL. On an error the old value stays. */
gboolean run_value_set(RunValue *value, const char *constant, GError **error);
void run_value_free(RunValue *value);           /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RunValue, run_value_free)
