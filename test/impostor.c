/*
 * impostor DIRECTORY MOUNTPOINT [mute]
 *
 * A mount of the type fuse.lockspacefs that is none, as any user can make one:
 * it shows what is in DIRECTORY as it is there, symbolic links and FIFOs, too.
 * With "mute" it takes each READ and never answers: until the end of this
 * program its callers wait, beyond the reach of SIGKILL.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int source;
static bool is_mute;

/* In DIRECTORY. */
static const char *name_of(const char *path)
{
        return path[1] ? path + 1 : ".";
}

static int impostor_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
        return fstatat(source, name_of(path), st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int impostor_readlink(const char *path, char *target, size_t size)
{
        const ssize_t n = readlinkat(source, name_of(path), target, size - 1);

        if (n < 0)
                return -errno;
        target[n] = '\0';
        return 0;
}

/* Each read(2) is a READ, which the caller waits for. */
static int impostor_open(const char *path, struct fuse_file_info *fi)
{
        fi->direct_io = 1;
        return 0;
}

static int impostor_read(const char *path, char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
        ssize_t n;
        int fd;

        while (is_mute)
                pause();
        fd = openat(source, name_of(path), O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        n = pread(fd, data, size, offset);
        if (n < 0)
                n = -errno;
        close(fd);
        return (int)n;
}

static const struct fuse_operations impostor_ops = {
        .getattr = impostor_getattr,
        .readlink = impostor_readlink,
        .open = impostor_open,
        .read = impostor_read,
};

int main(int argc, char **argv)
{
        char *mount_argv[] = { argv[0], "-f", "-s", "-oallow_other,subtype=lockspacefs,entry_timeout=0,attr_timeout=0", argv[2] };

        is_mute = argc == 4 && strcmp(argv[3], "mute") == 0;
        if (argc != 3 && !is_mute)
                errx(2, "usage: impostor DIRECTORY MOUNTPOINT [mute]");
        source = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (source < 0)
                err(1, "%s", argv[1]);
        return fuse_main(5, mount_argv, &impostor_ops, NULL);
}
