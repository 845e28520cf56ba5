#pragma once
/*
 * Looking at a mount from outside. An ordinary user can mount a program of his
 * own under our type, and root looks at it, too: when he asks how all mounts
 * are, and when he unmounts it. What is there may be symbolic links to devices,
 * FIFOs, texts without end, and calls that never end.
 *
 * So one name at a time is opened, in a directory that is open already: no link
 * is followed and no other mount entered. Only a regular file is read, and that
 * up to a bound. And all of it happens in a process that nobody waits for.
 */
#include <glib.h>
#include <sys/types.h>

#define MOUNT_LOOK_MAX (16u << 20)              /* bytes to be read in one look: some 300,000 locks */

/* As fork(2). The child writes to @ret_fd what the parent reads there, and has
 * neither its input nor its output: a call into a mount may not even end by
 * SIGKILL, and who reads what the parent prints must not wait for that. */
pid_t mount_look_fork(int *ret_fd);

/* A directory in @directory, with O_PATH. @name: a name, no path. */
int mount_look_open(int directory, const char *name);
/* The whole of a file in @directory. -ENOENT: what has this name is no such
 * file; -EFBIG: it has more than *@left bytes, from which its own are taken. */
int mount_look_read(int directory, const char *name, size_t *left, char **ret_text);
