/*
 * Random file operations with random arguments at a mount, by several processes
 * of an ordinary user at once. What each operation ended with is counted and
 * printed, a line "OPERATION RESULT COUNT" each: test/test_fuzz.py knows what
 * may be there.
 *
 * Everything comes from the seed but the order among the processes. A process
 * lives for some hundred operations and ends by exit or by SIGKILL with files
 * open and locks held; then the next begins, of the next seed. Nothing waits
 * for ever: a timer's signal ends what waits, and the parent kills a process
 * that has been silent for long.
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <linux/fs.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define FDS 12                                  /* open at a time, in each process */
#define ERRNO_MAX 200
#define LIFE_OPS 400                            /* operations of a process, at most */
#define PROCESSES_MAX 64
#define WAIT_MS 10                              /* the longest that an operation waits */
#define SILENCE_S 20                            /* until a process is stuck */

typedef struct Settings {
        uint64_t seed;
        unsigned long ops;
        unsigned seconds;
        unsigned processes;
        uid_t uid;
        const char *mountpoint;
} Settings;

typedef struct Tally {                          /* shared by all */
        unsigned long done;
        unsigned long results[64][ERRNO_MAX];   /* by operation and errno, 0: it succeeded */
} Tally;

static Settings settings = { .seed = 1, .ops = 100000, .seconds = 0, .processes = 4, .uid = 65534 };
static Tally *tally;
static int fds[FDS];                            /* -1: none */
static uint64_t dice;
static sigjmp_buf fault;                        /* of do_mmap() */
static volatile sig_atomic_t may_fault;

/* --- chance --- */

static uint64_t roll(void)                      /* xorshift64* */
{
        dice ^= dice >> 12;
        dice ^= dice << 25;
        dice ^= dice >> 27;
        return dice * 2685821657736338717u;
}

static unsigned below(unsigned n)
{
        return (unsigned)(roll() >> 33) % n;
}

static bool one_in(unsigned n)
{
        return below(n) == 0;
}

#define PICK(array) ((array)[below(sizeof(array) / sizeof(*(array)))])

/* Mostly small, sometimes at an edge, sometimes anything. */
static int64_t number(void)
{
        static const int64_t edges[] = { 31, 32, 33, 64, 4095, 4096, 65536, INT32_MAX, UINT32_MAX, INT64_MAX, INT64_MIN, -1 };

        switch (below(6)) {
        case 0:
                return PICK(edges);
        case 1:
                return (int64_t)roll();
        default:
                return below(34);
        }
}

static size_t size_of_buffer(void)
{
        static const size_t sizes[] = { 0, 1, 2, 31, 32, 33, 64, 4096, 70000 };

        return PICK(sizes);
}

static char buffer[70000];

/* A path relative to the mount's root. "." and ".." stand last, so that none leads out of it. */
static const char *path(void)
{
        static const char *const spaces[] = { "web", "web", "web", "one", "two", "plock", "a b", ".x" };
        static const char *const views[] = { "", "", "", "", ".nl/", ".cr/", ".cw/", ".pr/", ".pw/", ".ex/", ".ex/.ex/", "a/" };
        static const char *const names[] = {
                "a", "a", "b", "c", "%2Edot", "%41", "%2f", "%25%0A", "caf\xc3\xa9", "\xff\xfe", "\n", "\x7f", "x y", ".hidden", ".locks", ".force",
                ".status", ".metrics", ".ex", ".nl", "", ".", "..",
        };
        static char text[2][512];
        static unsigned turn;
        char *p = text[turn++ % 2];

        switch (below(16)) {
        case 0:
                snprintf(p, sizeof(*text), "%s", PICK(spaces));
                break;
        case 1:
                snprintf(p, sizeof(*text), "%s", one_in(3) ? ".metrics" : one_in(2) ? ".status" : ".");
                break;
        case 2: {
                static const int lens[] = { 63, 64, 65, 192, 193, 255, 256, 400 };

                snprintf(p, sizeof(*text), "web/%s%0*d", PICK(views), PICK(lens), 7);
                break;
        }
        default:
                snprintf(p, sizeof(*text), "%s/%s%s", PICK(spaces), PICK(views), PICK(names));
        }
        return p;
}

/* Mostly one that is open. */
static int a_fd(void)
{
        int fd = PICK(fds);

        for (unsigned i = 0; fd < 0 && i < 20; i++)
                fd = PICK(fds);
        return fd;
}

