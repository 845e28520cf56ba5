#include "options.h"
#include "config.h"
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* As written; read_numbers() makes Options of them. */
typedef struct Texts {
        char *mode, *uid, *gid, *wait, *max_locks, *max_files, *max_waiters, *spin;
} Texts;

typedef struct Parser {
        Texts texts;
        Options options;
        gboolean has_source;
        char *bad;                              /* what cannot be read */
} Parser;

enum { KEY_FOREGROUND, KEY_DEBUG, KEY_HELP, KEY_VERSION, KEY_KEEP, KEY_ALLOW_OTHER };

#define TEXT(template, field) { template, offsetof(Parser, texts.field), 0 }

static const struct fuse_opt table[] = {
        FUSE_OPT_KEY("-f", KEY_FOREGROUND),
        FUSE_OPT_KEY("-d", KEY_DEBUG),
        FUSE_OPT_KEY("-h", KEY_HELP),
        FUSE_OPT_KEY("--help", KEY_HELP),
        FUSE_OPT_KEY("-V", KEY_VERSION),
        FUSE_OPT_KEY("--version", KEY_VERSION),
        { "engine=%s", offsetof(Parser, options.engine), 0 },
        TEXT("mode=%s", mode),
        TEXT("uid=%s", uid),
        TEXT("gid=%s", gid),
        TEXT("wait=%s", wait),
        FUSE_OPT_KEY("keep", KEY_KEEP),
        FUSE_OPT_KEY("allow_other", KEY_ALLOW_OTHER),
        TEXT("max_locks=%s", max_locks),
        TEXT("max_files=%s", max_files),
        TEXT("max_waiters=%s", max_waiters),
        TEXT("spin=%s", spin),
        { "lockspace_flags=%s", offsetof(Parser, options.lockspace_flags), 0 },
        { "max_read=%u", offsetof(Parser, options.max_read), 0 },
        FUSE_OPT_KEY("max_read=", FUSE_OPT_KEY_KEEP),
        /* What mount(8) and fstab(5) say to others. */
        FUSE_OPT_KEY("defaults", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("auto", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("noauto", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("nofail", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("user", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("user=", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("users", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("nouser", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("owner", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("group", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("_netdev", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("comment=", FUSE_OPT_KEY_DISCARD),
        /* The kernel's, without a meaning here. */
        FUSE_OPT_KEY("diratime", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("nodiratime", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("relatime", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("norelatime", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("strictatime", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("nostrictatime", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("lazytime", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("nolazytime", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("iversion", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("noiversion", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("mand", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("nomand", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("silent", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("loud", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("symfollow", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_KEY("nosymfollow", FUSE_OPT_KEY_DISCARD),
        FUSE_OPT_END,
};

void options_print_help(const char *program)
{
        printf("Usage: %s [OPTIONS] MOUNTPOINT\n"
               "       %s run [OPTIONS] LOCKFILE COMMAND...\n"
               "       %s status [OPTIONS] [MOUNTPOINT...]\n"
               "Mount the distributed lock manager as a file system: directories are lockspaces,\n"
               "files are locks.\n\n"
               "  -f                     stay in the foreground, messages on standard error\n"
               "  -d                     the same, and trace every operation\n"
               "  -h, --help             print this help\n"
               "  -V, --version          print the version\n"
               "  -o OPTION[,OPTION...]\n"
               "    engine=dlm|local     the kernel's cluster lock manager (default), or one\n"
               "                         inside this process for this machine alone\n"
               "    mode=OCTAL           permissions of the mount's root (0755); who may write\n"
               "                         there may make lockspaces\n"
               "    uid=USER, gid=GROUP  its owner and group (the mounting user's)\n"
               "    wait=SECONDS         answer mkdir and rmdir within this time (5)\n"
               "    keep                 leave the lockspaces of this mount when it ends (dlm)\n"
               "    allow_other          let other users in, as permissions allow\n"
               "    max_locks=N          per user, root apart: locks held and waited for (65536)\n"
               "    max_files=N            lock files, lockspaces and names looked up (262144)\n"
               "    max_waiters=N          calls that wait (16384); 0: any number\n"
               "    spin=MICROSECONDS    look for the next request that long before sleeping (20)\n"
               "    lockspace_flags=FLAG[:FLAG...]  how to create lockspaces (dlm)\n"
               "  and the options of mount(8) and mount.fuse3(8)\n\n"
               "To unmount: umount MOUNTPOINT, or fusermount3 -u MOUNTPOINT. See lockspacefs(8).\n"
               "run holds a lock while a command runs, status says who holds what: lockspacefs-run(1),\n"
               "lockspacefs-status(1), and --help of each.\n",
               program, program, program);
}

/* The mount point. mount.fuse3(8) writes a source before it, which is nothing to us. */
static void process_word(Parser *parser, const char *word, struct fuse_args *outargs)
{
        char *first = parser->options.mountpoint;

        if (!first) {
                parser->options.mountpoint = g_strdup(word);
        } else if (!parser->has_source && (g_str_equal(first, "none") || g_str_equal(first, "lockspacefs"))) {
                g_autofree char *fsname = g_strconcat("-ofsname=", first, NULL);

                fuse_opt_insert_arg(outargs, 1, fsname);
                parser->has_source = TRUE;
                parser->options.mountpoint = g_strdup(word);
                g_free(first);
        } else if (!parser->bad) {
                parser->bad = g_strdup_printf("one mount point only, not \"%s\" and \"%s\"; see --help for the commands", first, word);
        }
}

static int process(void *data, const char *arg, int key, struct fuse_args *outargs)
{
        Parser *parser = data;

        switch (key) {
        case KEY_FOREGROUND:
                parser->options.foreground = TRUE;
                return 0;
        case KEY_DEBUG:
                parser->options.debug = parser->options.foreground = TRUE;
                return 0;
        case KEY_HELP:
                parser->options.help = TRUE;
                return 0;
        case KEY_VERSION:
                parser->options.version = TRUE;
                return 0;
        case KEY_KEEP:
                parser->options.keep = TRUE;
                return 0;
        case KEY_ALLOW_OTHER:
                parser->options.allow_other = TRUE;
                return 1;                       /* libfuse wants it too */
        case FUSE_OPT_KEY_NONOPT:
                process_word(parser, arg, outargs);
                return 0;
        default:
                if (!*arg)                      /* of "-o ''", or of a comma too many */
                        return 0;
                if (g_str_has_prefix(arg, "x-") || g_str_has_prefix(arg, "X-"))
                        return 0;               /* of programs that read fstab */
                if (g_str_equal(arg, "remount") && !parser->bad)
                        parser->bad = g_strdup("remount: the options of a mount that is there cannot be changed; "
                                               "unmount it and mount it again");
                if (arg[0] == '-' && !parser->bad)
                        parser->bad = g_strdup_printf("unknown option \"%s\"; see --help", arg);
                return 1;                       /* -o: libfuse's, or it will say that it does not know it */
        }
}

static gboolean fail(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static gboolean fail(GError **error, const char *format, ...)
{
        va_list args;

        va_start(args, format);
        if (error)
                *error = g_error_new_valist(G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, format, args);
        va_end(args);
        return FALSE;
}

static gboolean read_number(const char *name, const char *text, guint base, guint64 max, unsigned *ret_number, GError **error)
{
        guint64 number;

        if (!text)
                return TRUE;
        if (!g_ascii_string_to_unsigned(text, base, 0, max, &number, NULL))
                return base == 8 ? fail(error, "%s=%s: write permissions in octal, from 0 to 07777", name, text)
                                 : fail(error, "%s=%s: write a number from 0 to %" G_GUINT64_FORMAT, name, text, max);
        *ret_number = number;
        return TRUE;
}

static gboolean read_user(const char *text, uid_t *ret_uid, GError **error)
{
        const struct passwd *user;
        guint64 number;

        if (!text)
                return TRUE;
        user = getpwnam(text);
        if (user)
                *ret_uid = user->pw_uid;
        else if (g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT32 - 1, &number, NULL))
                *ret_uid = number;
        else
                return fail(error, "uid=%s: no user of that name; write a user's name or number", text);
        return TRUE;
}

static gboolean read_group(const char *text, gid_t *ret_gid, GError **error)
{
        const struct group *group;
        guint64 number;

        if (!text)
                return TRUE;
        group = getgrnam(text);
        if (group)
                *ret_gid = group->gr_gid;
        else if (g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT32 - 1, &number, NULL))
                *ret_gid = number;
        else
                return fail(error, "gid=%s: no group of that name; write a group's name or number", text);
        return TRUE;
}

static gboolean read_texts(const Texts *texts, Options *options, GError **error)
{
        unsigned mode = options->mode;

        if (!read_number("mode", texts->mode, 8, 07777, &mode, error) ||
            !read_user(texts->uid, &options->uid, error) ||
            !read_group(texts->gid, &options->gid, error) ||
            !read_number("wait", texts->wait, 10, 3600, &options->wait_s, error) ||
            !read_number("max_locks", texts->max_locks, 10, G_MAXUINT32, &options->max_locks, error) ||
            !read_number("max_files", texts->max_files, 10, G_MAXUINT32, &options->max_files, error) ||
            !read_number("max_waiters", texts->max_waiters, 10, G_MAXUINT32, &options->max_waiters, error) ||
            !read_number("spin", texts->spin, 10, 10000, &options->spin_us, error))
                return FALSE;
        options->mode = mode;
        return TRUE;
}

/* An absolute path of a directory that is there. */
static gboolean read_mountpoint(Options *options, GError **error)
{
        struct stat st;
        char *path;

        if (!options->mountpoint)
                return fail(error, "no mount point given; see --help");
        path = realpath(options->mountpoint, NULL);
        if (!path || stat(path, &st) < 0) {     /* realpath() alone does not see a dead mount */
                const int e = errno;

                free(path);
                return fail(error, "mount point %s: %s%s", options->mountpoint, g_strerror(e),
                            e == ENOENT && !strchr(options->mountpoint, '/') ? "; make it with mkdir, or see --help for the commands" :
                            e == ENOENT ? "; make it with mkdir" :
                            e == ENOTCONN ? "; a dead mount is still there, umount it first" : "");
        }
        g_free(options->mountpoint);
        options->mountpoint = g_strdup(path);
        free(path);
        if (!S_ISDIR(st.st_mode))
                return fail(error, "mount point %s: not a directory", options->mountpoint);
        return TRUE;
}

static void texts_clear(Texts *texts)
{
        free(texts->mode);                      /* libfuse uses malloc() */
        free(texts->uid);
        free(texts->gid);
        free(texts->wait);
        free(texts->max_locks);
        free(texts->max_files);
        free(texts->max_waiters);
        free(texts->spin);
}

/* What only the cluster's engine can do would be silently without effect. */
static gboolean check_engine(const Options *options, GError **error)
{
        if (g_str_equal(options->engine, "dlm"))
                return TRUE;
        if (options->keep)
                return fail(error, "keep: the engine \"%s\" has nothing to keep when it ends; leave it out, or say engine=dlm", options->engine);
        if (options->lockspace_flags)
                return fail(error, "lockspace_flags=%s: only the engine dlm has creation flags", options->lockspace_flags);
        return TRUE;
}

static gboolean read_all(Parser *parser, GError **error)
{
        Options *options = &parser->options;

        if (parser->bad)
                return fail(error, "%s", parser->bad);
        if (options->help || options->version)
                return TRUE;
        if (!options->engine)
                options->engine = strdup("dlm");
        if (!check_engine(options, error) || !read_texts(&parser->texts, options, error) || !read_mountpoint(options, error))
                return FALSE;
        if (g_get_num_processors() == 1)        /* whom we look out for needs the only one */
                options->spin_us = 0;
        return TRUE;
}

gboolean options_parse(int argc, char **argv, Options *ret_options, GError **error)
{
        struct fuse_args args = FUSE_ARGS_INIT(argc, argv);
        Parser parser = {
                .options = {
                        .mode = 0755, .uid = getuid(), .gid = getgid(), .wait_s = 5,
                        .max_locks = 65536, .max_files = 262144, .max_waiters = 16384, .spin_us = 20,
                },
        };
        gboolean ok;

        if (fuse_opt_parse(&args, &parser, table, process) < 0)
                ok = fail(error, "the options cannot be read; see --help");
        else
                ok = read_all(&parser, error);
        texts_clear(&parser.texts);
        g_free(parser.bad);
        parser.options.mount_args = args;
        if (!ok) {
                options_clear(&parser.options);
                return FALSE;
        }
        *ret_options = parser.options;
        return TRUE;
}

void options_clear(Options *options)
{
        g_free(options->mountpoint);
        free(options->engine);                  /* libfuse's */
        free(options->lockspace_flags);
        fuse_opt_free_args(&options->mount_args);
        *options = (Options){ 0 };
}
