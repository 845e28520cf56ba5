#include "run-child.h"
#include "process.h"
#include "run-lock.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#define EXIT_NOT_EXECUTABLE 126                 /* as shells have them */
#define EXIT_NOT_FOUND 127
#define EXIT_SIGNALLED 128

struct RunChild {
        pid_t pid;
        int signal_fd;
        siginfo_t end;                          /* how it ended; si_pid is 0 until then */
        gboolean is_ending_all;                 /* run_child_signal_all() */
        gboolean is_killing_all;                /* … with SIGKILL: nothing is left to be waited for */
        sigset_t old_mask;
        struct sigaction old_sigchld;
};

/* --- starting --- */

/* All but those of faults, which are ours alone, and those that cannot be caught. */
static void catchable_signals(sigset_t *ret_mask)
{
        static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS };

        sigfillset(ret_mask);
        for (size_t i = 0; i < G_N_ELEMENTS(faults); i++)
                sigdelset(ret_mask, faults[i]);
}

/* In the child. Returns only when it cannot be executed: the errno is in @error_fd. */
static void execute(const RunChild *child, char **argv, pid_t parent, int error_fd)
{
        int e;

        /* Without us there is no lock, and nobody to follow up a milder signal. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                raise(SIGKILL);                 /* we were too late to ask */
        sigaction(SIGCHLD, &child->old_sigchld, NULL);
        sigprocmask(SIG_SETMASK, &child->old_mask, NULL);
        execvp(argv[0], argv);
        e = errno;
        while (write(error_fd, &e, sizeof(e)) < 0 && errno == EINTR)
                ;
}

static gboolean take_signals(RunChild *child)
{
        const struct sigaction action = { .sa_handler = SIG_DFL };      /* ignored, children would leave no status */
        sigset_t mask;

        catchable_signals(&mask);
        if (sigprocmask(SIG_BLOCK, &mask, &child->old_mask) < 0 || sigaction(SIGCHLD, &action, &child->old_sigchld) < 0)
                return FALSE;
        child->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
        return child->signal_fd >= 0;
}

/* 0 once the child executes its command, else a negative errno. */
static int start(RunChild *child, char **argv)
{
        const pid_t parent = getpid();
        int fds[2], e = 0;

        child->pid = -1;
        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        child->pid = fork();
        if (child->pid == 0) {
                execute(child, argv, parent, fds[1]);
                _exit(EXIT_NOT_EXECUTABLE);
        }
        e = child->pid < 0 ? errno : 0;
        close(fds[1]);
        if (e == 0 && read(fds[0], &e, sizeof(e)) > 0)
                waitid(P_PID, child->pid, &child->end, WEXITED);
        close(fds[0]);
        return -e;
}

gboolean run_child_new(char **argv, RunChild **ret_child, GError **error)
{
        g_autoptr(RunChild) child = g_new0(RunChild, 1);
        int r;

        child->signal_fd = -1;
        if (!take_signals(child)) {
                g_set_error(error, RUN_ERROR, EX_OSERR, "cannot receive signals: %s", g_strerror(errno));
                return FALSE;
        }
        r = start(child, argv);
        if (r < 0) {
                g_set_error(error, RUN_ERROR, child->pid < 0 ? EX_OSERR : r == -ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE,
                            "%s: %s", argv[0], g_strerror(-r));
                return FALSE;
        }
        *ret_child = g_steal_pointer(&child);
        return TRUE;
}

/* --- signals --- */

int run_child_signal_fd(const RunChild *child)
{
        return child->signal_fd;
}

/* Does the terminal send it to the whole process group? Others that the kernel
 * makes, like SIGALRM, were for us alone. */
static gboolean is_of_terminal(int number)
{
        static const int numbers[] = { SIGINT, SIGQUIT, SIGHUP, SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGWINCH };

        for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++)
                if (number == numbers[i])
                        return TRUE;
        return FALSE;
}

