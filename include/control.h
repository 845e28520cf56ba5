#pragma once
/*
 * The text of the control files, .locks and .status, as of now.
 */
#include "tree.h"

GString *control_status(Tree *tree);

/* The header line, and a line for each lock that people of this mount hold or
 * wait for. */
GString *control_locks(Lockspace *lockspace);
/* Lines for locks that others have (EngineForeign). */
void control_locks_add_foreign(GString *text, const GArray *locks);

/* "0" or "1", a newline may follow: -EINVAL for anything else. */
int control_parse_force(const char *data, size_t size, gboolean *ret_force);
