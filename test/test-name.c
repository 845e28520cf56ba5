/*
 * Names: every resource has exactly one file name, and no other is taken for it.
 */
#include "name.h"
#include <errno.h>
#include <string.h>

static void assert_pair(const char *name, size_t len, const char *file_name)
{
        uint8_t decoded[RESOURCE_NAME_MAX];
        char encoded[FILE_NAME_MAX + 1];
        size_t decoded_len;

        resource_name_encode((const uint8_t *)name, len, encoded);
        g_assert_cmpstr(encoded, ==, file_name);
        g_assert_cmpint(resource_name_decode(file_name, decoded, &decoded_len), ==, 0);
        g_assert_cmpmem(decoded, decoded_len, name, len);
}

static void test_written_as_they_are(void)
{
        assert_pair("deploy", 6, "deploy");
        assert_pair("a.b c~\xff", 7, "a.b c~\xff");
        assert_pair("100%", 4, "100%");
        assert_pair("%zz %4", 6, "%zz %4");
}

static void test_escaped(void)
{
        assert_pair(".x", 2, "%2Ex");
        assert_pair("a/b", 3, "a%2Fb");
        assert_pair("\0", 1, "%00");
        assert_pair("\n\177", 2, "%0A%7F");
        assert_pair("%41", 3, "%2541");
        assert_pair("%%41", 4, "%%2541");
        assert_pair("%4\1", 3, "%4%01");
}

/* All pairs of bytes: what is written comes back. */
static void test_round_trip(void)
{
        for (int a = 0; a < 256; a++)
                for (int b = 0; b < 256; b++) {
                        const uint8_t name[] = { a, b, '4' };
                        uint8_t decoded[RESOURCE_NAME_MAX];
                        char encoded[FILE_NAME_MAX + 1];
                        size_t len;

                        resource_name_encode(name, sizeof(name), encoded);
                        g_assert_null(strchr(encoded, '/'));
                        g_assert_cmpint(encoded[0], !=, '.');
                        g_assert_cmpint(resource_name_decode(encoded, decoded, &len), ==, 0);
                        g_assert_cmpmem(decoded, len, name, sizeof(name));
                }
}

static void test_no_second_form(void)
{
        static const char *const wrong[] = { "", ".x", "..", "%2ex", "%41", "a%2fb", "%2541%7f", "a%2Eb", "\n", "%25", "%25x" };
        uint8_t decoded[RESOURCE_NAME_MAX];
        size_t len;

        for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++)
                g_assert_cmpint(resource_name_decode(wrong[i], decoded, &len), ==, -EINVAL);
}

static void test_length(void)
{
        g_autofree char *longest = g_strnfill(RESOURCE_NAME_MAX, 'x');
        g_autofree char *too_long = g_strnfill(RESOURCE_NAME_MAX + 1, 'x');
        g_autofree char *zeroes = g_malloc0(RESOURCE_NAME_MAX);
        char encoded[FILE_NAME_MAX + 1];
        uint8_t decoded[RESOURCE_NAME_MAX];
        size_t len;

        assert_pair(longest, RESOURCE_NAME_MAX, longest);
        g_assert_cmpint(resource_name_decode(too_long, decoded, &len), ==, -ENAMETOOLONG);
        resource_name_encode((uint8_t *)zeroes, RESOURCE_NAME_MAX, encoded);
        g_assert_cmpuint(strlen(encoded), ==, FILE_NAME_MAX);
        assert_pair(zeroes, RESOURCE_NAME_MAX, encoded);
}

static void test_lockspaces(void)
{
        static const char *const good[] = { "web", "A-z_0.9:+#", "x", "default", "plock2" };
        static const char *const bad[] = { "", ".web", "plock", "a b", "a/b", "\xc3\xa9", "a\n" };
        g_autofree char *longest = g_strnfill(LOCKSPACE_NAME_MAX, 'x');
        g_autofree char *too_long = g_strnfill(LOCKSPACE_NAME_MAX + 1, 'x');

        for (size_t i = 0; i < G_N_ELEMENTS(good); i++)
                g_assert_cmpint(lockspace_name_check(good[i]), ==, 0);
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_cmpint(lockspace_name_check(bad[i]), ==, -EINVAL);
        g_assert_cmpint(lockspace_name_check(longest), ==, 0);
        g_assert_cmpint(lockspace_name_check(too_long), ==, -ENAMETOOLONG);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/name/written-as-they-are", test_written_as_they_are);
        g_test_add_func("/name/escaped", test_escaped);
        g_test_add_func("/name/round-trip", test_round_trip);
        g_test_add_func("/name/no-second-form", test_no_second_form);
        g_test_add_func("/name/length", test_length);
        g_test_add_func("/name/lockspaces", test_lockspaces);
        return g_test_run();
}
