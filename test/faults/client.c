/*
 * faults-client NAME SEED RECORD MOUNT BROKEN RESOURCE...: a process that takes
 * locks, one after the other, on any of the resources (LOCKSPACE/NAME), in any
 * way and mode, and keeps a record of its critical sections:
 *
 *   TICK want ID RESOURCE WAY MODE TRY        just before it asks; TRY: 1 without waiting
 *   TICK refused ID ERRNO                     what it got instead
 *   TICK begin ID                             just after it got it
 *   TICK read ID VALUE                        after reading: the value, "-" for an empty one, or !ERRNO
 *   TICK write ID VALUE                       before writing
 *   TICK wrote ID ERRNO                       after writing, 0 for success
 *   TICK synced ID ERRNO                      after fsync
 *   TICK lost ID REVENTS                      poll says that the lock is lost
 *   TICK end ID                               just before it lets go, or asks for another mode
 *   TICK left ID ERRNO                        just after it has let go
 *
 * Beginnings, writes and ends are on the host before the next thing is done: a
 * section without an end lasted until its process was killed, at least.
 *
 * BROKEN is 0; or N: every Nth lock for writing is not taken at all, though the
 * record says so. Who reads the records must find that.
 */
#include "record.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/time.h>
#include <unistd.h>

#define VALUE_MAX 32
#define SECTION_US 3000                         /* the longest, mostly */
#define LONG_SECTION_US 400000                  /* the longest of the few that are likely to be hit */
#define PAUSE_US 10000                          /* between two sections, the longest */
#define RETRY_US 20000                          /* while there is no mount, or no lockspace */
#define PATIENCE_US 300000                      /* of who does not wait for good */

enum { EACH_TRY = 10, EACH_IMPATIENT = 10, EACH_SYNC = 5, EACH_LONG = 30 };     /* one in so many */

typedef struct Choice {
        const char *resource, *way, *mode;
        bool try;
} Choice;

static Record record;
static const char *name, *mount_point;
static uint64_t chance_state;
static unsigned broken;                         /* see above */
static unsigned writing_locks;
static unsigned id;                             /* of the section */

/* xorshift64*: the same on every machine */
static unsigned chance(unsigned n)
{
        chance_state ^= chance_state >> 12;
        chance_state ^= chance_state << 25;
        chance_state ^= chance_state >> 27;
        return (chance_state * 2685821657736338717ull >> 33) % n;
}

#define NOTE(...) record_at(&record, ticks(), __VA_ARGS__)

/* --- ways --- */

static bool is_open(const Choice *choice)
{
        return strcmp(choice->way, "open") == 0;
}

