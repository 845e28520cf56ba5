/*
 * Names of files and of lockspaces, as a caller of the mount may write them.
 * What is a name at all is said here once more, from lockspacefs(5).
 */
#include "bytes.h"
#include "name.h"
#include <errno.h>
#include <string.h>

/* A resource has one file name, and that leads back to it. */
static void check_round_trip(const uint8_t *name, size_t len)
{
        char file_name[FILE_NAME_MAX + 1];
        uint8_t back[RESOURCE_NAME_MAX];
        size_t back_len;

        resource_name_encode(name, len, file_name);
        g_assert_cmpint(resource_name_decode(file_name, back, &back_len), ==, 0);
        g_assert_cmpmem(name, len, back, back_len);
        g_assert_true(file_name[0] != '.' && !strchr(file_name, '/'));
        for (const char *p = file_name; *p; p++)
                g_assert_false((guchar)*p < ' ' || *p == 127);
}

/* Whatever is a file name is the one of its resource. */
static void check_decode(const char *file_name)
{
        uint8_t name[RESOURCE_NAME_MAX];
        char canonical[FILE_NAME_MAX + 1];
        size_t len = 0;
        int r = resource_name_decode(file_name, name, &len);

        if (r == 0) {
                g_assert_cmpuint(len, >=, 1);
                g_assert_cmpuint(len, <=, RESOURCE_NAME_MAX);
                resource_name_encode(name, len, canonical);
                g_assert_cmpstr(canonical, ==, file_name);
        } else if (r == -ENAMETOOLONG) {
                g_assert_cmpuint(strlen(file_name), >, RESOURCE_NAME_MAX);
        } else {
                g_assert_cmpint(r, ==, -EINVAL);
        }
}

static void check_lockspace(const char *name)
{
        gboolean is_good = *name != '\0' && *name != '.' && strcmp(name, "plock") != 0;
        size_t len = strlen(name);

        for (const char *p = name; *p; p++)
                is_good = is_good && (g_ascii_isalnum(*p) || strchr("_-.:+#", *p));
        g_assert_cmpint(lockspace_name_check(name), ==, len > 64 ? -ENAMETOOLONG : is_good ? 0 : -EINVAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        g_autofree char *string = g_strndup((const char *)data, size);

        if (size >= 1 && size <= RESOURCE_NAME_MAX)
                check_round_trip(data, size);
        check_decode(string);
        check_lockspace(string);
        return 0;
}
