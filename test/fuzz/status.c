/*
 * What `lockspacefs status` reads from a mount: .status up to a NUL, then
 * .locks, for each lockspace the same. A file system that lies may be behind
 * it, so what is printed has to be JSON whatever was read, and must not
 * spoil a terminal.
 */
#include "../../src/status-look.c"              /* its parsers are known to nobody else */
#include "bytes.h"
#include "status-text.h"

static void set_all_locks(JsonObject *look, const char *text)
{
        JsonArray *lockspaces = json_object_get_array_member(look, "lockspaces");

        for (guint i = 0; i < json_array_get_length(lockspaces); i++)
                json_object_set_array_member(json_array_get_object_element(lockspaces, i), "locks", parse_locks(text));
}

static void check_json(JsonObject *object)
{
        g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
        g_autofree char *text = json_to_string(node, TRUE);
        g_autoptr(JsonParser) parser = json_parser_new();
        g_autoptr(GError) error = NULL;

        json_parser_load_from_data(parser, text, -1, &error);
        g_assert_no_error(error);
        g_assert_true(g_utf8_validate(text, -1, NULL));
}

static void check_text(JsonObject *object, gboolean is_brief)
{
        g_autoptr(GString) text = g_string_new(NULL);

        status_text_add(text, object, is_brief);
        g_assert_true(g_utf8_validate(text->str, text->len, NULL));
        for (const char *p = text->str; *p; p = g_utf8_next_char(p))
                g_assert_true(*p == '\n' || !g_unichar_iscntrl(g_utf8_get_char(p)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        Bytes bytes = { data, size };
        g_autofree char *status = bytes_take_string(&bytes, '\0'), *locks = bytes_take_string(&bytes, '\0');
        g_autoptr(JsonObject) object = NULL;
        Look look = { .root = -1 };

        read_status(&look, status);
        if (value_of(&look, "engine") && value_of(&look, "version")) {
                object = look_new("/dlm", &look);
                look_at_mount(&look);
                set_all_locks(object, locks);
                check_json(object);
                check_text(object, FALSE);
                check_text(object, TRUE);
        }
        g_hash_table_unref(look.status);
        return 0;
}
