#include "name.h"
#include <errno.h>
#include <string.h>

int lockspace_name_check(const char *name)
{
        static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:+#";
        size_t len = strlen(name);

        if (len > LOCKSPACE_NAME_MAX)
                return -ENAMETOOLONG;
        /* Others hang udev and with it every later create on the node; "plock"
         * is dlm_controld's own device. */
        if (len == 0 || name[0] == '.' || strspn(name, allowed) != len || g_str_equal(name, "plock"))
                return -EINVAL;
        return 0;
}

/* Is there a '%' with two hex digits at @p? */
static gboolean is_escape(const uint8_t *p, const uint8_t *end)
{
        return end - p >= 3 && p[0] == '%' && g_ascii_isxdigit(p[1]) && g_ascii_isxdigit(p[2]);
}

void resource_name_encode(const uint8_t *name, size_t len, char ret_file_name[static FILE_NAME_MAX + 1])
{
        lockspacefs_file_name(name, len, ret_file_name);
}

int resource_name_decode(const char *file_name, uint8_t ret_name[static RESOURCE_NAME_MAX], size_t *ret_len)
{
        const uint8_t *p = (const uint8_t *)file_name, *end = p + strlen(file_name);
        char canonical[FILE_NAME_MAX + 1];
        size_t len = 0;

        for (; p < end; p++) {
                if (len == RESOURCE_NAME_MAX)
                        return -ENAMETOOLONG;
                if (is_escape(p, end)) {
                        ret_name[len++] = g_ascii_xdigit_value(p[1]) << 4 | g_ascii_xdigit_value(p[2]);
                        p += 2;
                } else {
                        ret_name[len++] = *p;
                }
        }
        if (len == 0)
                return -EINVAL;
        resource_name_encode(ret_name, len, canonical);
        if (!g_str_equal(canonical, file_name))
                return -EINVAL;
        *ret_len = len;
        return 0;
}
