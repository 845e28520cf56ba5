#include "mode.h"
#include <string.h>

/* dlm(3) and the VAX lock manager before it, in words: which modes may be
 * granted beside the first one. */
static const char *const beside[MODE_COUNT] = {
        "NL: NL CR CW PR PW EX",
        "CR: NL CR CW PR PW",
        "CW: NL CR CW",
        "PR: NL CR PR",
        "PW: NL CR",
        "EX: NL",
};

static gboolean is_named(const char *list, LockMode mode)
{
        const char *modes = strchr(list, ':');

        return strstr(modes, mode_to_string(mode)) != NULL;
}

static void test_compatible_modes_are_those_of_the_dlm(void)
{
        for (LockMode a = MODE_NL; a < MODE_COUNT; a++) {
                g_assert_true(g_str_has_prefix(beside[a], mode_to_string(a)));
                for (LockMode b = MODE_NL; b < MODE_COUNT; b++)
                        g_assert_cmpint(mode_is_compatible(a, b), ==, is_named(beside[a], b));
        }
}

static void test_compatibility_is_symmetric(void)
{
        for (LockMode a = MODE_NL; a < MODE_COUNT; a++)
                for (LockMode b = MODE_NL; b < MODE_COUNT; b++)
                        g_assert_cmpint(mode_is_compatible(a, b), ==, mode_is_compatible(b, a));
}

static void test_numbers_are_the_kernels(void)
{
        const int numbers[] = { MODE_NL, MODE_CR, MODE_CW, MODE_PR, MODE_PW, MODE_EX };

        g_assert_cmpint(G_N_ELEMENTS(numbers), ==, MODE_COUNT);
        for (int i = 0; i < MODE_COUNT; i++)    /* their order on the wire, from 0 */
                g_assert_cmpint(numbers[i], ==, i);
}

static void test_only_pw_and_ex_write(void)
{
        for (LockMode m = MODE_NL; m < MODE_COUNT; m++)
                g_assert_cmpint(mode_is_writer(m), ==, m == MODE_PW || m == MODE_EX);
}

static void test_mode_directories_have_the_modes_names(void)
{
        for (LockMode m = MODE_NL; m < MODE_COUNT; m++) {
                g_autofree char *lower = g_ascii_strdown(mode_to_string(m), -1);
                g_autofree char *expected = g_strconcat(".", lower, NULL);
                LockMode found = MODE_COUNT;

                g_assert_cmpstr(mode_to_directory(m), ==, expected);
                g_assert_true(mode_from_directory(expected, &found));
                g_assert_cmpint(found, ==, m);
        }
}

static void test_other_names_are_no_mode_directory(void)
{
        const char *const others[] = { "", ".", "..", "ex", ".e", ".exx", ".EX", ".force", ".locks", ".nl/" };

        for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
                LockMode mode = MODE_PR;

                g_assert_false(mode_from_directory(others[i], &mode));
                g_assert_cmpint(mode, ==, MODE_PR);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/mode/compatible-modes-are-those-of-the-dlm", test_compatible_modes_are_those_of_the_dlm);
        g_test_add_func("/mode/compatibility-is-symmetric", test_compatibility_is_symmetric);
        g_test_add_func("/mode/numbers-are-the-kernels", test_numbers_are_the_kernels);
        g_test_add_func("/mode/only-pw-and-ex-write", test_only_pw_and_ex_write);
        g_test_add_func("/mode/mode-directories-have-the-modes-names", test_mode_directories_have_the_modes_names);
        g_test_add_func("/mode/other-names-are-no-mode-directory", test_other_names_are_no_mode_directory);
        return g_test_run();
}
