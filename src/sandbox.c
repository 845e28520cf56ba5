#include "sandbox.h"
#include "config.h"
#include <asm/ioctls.h>
#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * The filter is a list of what is allowed. What is not in it fails with ENOSYS,
 * as if the kernel did not have it, and does not kill: a C library that tries a
 * newer call falls back to an older one, while a killed daemon would take the
 * locks of all its users along. The calls of each request are allowed whatever
 * their arguments are: for those the kernel does not even run the filter.
 */

static const int capabilities[] = {
        CAP_SYS_ADMIN,                          /* to mount and to unmount */
        CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH,    /* /proc/PID of other users: which system call a caller is in */
        -1
};

static const char *const system_calls[] = {
        /* files: requests and answers, /proc, the log, the pages of .status */
        "read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "open", "openat", "close", "close_range", "fcntl",
        "dup", "dup2", "dup3", "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat",
        "faccessat2", "readlink", "readlinkat", "getdents64", "ftruncate", "memfd_create", "getcwd",
        /* waiting */
        "poll", "ppoll", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2", "pipe2",
        "nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "time",
        /* memory, threads and signals */
        "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "futex", "sched_yield", "sched_getaffinity", "sched_getattr",
        "getcpu", "set_robust_list", "rseq", "membarrier", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
        "restart_syscall", "exit", "exit_group", "getrandom", "uname", "sysinfo", "getrlimit",
        "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid",
        /* the journal, syslog, systemd, corosync: socket() below */
        "connect", "sendmsg", "sendto", "recvmsg", "recvfrom", "getsockopt", "setsockopt", "getsockname", "getpeername", "shutdown",
        /* the end */
        "umount2",
        NULL
};

#if IS_INSTRUMENTED
/* What sanitizers and gcov do at the end, in the name of the program. */
static const char *const instrument_calls[] = {
        "clone", "wait4", "waitid", "ptrace", "prctl", "prlimit64", "tgkill", "ioctl", "kill", "mkdir", "getdents", "pipe",
        "process_vm_readv", NULL
};
#endif

/* Who may unmount needs nobody's help for it. */
static gboolean is_privileged(void)
{
        return capng_get_caps_process() == 0 && capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_ADMIN);
}

/* --- capabilities --- */

static void keep_capabilities(const int *list)
{
        for (; list && *list >= 0; list++)
                capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET, *list);
}

gboolean sandbox_drop_capabilities(const SandboxNeeds *needs, GError **error)
{
        gboolean may_drop_bounds;
        int r;

        if (!is_privileged())
                return TRUE;
        may_drop_bounds = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
        if (getgroups(0, NULL) > 0 && setgroups(0, NULL) < 0)   /* a user namespace may forbid it */
                g_message("keeps its supplementary groups: %s", g_strerror(errno));
        capng_clear(CAPNG_SELECT_BOTH);
        keep_capabilities(capabilities);
        keep_capabilities(needs->capabilities);
        r = capng_apply(may_drop_bounds ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS);
        if (r < 0)
                g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_PERM, "cannot give up capabilities (libcap-ng: %d)", r);
        return r == 0;
}

/* --- system calls --- */

static int allow(scmp_filter_ctx filter, const char *const *names)
{
        int r = 0;

        for (; names && *names && r == 0; names++) {
                const int number = seccomp_syscall_resolve_name(*names);

                if (number != __NR_SCMP_ERROR)  /* else libseccomp is older than the call, and so is what we run on */
                        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
        }
        return r;
}

/* Those that also do what we never want. No clone3: its flags cannot be seen, and the C library falls back. */
static int allow_some(scmp_filter_ctx filter)
{
        const struct {
                int number;
                struct scmp_arg_cmp only;
        } rules[] = {
                { SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD) },   /* threads, no processes */
                { SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_UNIX) },
                { SCMP_SYS(tgkill), SCMP_A2(SCMP_CMP_EQ, 0) },                  /* process_of_thread() */
                { SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()) },     /* abort() */
                { SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME) },         /* of threads */
                { SCMP_SYS(prlimit64), SCMP_A2(SCMP_CMP_EQ, 0) },               /* to ask */
                { SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, TCGETS) },              /* isatty() */
        };
        int r = 0;

        for (size_t i = 0; i < G_N_ELEMENTS(rules) && r == 0; i++)
                r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, rules[i].number, 1, rules[i].only);
        return r;
}

static int fill(scmp_filter_ctx filter, const SandboxNeeds *needs)
{
        int r;

        /* For all threads, those that run already too, whatever table of descriptors they have. */
        r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
        /* Linux before 5.16 makes every process with a filter slower, lest code
         * that it has from elsewhere looks at it: we run none. */
        if (r == 0)
                r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
        if (r == 0)
                r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
        if (r == 0)
                r = allow(filter, system_calls);
#if IS_INSTRUMENTED
        if (r == 0)
                r = allow(filter, instrument_calls);
#endif
        if (r == 0)
                r = allow(filter, needs->system_calls);
        return r < 0 ? r : allow_some(filter);
}

int sandbox_enter(const SandboxNeeds *needs)
{
        scmp_filter_ctx filter;
        int r;

        if (!is_privileged())
                return 0;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return -errno;
        filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
        if (!filter)
                return -ENOMEM;
        r = fill(filter, needs);
        if (r == 0)
                r = seccomp_load(filter);
        seccomp_release(filter);
        return r;
}
