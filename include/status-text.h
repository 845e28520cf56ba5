#pragma once
/*
 * A look at a mount, for people: a line that says how it is, and unless
 * @is_brief what runs there, a table of lockspaces and a table of locks.
 */
#include <json-glib/json-glib.h>

void status_text_add(GString *text, JsonObject *look, gboolean is_brief);
