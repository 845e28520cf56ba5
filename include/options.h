#pragma once
/*
 * What the command line asked for: filled once by options_parse(), read-only
 * afterwards. The order here is that of --help and of lockspacefs(8).
 */
#include <fuse_opt.h>
#include <glib.h>
#include <sys/types.h>

typedef struct Options {
        char *mountpoint;                       /* absolute */
        gboolean foreground;
        gboolean debug;
        gboolean help;
        gboolean version;

        char *engine;                           /* "dlm" or "local" */
        mode_t mode;                            /* of the mount's root directory */
        uid_t uid;
        gid_t gid;
        unsigned wait_s;                        /* mkdir and rmdir answer within this */
        gboolean keep;                          /* leave the lockspaces at the end (dlm) */
        gboolean allow_other;
        unsigned max_locks;                     /* per user, 0: any number; root is not counted */
        unsigned max_files;
        unsigned max_waiters;
        unsigned spin_us;                       /* poll that long before sleeping */
        char *lockspace_flags;                  /* dlm: NULL or a list with colons between */

        struct fuse_args mount_args;            /* for libfuse: what is left, and what we always want */
        unsigned max_read;                      /* what is said there, which we have to tell the kernel as well */
} Options;

#define EXIT_USAGE 2                            /* the command line is wrong */

/* Read the command line. FALSE and @error: what is wrong and what to write
 * instead, for a person. --help and --version only set their field. */
gboolean options_parse(int argc, char **argv, Options *ret_options, GError **error);
void options_print_help(const char *program);
void options_clear(Options *options);           /* harmless on zeroes */
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)
