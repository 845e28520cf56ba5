#pragma once
/*
 * What the daemon gives up. First, before there are threads, the capabilities
 * and groups that neither mounting nor serving needs; then, with the kernel's
 * first request, for good and for all threads, every system call that serving
 * and ending do not make, and with them the starting of programs.
 *
 * It is for a daemon with CAP_SYS_ADMIN. An ordinary user's has no capability
 * to give up, and must start fusermount3, which is setuid, to unmount: it
 * stays as it is, and both functions do nothing.
 */
#include <glib.h>

/* What an engine goes on needing, besides what every daemon does. */
typedef struct SandboxNeeds {
        const int *capabilities;                /* CAP_…, ended by -1; NULL: none */
        const char *const *system_calls;        /* ended by NULL; NULL: none */
} SandboxNeeds;

/* FALSE: they could not be given up. */
gboolean sandbox_drop_capabilities(const SandboxNeeds *needs, GError **error);
/* What is not allowed any more fails with ENOSYS. A negative errno: everything is as before. */
int sandbox_enter(const SandboxNeeds *needs);
