#include "columns.h"

struct Columns {
        GStrv titles;
        guint count;
        GPtrArray *cells;                       /* char *, row by row; the titles first */
};

static gboolean is_right(const Columns *columns, guint column)
{
        return columns->titles[column][0] == '>';
}

Columns *columns_new(const char *titles)
{
        Columns *columns = g_new0(Columns, 1);

        columns->titles = g_strsplit(titles, " ", -1);
        columns->count = g_strv_length(columns->titles);
        columns->cells = g_ptr_array_new_with_free_func(g_free);
        for (guint i = 0; i < columns->count; i++)
                columns_add(columns, columns->titles[i] + is_right(columns, i));
        return columns;
}

void columns_free(Columns *columns)
{
        g_ptr_array_unref(columns->cells);
        g_strfreev(columns->titles);
        g_free(columns);
}

char *columns_clean(const char *cell)
{
        GString *clean = g_string_new(NULL);

        for (const char *p = cell; *p; p = g_utf8_next_char(p)) {
                if (g_unichar_isprint(g_utf8_get_char(p)))
                        g_string_append_len(clean, p, g_utf8_next_char(p) - p);
                else
                        for (const char *byte = p; byte < g_utf8_next_char(p); byte++)
                                g_string_append_printf(clean, "%%%02X", (guchar)*byte);
        }
        return g_string_free(clean, FALSE);
}

void columns_add(Columns *columns, const char *cell)
{
        g_ptr_array_add(columns->cells, columns_clean(cell));
}

/* How many columns of a terminal it takes. */
static guint width(const char *cell)
{
        guint n = 0;

        for (const char *p = cell; *p; p = g_utf8_next_char(p)) {
                const gunichar c = g_utf8_get_char(p);

                n += g_unichar_iszerowidth(c) ? 0 : g_unichar_iswide(c) ? 2 : 1;
        }
        return n;
}

void columns_print(const Columns *columns, GString *text)
{
        g_autofree guint *widths = g_new0(guint, columns->count);

        for (guint i = 0; i < columns->cells->len; i++)
                widths[i % columns->count] = MAX(widths[i % columns->count], width(columns->cells->pdata[i]));
        for (guint i = 0; i < columns->cells->len; i++) {
                const char *cell = columns->cells->pdata[i];
                const guint column = i % columns->count, missing = widths[column] - width(cell);
                const gboolean is_last = column == columns->count - 1;

                g_string_append_printf(text, "%*s%s", is_right(columns, column) ? missing : 0, "", cell);
                if (is_last)
                        g_string_append_c(text, '\n');
                else
                        g_string_append_printf(text, "%*s  ", is_right(columns, column) ? 0 : missing, "");
        }
}
