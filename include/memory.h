#pragma once
/*
 * Memory for what comes and goes with a request: zeroed, and freed by g_free().
 * As g_new0(), but by malloc(), which takes what was freed last from the
 * thread's cache; calloc() of glibc looks for it in the arena, at three times
 * the cost. (GLib's slices are slower than that cache, and waste a third.)
 */
#include <glib.h>
#include <string.h>

#define memory_new0(Type) ((Type *)memory_alloc0(sizeof(Type)))

static inline void *memory_alloc0(gsize size)
{
        return memset(g_malloc(size), 0, size);
}
