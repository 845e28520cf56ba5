/*
 * The kernel's list of locks, as Linux 6.1 writes NAME_all in debugfs.
 */
#include "dlm-debugfs.h"

#define NODE 1
#define XID 77
#define NOW_NS G_GUINT64_CONSTANT(5000000000)

static const char resource[] = "rsb 00000000c0ffee00 0 0 0 0 0 0 6 str deploy\n";

static GArray *parse(const char *format, ...) G_GNUC_PRINTF(1, 2);

static GArray *parse(const char *format, ...)
{
        g_autofree char *text = NULL;
        va_list args;

        va_start(args, format);
        text = g_strdup_vprintf(format, args);
        va_end(args);
        return dlm_debugfs_parse(text, XID, NODE, NOW_NS);
}

static const EngineForeign *at(const GArray *locks, guint i)
{
        g_assert_cmpuint(i, <, locks->len);
        return &g_array_index(locks, EngineForeign, i);
}

static void test_locks_of_others_are_found(void)
{
        g_autoptr(GArray) locks = parse("version 4\n%s"
                                        "lkb 1 0 0 1234 0 0 0 2 5 -1 0 0 0 0 3000000000\n"
                                        "lkb 2 2 3 88 5 0 10000 3 3 5 0 0 0 0 0\n"
                                        "lkb 3 0 0 1234 77 0 0 2 0 -1 0 0 0 0 3000000000\n"
                                        "rsb 00000000c0ffee00 0 0 0 0 0 0 3 hex 0a 00 ff\n"
                                        "lkb 4 0 0 1234 0 0 0 1 -1 5 0 0 0 0 3000000000", resource);

        g_assert_cmpuint(locks->len, ==, 3);
        g_assert_cmpmem(at(locks, 0)->name, at(locks, 0)->name_len, "deploy", 6);
        g_assert_cmpint(at(locks, 0)->state, ==, ENGINE_LOCK_HELD);
        g_assert_cmpint(at(locks, 0)->mode, ==, MODE_EX);
        g_assert_cmpint(at(locks, 0)->pid, ==, 1234);
        g_assert_true(at(locks, 0)->is_local && at(locks, 0)->node == NODE);
        g_assert_cmpfloat(at(locks, 0)->seconds, ==, 2);
        g_assert_cmpint(at(locks, 1)->state, ==, ENGINE_LOCK_CONVERTING);
        g_assert_cmpint(at(locks, 1)->wanted, ==, MODE_EX);
        g_assert_true(!at(locks, 1)->is_local && at(locks, 1)->node == 2);
        g_assert_cmpfloat(at(locks, 1)->seconds, ==, -1);
        g_assert_cmpmem(at(locks, 2)->name, at(locks, 2)->name_len, "\n\0\xff", 3);
        g_assert_cmpint(at(locks, 2)->state, ==, ENGINE_LOCK_WAITING);
}

/* Rather no lock than one on a name that nobody gave. */
static void test_what_cannot_be_read_is_left_out(void)
{
        static const char *const bad[] = {
                "rsb 00000000c0ffee00 0 0 0 0 0 0 2 hex 0x 41\n", "rsb 00000000c0ffee00 0 0 0 0 0 0 2 hex 0\n",
                "rsb 00000000c0ffee00 0 0 0 0 0 0 65 str deploy\n", "rsb 00000000c0ffee00 0 0 0 0 0 0 7 str deploy\n", "rsb 1 2\n",
        };

        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                g_autoptr(GArray) locks = parse("%s%slkb 1 0 0 1234 0 0 0 2 5 -1 0 0 0 0 1\n", resource, bad[i]);

                g_assert_cmpuint(locks->len, ==, 0);
        }
}

static void test_times_to_come_are_now(void)
{
        g_autoptr(GArray) locks = parse("%slkb 1 0 0 1 0 0 0 2 5 -1 0 0 0 0 5000000001\n"
                                        "lkb 1 0 0 1 0 0 0 2 5 -1 0 0 0 0 9223372036854775808\n", resource);

        g_assert_cmpfloat(at(locks, 0)->seconds, ==, 0);
        g_assert_cmpfloat(at(locks, 1)->seconds, ==, 0);
}

/* Meson gives up after half a minute. */
static void test_a_long_list_takes_no_longer_than_its_length(void)
{
        g_autoptr(GString) text = g_string_new(NULL);
        g_autoptr(GArray) locks = NULL;
        const char *number = g_getenv("LOCKSPACEFS_TEST_LOCKS");        /* fewer where each takes a hundred times as long */
        const guint n = number ? g_ascii_strtoull(number, NULL, 10) : 200000;

        for (guint i = 0; i < n; i++)
                g_string_append_printf(text, "%slkb 1 0 0 1234 0 0 0 2 5 -1 0 0 0 0 1\n", resource);
        locks = dlm_debugfs_parse(text->str, XID, NODE, NOW_NS);
        g_assert_cmpuint(locks->len, ==, n);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/debugfs/locks-of-others-are-found", test_locks_of_others_are_found);
        g_test_add_func("/debugfs/what-cannot-be-read-is-left-out", test_what_cannot_be_read_is_left_out);
        g_test_add_func("/debugfs/times-to-come-are-now", test_times_to_come_are_now);
        g_test_add_func("/debugfs/a-long-list-takes-no-longer-than-its-length", test_a_long_list_takes_no_longer_than_its_length);
        return g_test_run();
}
