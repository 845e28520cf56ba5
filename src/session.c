#include "session.h"
#include "lockspacefs.h"
#include "mount-table.h"
#include "request.h"
#include "spin.h"
#include "trace.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define BATCH 256                               /* requests until the rest of the loop has its turn */
#define SINGLES 16                              /* such turns make us believe that requests come one at a time */

struct Session {
        Tree *tree;
        struct fuse_session *se;
        struct fuse_buf buf;
        GSource *source;                        /* NULL: not reading */
        const SessionEvents *events;
        void *data;
        gboolean is_mounted;
        dev_t device;                           /* of the mount; 0: nobody could tell */
        unsigned singles;                       /* turns in a row with one request each */
};

typedef struct SessionSource {
        GSource base;
        Session *session;
        gpointer fd_tag;
} SessionSource;

/* What libfuse has to say goes to our log; while mounting it is the reason. */
static GString *mount_log;

static void log_fuse(enum fuse_log_level level, const char *format, va_list args)
{
        g_autofree char *text = g_strdup_vprintf(format, args);

        if (mount_log)                          /* a line may come in pieces */
                g_string_append(mount_log, text);
        else
                g_message("%s", g_strchomp(text));
}

/* --- reading --- */

static void session_gone(Session *session)
{
        g_source_destroy(session->source);
        g_clear_pointer(&session->source, g_source_unref);
        session->events->gone(session->data);
}

/* As fuse_session_receive_buf(), but looks for a while. */
static int receive_spinning(Session *session)
{
        Tree *tree = session->tree;
        Spin spin = spin_begin(tree->options->spin_us);
        int r = -EAGAIN;

        while (r == -EAGAIN && spin_yield(&spin)) {
                tree->now_us = spin.now_us;
                tree->engine->ops->dispatch(tree->engine);
                r = fuse_session_receive_buf(session->se, &session->buf);
        }
        return r;
}

/* Where only one request came each time for a while the next one does not come
 * before we sleep: no need to look. But now and then, whether it still is so. */
static gboolean is_alone(Session *session)
{
        if (session->tree->options->spin_us || session->singles < SINGLES)
                return FALSE;
        if (session->singles++ < 2 * SINGLES)
                return TRUE;
        session->singles = SINGLES;
        return FALSE;
}

static gboolean session_dispatch(GSource *source, GSourceFunc callback, gpointer user_data)
{
        Session *session = ((SessionSource *)source)->session;
        Tree *tree = session->tree;
        Engine *engine = tree->engine;
        unsigned n = 0;

        while (n < BATCH && !(n == 1 && is_alone(session))) {
                int r = fuse_session_receive_buf(session->se, &session->buf);

                if (r == -EAGAIN && n > 0)
                        r = receive_spinning(session);
                if (r == -EAGAIN) {
                        session->singles = n == 1 ? session->singles + 1 : 0;
                        break;
                }
                if (r == -EINTR)
                        continue;
                if (r == -ENOMEM)               /* the next may be read; an end would take every lock along */
                        break;
                if (r <= 0) {
                        session_gone(session);
                        return G_SOURCE_REMOVE;
                }
                n++;
                fuse_session_process_buf(session->se, &session->buf);
                tree->requests++;
                engine->ops->dispatch(engine);
                request_let_signals_through(tree);
        }
        return G_SOURCE_CONTINUE;
}

static gboolean session_prepare(GSource *source, gint *timeout_ms)
{
        tree_new_turn(((SessionSource *)source)->session->tree);
        *timeout_ms = -1;
        return FALSE;
}

static gboolean session_check(GSource *source)
{
        SessionSource *s = (SessionSource *)source;

        return g_source_query_unix_fd(source, s->fd_tag) != 0;
}

static GSourceFuncs source_funcs = { .prepare = session_prepare, .check = session_check, .dispatch = session_dispatch };

static void start_reading(Session *session)
{
        const int fd = fuse_session_fd(session->se);
        SessionSource *source;

        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        session->source = g_source_new(&source_funcs, sizeof(SessionSource));
        source = (SessionSource *)session->source;
        source->session = session;
        source->fd_tag = g_source_add_unix_fd(session->source, fd, G_IO_IN | G_IO_ERR | G_IO_HUP);
        /* We never run a loop inside it; GLib, to see to that, would write to
         * its wake-up descriptor twice for each turn. */
        g_source_set_can_recurse(session->source, TRUE);
        g_source_set_static_name(session->source, "fuse");
        g_source_attach(session->source, NULL);
}

/* --- mounting --- */

/* A lock may be waited for as long as it takes; with these set the kernel
 * would abort the mount for it (Documentation/admin-guide/sysctl/fs.rst). */
static gboolean check_timeouts(GError **error)
{
        static const char *const names[] = { "default_request_timeout", "max_request_timeout" };

        for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
                g_autofree char *path = g_build_filename("/proc/sys/fs/fuse", names[i], NULL);
                g_autofree char *text = NULL;

                if (g_file_get_contents(path, &text, NULL, NULL) && atoi(text) != 0) {
                        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED,
                                    "fs.fuse.%s is %d: the kernel would abort the mount as soon as somebody waits longer than "
                                    "that for a lock; set it to 0 with sysctl -w fs.fuse.%s=0",
                                    names[i], atoi(text), names[i]);
                        return FALSE;
                }
        }
        return TRUE;
}

/* Over a mount of ours, another one would hide the locks that are held there: with the
 * engine local, two would hold the same. */
