/*
 * `lockspacefs status` for people: what a mount says may be anything.
 */
#include "status-text.h"

/* What is printed of a look. */
static char *print(const char *json)
{
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonNode) look = json_from_string(json, &error);
        GString *text = g_string_new(NULL);

        g_assert_no_error(error);
        status_text_add(text, json_node_get_object(look), FALSE);
        return g_string_free(text, FALSE);
}

/* Who mounts something that only says that it is lockspacefs has no say on root's terminal. */
static void test_no_terminal_is_spoilt(void)
{
        g_autofree char *text = print("{ \"mountpoint\": \"/dlm\\u001b\", \"health\": \"degraded\","
                                      "  \"problems\": [\"lockspace \\u001b[2J is stopped\", \"b\\u009bc\"],"
                                      "  \"version\": \"1\\n2\", \"engine\": \"dlm\\u001b[2J\", \"quorum\": null, \"seconds\": 1,"
                                      "  \"lockspaces\": [] }");

        g_assert_cmpstr(text, ==,
                        "/dlm%1B: degraded: lockspace %1B[2J is stopped; b%C2%9Bc\n"
                        "  engine   dlm%1B[2J, lockspacefs 1%0A2\n"
                        "  uptime   00:01\n");
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/status/no-terminal-is-spoilt", test_no_terminal_is_spoilt);
        return g_test_run();
}
