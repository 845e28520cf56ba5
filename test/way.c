#include "way.h"
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char *const way_names[] = {
        [WAY_FLOCK] = "flock",
        [WAY_FLOCK_SHARED] = "flock-shared",
        [WAY_POSIX] = "posix",
        [WAY_OFD] = "ofd",
        [WAY_OPEN] = "open",
};

Way way_from_string(const char *string)
{
        for (size_t i = 0; i < sizeof(way_names) / sizeof(*way_names); i++)
                if (strcmp(string, way_names[i]) == 0)
                        return (Way)i;
        errx(2, "%s: no such way to lock", string);
}

static int way_lock(Way way, int fd, bool wait)
{
        struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

        switch (way) {
        case WAY_FLOCK:
                return flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB);
        case WAY_FLOCK_SHARED:
                return flock(fd, wait ? LOCK_SH : LOCK_SH | LOCK_NB);
        case WAY_POSIX:
                return fcntl(fd, wait ? F_SETLKW : F_SETLK, &whole);
        case WAY_OFD:
                return fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &whole);
        case WAY_OPEN:
                break;                          /* opening it took it */
        }
        return 0;
}

int way_take(Way way, const char *directory, const char *name, bool wait)
{
        char path[PATH_MAX];
        int fd;

        snprintf(path, sizeof(path), "%s%s/%s", directory, way == WAY_OPEN ? "/.ex" : "", name);
        fd = open(path, (way == WAY_OPEN ? O_RDWR : O_RDWR | O_CREAT) | (wait ? 0 : O_NONBLOCK), 0666);
        if (fd < 0) {
                if (way == WAY_OPEN && errno == EWOULDBLOCK)
                        return -1;
                err(1, "%s", path);
        }
        if (way_lock(way, fd, wait) == 0)
                return fd;
        if (errno != EWOULDBLOCK || wait)
                err(1, "lock %s", path);
        close(fd);
        return -1;
}
