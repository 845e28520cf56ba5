#pragma once
/*
 * The debug trace (-d): what each operation did. Costs one branch when off, as
 * the arguments are then not even looked at.
 */
#include <glib.h>

extern gboolean trace_is_on;

#define trace(...)                                      \
        do {                                            \
                if (G_UNLIKELY(trace_is_on))            \
                        g_debug(__VA_ARGS__);           \
        } while (0)
