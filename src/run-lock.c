#include "run-lock.h"
#include "name.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

struct RunLock {
        LockMode mode;
        int directory_fd;                       /* the lockspace, or a mode directory of it */
        char *file;                             /* in it */
        int fd;                                 /* the lock */
        int watch_fd;                           /* an epoll set: tells of changes once, where poll(2) would go on and on */
};

#define MAX_LINKS 40                            /* as path_resolution(7) */
#define TICK_NS 20000000                        /* how late a time-out may be that fell between two calls */

G_DEFINE_QUARK(lockspacefs-run, run_error)

static gboolean G_GNUC_PRINTF(3, 4) fail(GError **error, int status, const char *format, ...)
{
        va_list args;

        va_start(args, format);
        *error = g_error_new_valist(RUN_ERROR, status, format, args);
        va_end(args);
        return FALSE;
}

/* --- which file is it? --- */

/* @path, or where it leads as a symbolic link: the file need not exist. */
static char *follow_links(const char *path, GError **error)
{
        g_autofree char *at = g_strdup(path);

        for (size_t len = strlen(at); len > 1 && at[len - 1] == '/'; len--)
                at[len - 1] = '\0';             /* else the name would be that of the directory once more */
        for (int i = 0; i < MAX_LINKS; i++) {
                g_autofree char *target = g_file_read_link(at, NULL);
                g_autofree char *directory = g_path_get_dirname(at);

                if (!target)
                        return g_steal_pointer(&at);
                g_free(at);
                at = g_path_is_absolute(target) ? g_strdup(target) : g_build_filename(directory, target, NULL);
        }
        fail(error, EX_NOINPUT, "%s: %s", path, g_strerror(ELOOP));
        return NULL;
}

static gboolean has_name(int directory_fd, const char *name)
{
        return faccessat(directory_fd, name, F_OK, 0) == 0;
}

static gboolean is_mount_point(const char *path)
{
        struct statfs fs;
        int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        const gboolean is_ours = fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == LOCKSPACEFS_STATFS_TYPE && has_name(fd, LOCKSPACEFS_STATUS);

        if (fd >= 0)
                close(fd);
        return is_ours;
}

static gboolean fail_to_open(const char *path, GError **error)
{
        switch (errno) {
        case EACCES:
                return fail(error, EX_NOPERM, "%s: %s", path, g_strerror(errno));
        case ENOTCONN:
                return fail(error, EX_UNAVAILABLE, "%s: %s; the daemon is gone, umount and mount again", path, g_strerror(errno));
        case EMFILE:
        case ENFILE:
                return fail(error, EX_OSERR, "%s: %s", path, g_strerror(errno));
        case ENOENT:
                return fail(error, EX_NOINPUT, "%s: %s; a lock file is in a lockspace, make that with mkdir", path, g_strerror(errno));
        default:
                return fail(error, EX_NOINPUT, "%s: %s", path, g_strerror(errno));
        }
}

static gboolean open_directory(const char *path, const char *directory, RunLock *lock, GError **error)
{
        struct statfs fs;

        lock->directory_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (lock->directory_fd < 0 || fstatfs(lock->directory_fd, &fs) < 0)
                return fail_to_open(path, error);
        if (fs.f_type != LOCKSPACEFS_STATFS_TYPE)
                return fail(error, EX_NOINPUT, "%s: this is not on a lockspacefs; flock(1) locks files of other file systems", path);
        return TRUE;
}

/* Is it a mode directory? Its name may not stand in the path: `cd /dlm/web/.ex`. */
static gboolean find_mode_directory(int directory_fd, LockMode *ret_mode)
{
        g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", directory_fd);
        g_autofree char *path = g_file_read_link(link, NULL);
        g_autofree char *name = path ? g_path_get_basename(path) : NULL;

        return name && mode_from_directory(name, ret_mode) && has_name(directory_fd, "../" LOCKSPACEFS_LOCKS);
}

static gboolean check_name(const char *path, const char *name, GError **error)
{
        uint8_t decoded[RESOURCE_NAME_MAX];
        size_t len;
        int r;

        r = resource_name_decode(name, decoded, &len);
        if (r == -ENAMETOOLONG)
                return fail(error, EX_NOINPUT, "%s: the name of a lock has %d bytes at most", path, RESOURCE_NAME_MAX);
        if (r < 0)
                return fail(error, EX_NOINPUT, "%s: \"%s\" is not the name of a lock file; see lockspacefs(5), Names", path, name);
        return TRUE;
}

