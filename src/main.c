/*
 * lockspacefs: options, then build everything, run the loop, tear down in
 * reverse. In the background the parent waits until the mount answers. A first
 * word that names a command is no mount point: include/command.h.
 */
#include "config.h"
#include "command.h"
#include "fs.h"
#include "handle.h"
#include "helper.h"
#include "lockspace.h"
#include "manager.h"
#include "options.h"
#include "sandbox.h"
#include "session.h"
#include "trace.h"
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

typedef struct Daemon {
        GMainLoop *loop;
        Tree *tree;
        Session *session;
        Manager *manager;                       /* NULL until the mount answers, and in the background */
        int ready_fd;                           /* to the parent; -1: none, or told already */
        int signal_fd;
        unsigned releasing;                     /* lockspaces, at the end … */
        guint patience;                         /* … the source of give_up_releasing(), or 0 */
        gboolean is_hurried;                    /* no waiting any more, at the end */
        guint quitting;                         /* the source of quit_when_idle(), or 0 */
} Daemon;

/* --- commands: what else the program does --- */

static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
} commands[] = {
        { "run", command_run },
        { "status", command_status },
};

/* TRUE: it was one, and has ended with @ret_status. */
static gboolean run_command(int argc, char **argv, int *ret_status)
{
        for (size_t i = 0; argc > 1 && i < G_N_ELEMENTS(commands); i++)
                if (g_str_equal(argv[1], commands[i].name)) {
                        *ret_status = commands[i].run(argc - 1, argv + 1);
                        return TRUE;
                }
        return FALSE;
}

/* --- messages --- */

static GLogWriterOutput write_syslog(GLogLevelFlags level, const GLogField *fields, gsize n_fields, gpointer data)
{
        static const struct { GLogLevelFlags level; int priority; } priorities[] = {
                { G_LOG_LEVEL_ERROR, LOG_CRIT },
                { G_LOG_LEVEL_CRITICAL, LOG_ERR },
                { G_LOG_LEVEL_WARNING, LOG_WARNING },
                { G_LOG_LEVEL_MESSAGE, LOG_NOTICE },
        };

        if (g_log_writer_journald(level, fields, n_fields, data) == G_LOG_WRITER_HANDLED)
                return G_LOG_WRITER_HANDLED;
        for (size_t i = 0; i < G_N_ELEMENTS(priorities); i++)
                for (gsize f = 0; level & priorities[i].level && f < n_fields; f++)
                        if (g_str_equal(fields[f].key, "MESSAGE"))
                                syslog(LOG_DAEMON | priorities[i].priority, "%s", (const char *)fields[f].value);
        return G_LOG_WRITER_HANDLED;
}

/* Why it does not run; the journal, at the other end of a service's standard error, gets it as an error. */
static void tell_failure(const GError *error)
{
        fprintf(stderr, "%slockspacefs: %s\n", g_log_writer_is_journald(STDERR_FILENO) ? "<3>" : "", error->message);
}

/* --- the background --- */

/* What is opened must not become standard input, output or error. */
static void occupy_standard_descriptors(void)
{
        int fd;

        do
                fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        while (fd >= 0 && fd <= STDERR_FILENO);
        if (fd >= 0)
                close(fd);
}

/* What our caller has open is nothing to us: a file of another mount, with a lock, would stay open with it. */
static void close_inherited(int except)
{
        if (except > STDERR_FILENO + 1)
                close_range(STDERR_FILENO + 1, except - 1, 0);
        close_range(except + 1, ~0U, 0);
}

/* In the child: 0, and @ret_ready_fd is where to say that all is well. In the
 * parent: does not return; its status is the child's success. */
static int go_to_background(int *ret_ready_fd)
{
        int fds[2], status;
        pid_t pid;
        char byte;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid > 0) {
                close(fds[1]);
                if (read(fds[0], &byte, 1) == 1)
                        _exit(EXIT_SUCCESS);
                while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                        ;
                _exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : EXIT_FAILURE);
        }
        close_inherited(fds[1]);
        setsid();
        g_log_set_writer_func(write_syslog, NULL, NULL);
        *ret_ready_fd = fds[1];
        return 0;
}