static int set_lock(int fd, const Choice *choice, const char *mode)
{
        const bool unlock = strcmp(mode, "un") == 0, share = strcmp(mode, "pr") == 0;
        struct flock lock = { .l_type = unlock ? F_UNLCK : share ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
        bool ofd = strcmp(choice->way, "ofd") == 0;

        if (strcmp(choice->way, "flock") == 0)
                return flock(fd, (unlock ? LOCK_UN : share ? LOCK_SH : LOCK_EX) | (choice->try ? LOCK_NB : 0));
        if (choice->try)
                return fcntl(fd, ofd ? F_OFD_SETLK : F_SETLK, &lock);
        return fcntl(fd, ofd ? F_OFD_SETLKW : F_SETLKW, &lock);
}

/* The file, not locked yet unless opening locks it; or -1. */
static int open_file(const Choice *choice, bool ignore)
{
        const char *slash = strchr(choice->resource, '/');
        const int lockspace_len = slash - choice->resource;
        char path[256];

        if (is_open(choice) || ignore)
                snprintf(path, sizeof(path), "%s/%.*s/.%s%s", mount_point, lockspace_len, choice->resource,
                         ignore ? "nl" : choice->mode, slash);
        else
                snprintf(path, sizeof(path), "%s/%s", mount_point, choice->resource);
        return open(path, O_RDWR | O_CLOEXEC | (is_open(choice) ? 0 : O_CREAT) | (choice->try ? O_NONBLOCK : 0), 0666);
}

/* Not part of the request: there may be neither mount nor lockspace just now. */
static int open_unlocked(const Choice *choice)
{
        int fd;

        while ((fd = open_file(choice, false)) < 0)
                usleep(RETRY_US);
        return fd;
}

/* --- a section --- */

static bool may_write(const char *mode)
{
        return strcmp(mode, "ex") == 0 || strcmp(mode, "pw") == 0;
}

static void read_value(int fd)
{
        char value[VALUE_MAX + 1];
        ssize_t n = pread(fd, value, VALUE_MAX, 0);

        if (n < 0) {
                NOTE("read %u !%d", id, errno);
                return;
        }
        value[n] = '\0';
        for (char *c = value; *c; c++)
                if (*c <= ' ' || *c > '~')
                        *c = '?';
        NOTE("read %u %s", id, n == 0 ? "-" : value);
}

static void write_value(int fd)
{
        char value[VALUE_MAX + 1] = "";
        int error;

        snprintf(value, sizeof(value), "%s.%u", name, id);
        NOTE("write %u %s", id, value);
        record_push(&record);
        error = pwrite(fd, value, VALUE_MAX, 0) == VALUE_MAX ? 0 : errno;
        NOTE("wrote %u %d", id, error);
        if (chance(EACH_SYNC) == 0) {
                error = fsync(fd) == 0 ? 0 : errno;
                NOTE("synced %u %d", id, error);
        }
}

/* Under the lock, until just before its end. */
static void live_in_section(int fd, const char *mode)
{
        struct pollfd poll_fd = { .fd = fd, .events = POLLPRI };

        NOTE("begin %u", id);
        record_push(&record);
        if (chance(2) == 0)
                read_value(fd);
        if (may_write(mode) && chance(2) == 0)
                write_value(fd);
        usleep(chance(chance(EACH_LONG) == 0 ? LONG_SECTION_US : SECTION_US));
        if (poll(&poll_fd, 1, 0) == 1 && poll_fd.revents & (POLLERR | POLLHUP))
                NOTE("lost %u %d", id, poll_fd.revents);
        NOTE("end %u", id);
        record_push(&record);
}

static void want(const Choice *choice, const char *mode)
{
        id++;
        NOTE("want %u %s %s %s %d", id, choice->resource, choice->way, mode, choice->try);
        record_push(&record);
}

static void set_patience(unsigned us)
{
        struct itimerval timer = { .it_value.tv_usec = us };

        setitimer(ITIMER_REAL, &timer, NULL);
}

/* After a section in one mode, without closing: one in the other of flock's and fcntl's two, or none. */
static void go_on(int fd, const Choice *choice)
{
        const char *other = strcmp(choice->mode, "pr") == 0 ? "ex" : "pr";
        const unsigned before = id;

        if (chance(4) == 0) {
                want(choice, other);
                if (set_lock(fd, choice, other) < 0) {
                        NOTE("refused %u %d", id, errno);
                        return;
                }
                NOTE("left %u 0", before);
                live_in_section(fd, other);
        }
        if (chance(2) == 0 && set_lock(fd, choice, "un") == 0)
                NOTE("left %u 0", id);
}

static void lock_once(const Choice *choice)
{
        const bool ignore = broken && may_write(choice->mode) && ++writing_locks % broken == 0;
        int fd = is_open(choice) || ignore ? -1 : open_unlocked(choice);
        int result, error;

        want(choice, choice->mode);
        if (chance(EACH_IMPATIENT) == 0)
                set_patience(1 + chance(PATIENCE_US));
        result = fd >= 0 ? set_lock(fd, choice, choice->mode) : (fd = open_file(choice, ignore));
        error = errno;
        set_patience(0);
        if (result < 0) {
                NOTE("refused %u %d", id, error);
                if (error != EAGAIN && error != EINTR)
                        usleep(RETRY_US);
        } else {
                live_in_section(fd, choice->mode);
                if (!is_open(choice) && !ignore)
                        go_on(fd, choice);
        }
        if (fd >= 0) {
                error = close(fd) < 0 ? errno : 0;
                if (result >= 0)
                        NOTE("left %u %d", id, error);
        }
        record_push(&record);
}

static void choose(Choice *choice, char *const *resources, int count)
{
        static const char *const ways[] = { "flock", "posix", "ofd", "open", "open" };
        static const char *const modes[] = { "nl", "cr", "cr", "cw", "cw", "pr", "pr", "pr", "pw", "pw", "ex", "ex", "ex" };

        choice->resource = resources[chance(count)];
        choice->way = ways[chance(sizeof(ways) / sizeof(*ways))];
        if (is_open(choice))
                choice->mode = modes[chance(sizeof(modes) / sizeof(*modes))];
        else
                choice->mode = chance(3) == 0 ? "ex" : "pr";
        choice->try = chance(EACH_TRY) == 0;
}

static void do_nothing(int number)
{
        (void) number;
}

int main(int argc, char **argv)
{
        const struct sigaction quick = { .sa_handler = do_nothing };    /* and a call that waits is not made again */

        if (argc < 7)
                errx(2, "usage: faults-client NAME SEED RECORD MOUNT BROKEN RESOURCE...");
        name = argv[1];
        chance_state = strtoull(argv[2], NULL, 10) * 2 + 1;
        for (int i = 0; i < 20; i++)
                chance(2);
        record_open(&record, argv[3]);
        mount_point = argv[4];
        broken = atoi(argv[5]);
        sigaction(SIGALRM, &quick, NULL);
        for (;;) {
                Choice choice;

                choose(&choice, argv + 6, argc - 6);
                lock_once(&choice);
                usleep(chance(PAUSE_US));
        }
}
