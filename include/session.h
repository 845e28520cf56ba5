#pragma once
/*
 * The session is our end of /dev/fuse: it mounts, reads requests in the main
 * loop, hands them to the FUSE table, and finds out when the mount is gone.
 *
 * Requests are read from a non-blocking descriptor and drained until there is
 * none; then, before sleeping, it looks again for -o spin= microseconds, since
 * waking up costs more than all the rest.
 */
#include "tree.h"

typedef struct Session Session;

typedef struct SessionEvents {
        void (*mounted)(void *data);            /* the mount answers now */
        void (*gone)(void *data);               /* unmounted, or the connection broke: no request comes any more */
} SessionEvents;

/* Does somebody know each of the mount options? FALSE and @error: which ones not. Nothing is mounted. */
gboolean session_check_options(const Options *options, GError **error);
/* Mount it. @ops get @tree as fuse_req_userdata(). All are borrowed. */
gboolean session_new(Tree *tree, const struct fuse_lowlevel_ops *ops, size_t ops_size, const SessionEvents *events, void *data,
                     Session **ret_session, GError **error);
/* To be called by the ops' init. */
void session_mounted(Tree *tree);
/* Take the mount out of the tree of files; who has files open keeps them. What else its place leads to by then stays. */
void session_detach(Session *session);
void session_unmount(Session *session);         /* the same; and no request is read any more */
void session_free(Session *session);            /* NULL is fine */