static int keep(int fd)
{
        unsigned i = below(FDS);

        if (fd < 0)
                return fd;
        if (fds[i] >= 0)
                close(fds[i]);
        fds[i] = fd;
        return 0;
}

static unsigned flags_of(const unsigned *table, size_t n)
{
        unsigned flags = 0;

        for (unsigned i = below(4); i > 0; i--)
                flags |= table[below(n)];
        return flags;
}

#define FLAGS(table) flags_of((table), sizeof(table) / sizeof(*(table)))

/* --- operations: each returns what the system call does --- */

static long do_open(void)
{
        static const unsigned kinds[] = { O_RDONLY, O_WRONLY, O_RDWR, O_RDWR, 3 };
        static const unsigned more[] = {
                O_CREAT, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_NONBLOCK, O_NONBLOCK, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_SYNC, O_DIRECT,
                O_NOATIME, O_TMPFILE, O_ASYNC, O_NOCTTY,
        };

        return keep(open(path(), (int)(PICK(kinds) | FLAGS(more) | O_CLOEXEC), (mode_t)below(010000)));
}

static long do_open_usefully(void)
{
        static const char *const paths[] = { "web/a", "web/b", "web/.ex/a", "web/.pw/a", "web/.pr/a", "web/.nl/b", "web/.cr/b", "web/.cw/b" };

        if (one_in(4)) {                        /* after what other operations do to them */
                chmod("web/a", 0666);
                chmod("web/b", 0666);
        }
        return keep(open(PICK(paths), O_RDWR | O_CREAT | (one_in(2) ? O_NONBLOCK : 0) | O_CLOEXEC, 0666));
}

static long do_close(void)
{
        unsigned i = below(FDS);
        int fd = fds[i];

        fds[i] = -1;
        return close(fd);
}

static long do_dup(void)
{
        return keep(fcntl(a_fd(), F_DUPFD_CLOEXEC, 3));
}

static long do_read(void)
{
        return read(a_fd(), buffer, size_of_buffer());
}

static long do_pread(void)
{
        return pread(a_fd(), buffer, size_of_buffer(), number());
}

static long do_preadv2(void)
{
        struct iovec parts[2] = { { buffer, size_of_buffer() / 2 }, { buffer + 35000, size_of_buffer() / 2 } };

        return preadv2(a_fd(), parts, 2, one_in(2) ? below(40) : number(), (int)below(32));
}

static long do_write(void)
{
        return one_in(4) ? write(a_fd(), "1\n", below(3)) : write(a_fd(), buffer, size_of_buffer());
}

static long do_pwrite(void)
{
        return pwrite(a_fd(), buffer, size_of_buffer(), number());
}

static long do_pwritev2(void)
{
        struct iovec parts[2] = { { buffer, size_of_buffer() / 2 }, { buffer + 35000, size_of_buffer() / 2 } };

        return pwritev2(a_fd(), parts, 2, one_in(2) ? below(40) : number(), (int)below(32));
}

static long do_lseek(void)
{
        return lseek(a_fd(), number(), (int)below(7)) < 0 ? -1 : 0;
}

static long do_ftruncate(void)
{
        return ftruncate(a_fd(), one_in(2) ? 0 : number());
}

static long do_truncate(void)
{
        return truncate(path(), number());
}

static long do_fallocate(void)
{
        return fallocate(a_fd(), (int)below(128), number(), number());
}

static long do_fsync(void)
{
        return one_in(2) ? fsync(a_fd()) : fdatasync(a_fd());
}

static long do_sync_range(void)
{
        return one_in(2) ? sync_file_range(a_fd(), number(), number(), below(8)) : syncfs(a_fd());
}

static long do_advise(void)
{
        int e;

        if (one_in(2))
                return readahead(a_fd(), number(), size_of_buffer());
        e = posix_fadvise(a_fd(), number(), number(), (int)below(7));
        errno = e;
        return e ? -1 : 0;
}

static long do_flock(void)
{
        static const int ways[] = { LOCK_SH, LOCK_EX, LOCK_UN, LOCK_SH | LOCK_NB, LOCK_EX | LOCK_NB };

        return flock(a_fd(), one_in(20) ? (int)roll() : PICK(ways));
}

static long do_fcntl_lock(void)
{
        static const int commands[] = { F_SETLK, F_SETLKW, F_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_OFD_GETLK };
        struct flock lock = {
                .l_type = one_in(20) ? (short)roll() : (short)below(3), .l_whence = one_in(10) ? (short)below(5) : SEEK_SET,
                .l_start = one_in(3) ? number() : 0, .l_len = one_in(3) ? number() : 0, .l_pid = one_in(20) ? 1 : 0,
        };

        return fcntl(a_fd(), PICK(commands), &lock);
}

