/* The table of mounts: paths and sources are the mounters' choice. The first line: what is looked for. */
#include "bytes.h"
#include "mount-table.h"

#include <errno.h>
#include <sys/sysmacros.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        Bytes bytes = { data, size };
        g_autofree char *mountpoint = bytes_take_string(&bytes, '\n'), *table = bytes_take_string(&bytes, '\0'), *type = NULL;
        dev_t device = 0;
        const int r = mount_table_find_in(table, mountpoint, &device, &type);

        g_assert_true(r == 0 || r == -ENOENT || r == -EIO);
        g_assert_true((r == 0) == (type != NULL));
        if (r == 0)
                g_assert_true(mount_table_has_in(table, device));
        return 0;
}