static gboolean fail_outside(const char *path, const char *name, int directory_fd, GError **error)
{
        if (!has_name(directory_fd, LOCKSPACEFS_STATUS))
                return fail(error, EX_NOINPUT, "%s: this is not on a lockspacefs; flock(1) locks files of other file systems", path);
        if (!check_name(path, name, error))
                return FALSE;
        if (has_name(directory_fd, name))
                return fail(error, EX_NOINPUT, "%s: this is a lockspace, not a lock file; name a file in it, like %s/deploy", path, path);
        return fail(error, EX_NOINPUT, "%s: a lock file is in a lockspace; make one with mkdir, and name a file in it, like %s/deploy", path, path);
}

static gboolean read_mode(const char *text, LockMode *ret_mode, GError **error)
{
        g_autofree char *directory = g_strdup_printf(".%s", text);
        g_autofree char *lower = g_ascii_strdown(directory, -1);

        if (!mode_from_directory(lower, ret_mode))
                return fail(error, EX_USAGE, "-m %s: there is no such mode; say nl, cr, cw, pr, pw or ex", text);
        return TRUE;
}

static gboolean find_file(const RunWish *wish, RunLock *lock, GError **error)
{
        g_autofree char *path = NULL, *directory = NULL, *name = NULL;
        LockMode mode;

        lock->mode = MODE_EX;
        if (wish->mode && !read_mode(wish->mode, &lock->mode, error))
                return FALSE;
        path = follow_links(wish->path, error);
        if (!path)
                return FALSE;
        directory = g_path_get_dirname(path);
        name = g_path_get_basename(path);
        if (is_mount_point(path))
                return fail(error, EX_NOINPUT, "%s: this is a mount point, not a lock file; name a file in a lockspace, like %s/web/deploy",
                            wish->path, wish->path);
        if (!open_directory(wish->path, directory, lock, error))
                return FALSE;
        if (find_mode_directory(lock->directory_fd, &mode)) {
                if (wish->mode && mode != lock->mode)
                        return fail(error, EX_USAGE, "%s: this path means mode %s; leave -m %s out, or name the file beside the mode directory",
                                    wish->path, mode_to_string(mode), wish->mode);
                lock->mode = mode;
                lock->file = g_strdup(name);
        } else if (has_name(lock->directory_fd, LOCKSPACEFS_LOCKS)) {
                lock->file = g_build_filename(mode_to_directory(lock->mode), name, NULL);
        } else {
                return fail_outside(wish->path, name, lock->directory_fd, error);
        }
        return check_name(wish->path, name, error);
}

/* --- waiting --- */

static volatile sig_atomic_t is_time_up;

static void time_is_up(int number)
{
        is_time_up = TRUE;
}

/* A time-out is a signal that ends the open. Not SIGALRM: an alarm that was
 * set before we were executed stays as it was. */
typedef struct Alarm {
        timer_t timer;
        struct sigaction old_action;
        sigset_t old_mask;
} Alarm;

static struct timespec timespec_of(double seconds)
{
        const gint64 ns_per_second = 1000000000, ns = MAX(seconds * ns_per_second, 1);  /* 0 would be none */

        return (struct timespec){ .tv_sec = ns / ns_per_second, .tv_nsec = ns % ns_per_second };
}

static gboolean alarm_start(Alarm *alarm, double seconds, GError **error)
{
        const struct sigaction action = { .sa_handler = time_is_up };
        struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
        /* It repeats: the first may come between our look and the open. */
        struct itimerspec when = { .it_interval.tv_nsec = TICK_NS, .it_value = timespec_of(seconds) };
        sigset_t mask;

        if (timer_create(CLOCK_MONOTONIC, &event, &alarm->timer) < 0)
                return fail(error, EX_OSERR, "no timer: %s", g_strerror(errno));
        sigemptyset(&mask);
        sigaddset(&mask, event.sigev_signo);
        is_time_up = FALSE;
        sigaction(event.sigev_signo, &action, &alarm->old_action);
        sigprocmask(SIG_UNBLOCK, &mask, &alarm->old_mask);
        timer_settime(alarm->timer, 0, &when, NULL);
        return TRUE;
}

static void alarm_stop(Alarm *alarm)
{
        timer_delete(alarm->timer);
        sigprocmask(SIG_SETMASK, &alarm->old_mask, NULL);
        sigaction(SIGRTMIN, &alarm->old_action, NULL);
}

/* The descriptor or a negative errno; -EINTR: the time is up. A stop and a
 * freeze also end an open: it is asked again. */
static int open_patiently(const RunLock *lock, int flags)
{
        while (!is_time_up) {
                int fd = openat(lock->directory_fd, lock->file, flags | O_CLOEXEC | O_NOCTTY);

                if (fd >= 0)
                        return fd;
                if (errno != EINTR)
                        return -errno;
        }
        return -EINTR;
}

/* To read the value as well as to lock; who may write but not read can still lock. */
static int open_lock(const RunLock *lock, gboolean try)
{
        const gboolean writes = lock->mode == MODE_CW || mode_is_writer(lock->mode);
        const int flags = try ? O_NONBLOCK : 0;
        int fd;

        fd = open_patiently(lock, flags | (writes ? O_RDWR : O_RDONLY));
        return fd == -EACCES ? open_patiently(lock, flags | O_WRONLY) : fd;
}