static void tell_parent(Daemon *daemon)
{
        int null = open("/dev/null", O_RDWR);

        if (null >= 0) {
                dup2(null, STDIN_FILENO);
                dup2(null, STDOUT_FILENO);
                dup2(null, STDERR_FILENO);
                if (null > STDERR_FILENO)
                        close(null);
        }
        if (write(daemon->ready_fd, "", 1) < 0)
                g_debug("nobody waits for the mount");
        close(daemon->ready_fd);
        daemon->ready_fd = -1;
}

static gboolean ready(void *data)
{
        Daemon *daemon = data;

        if (daemon->ready_fd >= 0)
                tell_parent(daemon);
        else
                daemon->manager = manager_new(daemon->tree);
        g_message("mounted on %s, engine %s", daemon->tree->options->mountpoint, daemon->tree->options->engine);
        return G_SOURCE_REMOVE;
}

/* --- events --- */

static void daemon_mounted(void *data)
{
        Daemon *daemon = data;
        const int r = sandbox_enter(&daemon->tree->engine->ops->needs);

        if (r < 0)
                g_message("goes on without a filter for system calls: %s", g_strerror(-r));
        /* When the loop has nothing else to do: the lockspaces that are there are listed then. */
        g_idle_add_full(G_PRIORITY_LOW, ready, daemon, NULL);
}

static void daemon_gone(void *data)
{
        Daemon *daemon = data;

        g_main_loop_quit(daemon->loop);
}

static const SessionEvents session_events = { .mounted = daemon_mounted, .gone = daemon_gone };

static gboolean quit_when_idle(void *data)
{
        Daemon *daemon = data;

        daemon->quitting = 0;
        g_main_loop_quit(daemon->loop);
        return G_SOURCE_REMOVE;
}

static void last_closed(void *data)
{
        ((Daemon *)data)->quitting = g_idle_add(quit_when_idle, data);  /* after the close was answered */
}

static void tell_end(Daemon *daemon, const char *status)
{
        if (daemon->manager)
                manager_stopping(daemon->manager, status);
}

/* Who waits for a lock through them, or for a lockspace, is told. */
static void shut_down_files(Tree *tree)
{
        GHashTableIter iter;
        gpointer lockspace;
        uint32_t id = 0;
        Handle *handle;

        g_hash_table_iter_init(&iter, tree->lockspaces);
        while (g_hash_table_iter_next(&iter, NULL, &lockspace))
                lockspace_shut_down(lockspace);
        while ((handle = id_table_next(&tree->handles, &id)))
                if (handle_is_file(handle))
                        handle_shut_down(handle);
}

static void terminate(Daemon *daemon)
{
        Tree *tree = daemon->tree;
        g_autofree char *status = NULL;

        if (tree->shutting_down || tree->open_files == 0) {
                daemon->is_hurried = tree->shutting_down;       /* the second signal */
                g_main_loop_quit(daemon->loop);
                return;
        }
        status = g_strdup_printf("ending: %u files are open, their locks stay until they are closed; a second signal ends at once",
                                 tree->open_files);
        g_message("%s", status);
        tell_end(daemon, status);
        tree->shutting_down = TRUE;
        tree->last_closed = last_closed;
        tree->last_closed_data = daemon;
        session_detach(daemon->session);
        shut_down_files(tree);
}

/* --- signals --- */

/* Not g_unix_signal_add(), which starts a thread, though with the engine local
 * there is no other: in a process with one thread the C library needs no locks
 * for memory, and no atomic operations around each read and write. */
static sigset_t ending_signals(void)
{
        sigset_t mask;

        sigemptyset(&mask);
        sigaddset(&mask, SIGTERM);
        sigaddset(&mask, SIGINT);
        sigaddset(&mask, SIGHUP);
        return mask;
}

static gboolean open_signals(Daemon *daemon, GError **error)
{
        const sigset_t mask = ending_signals();

        daemon->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
        if (daemon->signal_fd < 0)
                g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "cannot receive signals: %s", g_strerror(errno));
        return daemon->signal_fd >= 0;
}

static gboolean signals_came(int fd, GIOCondition condition, void *data)
{
        struct signalfd_siginfo info;

        while (read(fd, &info, sizeof(info)) == sizeof(info))
                terminate(data);
        return G_SOURCE_CONTINUE;
}

/* --- the end --- */

