#include "dlm-debugfs.h"
#include "dlm-cluster.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FOLDER "/sys/kernel/debug/dlm"
#define MASTER_COPY 0x10000                     /* DLM_IFL_MSTCPY: another node's lock, mastered here */

enum {                                          /* DLM_LKSTS_*: on which of a resource's queues a lock is */
        STATUS_WAITING = 1,
        STATUS_GRANTED,
        STATUS_CONVERT,
};

typedef struct Reader {
        uint64_t xid;
        uint32_t node;                          /* ours */
        guint64 now_ns;
        uint8_t name[RESOURCE_NAME_MAX];        /* of the resource whose locks follow */
        size_t name_len;
        GArray *locks;
} Reader;

/* "rsb ADDRESS 0 0 0 0 0 0 LENGTH str NAME", or "hex 6e 61 6d 65" where a byte
 * is not printable. The one file with whole names: NAME_locks ends them at a
 * NUL, and a newline in one breaks its lines. */
static void reader_take_resource(Reader *reader, const char *line)
{
        int len = 0, at = 0;
        size_t left;

        reader->name_len = 0;
        if (sscanf(line, "rsb %*s %*d %*x %*x %*d %*d %*u %d %n", &len, &at) != 1 || at == 0 || len < 1 || len > RESOURCE_NAME_MAX)
                return;
        line += at;
        left = strlen(line);
        if (g_str_has_prefix(line, "str ") && left == 4 + (size_t)len) {
                memcpy(reader->name, line + 4, len);
        } else if (g_str_has_prefix(line, "hex") && left == 3 + 3 * (size_t)len) {
                for (int i = 0; i < len; i++) {
                        int high = g_ascii_xdigit_value(line[4 + 3 * i]), low = g_ascii_xdigit_value(line[5 + 3 * i]);

                        if (high < 0 || low < 0)
                                return;
                        reader->name[i] = (uint8_t)(high << 4 | low);
                }
        } else {
                return;
        }
        reader->name_len = len;
}

static LockMode mode_or_null(int mode)
{
        return mode >= MODE_NL && mode <= MODE_EX ? (LockMode)mode : MODE_NL;
}

static void reader_take_lock(Reader *reader, const char *line)
{
        EngineForeign lock = { 0 };
        unsigned flags, pid;
        unsigned long long xid, since_ns;
        int node, status, granted, wanted;

        if (reader->name_len == 0 ||
            sscanf(line, "lkb %*x %d %*x %u %llu %*x %x %d %d %d %*d %*d %*d %*u %llu",
                   &node, &pid, &xid, &flags, &status, &granted, &wanted, &since_ns) != 8)
                return;
        if (!(flags & MASTER_COPY) && xid == reader->xid)
                return;

        memcpy(lock.name, reader->name, reader->name_len);
        lock.name_len = reader->name_len;
        lock.state = status == STATUS_GRANTED ? ENGINE_LOCK_HELD :
                     status == STATUS_CONVERT ? ENGINE_LOCK_CONVERTING : ENGINE_LOCK_WAITING;
        lock.mode = mode_or_null(granted);
        lock.wanted = mode_or_null(wanted);
        lock.node = flags & MASTER_COPY ? (uint32_t)node : reader->node;
        lock.pid = pid;
        lock.is_local = lock.node == reader->node;
        lock.seconds = since_ns == 0 ? -1 : since_ns >= reader->now_ns ? 0 : (reader->now_ns - since_ns) / 1e9;
        g_array_append_val(reader->locks, lock);
}

/* Each line ends in a NUL before it is read: sscanf(3) first looks for the end of
 * its text, and with all that follows a long list would take a minute. */
GArray *dlm_debugfs_parse(char *text, uint64_t xid, uint32_t node, guint64 now_ns)
{
        Reader reader = {
                .xid = xid, .node = node, .now_ns = now_ns, .locks = g_array_new(FALSE, FALSE, sizeof(EngineForeign)),
        };

        for (char *line, *rest = text; (line = strsep(&rest, "\n"));)
                if (g_str_has_prefix(line, "rsb "))
                        reader_take_resource(&reader, line);
                else if (g_str_has_prefix(line, "lkb "))
                        reader_take_lock(&reader, line);
        return reader.locks;
}

/* Why the file cannot be read. Only one that is missing where there is a debugfs
 * means that the lockspace is: or that it went while it was read, for which
 * debugfs has EIO (fs/debugfs/file.c, debugfs_file_get()). */
static int failure(const GError *error)
{
        if (g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_IO))
                return -ENOENT;
        if (g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOENT))
                return access(FOLDER, F_OK) < 0 ? -EOPNOTSUPP : -ENOENT;
        if (g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_ACCES) || g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_PERM))
                return -EOPNOTSUPP;
        return -ENOMEM;
}

int dlm_debugfs_read(const char *name, uint64_t xid, GArray **ret_locks)
{
        g_autofree char *path = g_strdup_printf(FOLDER "/%s_all", name);
        g_autofree char *text = NULL;
        g_autoptr(GError) error = NULL;
        struct timespec now;

        if (!g_file_get_contents(path, &text, NULL, &error))
                return failure(error);

        clock_gettime(CLOCK_MONOTONIC, &now);
        *ret_locks = dlm_debugfs_parse(text, xid, dlm_cluster_node(), now.tv_sec * G_GUINT64_CONSTANT(1000000000) + now.tv_nsec);
        return 0;
}

int dlm_debugfs_judge(const char *name, uint64_t xid)
{
        g_autoptr(GArray) locks = NULL;
        uint32_t node = dlm_cluster_node();
        int r = dlm_debugfs_read(name, xid, &locks);

        if (r < 0)
                return r;
        for (guint i = 0; i < locks->len; i++)
                if (g_array_index(locks, EngineForeign, i).node == node)
                        return -EBUSY;
        return locks->len > 0 ? -EREMOTE : 0;
}