static gboolean fail_to_take(const RunLock *lock, const char *path, int status, GError **error)
{
        switch (-status) {
        case EINTR:
        case EWOULDBLOCK:
                return fail(error, RUN_REFUSED, "%s: somebody else has the lock", path);
        case EACCES:
        case EPERM:
                return fail(error, EX_NOPERM, "%s: mode %s: %s", path, mode_to_string(lock->mode), g_strerror(-status));
        case ENOENT:
        case ESTALE:
                return fail(error, EX_UNAVAILABLE, "%s: its lockspace was removed", path);
        case ESHUTDOWN:
        case ENOTCONN:
        case ECONNABORTED:
                return fail(error, EX_UNAVAILABLE, "%s: %s; lockspacefs has ended, mount it again", path, g_strerror(-status));
        case EMFILE:
        case ENFILE:
                return fail(error, EX_OSERR, "%s: %s", path, g_strerror(-status));
        case ENOLCK:
        case ENOSPC:
                return fail(error, EX_UNAVAILABLE, "%s: %s; see max_locks, max_files and max_waiters in lockspacefs(8)", path, g_strerror(-status));
        default:
                return fail(error, EX_UNAVAILABLE, "%s: %s", path, g_strerror(-status));
        }
}

static gboolean take(const RunWish *wish, RunLock *lock, GError **error)
{
        const gboolean try = wish->try || wish->timeout_s == 0;
        const gboolean is_timed = !try && wish->timeout_s > 0;
        Alarm alarm;

        is_time_up = FALSE;
        if (is_timed && !alarm_start(&alarm, wish->timeout_s, error))
                return FALSE;
        lock->fd = open_lock(lock, try);
        if (is_timed)
                alarm_stop(&alarm);
        return lock->fd >= 0 || fail_to_take(lock, wish->path, lock->fd, error);
}

static gboolean watch(RunLock *lock, GError **error)
{
        struct epoll_event event = { .events = EPOLLPRI | EPOLLET };    /* EPOLLERR and EPOLLHUP come unasked */

        lock->watch_fd = epoll_create1(EPOLL_CLOEXEC);
        if (lock->watch_fd < 0 || epoll_ctl(lock->watch_fd, EPOLL_CTL_ADD, lock->fd, &event) < 0)
                return fail(error, EX_OSERR, "cannot watch the lock: %s", g_strerror(errno));
        return TRUE;
}

gboolean run_lock_take(const RunWish *wish, RunLock **ret_lock, GError **error)
{
        g_autoptr(RunLock) lock = g_new0(RunLock, 1);

        lock->directory_fd = lock->fd = lock->watch_fd = -1;
        if (!find_file(wish, lock, error) || !take(wish, lock, error) || !watch(lock, error))
                return FALSE;
        *ret_lock = g_steal_pointer(&lock);
        return TRUE;
}

/* --- holding --- */

LockMode run_lock_mode(const RunLock *lock)
{
        return lock->mode;
}

int run_lock_watch_fd(const RunLock *lock)
{
        return lock->watch_fd;
}

gboolean run_lock_look(RunLock *lock)
{
        struct epoll_event event;

        return epoll_wait(lock->watch_fd, &event, 1, 0) == 1 && event.events & EPOLLPRI;
}

const char *run_lock_find_loss(const RunLock *lock)
{
        struct pollfd poll_fd = { .fd = lock->fd };

        if (poll(&poll_fd, 1, 0) < 0 || !(poll_fd.revents & POLLERR))
                return NULL;                    /* POLLHUP alone: the daemon ends, and keeps it for us */
        return poll_fd.revents & POLLHUP ? "its lockspace was removed by force" : "lockspacefs is gone";
}

int run_lock_read(const RunLock *lock, uint8_t ret_value[static LOCKSPACEFS_VALUE_LEN])
{
        memset(ret_value, 0, LOCKSPACEFS_VALUE_LEN);
        return pread(lock->fd, ret_value, LOCKSPACEFS_VALUE_LEN, 0) < 0 ? -errno : 0;
}

int run_lock_write(RunLock *lock, const uint8_t value[static LOCKSPACEFS_VALUE_LEN])
{
        return pwrite(lock->fd, value, LOCKSPACEFS_VALUE_LEN, 0) < 0 ? -errno : 0;
}

void run_lock_free(RunLock *lock)
{
        if (!lock)
                return;
        if (lock->watch_fd >= 0)
                close(lock->watch_fd);
        if (lock->fd >= 0)
                close(lock->fd);
        if (lock->directory_fd >= 0)
                close(lock->directory_fd);
        g_free(lock->file);
        g_free(lock);
}
