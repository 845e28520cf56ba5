#pragma once
/*
 * Memory for what comes and goes with a request: zeroed, and freed by g_free().
 * As g_new0(), but by malloc(), which takes what was freed last from the
 * thread's cache; calloc() of glibc looks for it in the arena, at three times
 * the cost. (GLib's slices are slower than that cache, and waste a third.)
 *
 * What each request needs can be kept for the next one instead of being freed,
 * as a few spares: that costs a fifth of what malloc() and free() do. The main
 * loop's alone, like all objects. AddressSanitizer is to see each use of what
 * was freed, and so nothing is kept from it.
 */
#include <glib.h>
#include <string.h>

#define MEMORY_SPARES 32

#ifdef __SANITIZE_ADDRESS__
#define MEMORY_IS_KEPT FALSE
#else
#define MEMORY_IS_KEPT TRUE
#endif

typedef struct MemorySpares {                   /* zeroes are none; of objects of one size */
        unsigned count;
        void *objects[MEMORY_SPARES];
} MemorySpares;

#define memory_new0(Type) ((Type *)memory_alloc0(sizeof(Type)))
#define memory_take0(spares, Type) ((Type *)memset(memory_take((spares), sizeof(Type)), 0, sizeof(Type)))

static inline void *memory_alloc0(gsize size)
{
        return memset(g_malloc(size), 0, size);
}

static inline void *memory_take(MemorySpares *spares, gsize size)
{
        return spares->count > 0 ? spares->objects[--spares->count] : g_malloc(size);
}

static inline void memory_give(MemorySpares *spares, void *object)
{
        if (MEMORY_IS_KEPT && spares->count < MEMORY_SPARES)
                spares->objects[spares->count++] = object;
        else
                g_free(object);
}
