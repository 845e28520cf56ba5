#include "mount-look.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

pid_t mount_look_fork(int *ret_fd)
{
        int fds[2], null;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -1;
        pid = fork();
        if (pid < 0) {
                close(fds[0]);
                close(fds[1]);
                return -1;
        }
        if (pid == 0) {
                null = open("/dev/null", O_RDWR | O_CLOEXEC);
                for (int i = 0; i < 3; i++)
                        dup2(null, i);
        }
        close(fds[pid == 0 ? 0 : 1]);
        *ret_fd = fds[pid == 0 ? 1 : 0];
        return pid;
}

/* This needs no openat2(2): one name that is not followed leads nowhere else. A
 * device cannot be opened before we see that it is one: users' mounts are nodev. */
static int open_here(int directory, const char *name, int flags, mode_t type)
{
        struct stat its, ours;
        int fd, r = 0;

        g_assert(!strchr(name, '/') && !g_str_equal(name, ".."));
        fd = openat(directory, name, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
                return errno == ELOOP || errno == ENOTDIR || errno == ENXIO ? -ENOENT : -errno;
        if (fstat(fd, &its) < 0 || fstat(directory, &ours) < 0)
                r = -errno;
        else if ((its.st_mode & S_IFMT) != type || its.st_dev != ours.st_dev)
                r = -ENOENT;
        if (r < 0) {
                close(fd);
                return r;
        }
        return fd;
}

int mount_look_open(int directory, const char *name)
{
        return open_here(directory, name, O_PATH | O_DIRECTORY, S_IFDIR);
}

static int read_all(int fd, size_t max, GString *text)
{
        char buffer[65536];
        ssize_t n;

        while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
                if ((size_t)n > max - text->len)
                        return -EFBIG;
                g_string_append_len(text, buffer, n);
        }
        return n < 0 ? -errno : 0;
}

int mount_look_read(int directory, const char *name, size_t *left, char **ret_text)
{
        g_autoptr(GString) text = g_string_new(NULL);
        int fd, r;

        fd = open_here(directory, name, O_RDONLY, S_IFREG);
        if (fd < 0)
                return fd;
        r = read_all(fd, *left, text);
        close(fd);
        if (r < 0)
                return r;
        *left -= text->len;
        *ret_text = g_string_free(g_steal_pointer(&text), FALSE);
        return 0;
}