static gboolean give_up_releasing(void *data)
{
        Daemon *daemon = data;
        Engine *engine = daemon->tree->engine;

        g_message("%s: %u lockspaces are left",
                  engine->ops->is_lingering(engine) ? "one that was removed by force has not gone yet" : "the cluster does not answer",
                  daemon->releasing);
        g_main_loop_quit(daemon->loop);
        return G_SOURCE_CONTINUE;
}

/* For so long from now on: there may be many lockspaces, and they go one by one. */
static void be_patient(Daemon *daemon)
{
        g_clear_handle_id(&daemon->patience, g_source_remove);
        daemon->patience = g_timeout_add_seconds(MAX(daemon->tree->options->wait_s, 1), give_up_releasing, daemon);
}

static void end_release(Daemon *daemon, Lockspace *lockspace, gboolean force);

typedef struct Ending {                         /* one lockspace's release */
        Daemon *daemon;
        Lockspace *lockspace;                   /* a reference */
} Ending;

static void end_released(void *data, int status)
{
        g_autofree Ending *ending = data;

        if (status == -EREMOTE)                 /* only other nodes' locks are left: theirs stay, ours are none */
                end_release(ending->daemon, ending->lockspace, TRUE);
        else if (status < 0)
                g_message("lockspace %s is left: %s", ending->lockspace->name, g_strerror(-status));
        lockspace_unref(ending->lockspace);
        if (--ending->daemon->releasing == 0)
                g_main_loop_quit(ending->daemon->loop);
        else
                be_patient(ending->daemon);
}

static void end_release(Daemon *daemon, Lockspace *lockspace, gboolean force)
{
        Ending *ending = g_new0(Ending, 1);
        int r;

        ending->daemon = daemon;
        ending->lockspace = lockspace_ref(lockspace);
        daemon->releasing++;
        r = lockspace_release(lockspace, force, end_released, ending);
        if (r < 0)
                end_released(ending, r);
}

/* The lockspaces that this mount made go with it, if nobody else uses them:
 * one left behind keeps dlm_controld from stopping. */
static void release_lockspaces(Daemon *daemon)
{
        g_autoptr(GList) lockspaces = g_hash_table_get_values(daemon->tree->lockspaces);

        be_patient(daemon);
        daemon->releasing = 1;                  /* so that it reaches 0 only when all were begun */
        for (GList *l = lockspaces; l; l = l->next)
                if (((Lockspace *)l->data)->is_created)
                        end_release(daemon, l->data, FALSE);
        if (--daemon->releasing > 0)
                g_main_loop_run(daemon->loop);
        g_clear_handle_id(&daemon->patience, g_source_remove);
}

static gboolean hurry(void *data)
{
        ((Daemon *)data)->is_hurried = TRUE;
        return G_SOURCE_CONTINUE;
}

/* A value is lost if the engine ends before the unlock that publishes it has; a
 * lockspace that is being made stays behind if it ends before that has. */
static void finish(Daemon *daemon)
{
        Tree *tree = daemon->tree;
        const guint timer = g_timeout_add_seconds(MAX(tree->options->wait_s, 1), hurry, daemon);

        tree->shutting_down = TRUE;             /* another signal ends this */
        while ((locks_are_publishing(tree) || g_hash_table_size(tree->making) > 0 || tree->releasing > 0) && !daemon->is_hurried)
                g_main_context_iteration(NULL, TRUE);
        g_source_remove(timer);
}

/* Whoever still has one has lost it with the connection. The other handles go
 * with the tree: one may belong to a request for which work is under way. */
static void close_files(Tree *tree)
{
        uint32_t id = 0;
        Handle *handle;

        tree->last_closed = NULL;
        shut_down_files(tree);
        while ((handle = id_table_next(&tree->handles, &id)))
                if (handle_is_file(handle))
                        handle_free(handle);
}

static void run(Daemon *daemon)
{
        const sigset_t signals = ending_signals();
        const guint source = g_unix_fd_add(daemon->signal_fd, G_IO_IN, signals_came, daemon);

        sigprocmask(SIG_BLOCK, &signals, NULL);
        g_main_loop_run(daemon->loop);
        tell_end(daemon, "unmounted, releasing lockspaces");
        session_unmount(daemon->session);
        g_message("unmounted %s", daemon->tree->options->mountpoint);
        g_clear_handle_id(&daemon->quitting, g_source_remove);          /* the connection was gone before it ran */
        close_files(daemon->tree);
        finish(daemon);
        if (!daemon->tree->options->keep)
                release_lockspaces(daemon);
        g_source_remove(source);
        sigprocmask(SIG_UNBLOCK, &signals, NULL);
}

