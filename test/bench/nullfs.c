/*
 * nullfs [-s MICROSECONDS] MOUNTPOINT
 *
 * A FUSE file system that does nothing: every request is answered at once, the
 * same whoever asks, and nothing is remembered. That is what a file system in
 * user space costs on the plain blocking loop of libfuse, and so what
 * lockspacefs is measured against: the mount options, what the kernel may
 * cache and the requests that come are the same. With -s it reads as lockspacefs
 * does: without blocking, and looks again for that long before it sleeps. That is
 * how fast a file system can be that has to wait for requests in this way.
 *
 * It has the shape of the real tree. Any name in the root is a lockspace, and
 * any name in a lockspace is a file whose close sends FLUSH; but .ex there is
 * a directory, in which closing a file sends none, as in a mode directory.
 */
#include "spin.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TIMEOUT_S 1.0                           /* as in lockspacefs */
#define VALUE_LEN 32

/* The kind of a file is in the low bits of its inode number, a hash of its
 * name above. */
typedef enum Kind {
        ROOT = FUSE_ROOT_ID,
        LOCKSPACE,
        MODE_DIRECTORY,
        LOCK_FILE,
        MODE_FILE,
} Kind;

#define KIND_MASK 7

static Kind kind_of(fuse_ino_t ino)
{
        return (Kind)(ino & KIND_MASK);
}

static void fill(fuse_ino_t ino, struct stat *st)
{
        const Kind kind = kind_of(ino);

        memset(st, 0, sizeof(*st));
        st->st_ino = ino;
        st->st_mode = kind == LOCK_FILE || kind == MODE_FILE ? S_IFREG | 0666 : S_IFDIR | 0777;
        st->st_size = kind == LOCK_FILE || kind == MODE_FILE ? VALUE_LEN : 0;
        st->st_nlink = 1;
}

static Kind kind_of_child(fuse_ino_t parent, const char *name)
{
        if (kind_of(parent) == ROOT)
                return LOCKSPACE;
        if (kind_of(parent) == MODE_DIRECTORY)
                return MODE_FILE;
        return strcmp(name, ".ex") == 0 ? MODE_DIRECTORY : LOCK_FILE;
}

static void null_init(void *userdata, struct fuse_conn_info *conn)
{
        conn->max_background = 65535;
        conn->congestion_threshold = 65535;
        conn->max_write = (VALUE_LEN + 1) * sysconf(_SC_PAGESIZE);
        conn->want &= ~(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

static void null_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        struct fuse_entry_param entry = { .attr_timeout = TIMEOUT_S, .entry_timeout = TIMEOUT_S };
        fuse_ino_t hash = 5381;

        for (const char *c = name; *c; c++)
                hash = hash * 33 + (unsigned char)*c;
        entry.ino = hash * (KIND_MASK + 1) | kind_of_child(parent, name);
        fill(entry.ino, &entry.attr);
        fuse_reply_entry(req, &entry);
}

static void null_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        struct stat st;

        fill(ino, &st);
        fuse_reply_attr(req, &st, TIMEOUT_S);
}

static void null_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        fi->direct_io = 1;
        fi->noflush = kind_of(ino) == MODE_FILE;
        fuse_reply_open(req, fi);
}

static void null_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
        static const char value[VALUE_LEN] = "the same value in every lock";

        fuse_reply_buf(req, value, size < sizeof(value) ? size : sizeof(value));
}

static void null_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
        fuse_reply_write(req, size);
}

static void null_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        fuse_reply_err(req, 0);
}

static void null_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        fuse_reply_err(req, 0);
}

/* Not ENOSYS, after which the kernel would not ask again. */
static void null_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
        fuse_reply_err(req, ENODATA);
}

/* The kernel asks for locks only if both are there. */
static void null_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
        lock->l_type = F_UNLCK;
        fuse_reply_lock(req, lock);
}

static void null_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int wait)
{
        fuse_reply_err(req, 0);
}

static void null_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation)
{
        fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops null_ops = {
        .init = null_init,
        .lookup = null_lookup,
        .getattr = null_getattr,
        .open = null_open,
        .read = null_read,
        .write = null_write,
        .flush = null_flush,
        .release = null_release,
        .getxattr = null_getxattr,
        .getlk = null_getlk,
        .setlk = null_setlk,
        .flock = null_flock,
};

/* As fuse_session_loop(), but see -s. */
static int spinning_loop(struct fuse_session *session, unsigned spin_us)
{
        struct pollfd poll_fd = { .fd = fuse_session_fd(session), .events = POLLIN };
        struct fuse_buf buf = { 0 };
        int r = 0;

        if (fcntl(poll_fd.fd, F_SETFL, fcntl(poll_fd.fd, F_GETFL) | O_NONBLOCK) < 0)
                return -errno;
        while (!fuse_session_exited(session)) {
                Spin spin = spin_begin(spin_us);

                do
                        r = fuse_session_receive_buf(session, &buf);
                while (r == -EAGAIN && spin_yield(&spin));
                if (r > 0)
                        fuse_session_process_buf(session, &buf);
                else if (r == -EAGAIN)
                        poll(&poll_fd, 1, -1);
                else if (r != -EINTR)
                        break;
        }
        free(buf.mem);
        return fuse_session_exited(session) ? 0 : r;
}

int main(int argc, char **argv)
{
        const gboolean is_spinning = argc == 4 && strcmp(argv[1], "-s") == 0;
        char *mount_argv[] = { argv[0], "-oallow_other,default_permissions,fsname=nullfs,subtype=nullfs" };
        struct fuse_args args = FUSE_ARGS_INIT(2, mount_argv);
        struct fuse_session *session;
        int r;

        if (argc != 2 && !is_spinning) {
                fprintf(stderr, "usage: nullfs [-s MICROSECONDS] MOUNTPOINT\n");
                return 2;
        }
        session = fuse_session_new(&args, &null_ops, sizeof(null_ops), NULL);
        if (!session)
                return 1;
        if (fuse_set_signal_handlers(session) < 0 || fuse_session_mount(session, argv[argc - 1]) < 0)
                return 1;
        r = is_spinning ? spinning_loop(session, strtoul(argv[2], NULL, 10)) : fuse_session_loop(session);
        fuse_session_unmount(session);
        fuse_remove_signal_handlers(session);
        fuse_session_destroy(session);
        fuse_opt_free_args(&args);
        return r != 0;
}
