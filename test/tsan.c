/*
 * What ThreadSanitizer has to be told, linked into a test of threads that is
 * built with it.
 *
 * Debian's GLib is not instrumented, and its GMutex and GCond are futexes, of
 * which the sanitizer knows nothing: every lock would look like none. These
 * functions stand before GLib's. They call them, and say what they did.
 * GLib's own calls among its functions do not come here. What we take from
 * GLib as macros, g_atomic_*, is compiled with us and seen as it is; the
 * counts of references are functions there, and so are made of these here.
 *
 * Our threads have tables of descriptors of their own, and the sanitizer has
 * one: to it the same number is the same file, and who closes it races with who
 * uses another's; worse, whoever writes to it puts himself before who reads
 * from the other, and hides what they do to memory. So the calls for descriptors
 * go to the kernel past the sanitizer, and order nothing.
 *
 * What stays unseen is how GLib's containers change: of the worker's queue only
 * the jobs are watched, not the list that they stand in.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <sanitizer/tsan_interface.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

const char *__tsan_default_options(void);
void __sanitizer_on_print(const char *text);

/* history_size: both stacks, also of an access long ago. */
const char *__tsan_default_options(void)
{
        return "halt_on_error=1:exitcode=99:second_deadlock_stack=1:history_size=4";
}

/* In a thread with a table of its own standard error is /dev/null. /proc/self is the main thread. */
void __sanitizer_on_print(const char *text)
{
        int fd;

        if (gettid() == getpid())
                return;
        fd = open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_CLOEXEC);
        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                return;                         /* the exit status says it too */
        close(fd);
}

/* --- descriptors --- */

int close(int fd)
{
        return syscall(SYS_close, fd);
}

int open(const char *path, int flags, ...)
{
        g_assert(!(flags & O_CREAT));
        return syscall(SYS_openat, AT_FDCWD, path, flags, 0);
}

int dup2(int fd, int number)
{
        return syscall(SYS_dup2, fd, number);
}

int eventfd(unsigned count, int flags)
{
        return syscall(SYS_eventfd2, count, flags);
}

int epoll_create1(int flags)
{
        return syscall(SYS_epoll_create1, flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
        return syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int max, int timeout_ms)
{
        return syscall(SYS_epoll_wait, epoll, events, max, timeout_ms);
}

int poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
        return syscall(SYS_poll, fds, n, timeout_ms);
}

int socketpair(int domain, int type, int protocol, int fds[2])
{
        return syscall(SYS_socketpair, domain, type, protocol, fds);
}

ssize_t send(int fd, const void *buffer, size_t len, int flags)
{
        return syscall(SYS_sendto, fd, buffer, len, flags, NULL, 0);
}

ssize_t recv(int fd, void *buffer, size_t len, int flags)
{
        return syscall(SYS_recvfrom, fd, buffer, len, flags, NULL, NULL);
}

/* --- GLib --- */

static void *real(const char *name)
{
        void *function = dlsym(RTLD_NEXT, name);

        g_assert(function);
        return function;
}

void g_mutex_init(GMutex *mutex)
{
        REAL(g_mutex_init)(mutex);
        __tsan_mutex_create(mutex, 0);
}

void g_mutex_clear(GMutex *mutex)
{
        __tsan_mutex_destroy(mutex, 0);
        REAL(g_mutex_clear)(mutex);
}

void g_mutex_lock(GMutex *mutex)
{
        __tsan_mutex_pre_lock(mutex, 0);
        REAL(g_mutex_lock)(mutex);
        __tsan_mutex_post_lock(mutex, 0, 0);
}

void g_mutex_unlock(GMutex *mutex)
{
        __tsan_mutex_pre_unlock(mutex, 0);
        REAL(g_mutex_unlock)(mutex);
        __tsan_mutex_post_unlock(mutex, 0);
}

void g_cond_wait(GCond *cond, GMutex *mutex)
{
        __tsan_mutex_pre_unlock(mutex, 0);
        __tsan_mutex_post_unlock(mutex, 0);
        REAL(g_cond_wait)(cond, mutex);
        __tsan_mutex_pre_lock(mutex, 0);
        __tsan_mutex_post_lock(mutex, 0, 0);
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end_time)
{
        gboolean is_signalled;

        __tsan_mutex_pre_unlock(mutex, 0);
        __tsan_mutex_post_unlock(mutex, 0);
        is_signalled = REAL(g_cond_wait_until)(cond, mutex, end_time);
        __tsan_mutex_pre_lock(mutex, 0);
        __tsan_mutex_post_lock(mutex, 0, 0);
        return is_signalled;
}

void g_atomic_ref_count_init(gatomicrefcount *count)
{
        *count = 1;
}

void g_atomic_ref_count_inc(gatomicrefcount *count)
{
        g_atomic_int_inc(count);
}

gboolean g_atomic_ref_count_dec(gatomicrefcount *count)
{
        return g_atomic_int_dec_and_test(count);
}
