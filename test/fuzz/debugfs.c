/* The kernel's list of locks. The first two bytes: our xid, our node. */
#include "bytes.h"
#include "dlm-debugfs.h"

#define NOW_NS (G_GUINT64_CONSTANT(1000000) * 1000000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        Bytes bytes = { data, size };
        uint64_t xid = bytes_take(&bytes);
        uint32_t node = bytes_take(&bytes);
        g_autofree char *text = bytes_take_string(&bytes, '\0');
        g_autoptr(GArray) locks = dlm_debugfs_parse(text, xid, node, NOW_NS);

        for (guint i = 0; i < locks->len; i++) {
                const EngineForeign *lock = &g_array_index(locks, EngineForeign, i);

                g_assert_true(lock->name_len >= 1 && lock->name_len <= RESOURCE_NAME_MAX);
                g_assert_true(lock->mode >= MODE_NL && lock->mode <= MODE_EX);
                g_assert_true(lock->wanted >= MODE_NL && lock->wanted <= MODE_EX);
                g_assert_true(lock->state <= ENGINE_LOCK_CONVERTING);
                g_assert_true(lock->seconds == -1 || lock->seconds >= 0);
                g_assert_true(lock->is_local == (lock->node == node));
        }
        return 0;
}
