/*
 * The filter for system calls, in a child each: what is refused, and what must
 * go on. With no needs, and with those of the engine dlm.
 */
#include "sandbox.h"
#include "config.h"
#include "engine.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const SandboxNeeds nothing = { 0 };

static int errno_of(long result)
{
        return result < 0 ? errno : 0;
}

/* --- what is refused: the errno --- */

static int try_exec(void)
{
        char *argv[] = { (char *)"true", NULL };

        return errno_of(execv("/bin/true", argv));
}

static int try_fork(void)
{
        const pid_t pid = fork();

        if (pid == 0)
                _exit(0);
        return errno_of(pid);
}

static int try_mount(void)
{
        return errno_of(mount("none", "/proc/self/fd", "tmpfs", 0, NULL));
}

static int try_ptrace(void)
{
        return errno_of(ptrace(PTRACE_SEIZE, getppid(), NULL, NULL));
}

static int try_network(void)
{
        return errno_of(socket(AF_INET, SOCK_STREAM, 0));
}

static int try_kill(void)
{
        return errno_of(kill(getppid(), SIGCONT));
}

static int try_tgkill(void)
{
        return errno_of(syscall(SYS_tgkill, getppid(), getppid(), SIGCONT));
}

static int try_chmod(void)
{
        return errno_of(chmod("/dev/null", 0666));
}

static int try_setuid(void)
{
        return errno_of(setuid(12345));
}

static int try_unlink(void)
{
        return errno_of(unlink("/nonexistent"));
}

static int try_clone3(void)
{
        return errno_of(syscall(SYS_clone3, NULL, 0));
}

/* --- what goes on: 0 --- */

static gpointer thread_main(gpointer data)
{
        return data;
}

static int use_thread(void)
{
        GThread *thread = g_thread_try_new("test", thread_main, (gpointer)1, NULL);

        return thread && g_thread_join(thread) ? 0 : EAGAIN;
}

static int use_proc(void)
{
        g_autofree char *text = NULL;

        return g_file_get_contents("/proc/self/status", &text, NULL, NULL) ? 0 : ENOENT;
}

static int use_journal(void)
{
        return errno_of(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

static int use_tgkill(void)
{
        return errno_of(syscall(SYS_tgkill, getppid(), getppid(), 0));
}

static int use_umount(void)
{
        return umount2("/nonexistent", UMOUNT_NOFOLLOW) < 0 && errno == ENOENT ? 0 : ENOSYS;
}

static const struct {
        const char *name;
        int (*run)(void);
        gboolean is_for_tools;                  /* sanitizers and coverage need it */
        int expected;
        gboolean is_for_dlm;                    /* so does that engine */
} cases[] = {
        { "/sandbox/no-program", try_exec, FALSE, ENOSYS },
        { "/sandbox/no-process", try_fork, TRUE, ENOSYS },
        { "/sandbox/no-mount", try_mount, FALSE, ENOSYS },
        { "/sandbox/no-ptrace", try_ptrace, TRUE, ENOSYS },
        { "/sandbox/no-network", try_network, FALSE, ENOSYS },
        { "/sandbox/no-kill", try_kill, TRUE, ENOSYS },
        { "/sandbox/no-signal-to-a-thread", try_tgkill, TRUE, ENOSYS },
        { "/sandbox/no-chmod-but-for-who-needs-it", try_chmod, FALSE, ENOSYS, TRUE },
        { "/sandbox/no-other-user", try_setuid, FALSE, ENOSYS },
        { "/sandbox/no-unlink", try_unlink, FALSE, ENOSYS, TRUE },
        { "/sandbox/no-clone3", try_clone3, FALSE, ENOSYS },
        { "/sandbox/threads", use_thread, FALSE, 0 },
        { "/sandbox/proc", use_proc, FALSE, 0 },
        { "/sandbox/journal", use_journal, FALSE, 0 },
        { "/sandbox/is-it-a-process", use_tgkill, FALSE, 0 },
        { "/sandbox/umount", use_umount, FALSE, 0 },
};

static void test_case(int i, const SandboxNeeds *needs)
{
        const pid_t pid = fork();
        int status;

        g_assert_cmpint(pid, >=, 0);
        if (pid == 0) {
                if (!sandbox_drop_capabilities(needs, NULL) || sandbox_enter(needs) < 0)
                        _exit(255);
                _exit(cases[i].run());
        }
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_true(WIFEXITED(status));
        g_assert_cmpint(WEXITSTATUS(status), ==, cases[i].expected);
}

static void test_without_needs(gconstpointer data)
{
        test_case(GPOINTER_TO_INT(data), &nothing);
}

#ifdef HAVE_DLM
static void test_with_dlm(gconstpointer data)
{
        test_case(GPOINTER_TO_INT(data), &engine_dlm_ops.needs);
}
#endif

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                if (IS_INSTRUMENTED && cases[i].is_for_tools)
                        continue;
                g_test_add_data_func(cases[i].name, GINT_TO_POINTER((int)i), test_without_needs);
#ifdef HAVE_DLM
                if (!cases[i].is_for_dlm) {
                        g_autofree char *name = g_strconcat(cases[i].name, "/dlm", NULL);

                        g_test_add_data_func(name, GINT_TO_POINTER((int)i), test_with_dlm);
                }
#endif
        }
        return g_test_run();
}