static long do_fcntl(void)
{
        switch (below(8)) {
        case 0:
                return fcntl(a_fd(), F_SETFL, (int)(roll() & (O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC)));
        case 1:
                return fcntl(a_fd(), F_SETLEASE, (int)below(4));
        case 2:
                return fcntl(a_fd(), F_NOTIFY, (int)below(64));
        case 3:
                return fcntl(a_fd(), F_GETFL);
        case 4:
                return fcntl(a_fd(), F_SETPIPE_SZ, 4096);
        case 5:
                return fcntl(a_fd(), F_ADD_SEALS, 1);
        case 6:
                return fcntl(a_fd(), F_GETLEASE);
        default:
                return fcntl(a_fd(), F_SET_RW_HINT, &(uint64_t){ below(7) });
        }
}

static long do_poll(void)
{
        struct pollfd events[2] = { { a_fd(), (short)roll(), 0 }, { a_fd(), POLLPRI | POLLIN, 0 } };

        return poll(events, 2, (int)below(3));
}

static long do_ioctl(void)
{
        static const unsigned long known[] = {
                FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_GETVERSION, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, FIBMAP, FIGETBSZ, FIONREAD, FICLONE, FIDEDUPERANGE,
                FITRIM, FIFREEZE, FS_IOC_GETFSLABEL, FIOQSIZE, FIONBIO, FIOASYNC,
        };
        static char argument[65536];            /* the largest that a number can name */

        return ioctl(a_fd(), one_in(3) ? (unsigned long)(roll() & 0xffffffff) : PICK(known), argument);
}

static void on_fault(int signal)
{
        if (!may_fault)
                _exit(128 + signal);
        siglongjmp(fault, 1);
}

static long do_mmap(void)
{
        volatile char *memory = mmap(NULL, 4096, (int)below(8), one_in(2) ? MAP_SHARED : MAP_PRIVATE, a_fd(), one_in(4) ? number() & ~4095 : 0);

        if (memory == MAP_FAILED)
                return -1;
        may_fault = 1;
        if (sigsetjmp(fault, 1) == 0)
                (void)*memory;
        may_fault = 0;
        munmap((char *)memory, 4096);
        return 0;
}

static long do_rename(void)
{
        return one_in(2) ? rename(path(), path()) : renameat2(AT_FDCWD, path(), AT_FDCWD, path(), below(8));
}

static long do_link(void)
{
        return linkat(AT_FDCWD, path(), AT_FDCWD, path(), one_in(4) ? AT_SYMLINK_FOLLOW : 0);
}

static long do_symlink(void)
{
        return symlink(path(), path());
}

static long do_readlink(void)
{
        return readlink(path(), buffer, size_of_buffer());
}

static long do_mknod(void)
{
        static const mode_t kinds[] = { S_IFREG, S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFDIR, 0 };

        return mknod(path(), PICK(kinds) | below(010000), one_in(2) ? 0 : 259);
}

static long do_bind(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r, e;

        snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", path());
        r = bind(fd, (struct sockaddr *)&address, sizeof(address));
        e = errno;
        close(fd);
        errno = e;
        return r;
}

static long do_mkdir(void)
{
        return mkdir(path(), (mode_t)below(010000));
}

static long do_rmdir(void)
{
        return rmdir(path());
}

static long do_rmdir_by_force(void)
{
        static const char *const spaces[] = { "one", "two" };
        const char *space = PICK(spaces);

        if (setxattr(space, "user.force", "1", 1, 0) < 0)
                return -1;
        return rmdir(space);
}

static long do_make_space(void)
{
        static const char *const spaces[] = { "one", "two" };

        return mkdir(PICK(spaces), 0777);
}

static long do_unlink(void)
{
        return unlink(path());
}

static long do_chmod(void)
{
        return one_in(2) ? chmod(path(), (mode_t)below(010000)) : fchmod(a_fd(), (mode_t)below(010000));
}

static long do_chown(void)
{
        uid_t owner = one_in(2) ? (uid_t)-1 : one_in(2) ? 0 : settings.uid;
        gid_t group = one_in(2) ? (gid_t)-1 : settings.uid;

        return one_in(2) ? chown(path(), owner, group) : fchown(a_fd(), owner, group);
}

