#include "operation.h"
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define VALUE_LEN 32

static const char value[VALUE_LEN] = "32 bytes, and none of them zero.";

/* --- files --- */

static int open_file(const Case *c, int flags)
{
        int fd = open(c->path, O_RDWR | O_CLOEXEC | flags, 0666);

        if (fd < 0)
                err(1, "%s", c->path);
        return fd;
}

static void close_file(const Case *c, int fd)
{
        if (close(fd) < 0)
                err(1, "close %s", c->path);
}

static void set_flock(const Case *c, int fd, int operation)
{
        if (flock(fd, operation) < 0)
                err(1, "flock %s", c->path);
}

static void set_fcntl(const Case *c, short type)
{
        struct flock whole = { .l_type = type, .l_whence = SEEK_SET };

        if (fcntl(c->fd, F_SETLK, &whole) < 0)
                err(1, "fcntl %s", c->path);
}

static void begin_open(Case *c)
{
        close_file(c, open_file(c, O_CREAT));
}

static void begin_opened(Case *c)
{
        c->fd = open_file(c, O_CREAT);
}

static void begin_value(Case *c)
{
        begin_opened(c);
        if (pwrite(c->fd, value, sizeof(value), 0) != sizeof(value))
                err(1, "write %s", c->path);
}

static void call_open(Case *c)
{
        close_file(c, open_file(c, 0));
}

static void call_flock(Case *c)
{
        set_flock(c, c->fd, LOCK_EX);
        set_flock(c, c->fd, LOCK_UN);
}

static void call_flock_shared(Case *c)
{
        set_flock(c, c->fd, LOCK_SH);
        set_flock(c, c->fd, LOCK_UN);
}

static void call_open_flock(Case *c)
{
        int fd = open_file(c, 0);

        set_flock(c, fd, LOCK_EX);
        set_flock(c, fd, LOCK_UN);
        close_file(c, fd);
}

static void call_fcntl(Case *c)
{
        set_fcntl(c, F_WRLCK);
        set_fcntl(c, F_UNLCK);
}

static void call_read(Case *c)
{
        char buffer[VALUE_LEN];

        if (pread(c->fd, buffer, sizeof(buffer), 0) != sizeof(buffer))
                err(1, "read %s", c->path);
}

static void call_write(Case *c)
{
        if (pwrite(c->fd, value, sizeof(value), 0) != sizeof(value))
                err(1, "write %s", c->path);
}

static void call_stat(Case *c)
{
        struct statx stx;

        if (statx(AT_FDCWD, c->path, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &stx) < 0)
                err(1, "statx %s", c->path);
}

/* --- servers --- */

static void begin_redis(Case *c)
{
        c->peer = redis_connect(c->place, c->client);
}

static void call_redis(Case *c)
{
        redis_lock(c->peer);
        redis_unlock(c->peer);
}

static void begin_etcd(Case *c)
{
        c->peer = etcd_connect(c->place, c->client);
}

static void call_etcd(Case *c)
{
        etcd_lock(c->peer);
        etcd_unlock(c->peer);
}

/* --- all --- */

static const Operation operations[] = {
        { "open", begin_open, call_open },
        { "flock", begin_opened, call_flock },
        { "flock-shared", begin_opened, call_flock_shared },
        { "open-flock", begin_open, call_open_flock },
        { "fcntl", begin_opened, call_fcntl },
        { "read", begin_value, call_read },
        { "write", begin_value, call_write },
        { "stat", begin_open, call_stat },
        { "redis", begin_redis, call_redis },
        { "etcd", begin_etcd, call_etcd },
};

const Operation *operation_find(const char *name)
{
        for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++)
                if (strcmp(operations[i].name, name) == 0)
                        return operations + i;
        return NULL;
}

void case_begin(Case *c, const Operation *operation, const char *place, int client)
{
        *c = (Case){ .operation = operation, .place = place, .client = client, .fd = -1 };
        snprintf(c->path, sizeof(c->path), "%s-%d", place, client);
        operation->begin(c);
}