static gboolean check_mountpoint(const char *mountpoint, GError **error)
{
        g_autofree char *type = NULL;
        dev_t device;

        if (mount_table_find(mountpoint, &device, &type) < 0 || !g_str_equal(type, LOCKSPACEFS_TYPE))
                return TRUE;
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_EXIST, "mount point %s: a lockspacefs is mounted there already, umount it first",
                    mountpoint);
        return FALSE;
}

/* Does the path lead to our mount? It may be unmounted lazily, and another one be there; or something is mounted over it. */
static gboolean is_in_place(const Session *session)
{
        dev_t device;
        const int r = mount_table_find(session->tree->options->mountpoint, &device, NULL);

        return r == 0 ? !session->device || device == session->device : r != -ENOENT;
}

static void notify_attr(void *data, fuse_ino_t ino)
{
        Session *session = data;

        /* Takes no lock that a pending request could hold: attributes only. */
        fuse_lowlevel_notify_inval_inode(session->se, ino, -1, 0);
}

/* libfuse's part, not mounted yet. NULL: @log says why. */
static struct fuse_session *make_session(const Options *options, const struct fuse_lowlevel_ops *ops, size_t ops_size, Tree *tree,
                                         GString *log)
{
        struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
        struct fuse_session *se;

        fuse_opt_add_arg(&args, options->mount_args.argv[0]);
        fuse_opt_add_arg(&args, "-ofsname=lockspacefs");        /* unless they say another */
        for (int i = 1; i < options->mount_args.argc; i++)
                fuse_opt_add_arg(&args, options->mount_args.argv[i]);
        fuse_opt_add_arg(&args, "-odefault_permissions,subtype=lockspacefs");
        mount_log = log;
        fuse_set_log_func(log_fuse);
        se = fuse_session_new(&args, ops, ops_size, tree);
        mount_log = NULL;
        fuse_opt_free_args(&args);
        return se;
}

gboolean session_check_options(const Options *options, GError **error)
{
        const struct fuse_lowlevel_ops nothing = { 0 };
        g_autoptr(GString) log = g_string_new(NULL);
        struct fuse_session *se = make_session(options, &nothing, sizeof(nothing), NULL, log);

        if (!se) {
                g_strdelimit(g_strchomp(log->str), "\n", ';');
                g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_UNKNOWN_OPTION, "%s; see --help", log->str);
                return FALSE;
        }
        fuse_session_destroy(se);
        return TRUE;
}

static gboolean mount_it(Session *session, const struct fuse_lowlevel_ops *ops, size_t ops_size, GError **error)
{
        const Options *options = session->tree->options;
        g_autoptr(GString) log = g_string_new(NULL);

        session->se = make_session(options, ops, ops_size, session->tree, log);
        mount_log = log;
        session->is_mounted = session->se && fuse_session_mount(session->se, options->mountpoint) == 0;
        mount_log = NULL;
        g_strdelimit(g_strchomp(log->str), "\n", ';');
        if (session->is_mounted)
                mount_table_find(options->mountpoint, &session->device, NULL);
        else
                g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED, "cannot mount on %s: %s", options->mountpoint,
                            *log->str ? log->str : "see the messages above");
        return session->is_mounted;
}

gboolean session_new(Tree *tree, const struct fuse_lowlevel_ops *ops, size_t ops_size, const SessionEvents *events, void *data,
                     Session **ret_session, GError **error)
{
        Session *session;

        if (!check_timeouts(error) || !check_mountpoint(tree->options->mountpoint, error))
                return FALSE;
        session = g_new0(Session, 1);
        session->tree = tree;
        session->events = events;
        session->data = data;
        if (!mount_it(session, ops, ops_size, error)) {
                session_free(session);
                return FALSE;
        }
        tree->notify = (TreeNotify){ .attr = notify_attr, .data = session };
        start_reading(session);
        *ret_session = session;
        return TRUE;
}

void session_mounted(Tree *tree)
{
        Session *session = tree->notify.data;

        session->events->mounted(session->data);
}

void session_detach(Session *session)
{
        const char *mountpoint = session->tree->options->mountpoint;
        const char *argv[] = { "fusermount3", "-u", "-q", "-z", "--", mountpoint, NULL };
        g_autoptr(GError) error = NULL;

        if (!is_in_place(session) || umount2(mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) == 0 || errno == EINVAL)
                return;
        /* An ordinary user's: not waited for, since it may ask us something. */
        if (!g_spawn_async(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, &error))
                g_warning("cannot unmount %s: %s", mountpoint, error->message);
}

/* libfuse unmounts by path, unless the connection is broken already. It asks poll(2), to which a pipe that nobody
 * reads looks just so; and with our end of it the connection breaks. */
static gboolean break_connection(Session *session)
{
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return FALSE;
        close(fds[0]);
        dup2(fds[1], fuse_session_fd(session->se));
        close(fds[1]);
        return TRUE;
}

void session_unmount(Session *session)
{
        session->tree->notify.attr = NULL;
        if (session->source) {
                g_source_destroy(session->source);
                g_clear_pointer(&session->source, g_source_unref);
        }
        if (session->is_mounted && (is_in_place(session) || break_connection(session)))
                fuse_session_unmount(session->se);
        session->is_mounted = FALSE;            /* and what is open goes with the session */
}

void session_free(Session *session)
{
        if (!session)
                return;
        if (session->is_mounted)
                session_unmount(session);
        if (session->se)
                fuse_session_destroy(session->se);
        free(session->buf.mem);
        g_free(session);
}
