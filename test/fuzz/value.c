/*
 * The value of `lockspacefs run`: 32 bytes of the lock, what the command
 * leaves in its file, and what --value= says. A lock is played here: its value
 * changes only to what was written, and by nobody without PW or EX.
 */
#include "bytes.h"
#include "run-value.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct RunLock {
        LockMode mode;
        int status;                             /* of reading and writing */
        uint8_t value[LOCKSPACEFS_VALUE_LEN];
        gboolean is_written;
};

GQuark run_error_quark(void)
{
        return g_quark_from_static_string("fuzz");
}

LockMode run_lock_mode(const RunLock *lock)
{
        return lock->mode;
}

int run_lock_read(const RunLock *lock, uint8_t ret_value[static LOCKSPACEFS_VALUE_LEN])
{
        memcpy(ret_value, lock->value, LOCKSPACEFS_VALUE_LEN);
        return lock->status;
}

int run_lock_write(RunLock *lock, const uint8_t value[static LOCKSPACEFS_VALUE_LEN])
{
        if (!mode_is_writer(lock->mode))
                return -ENOLCK;
        memcpy(lock->value, value, LOCKSPACEFS_VALUE_LEN);
        lock->is_written = TRUE;
        return lock->status;
}

/* $LOCKSPACEFS_VALUE is the value, but for the zeros and newlines at its end. */
static void check_environment(const uint8_t *value, int status)
{
        const char *text = g_getenv("LOCKSPACEFS_VALUE");
        size_t len = text ? strlen(text) : 0;

        g_assert_true((g_getenv("LOCKSPACEFS_VALUE_LOST") != NULL) == (status == -EIO));
        g_assert_nonnull(g_getenv("LOCKSPACEFS_VALUE_FILE"));
        g_assert_true(!text || status == 0);
        g_assert_true(!text || (len <= LOCKSPACEFS_VALUE_LEN && memcmp(text, value, len) == 0));
        for (size_t i = len; text && i < LOCKSPACEFS_VALUE_LEN; i++)
                g_assert_true(value[i] == '\0' || value[i] == '\n');
}

/* As a command does with >$LOCKSPACEFS_VALUE_FILE; FALSE: it may not. */
static gboolean write_file(const Bytes *content)
{
        int fd = open(g_getenv("LOCKSPACEFS_VALUE_FILE"), O_WRONLY | O_CLOEXEC);
        gboolean ok;

        g_assert_cmpint(fd, >=, 0);
        ok = ftruncate(fd, 0) == 0 && write(fd, content->at, content->left) == (ssize_t)content->left;
        close(fd);
        return ok;
}

static void check_set(RunLock *lock, RunValue *value, const char *constant, const Bytes *content)
{
        g_autoptr(GError) error = NULL;
        gboolean is_writer = mode_is_writer(lock->mode), is_file_written = content && write_file(content);
        uint8_t expected[LOCKSPACEFS_VALUE_LEN] = { 0 };
        gboolean ok;

        if (content && !is_writer)
                g_assert_true(!is_file_written || content->left == 0);  /* nothing, where nothing was */
        else if (content)
                g_assert_true(is_file_written);
        ok = run_value_set(value, constant, &error);
        g_assert_true(ok == !error);
        if (!is_writer || (is_file_written && content->left > LOCKSPACEFS_VALUE_LEN)) {
                g_assert_false(lock->is_written);
                g_assert_true(ok == (!is_writer && !constant));         /* then there was nothing to do */
                return;
        }
        if (is_file_written)
                memcpy(expected, content->at, content->left);
        else if (constant)
                memcpy(expected, constant, strlen(constant));
        g_assert_true(lock->is_written == (is_file_written || constant));
        g_assert_true(ok == (!lock->is_written || lock->status == 0));
        g_assert_true(!lock->is_written || memcmp(lock->value, expected, sizeof(expected)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const int statuses[] = { 0, 0, 0, -EIO, -EBADF, -ESTALE };
        Bytes bytes = { data, size };
        RunLock lock = { .mode = bytes_take(&bytes) % MODE_COUNT, .status = statuses[bytes_take(&bytes) % G_N_ELEMENTS(statuses)] };
        uint8_t choice = bytes_take(&bytes);
        g_autofree char *constant = choice & 1 ? bytes_take_string(&bytes, '\0') : NULL;
        g_autoptr(RunValue) value = NULL;
        g_autoptr(GError) error = NULL;

        for (int i = 0; i < LOCKSPACEFS_VALUE_LEN; i++)
                lock.value[i] = bytes_take(&bytes);
        if (constant && strlen(constant) > LOCKSPACEFS_VALUE_LEN)
                constant[LOCKSPACEFS_VALUE_LEN] = '\0'; /* the command line takes no longer one */
        if (run_value_new(&lock, &value, &error)) {
                check_environment(lock.value, lock.status);
                check_set(&lock, value, constant, choice & 2 ? &bytes : NULL);
        } else {
                g_assert_cmpint(lock.status, ==, -ESTALE);
        }
        return 0;
}
