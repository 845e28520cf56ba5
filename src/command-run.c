/*
 * lockspacefs run: a command under a lock. Takes the lock, starts the command,
 * passes signals on until it has ended, writes the value and lets go. Each of
 * the lock, the child and the value has a file of its own; here is what stands
 * between them: the options, the loss of the lock, the exit status.
 */
#include "command.h"
#include "run-child.h"
#include "run-lock.h"
#include "run-value.h"
#include <errno.h>
#include <glib-unix.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#define EXIT_LOST 124                           /* as of timeout(1): the command was ended by us */
#define SECONDS_MAX 1000000                     /* of an option: what a timer in milliseconds can have */

typedef struct RunOptions {
        RunWish wish;
        char *mode, *wait, *kill_after, *value, *yield;         /* as typed; NULL: not given */
        gboolean try;
        double kill_after_s;
        int refused_status;
        int yield_signal;                       /* 0: none */
        char **command;                         /* in argv */
} RunOptions;

typedef struct Run {
        const RunOptions *options;
        GMainLoop *loop;
        RunLock *lock;
        RunChild *child;
        const char *loss;                       /* why the lock is lost; NULL: it is held */
        guint kill_timer;
} Run;

static void G_GNUC_PRINTF(1, 2) say(const char *format, ...)
{
        va_list args;

        va_start(args, format);
        fputs("lockspacefs run: ", stderr);
        vfprintf(stderr, format, args);
        fputc('\n', stderr);
        va_end(args);
}

/* --- options --- */

static void run_options_init(RunOptions *options)
{
        *options = (RunOptions){ .wish.timeout_s = -1, .kill_after_s = 10, .refused_status = 1 };
}

