/*
 * What is written to .force, or set as user.force: "0" or "1", and a newline
 * may follow.
 */
#include "bytes.h"
#include "control.h"
#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        gboolean force = 2;
        int r = control_parse_force((const char *)data, size, &force);
        g_autofree char *text = g_strndup((const char *)data, size);
        gboolean is_zero = strcmp(text, "0") == 0 || strcmp(text, "0\n") == 0;
        gboolean is_one = strcmp(text, "1") == 0 || strcmp(text, "1\n") == 0;

        if (strlen(text) == size && (is_zero || is_one)) {
                g_assert_cmpint(r, ==, 0);
                g_assert_cmpint(force, ==, is_one);
        } else {
                g_assert_cmpint(r, ==, -EINVAL);
                g_assert_cmpint(force, ==, 2);
        }
        return 0;
}
