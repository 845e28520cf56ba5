#pragma once
/*
 * The mounts that this process sees, from proc_pid_mountinfo(5): no mount is
 * called for it, so that none can hang it. Where one is mounted over another,
 * the last one is what the path leads to.
 */
#include <glib.h>
#include <sys/types.h>

/* What is mounted at @mountpoint, an absolute path without links: its device, as in stat(2), and its type (NULL: not wanted).
 * -ENOENT: nothing; another negative errno: nobody can tell. */
int mount_table_find(const char *mountpoint, dev_t *ret_device, char **ret_type);
gboolean mount_table_has(dev_t device);         /* anywhere; FALSE also if nobody can tell */

/* The same in this text. */
int mount_table_find_in(const char *table, const char *mountpoint, dev_t *ret_device, char **ret_type);
gboolean mount_table_has_in(const char *table, dev_t device);