static long do_utimens(void)
{
        struct timespec times[2] = { { number(), below(5) ? below(1000) : UTIME_NOW }, { number(), below(5) ? number() : UTIME_OMIT } };

        return one_in(2) ? utimensat(AT_FDCWD, path(), one_in(4) ? NULL : times, 0) : futimens(a_fd(), times);
}

static const char *attribute(void)
{
        static const char *const names[] = {
                "user.value", "user.value", "user.force", "user.force", "user.x", "user.", "trusted.x", "security.capability", "security.selinux",
                "system.posix_acl_access", "system.posix_acl_default", "x", "",
        };
        static char longest[300];

        if (one_in(20))
                return memset(longest, 'u', sizeof(longest) - 1 - below(60));
        return PICK(names);
}

static long do_getxattr(void)
{
        return one_in(2) ? getxattr(path(), attribute(), buffer, size_of_buffer()) : fgetxattr(a_fd(), attribute(), buffer, size_of_buffer());
}

static long do_setxattr(void)
{
        const char *value = one_in(2) ? (one_in(2) ? "0" : "1") : buffer;
        size_t size = value == buffer ? size_of_buffer() : 1;

        return one_in(2) ? setxattr(path(), attribute(), value, size, (int)below(4)) : fsetxattr(a_fd(), attribute(), value, size, 0);
}

static long do_listxattr(void)
{
        return one_in(2) ? listxattr(path(), buffer, size_of_buffer()) : flistxattr(a_fd(), buffer, size_of_buffer());
}

static long do_removexattr(void)
{
        return one_in(2) ? removexattr(path(), attribute()) : fremovexattr(a_fd(), attribute());
}

static long do_getdents(void)
{
        int fd = one_in(2) ? open(one_in(2) ? "." : "web", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        long n = syscall(SYS_getdents64, fd >= 0 ? fd : a_fd(), buffer, size_of_buffer());
        int e = errno;

        if (fd >= 0)
                close(fd);
        errno = e;
        return n;
}

static long do_stat(void)
{
        struct statx st;
        struct statfs fs;

        switch (below(3)) {
        case 0:
                return statx(AT_FDCWD, path(), (int)(one_in(2) ? 0 : roll() & 0xffff), one_in(2) ? STATX_ALL : (unsigned)roll(), &st);
        case 1:
                return statx(a_fd(), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st);
        default:
                return statfs(path(), &fs);
        }
}

static long do_access(void)
{
        return faccessat(AT_FDCWD, path(), (int)below(8), one_in(2) ? AT_EACCESS : 0);
}

static long do_copy(void)
{
        int64_t from = number(), to = number();

        switch (below(3)) {
        case 0:
                return sendfile(a_fd(), a_fd(), one_in(2) ? NULL : &from, size_of_buffer());
        case 1:
                return copy_file_range(a_fd(), one_in(2) ? NULL : &from, a_fd(), one_in(2) ? NULL : &to, size_of_buffer(), 0);
        default:
                return splice(a_fd(), one_in(2) ? NULL : &from, a_fd(), NULL, size_of_buffer(), SPLICE_F_NONBLOCK);
        }
}

static long do_inotify(void)
{
        int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), r, e;

        r = inotify_add_watch(fd, path(), (uint32_t)roll() & (IN_ALL_EVENTS | IN_ONLYDIR | IN_DONT_FOLLOW));
        e = errno;
        close(fd);
        errno = e;
        return r;
}

static long do_handle(void)
{
        struct { struct file_handle head; char bytes[128]; } handle = { .head = { .handle_bytes = below(129) } };
        int id;

        return name_to_handle_at(AT_FDCWD, path(), &handle.head, &id, 0);
}

static long do_chdir(void)
{
        int r = chdir(path()), e = errno;

        if (r == 0 && chdir(settings.mountpoint) < 0)
                err(1, "%s", settings.mountpoint);
        errno = e;
        return r;
}

static void on_timer(int signal)
{
}

