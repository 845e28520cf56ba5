#include "mount-table.h"
#include <errno.h>
#include <stdio.h>
#include <sys/sysmacros.h>

enum { DEVICE = 2, MOUNTPOINT = 4 };            /* fields of a line; the type follows the first dash after these */

/* NULL: it cannot be read. */
static char *read_table(void)
{
        char *text = NULL;

        return g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL) ? text : NULL;
}

static gboolean read_device(const char *field, dev_t *ret_device)
{
        unsigned numbers[2];

        if (sscanf(field, "%u:%u", &numbers[0], &numbers[1]) != 2)
                return FALSE;
        *ret_device = makedev(numbers[0], numbers[1]);
        return TRUE;
}

int mount_table_find_in(const char *table, const char *mountpoint, dev_t *ret_device, char **ret_type)
{
        g_auto(GStrv) lines = g_strsplit(table, "\n", -1);

        for (guint i = g_strv_length(lines); i > 0; i--) {
                g_auto(GStrv) fields = g_strsplit(lines[i - 1], " ", -1);
                const guint n = g_strv_length(fields);
                g_autofree char *path = n > MOUNTPOINT ? g_strcompress(fields[MOUNTPOINT]) : NULL;      /* \040 and such */
                guint dash = MOUNTPOINT + 1;

                if (g_strcmp0(path, mountpoint) != 0)
                        continue;
                while (dash < n && !g_str_equal(fields[dash], "-"))
                        dash++;
                if (dash + 1 >= n || !read_device(fields[DEVICE], ret_device))
                        return -EIO;
                if (ret_type)
                        *ret_type = g_strdup(fields[dash + 1]);
                return 0;
        }
        return -ENOENT;
}

int mount_table_find(const char *mountpoint, dev_t *ret_device, char **ret_type)
{
        g_autofree char *table = read_table();

        return table ? mount_table_find_in(table, mountpoint, ret_device, ret_type) : -EIO;
}

gboolean mount_table_has_in(const char *table, dev_t device)
{
        g_auto(GStrv) lines = g_strsplit(table, "\n", -1);
        gboolean found = FALSE;

        for (char **line = lines; *line && !found; line++) {
                g_auto(GStrv) fields = g_strsplit(*line, " ", DEVICE + 2);
                dev_t its;

                found = g_strv_length(fields) > DEVICE && read_device(fields[DEVICE], &its) && its == device;
        }
        return found;
}

gboolean mount_table_has(dev_t device)
{
        g_autofree char *table = read_table();

        return table && mount_table_has_in(table, device);
}
