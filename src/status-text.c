#include "status-text.h"
#include "columns.h"

/* --- cells --- */

static char *to_text(JsonNode *value)
{
        if (!value || JSON_NODE_HOLDS_NULL(value))
                return g_strdup("-");
        if (json_node_get_value_type(value) == G_TYPE_STRING)
                return json_node_dup_string(value);
        if (json_node_get_value_type(value) == G_TYPE_BOOLEAN)
                return g_strdup(json_node_get_boolean(value) ? "yes" : "no");
        return g_strdup_printf("%" G_GINT64_FORMAT, json_node_get_int(value));
}

static char *get_text(JsonObject *object, const char *name)
{
        return to_text(json_object_get_member(object, name));
}

/* As ps(1) shows times: [[days-]hours:]minutes:seconds. */
static char *get_time(JsonObject *object, const char *name)
{
        JsonNode *value = json_object_get_member(object, name);
        gint64 s;

        if (!value || JSON_NODE_HOLDS_NULL(value))
                return g_strdup("-");
        s = json_node_get_int(value);
        if (s >= 86400)
                return g_strdup_printf("%d-%02d:%02d:%02d", (int)(s / 86400), (int)(s / 3600 % 24), (int)(s / 60 % 60), (int)(s % 60));
        if (s >= 3600)
                return g_strdup_printf("%d:%02d:%02d", (int)(s / 3600), (int)(s / 60 % 60), (int)(s % 60));
        return g_strdup_printf("%02d:%02d", (int)(s / 60), (int)(s % 60));
}

static void add_cell(Columns *columns, JsonObject *object, const char *name)
{
        g_autofree char *text = get_text(object, name);

        columns_add(columns, text);
}

static gboolean has_value(JsonObject *object, const char *name)
{
        return json_object_has_member(object, name) && !json_object_get_null_member(object, name);
}

/* --- what runs there --- */

static void add_line(GString *text, const char *title, const char *value)
{
        g_autofree char *clean = columns_clean(value);

        g_string_append_printf(text, "  %-8s %s\n", title, clean);
}

static void add_header(GString *text, JsonObject *look)
{
        g_autofree char *engine = get_text(look, "engine"), *version = get_text(look, "version"), *node = get_text(look, "node"),
                        *quorum = get_text(look, "quorum"), *time = get_time(look, "seconds"),
                        *program = g_strdup_printf("%s, lockspacefs %s", engine, version);
        g_autoptr(GString) members = g_string_new(NULL);

        add_line(text, "engine", program);
        if (has_value(look, "control")) {       /* there is a cluster */
                JsonArray *array = has_value(look, "members") ? json_object_get_array_member(look, "members") : NULL;

                for (guint i = 0; array && i < json_array_get_length(array); i++)
                        g_string_append_printf(members, "%s%" G_GINT64_FORMAT, i ? " " : "", json_array_get_int_element(array, i));
                add_line(text, "node", node);
                add_line(text, "members", array ? members->str : "-");
                add_line(text, "quorum", quorum);
        }
        add_line(text, "uptime", time);
}

/* --- tables --- */

static void add_lockspaces(GString *text, JsonArray *lockspaces)
{
        static const char *const numbers[] = { "files", "held", "waiting", "state" };
        g_autoptr(Columns) columns = columns_new("LOCKSPACE OWNER GROUP MODE >FILES >HELD >WAITING STATE");

        for (guint i = 0; i < json_array_get_length(lockspaces); i++) {
                JsonObject *lockspace = json_array_get_object_element(lockspaces, i);

                add_cell(columns, lockspace, "name");
                add_cell(columns, lockspace, has_value(lockspace, "owner") ? "owner" : "uid");
                add_cell(columns, lockspace, has_value(lockspace, "group") ? "group" : "gid");
                add_cell(columns, lockspace, "mode");
                for (size_t n = 0; n < G_N_ELEMENTS(numbers); n++)
                        add_cell(columns, lockspace, numbers[n]);
        }
        g_string_append_c(text, '\n');
        columns_print(columns, text);
}

static void add_lock(Columns *columns, JsonObject *lockspace, JsonObject *lock)
{
        static const char *const cells[] = { "state", "mode", "wanted", "node", "pid", "command", "by" };
        g_autofree char *time = get_time(lock, "seconds"),
                        *path = g_strdup_printf("%s/%s", json_object_get_string_member(lockspace, "name"),
                                                json_object_get_string_member(lock, "resource"));

        columns_add(columns, path);
        for (size_t i = 0; i < G_N_ELEMENTS(cells); i++)
                add_cell(columns, lock, cells[i]);
        columns_add(columns, time);
}

static void add_locks(GString *text, JsonArray *lockspaces)
{
        g_autoptr(Columns) columns = columns_new("LOCK STATE MODE WANTED >NODE >PID COMMAND BY >TIME");
        guint count = 0;

        for (guint i = 0; i < json_array_get_length(lockspaces); i++) {
                JsonObject *lockspace = json_array_get_object_element(lockspaces, i);
                JsonArray *locks = has_value(lockspace, "locks") ? json_object_get_array_member(lockspace, "locks") : NULL;

                for (guint n = 0; locks && n < json_array_get_length(locks); n++, count++)
                        add_lock(columns, lockspace, json_array_get_object_element(locks, n));
        }
        if (count == 0)
                return;
        g_string_append_c(text, '\n');
        columns_print(columns, text);
}

static void add_verdict(GString *text, JsonObject *look)
{
        JsonArray *problems = json_object_get_array_member(look, "problems");
        g_autofree char *mountpoint = columns_clean(json_object_get_string_member(look, "mountpoint"));

        g_string_append_printf(text, "%s: %s", mountpoint, json_object_get_string_member(look, "health"));
        for (guint i = 0; i < json_array_get_length(problems); i++) {
                g_autofree char *problem = columns_clean(json_array_get_string_element(problems, i));

                g_string_append_printf(text, "%s%s", i ? "; " : ": ", problem);
        }
        g_string_append_c(text, '\n');
}

void status_text_add(GString *text, JsonObject *look, gboolean is_brief)
{
        JsonArray *lockspaces = json_object_has_member(look, "lockspaces") ? json_object_get_array_member(look, "lockspaces") : NULL;

        add_verdict(text, look);
        if (is_brief || !lockspaces)
                return;
        add_header(text, look);
        if (json_array_get_length(lockspaces) == 0)
                return;
        add_lockspaces(text, lockspaces);
        add_locks(text, lockspaces);
}