/* What a fork does not inherit. */
static void limit_waits(void)
{
        struct itimerval every = { { 0, WAIT_MS * 1000 }, { 0, WAIT_MS * 1000 } };

        setitimer(ITIMER_REAL, &every, NULL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Our children share what is open, and die in the midst of something. */
static long do_fork(void)
{
        pid_t pid = fork();

        if (pid < 0)
                return -1;
        if (pid == 0) {
                limit_waits();
                if (one_in(2)) {
                        char *const argv[] = { "x", NULL };

                        execve(path(), argv, argv);
                        _exit(errno);
                }
                do_flock();
                do_open_usefully();
                do_fcntl_lock();
                kill(getpid(), SIGKILL);
        }
        for (int status = 0;;) {
                if (waitpid(pid, &status, 0) < 0)
                        continue;               /* the timer's signal */
                errno = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
                return errno ? -1 : 0;
        }
}

static const struct {
        const char *name;
        long (*run)(void);
        unsigned weight;
} operations[] = {
        { "open", do_open, 8 }, { "open-usefully", do_open_usefully, 8 }, { "close", do_close, 3 }, { "dup", do_dup, 1 },
        { "read", do_read, 3 }, { "pread", do_pread, 2 }, { "preadv2", do_preadv2, 1 }, { "write", do_write, 4 },
        { "pwrite", do_pwrite, 3 }, { "pwritev2", do_pwritev2, 1 }, { "lseek", do_lseek, 1 }, { "ftruncate", do_ftruncate, 2 },
        { "truncate", do_truncate, 1 }, { "fallocate", do_fallocate, 1 }, { "fsync", do_fsync, 2 }, { "sync-range", do_sync_range, 1 },
        { "advise", do_advise, 1 }, { "flock", do_flock, 8 }, { "fcntl-lock", do_fcntl_lock, 8 }, { "fcntl", do_fcntl, 2 },
        { "poll", do_poll, 2 }, { "ioctl", do_ioctl, 2 }, { "mmap", do_mmap, 1 }, { "rename", do_rename, 2 },
        { "link", do_link, 1 }, { "symlink", do_symlink, 1 }, { "readlink", do_readlink, 1 }, { "mknod", do_mknod, 2 },
        { "bind", do_bind, 1 }, { "mkdir", do_mkdir, 1 }, { "rmdir", do_rmdir, 1 }, { "rmdir-by-force", do_rmdir_by_force, 1 },
        { "make-space", do_make_space, 2 }, { "unlink", do_unlink, 3 }, { "chmod", do_chmod, 1 }, { "chown", do_chown, 1 },
        { "utimens", do_utimens, 2 }, { "getxattr", do_getxattr, 3 }, { "setxattr", do_setxattr, 2 }, { "listxattr", do_listxattr, 1 },
        { "removexattr", do_removexattr, 1 }, { "getdents", do_getdents, 2 }, { "stat", do_stat, 4 }, { "access", do_access, 2 },
        { "copy", do_copy, 2 }, { "inotify", do_inotify, 1 }, { "handle", do_handle, 1 }, { "chdir", do_chdir, 1 },
        { "fork", do_fork, 1 },
};

#define N_OPERATIONS (sizeof(operations) / sizeof(*operations))
_Static_assert(N_OPERATIONS <= sizeof(((Tally *)0)->results) / sizeof(*((Tally *)0)->results), "room for all");

/* --- a process --- */

static void become_user(void)
{
        if (setgroups(0, NULL) < 0 || setresgid(settings.uid, settings.uid, settings.uid) < 0 || setresuid(settings.uid, settings.uid, settings.uid) < 0)
                err(1, "user %u", (unsigned)settings.uid);
}

static void set_signals(void)
{
        struct sigaction ignore = { .sa_handler = SIG_IGN }, timer = { .sa_handler = on_timer }, faults = { .sa_handler = on_fault };

        sigaction(SIGPIPE, &ignore, NULL);
        sigaction(SIGIO, &ignore, NULL);
        sigaction(SIGXFSZ, &ignore, NULL);
        sigaction(SIGALRM, &timer, NULL);       /* without SA_RESTART: a wait ends */
        sigaction(SIGBUS, &faults, NULL);
        sigaction(SIGSEGV, &faults, NULL);      /* memory mapped without PROT_READ */
        limit_waits();
}

static unsigned pick_operation(void)
{
        unsigned total = 0, n, i = 0;

        for (unsigned o = 0; o < N_OPERATIONS; o++)
                total += operations[o].weight;
        for (n = below(total); n >= operations[i].weight; i++)
                n -= operations[i].weight;
        return i;
}

static void live(uint64_t seed)
{
        unsigned n;

        become_user();
        set_signals();
        umask(0);
        if (chdir(settings.mountpoint) < 0)
                err(1, "%s", settings.mountpoint);
        memset(fds, -1, sizeof(fds));
        dice = (seed + 1) * 0x9e3779b97f4a7c15u;
        memset(buffer, 'v', sizeof(buffer));
        for (n = below(LIFE_OPS); n > 0; n--) {
                unsigned o = pick_operation();
                long r;

                errno = 0;
                r = operations[o].run();
                __atomic_add_fetch(&tally->results[o][r < 0 && errno > 0 && errno < ERRNO_MAX ? errno : 0], 1, __ATOMIC_RELAXED);
                __atomic_add_fetch(&tally->done, 1, __ATOMIC_RELAXED);
        }
        if (one_in(2))
                kill(getpid(), SIGKILL);
        _exit(0);
}

/* --- all of them --- */

static void print_tally(void)
{
        for (unsigned o = 0; o < N_OPERATIONS; o++)
                for (int e = 0; e < ERRNO_MAX; e++)
                        if (tally->results[o][e])
                                printf("%s %s %lu\n", operations[o].name, e ? strerrorname_np(e) : "OK", tally->results[o][e]);
        printf("all - %lu\n", tally->done);
}

static bool is_time_up(const struct timespec *begin)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return tally->done >= settings.ops || (settings.seconds && now.tv_sec - begin->tv_sec >= settings.seconds);
}

/* Wait for the end of any process; FALSE: nobody does anything any more. */
static bool await_end(pid_t *ret_pid, int *ret_status)
{
        unsigned long done = tally->done;
        sigset_t child;

        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        for (;;) {
                struct timespec limit = { .tv_sec = SILENCE_S };

                *ret_pid = waitpid(-1, ret_status, WNOHANG);
                if (*ret_pid > 0)
                        return true;
                if (sigtimedwait(&child, NULL, &limit) < 0 && errno == EAGAIN && tally->done == done)
                        return false;
                done = tally->done;
        }
}

/* TRUE: all went as it should. */
static bool run_all(void)
{
        pid_t pids[PROCESSES_MAX] = { 0 };
        unsigned running = 0;
        uint64_t seed = settings.seed << 32;
        struct timespec begin;
        bool ok = true;

        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (;;) {
                int status;
                pid_t pid;

                for (unsigned i = 0; i < settings.processes && ok && !is_time_up(&begin); i++)
                        if (pids[i] == 0) {
                                pids[i] = fork();
                                if (pids[i] < 0)
                                        err(1, "fork");
                                if (pids[i] == 0)
                                        live(seed);
                                seed++;
                                running++;
                        }
                if (running == 0)
                        return ok;
                if (!await_end(&pid, &status)) {
                        fprintf(stderr, "files: nothing has happened for %d seconds\n", SILENCE_S);
                        for (unsigned i = 0; i < settings.processes; i++)
                                if (pids[i] > 0)
                                        kill(pids[i], SIGKILL);
                        return false;
                }
                if (!(WIFEXITED(status) && WEXITSTATUS(status) == 0) && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
                        fprintf(stderr, "files: a process ended with wait status %#x\n", status);
                        ok = false;
                }
                for (unsigned i = 0; i < settings.processes; i++)
                        if (pids[i] == pid)
                                pids[i] = 0;
                running--;
        }
}

static void read_settings(int argc, char **argv)
{
        static const struct option options[] = {
                { "seed", required_argument, NULL, 's' }, { "ops", required_argument, NULL, 'o' }, { "seconds", required_argument, NULL, 't' },
                { "processes", required_argument, NULL, 'p' }, { "uid", required_argument, NULL, 'u' }, { 0 },
        };
        int c;

        while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0)
                switch (c) {
                case 's':
                        settings.seed = strtoull(optarg, NULL, 10);
                        break;
                case 'o':
                        settings.ops = strtoul(optarg, NULL, 10);
                        break;
                case 't':
                        settings.seconds = (unsigned)strtoul(optarg, NULL, 10);
                        break;
                case 'p':
                        settings.processes = (unsigned)strtoul(optarg, NULL, 10);
                        break;
                case 'u':
                        settings.uid = (uid_t)strtoul(optarg, NULL, 10);
                        break;
                default:
                        exit(2);
                }
        if (argc - optind != 1 || settings.uid == 0 || settings.processes < 1 || settings.processes > PROCESSES_MAX)
                errx(2, "usage: files [--seed N] [--ops N] [--seconds N] [--processes N] [--uid UID] MOUNTPOINT");
        settings.mountpoint = argv[optind];
}

int main(int argc, char **argv)
{
        sigset_t child;
        bool ok;

        read_settings(argc, argv);
        tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (tally == MAP_FAILED)
                err(1, "mmap");
        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        sigprocmask(SIG_BLOCK, &child, NULL);
        ok = run_all();
        print_tally();
        return ok ? 0 : 1;
}
