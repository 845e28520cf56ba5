/* The command line: a word each line. */
#include "bytes.h"
#include "options.h"

static void check(const Options *options)
{
        if (options->help || options->version)
                return;
        g_assert_true(g_path_is_absolute(options->mountpoint));
        g_assert_nonnull(options->engine);
        g_assert_cmpuint(options->mode, <=, 07777);
        g_assert_cmpuint(options->uid, !=, (uid_t)-1);
        g_assert_cmpuint(options->gid, !=, (gid_t)-1);
        g_assert_cmpuint(options->wait_s, <=, 3600);
        g_assert_cmpuint(options->spin_us, <=, 10000);
        g_assert_true(options->foreground || !options->debug);
        if (!g_str_equal(options->engine, "dlm"))
                g_assert_true(!options->keep && !options->lockspace_flags);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        Bytes bytes = { data, size };
        g_auto(GStrv) argv = bytes_take_arguments(&bytes, "lockspacefs");
        g_auto(Options) options = { 0 };
        g_autoptr(GError) error = NULL;

        if (options_parse((int)g_strv_length(argv), argv, &options, &error)) {
                g_assert_null(error);
                check(&options);
        } else {
                g_assert_nonnull(error);
                g_assert_cmpstr(error->message, !=, "");
        }
        return 0;
}