static gboolean serve(const Options *options, Daemon *daemon, GError **error)
{
        const EngineOps *ops = engine_find(options->engine);

        if (!sandbox_drop_capabilities(&ops->needs, error) || !tree_new(options, ops, &daemon->tree, error))
                return FALSE;
        daemon->loop = g_main_loop_new(NULL, FALSE);
        if (!open_signals(daemon, error))
                return FALSE;
        if (!session_new(daemon->tree, &fs_ops, sizeof(fs_ops), &session_events, daemon, &daemon->session, error))
                return FALSE;
        run(daemon);
        return TRUE;
}

static gboolean check_engine(const Options *options, GError **error)
{
        if (engine_find(options->engine))
                return TRUE;
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    g_str_equal(options->engine, "dlm")
                            ? "this build has no engine \"%s\": build it with libdlm, or say -o engine=local for locks on this machine alone"
                            : "there is no engine \"%s\": say -o engine=dlm or -o engine=local",
                    options->engine);
        return FALSE;
}

/* TRUE: @ret_options is complete. FALSE and no error: all was done by asking. */
static gboolean read_command_line(int argc, char **argv, Options *ret_options, GError **error)
{
        g_auto(GStrv) translated = NULL;
        gboolean fake = FALSE;

        if (helper_of(argv[0]) == HELPER_MOUNT) {
                if (!helper_mount_arguments(argc, argv, &translated, &fake, error))
                        return FALSE;
                argc = g_strv_length(translated);
                argv = translated;
        }
        if (!options_parse(argc, argv, ret_options, error))
                return FALSE;
        if (ret_options->help)
                options_print_help("lockspacefs");
        else if (ret_options->version)
                printf("lockspacefs %s\n", PACKAGE_VERSION);
        else if (!check_engine(ret_options, error) || !session_check_options(ret_options, error))
                return FALSE;
        return !ret_options->help && !ret_options->version && !fake;
}

int main(int argc, char **argv)
{
        g_auto(Options) options = { 0 };
        g_autoptr(GError) error = NULL;
        Daemon daemon = { .ready_fd = -1, .signal_fd = -1 };
        const Helper helper = helper_of(argv[0]);
        const int failure = helper ? EXIT_HELPER_FAILURE : EXIT_FAILURE;
        gboolean ok;
        int status;

        occupy_standard_descriptors();
        if (!helper && run_command(argc, argv, &status))        /* what mount(8) says first is a source */
                return status;
        umask(0);                               /* modes are the caller's business */
        signal(SIGPIPE, SIG_IGN);
        /* libfuse allocates 128 bytes for each request by calloc(). That is just
         * above what malloc keeps for the next one without merging it first. */
        mallopt(M_MXFAST, 160);
        prctl(PR_SET_NAME, "lockspacefs");      /* whatever name it was called by */
        if (helper == HELPER_UMOUNT)
                return helper_umount(argc, argv);
        if (!read_command_line(argc, argv, &options, &error)) {
                if (!error)
                        return EXIT_SUCCESS;
                tell_failure(error);
                return helper ? EXIT_HELPER_USAGE : EXIT_USAGE;
        }
        if (options.debug) {
                trace_is_on = TRUE;
                g_setenv("G_MESSAGES_DEBUG", G_LOG_DOMAIN, FALSE);
        }
        if (!options.foreground && go_to_background(&daemon.ready_fd) < 0) {
                perror("lockspacefs: cannot go to the background");
                return failure;
        }
        if (chdir("/") < 0)
                g_debug("stays in a directory of its own");
        ok = serve(&options, &daemon, &error);
        if (!ok)
                tell_failure(error);
        manager_free(daemon.manager);
        tree_free(daemon.tree);
        session_free(daemon.session);
        g_clear_pointer(&daemon.loop, g_main_loop_unref);
        if (daemon.signal_fd >= 0)
                close(daemon.signal_fd);
        return ok ? EXIT_SUCCESS : failure;
}
