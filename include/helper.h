#pragma once
/*
 * mount(8) and umount(8) leave a type of file system that they do not know to
 * a program named after it. mount.lockspacefs, mount.fuse.lockspacefs and
 * umount.fuse.lockspacefs are names of this program: links, put where they
 * look. What such a program is given is the same for all types.
 *
 * umount has to do with us since the lockspaces are released after the mount
 * is gone: who unmounts, and stops the cluster then, must not be too early.
 */
#include <glib.h>

typedef enum Helper {
        HELPER_NONE,                            /* called by a name of its own */
        HELPER_MOUNT,
        HELPER_UMOUNT,
} Helper;

#define EXIT_HELPER_USAGE 1                     /* as mount(8) has them */
#define EXIT_HELPER_FAILURE 32

Helper helper_of(const char *program);          /* by argv[0] */

/* What a mount helper was given, as lockspacefs wants it. @ret_fake: it is to
 * try all but the mounting. */
gboolean helper_mount_arguments(int argc, char **argv, char ***ret_argv, gboolean *ret_fake, GError **error);

/* Unmount, and wait for the end of the daemon; returns the exit status. */
int helper_umount(int argc, char **argv);
