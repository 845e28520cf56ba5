/* Files of /proc/PID, whose command is the user's choice. */
#include "bytes.h"
#include "process.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        Bytes bytes = { data, size };
        g_autofree char *text = bytes_take_string(&bytes, '\0');
        g_autofree char *stat = g_strconcat("7 (", text, ") S 3 7 5 0", NULL);
        g_autofree char *status = g_strconcat("Name:\t", text, NULL);
        g_autofree char *command = NULL;
        ProcessEntry entry = { 0 };

        g_assert_true(process_parse_stat(stat, &entry));        /* whatever he is called */
        g_assert_cmpint(entry.parent, ==, 3);
        g_assert_cmpint(entry.session, ==, 5);
        g_assert_false(entry.is_over);
        process_parse_stat(text, &entry);
        process_parse_is_ofd(text);
        if (!strchr(text, '\n'))                /* of which the kernel makes \\n */
                g_assert_cmpint(process_parse_status(status, 7), ==, 7);
        process_parse_status(text, 7);

        command = process_parse_command(text);
        g_assert_cmpint(*command, !=, '\0');
        for (const char *p = command; *p; p++)
                g_assert_false(g_ascii_iscntrl(*p));
        return 0;
}
