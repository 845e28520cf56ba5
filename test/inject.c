/*
 * Faults for a daemon that runs: preloaded into it (LD_PRELOAD), this library
 * makes chosen calls fail, or read less than there is. What is to fail
 * stands in a file that $LOCKSPACEFS_INJECT names, mapped by both sides, so
 * that a test changes it under a mount and sees what happened: test/inject.py.
 *
 * Calls are counted while they match. The first @skip go through, of the next
 * @count each @every'th fails, and all after them go through.
 *
 * Of malloc() and its like only those count that one program or library makes
 * itself: GLib ends the program when one of its own fails, so that its would
 * tell nothing.
 */
#undef _FILE_OFFSET_BITS                       /* it would make open() another name of open64() */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

typedef enum Kind {                             /* in the order of inject.py */
        KIND_NONE,
        KIND_READ,
        KIND_WRITE,
        KIND_OPEN,
        KIND_EVENTFD,
        KIND_EPOLL_CREATE,
        KIND_EPOLL_CTL,
        KIND_THREAD,
        KIND_MALLOC,
        KIND_CLOSE_RANGE,
} Kind;

typedef struct Plan {                           /* the file */
        uint32_t kind;
        int32_t error;                          /* the errno; 0: a short read */
        uint32_t length;                        /* of a short read, at most */
        uint32_t skip;
        uint32_t count;
        uint32_t every;                         /* 1: all of those */
        uint32_t seen;                          /* calls that matched */
        uint32_t injected;                      /* and of these, changed */
        char path[256];                         /* how that of the file begins, of reads, writes and opens; of malloc: the caller's name */
} Plan;

static Plan nothing;
static Plan *plan = &nothing;

__attribute__((constructor)) static void inject_start(void)
{
        const char *file = getenv("LOCKSPACEFS_INJECT");
        int fd = file ? open(file, O_RDWR | O_CLOEXEC) : -1;
        void *map;

        if (fd < 0)
                return;
        map = mmap(NULL, sizeof(Plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (map != MAP_FAILED)
                plan = map;
}

static int is_of_kind(Kind kind)
{
        return __atomic_load_n(&plan->kind, __ATOMIC_ACQUIRE) == kind;
}

/* This call matches: is it one of those? */
static int strike(void)
{
        uint32_t before = __atomic_fetch_add(&plan->seen, 1, __ATOMIC_ACQ_REL);

        if (before < plan->skip || before - plan->skip >= plan->count || (before - plan->skip) % plan->every)
                return 0;
        __atomic_fetch_add(&plan->injected, 1, __ATOMIC_ACQ_REL);
        errno = plan->error;
        return 1;
}

static int is_path(const char *path)
{
        return strncmp(path, plan->path, strlen(plan->path)) == 0;
}

static int strike_path(Kind kind, const char *path)
{
        return is_of_kind(kind) && is_path(path) && strike();
}

/* The thread may have a descriptor table of its own. */
static int strike_fd(Kind kind, int fd)
{
        char link[64], path[256] = "";
        const int saved = errno;

        if (!is_of_kind(kind))
                return 0;
        snprintf(link, sizeof(link), "/proc/thread-self/fd/%d", fd);
        if (readlinkat(AT_FDCWD, link, path, sizeof(path) - 1) < 0)
                path[0] = '\0';
        errno = saved;
        return is_path(path) && strike();
}

/* The function of that name that would have been called without us. */
#define NEXT(name)                                                              \
        ({                                                                      \
                static __typeof__(&name) next;                                  \
                if (!next)                                                      \
                        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name);      \
                next;                                                           \
        })

ssize_t read(int fd, void *buf, size_t size)
{
        ssize_t n;

        if (!strike_fd(KIND_READ, fd))
                return NEXT(read)(fd, buf, size);
        if (plan->error)
                return -1;
        n = NEXT(read)(fd, buf, size);
        return n > (ssize_t)plan->length ? (ssize_t)plan->length : n;
}

ssize_t write(int fd, const void *buf, size_t size)
{
        return strike_fd(KIND_WRITE, fd) ? -1 : NEXT(write)(fd, buf, size);
}

/* The mode, which follows when a file may be made. */
#define MODE(flags)                                                             \
        ({                                                                      \
                mode_t mode = 0;                                                \
                                                                                \
                if (flags & (O_CREAT | __O_TMPFILE)) {                          \
                        va_list args;                                           \
                                                                                \
                        va_start(args, flags);                                  \
                        mode = va_arg(args, mode_t);                            \
                        va_end(args);                                           \
                }                                                               \
                mode;                                                           \
        })

#define OPEN(name)                                                              \
        int name(const char *path, int flags, ...)                              \
        {                                                                       \
                return strike_path(KIND_OPEN, path) ? -1 : NEXT(name)(path, flags, MODE(flags)); \
        }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                            \
        int name(int folder, const char *path, int flags, ...)                  \
        {                                                                       \
                return strike_path(KIND_OPEN, path) ? -1 : NEXT(name)(folder, path, flags, MODE(flags)); \
        }
OPENAT(openat)
OPENAT(openat64)

int eventfd(unsigned value, int flags)
{
        return is_of_kind(KIND_EVENTFD) && strike() ? -1 : NEXT(eventfd)(value, flags);
}

int epoll_create1(int flags)
{
        return is_of_kind(KIND_EPOLL_CREATE) && strike() ? -1 : NEXT(epoll_create1)(flags);
}

int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
        return is_of_kind(KIND_EPOLL_CTL) && strike() ? -1 : NEXT(epoll_ctl)(epoll, op, fd, event);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *data)
{
        return is_of_kind(KIND_THREAD) && strike() ? plan->error : NEXT(pthread_create)(thread, attr, run, data);
}

/* Only those that need memory, for a table of the thread's own. */
int close_range(unsigned first, unsigned last, int flags)
{
        return flags & CLOSE_RANGE_UNSHARE && is_of_kind(KIND_CLOSE_RANGE) && strike() ? -1 : NEXT(close_range)(first, last, flags);
}

/* --- memory --- */

static int strike_malloc(const void *caller)
{
        const char *slash;
        Dl_info info;

        if (!is_of_kind(KIND_MALLOC) || !dladdr(caller, &info))
                return 0;
        slash = strrchr(info.dli_fname, '/');
        return is_path(slash ? slash + 1 : info.dli_fname) && strike();
}

void *malloc(size_t size)
{
        return strike_malloc(__builtin_return_address(0)) ? NULL : NEXT(malloc)(size);
}

void *calloc(size_t n, size_t size)
{
        return strike_malloc(__builtin_return_address(0)) ? NULL : NEXT(calloc)(n, size);
}

void *realloc(void *old, size_t size)
{
        return strike_malloc(__builtin_return_address(0)) ? NULL : NEXT(realloc)(old, size);
}
