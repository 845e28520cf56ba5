#include "run-value.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#define ENV_VALUE "LOCKSPACEFS_VALUE"
#define ENV_LOST "LOCKSPACEFS_VALUE_LOST"
#define ENV_FILE "LOCKSPACEFS_VALUE_FILE"

struct RunValue {
        RunLock *lock;                          /* borrowed */
        int fd;                                 /* the file: a memfd_create(2) */
};

static size_t length(const uint8_t value[static LOCKSPACEFS_VALUE_LEN])
{
        size_t len = LOCKSPACEFS_VALUE_LEN;

        while (len > 0 && !value[len - 1])
                len--;
        return len;
}

/* As a shell's $(…) has it: without the zeros and newlines at its end. NULL: it
 * has a zero inside, and is no text. */
static char *to_text(const uint8_t value[static LOCKSPACEFS_VALUE_LEN])
{
        size_t len = length(value);

        if (memchr(value, '\0', len))
                return NULL;
        while (len > 0 && value[len - 1] == '\n')
                len--;
        return g_strndup((const char *)value, len);
}

static void set_environment(const RunValue *value, const uint8_t *bytes, int status)
{
        g_autofree char *file = g_strdup_printf("/proc/%d/fd/%d", (int)getpid(), value->fd);
        g_autofree char *text = status == 0 ? to_text(bytes) : NULL;

        /* of a lockspacefs run around us, perhaps */
        g_unsetenv(ENV_VALUE);
        g_unsetenv(ENV_LOST);
        if (text)
                g_setenv(ENV_VALUE, text, TRUE);
        if (status == -EIO)
                g_setenv(ENV_LOST, "1", TRUE);
        g_setenv(ENV_FILE, file, TRUE);
}

/* The value as it is, and a time of change at which nobody has written. Who
 * cannot write the value is told so when he writes the file. */
static int fill_file(const RunValue *value, const uint8_t *bytes)
{
        static const struct timespec never[2] = { 0 };

        if (write(value->fd, bytes, length(bytes)) < 0 || futimens(value->fd, never) < 0)
                return -errno;
        if (!mode_is_writer(run_lock_mode(value->lock)) && fcntl(value->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) < 0)
                return -errno;
        return 0;
}

gboolean run_value_new(RunLock *lock, RunValue **ret_value, GError **error)
{
        g_autoptr(RunValue) value = g_new0(RunValue, 1);
        uint8_t bytes[LOCKSPACEFS_VALUE_LEN];
        int status, r;

        value->lock = lock;
        value->fd = memfd_create("lockspacefs-value", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        status = run_lock_read(lock, bytes);
        r = value->fd < 0 ? -errno : fill_file(value, bytes);
        if (r < 0 || (status < 0 && status != -EIO && status != -EBADF)) {
                g_set_error(error, RUN_ERROR, r < 0 ? EX_OSERR : EX_UNAVAILABLE, "the value cannot be read: %s", g_strerror(r < 0 ? -r : -status));
                return FALSE;
        }
        set_environment(value, bytes, status);
        *ret_value = g_steal_pointer(&value);
        return TRUE;
}

/* Has the command written it? Even if nothing, or the same again. Where it may not, it can still touch the file. */
static gboolean is_written(const RunValue *value)
{
        struct stat st;

        return mode_is_writer(run_lock_mode(value->lock)) && fstat(value->fd, &st) == 0 && (st.st_mtim.tv_sec || st.st_mtim.tv_nsec);
}

gboolean run_value_set(RunValue *value, const char *constant, GError **error)
{
        uint8_t bytes[LOCKSPACEFS_VALUE_LEN + 1] = { 0 };
        ssize_t len;
        int r;

        if (is_written(value)) {
                len = pread(value->fd, bytes, sizeof(bytes), 0);
                if (len < 0 || len > LOCKSPACEFS_VALUE_LEN) {
                        g_set_error(error, RUN_ERROR, EX_DATAERR, "the value stays as it was: $%s has more than %d bytes", ENV_FILE, LOCKSPACEFS_VALUE_LEN);
                        return FALSE;
                }
        } else if (constant) {
                strncpy((char *)bytes, constant, LOCKSPACEFS_VALUE_LEN);
        } else {
                return TRUE;
        }
        r = run_lock_write(value->lock, bytes);
        if (r < 0)
                g_set_error(error, RUN_ERROR, EX_UNAVAILABLE, "the value cannot be written: %s", g_strerror(-r));
        return r == 0;
}

void run_value_free(RunValue *value)
{
        if (!value)
                return;
        if (value->fd >= 0)
                close(value->fd);
        g_free(value);
}
