#pragma once
/*
 * Watches /dev for lockspaces: their device nodes that come, go, or change
 * owner or mode. It only says which name to look at again, and may say so
 * more often than needed. It owns its inotify descriptor and GSource.
 */
#include <glib.h>
#include <time.h>

typedef struct DlmWatch DlmWatch;

/* @name: the lockspace to look at; NULL: events were lost, look at all. */
typedef void DlmWatchFunc(void *data, const char *name);

/* NULL and errno: /dev cannot be watched. */
DlmWatch *dlm_watch_new(DlmWatchFunc *changed, void *data);
void dlm_watch_free(DlmWatch *watch);           /* NULL is fine */

/* Call @func for each lockspace that has a device now. */
void dlm_watch_list(DlmWatchFunc *func, void *data);

/* Wait up to @timeout_ms until udev has linked /dev/misc/dlm_@name, @since or
 * later: an older link is of a lockspace that is gone, and will go too. FALSE:
 * it has not. For a worker. */
gboolean dlm_watch_wait_for_link(const char *name, const struct timespec *since, unsigned timeout_ms);
/* Now, by the clock of files. */
void dlm_watch_now(struct timespec *ret_now);
