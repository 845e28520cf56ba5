/*
 * What mount(8) gives its helpers, a word each line, through to our options.
 * The source stands where mount(8) puts it, and is nothing but a name: no
 * option may hide in it.
 */
#include "bytes.h"
#include "helper.h"
#include "options.h"
#include <string.h>
#include <unistd.h>

/* As options_parse() reads what the helper makes of it; FALSE: refused. */
static gboolean parse(char **words, Options *ret_options)
{
        g_auto(GStrv) argv = g_strdupv(words);
        g_autofree char **permuted = g_memdup2(argv, (g_strv_length(argv) + 1) * sizeof(*argv));   /* getopt(3) changes the order */
        g_auto(GStrv) ours = NULL;
        g_autoptr(GError) error = NULL;
        gboolean fake, ok;

        optind = 0;                             /* for getopt(3) to begin anew */
        ok = helper_mount_arguments((int)g_strv_length(argv), permuted, &ours, &fake, &error) &&
             options_parse((int)g_strv_length(ours), ours, ret_options, &error);
        g_assert_true(ok == !error);
        return ok;
}

static void check_same(const Options *a, const Options *b)
{
        g_assert_cmpstr(a->mountpoint, ==, b->mountpoint);
        g_assert_cmpstr(a->engine, ==, b->engine);
        g_assert_cmpstr(a->lockspace_flags, ==, b->lockspace_flags);
        g_assert_cmpint(a->allow_other, ==, b->allow_other);
        g_assert_cmpint(a->foreground, ==, b->foreground);
        g_assert_cmpint(a->keep, ==, b->keep);
        g_assert_cmpuint(a->mode, ==, b->mode);
        g_assert_cmpuint(a->uid, ==, b->uid);
        g_assert_cmpint(a->mount_args.argc, ==, b->mount_args.argc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        Bytes bytes = { data, size };
        g_auto(GStrv) words = bytes_take_arguments(&bytes, "mount.lockspacefs");
        g_auto(Options) options = { 0 }, plain = { 0 };
        gboolean ok = parse(words, &options);

        /* the same with another source */
        if (words[1] && words[1][0] != '-' && words[2] && words[2][0] != '-') {
                g_free(words[1]);
                words[1] = g_strdup("lockspacefs");
                g_assert_true(parse(words, &plain) == ok);
                if (ok && !options.help && !options.version)
                        check_same(&options, &plain);
        }
        return 0;
}