static void forward(const RunChild *child, const struct signalfd_siginfo *info)
{
        const gboolean is_sent = info->ssi_code <= 0;   /* by a process */
        const int number = info->ssi_signo;

        if (child->end.si_pid || (!is_sent && is_of_terminal(number)))
                return;
        /* What it sends to its own process group it has got itself; and a
         * SIGPIPE of ours is about our messages. */
        if (is_sent && ((pid_t)info->ssi_pid == child->pid || (pid_t)info->ssi_pid == getpid()))
                return;
        if (info->ssi_code == SI_QUEUE)
                sigqueue(child->pid, number, (union sigval){ .sival_ptr = (void *)(uintptr_t)info->ssi_ptr });
        else
                kill(child->pid, number);
}

/* Job control has stopped it, as a rule both of us: the shell is to see us
 * stopped, too. A SIGSTOP was meant for it alone. */
static void stop_with_it(int number)
{
        if (number == SIGTSTP || number == SIGTTIN || number == SIGTTOU)
                raise(SIGSTOP);
}

static void reap(RunChild *child)
{
        siginfo_t info = { 0 };

        while (waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG) == 0 && info.si_pid) {
                if (info.si_pid != child->pid)
                        ;                       /* left by it: we have taken it in run_child_signal_all() */
                else if (info.si_code == CLD_STOPPED)
                        stop_with_it(info.si_status);
                else
                        child->end = info;
                info.si_pid = 0;
        }
}

void run_child_serve(RunChild *child)
{
        struct signalfd_siginfo info;

        while (read(child->signal_fd, &info, sizeof(info)) == sizeof(info))
                if (info.ssi_signo == SIGCHLD)
                        reap(child);
                else
                        forward(child, &info);
}

void run_child_signal(const RunChild *child, int number)
{
        if (!child->end.si_pid)
                kill(child->pid, number);
}

/* --- it and its descendants --- */

static gboolean is_parent_in(const GArray *family, pid_t parent)
{
        for (guint i = 0; i < family->len; i++)
                if (g_array_index(family, pid_t, i) == parent)
                        return TRUE;
        return FALSE;
}

/* Those whom run_child_signal_all() means, as of now. */
static GArray *find_family(const RunChild *child)
{
        g_autoptr(GArray) all = process_list();
        g_autoptr(GArray) descendants = g_array_new(FALSE, FALSE, sizeof(pid_t));
        GArray *family = g_array_new(FALSE, FALSE, sizeof(pid_t));
        const pid_t self = getpid(), session = getsid(0);
        guint known;

        g_array_append_val(descendants, self);
        do {                                    /* until a round finds no more children of those found */
                known = descendants->len;
                for (guint i = 0; i < all->len; i++) {
                        ProcessEntry *process = &g_array_index(all, ProcessEntry, i);

                        if (process->is_over || process->pid == self || !is_parent_in(descendants, process->parent))
                                continue;
                        g_array_append_val(descendants, process->pid);
                        if (process->session == session || process->session == child->pid)
                                g_array_append_val(family, process->pid);
                        process->is_over = TRUE;        /* seen */
                }
        } while (descendants->len > known);
        return family;
}

void run_child_signal_all(RunChild *child, int number)
{
        g_autoptr(GArray) family = NULL;

        /* Those whose parents end become our children: we hear of their end. */
        if (!child->is_ending_all && prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
                g_debug("no subreaper: %s", g_strerror(errno));
        child->is_ending_all = TRUE;
        child->is_killing_all |= number == SIGKILL;
        family = find_family(child);
        for (guint i = 0; i < family->len; i++) {
                kill(g_array_index(family, pid_t, i), number);
                kill(g_array_index(family, pid_t, i), SIGCONT);         /* a stopped one would not hear */
        }
}

/* --- its end --- */

gboolean run_child_has_ended(const RunChild *child)
{
        g_autoptr(GArray) family = NULL;

        if (!child->end.si_pid || !child->is_ending_all || child->is_killing_all)
                return child->end.si_pid != 0;
        family = find_family(child);
        return family->len == 0;
}

int run_child_exit_status(const RunChild *child)
{
        return child->end.si_code == CLD_EXITED ? child->end.si_status : EXIT_SIGNALLED + child->end.si_status;
}

void run_child_free(RunChild *child)
{
        if (!child)
                return;
        if (child->signal_fd >= 0)
                close(child->signal_fd);
        g_free(child);
}