static void run_options_clear(RunOptions *options)
{
        g_free(options->mode);
        g_free(options->wait);
        g_free(options->kill_after);
        g_free(options->value);
        g_free(options->yield);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(RunOptions, run_options_clear)

static gboolean read_signal(const char *text, int *ret_number)
{
        const char *name = g_ascii_strncasecmp(text, "SIG", 3) == 0 ? text + 3 : text;
        guint64 number;

        if (g_ascii_string_to_unsigned(text, 10, 1, SIGRTMAX, &number, NULL)) {
                *ret_number = number;
                return TRUE;
        }
        for (int i = 1; i < NSIG; i++)
                if (sigabbrev_np(i) && g_ascii_strcasecmp(sigabbrev_np(i), name) == 0) {
                        *ret_number = i;
                        return TRUE;
                }
        return FALSE;
}

static gboolean read_seconds(const char *text, double *ret_seconds)
{
        double seconds;
        char *end;

        if (!text)
                return TRUE;
        seconds = g_ascii_strtod(text, &end);
        if (end == text || *end || !(seconds >= 0 && seconds <= SECONDS_MAX))
                return FALSE;
        *ret_seconds = seconds;
        return TRUE;
}

/* NULL: all is well. Else what is wrong. */
static char *check_options(RunOptions *options)
{
        if (!read_seconds(options->wait, &options->wish.timeout_s))
                return g_strdup_printf("-w %s: write seconds, like 5 or 0.5, %d at most", options->wait, SECONDS_MAX);
        if (options->try && options->wait)
                return g_strdup("-n and -w: say one of them");
        if (!read_seconds(options->kill_after, &options->kill_after_s))
                return g_strdup_printf("-k %s: write seconds, like 5 or 0.5, %d at most", options->kill_after, SECONDS_MAX);
        if (options->refused_status < 0 || options->refused_status > 255)
                return g_strdup("-E: write an exit status, from 0 to 255");
        if (options->yield && !read_signal(options->yield, &options->yield_signal))
                return g_strdup_printf("-y %s: there is no such signal; write a name like USR1, or a number", options->yield);
        if (options->value && strlen(options->value) > LOCKSPACEFS_VALUE_LEN)
                return g_strdup_printf("-v: a value has %d bytes at most, this has %zu", LOCKSPACEFS_VALUE_LEN, strlen(options->value));
        if (!options->wish.path)
                return g_strdup("no lock file given; see --help");
        if (!*options->wish.path)
                return g_strdup("the lock file has no name");
        if (!options->command[0])
                return g_strdup("no command given; see --help");
        return NULL;
}

static GOptionContext *option_context(RunOptions *options)
{
        const GOptionEntry entries[] = {
                { "mode", 'm', 0, G_OPTION_ARG_FILENAME, &options->mode, "nl, cr, cw, pr (shared), pw or ex (exclusive, the default)", "MODE" },
                { "nonblock", 'n', 0, G_OPTION_ARG_NONE, &options->try, "Do not wait for the lock", NULL },
                { "wait", 'w', 0, G_OPTION_ARG_FILENAME, &options->wait, "Wait so long at most", "SECONDS" },
                { "conflict-exit-code", 'E', 0, G_OPTION_ARG_INT, &options->refused_status, "Exit status when it is not to be had (1)", "STATUS" },
                { "kill-after", 'k', 0, G_OPTION_ARG_FILENAME, &options->kill_after, "When the lock is lost: from SIGTERM to SIGKILL (10)", "SECONDS" },
                { "value", 'v', 0, G_OPTION_ARG_FILENAME, &options->value, "Set the lock's value when the command ends with 0", "STRING" },
                { "yield", 'y', 0, G_OPTION_ARG_FILENAME, &options->yield, "Tell the command when somebody waits for the lock", "SIGNAL" },
                { NULL },
        };
        GOptionContext *context = g_option_context_new("LOCKFILE [--] COMMAND [ARGUMENT...]");

        g_option_context_set_summary(context, "Run a command while holding a lock of a mounted lockspacefs.");
        g_option_context_set_description(context,
                                         "The command gets the lock's value in $LOCKSPACEFS_VALUE and may write a new one to\n"
                                         "\"$LOCKSPACEFS_VALUE_FILE\". See lockspacefs-run(1).\n");
        g_option_context_set_strict_posix(context, TRUE);       /* the command's options are its own */
        g_option_context_add_main_entries(context, entries, NULL);
        return context;
}

/* FALSE: what is wrong has been said. */
static gboolean read_options(int argc, char **argv, RunOptions *options)
{
        g_autoptr(GOptionContext) context = option_context(options);
        g_autoptr(GError) error = NULL;
        g_autofree char *wrong = NULL;
        char **rest;

        g_set_prgname("lockspacefs run");
        if (!g_option_context_parse(context, &argc, &argv, &error)) {
                say("%s; see --help", error->message);
                return FALSE;
        }
        rest = argv + MIN(argc, 1);
        if (rest[0] && g_str_equal(rest[0], "--"))
                rest++;
        options->wish.path = rest[0];
        if (rest[0] && rest[1] && g_str_equal(rest[1], "--"))
                rest++;
        options->command = rest[0] ? rest + 1 : rest;
        wrong = check_options(options);
        if (wrong) {
                say("%s", wrong);
                return FALSE;
        }
        options->wish.mode = options->mode;
        options->wish.try = options->try;
        return TRUE;
}

/* --- while the command runs --- */

static void look_for_the_end(Run *run)
{
        if (run_child_has_ended(run->child))
                g_main_loop_quit(run->loop);
}

static gboolean kill_command(void *data)
{
        Run *run = data;

        run->kill_timer = 0;
        say("%s: killing the command, which did not end", run->options->wish.path);
        run_child_signal_all(run->child, SIGKILL);
        look_for_the_end(run);
        return G_SOURCE_REMOVE;
}

static void lock_lost(Run *run, const char *loss)
{
        run->loss = loss;
        say("%s: the lock is lost, %s; ending the command", run->options->wish.path, loss);
        run_child_signal_all(run->child, SIGTERM);
        run->kill_timer = g_timeout_add(run->options->kill_after_s * 1000, kill_command, run);
}

static gboolean lock_changed(int fd, GIOCondition condition, void *data)
{
        Run *run = data;
        const gboolean is_asked = run_lock_look(run->lock);
        const char *loss = run_lock_find_loss(run->lock);

        if (loss && !run->loss)
                lock_lost(run, loss);
        else if (is_asked && run->options->yield_signal)
                run_child_signal(run->child, run->options->yield_signal);
        return G_SOURCE_CONTINUE;
}

static gboolean signal_came(int fd, GIOCondition condition, void *data)
{
        Run *run = data;

        run_child_serve(run->child);
        look_for_the_end(run);
        return G_SOURCE_CONTINUE;
}

static void wait_for_the_end(Run *run)
{
        const guint sources[] = {
                g_unix_fd_add(run_child_signal_fd(run->child), G_IO_IN, signal_came, run),
                g_unix_fd_add(run_lock_watch_fd(run->lock), G_IO_IN, lock_changed, run),
        };

        g_main_loop_run(run->loop);
        for (size_t i = 0; i < G_N_ELEMENTS(sources); i++)
                g_source_remove(sources[i]);
        if (run->kill_timer)
                g_source_remove(run->kill_timer);
}

/* --- from the lock to the exit status --- */

static gboolean check_value_mode(const RunOptions *options, const RunLock *lock, GError **error)
{
        if (!options->value || mode_is_writer(run_lock_mode(lock)))
                return TRUE;
        g_set_error(error, RUN_ERROR, EX_USAGE, "-v needs the mode pw or ex, not %s", mode_to_string(run_lock_mode(lock)));
        return FALSE;
}

/* The command has ended. Was the lock held until then? */
static int finish(Run *run, RunValue *value, GError **error)
{
        const int status = run_child_exit_status(run->child);

        if (!run->loss) {
                run->loss = run_lock_find_loss(run->lock);
                if (run->loss)
                        say("%s: the lock is lost, %s", run->options->wish.path, run->loss);
        }
        if (run->loss)
                return EXIT_LOST;
        if (status == EXIT_SUCCESS && !run_value_set(value, run->options->value, error))
                return (*error)->code;
        return status;
}

static int run_command(Run *run, GError **error)
{
        g_autoptr(RunLock) lock = NULL;
        g_autoptr(RunValue) value = NULL;
        g_autoptr(RunChild) child = NULL;
        g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);

        if (!run_lock_take(&run->options->wish, &lock, error) ||
            !check_value_mode(run->options, lock, error) ||
            !run_value_new(lock, &value, error) ||
            !run_child_new(run->options->command, &child, error))
                return (*error)->code;
        run->loop = loop;
        run->lock = lock;
        run->child = child;
        wait_for_the_end(run);
        return finish(run, value, error);
}

int command_run(int argc, char **argv)
{
        g_auto(RunOptions) options;
        g_autoptr(GError) error = NULL;
        Run run = { .options = &options };
        int status;

        setlocale(LC_CTYPE, "");
        run_options_init(&options);
        if (!read_options(argc, argv, &options))
                return EX_USAGE;
        status = run_command(&run, &error);
        if (error && error->code == RUN_REFUSED)
                return options.refused_status;
        if (error)
                say("%s", error->message);
        return status;
}
